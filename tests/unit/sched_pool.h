/* SPDX-License-Identifier: Apache-2.0 */
/* A pool of eight pods and a request, for the tests of the scheduler. */
#ifndef SLUICE_TESTS_SCHED_POOL_H
#define SLUICE_TESTS_SCHED_POOL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "scheduler/decisions.h"
#include "scheduler/plugin.h"
#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"
#include "scheduler/profile.h"
#include "scheduler/scheduler.h"

#define NOW  (1000 * NS_PER_S)
#define PODS 8

static struct endpoint pods[PODS];
static struct sluice_endpoint_load loads[PODS];
static struct endpoint *views[PODS];
static struct endpoint_snapshot snap;

static int reset(void **state)
{
	(void)state;
	memset(pods, 0, sizeof(pods));
	memset(loads, 0, sizeof(loads));
	for (uint16_t i = 0; i < PODS; i++) {
		pods[i].slot = i;
		pods[i].generation = 1;
		pods[i].load = &loads[i];
		pods[i].breaker.state = SLUICE_ENDPOINT_READY;
		loads[i].scraped_at_ns = NOW;
		snprintf(pods[i].name, sizeof(pods[i].name), "pod-%u", i);
		snprintf(pods[i].address, sizeof(pods[i].address), "10.0.0.%u:8000", i);
		views[i] = &pods[i];
	}
	snap.views = views;
	snap.view_count = PODS;
	return 0;
}

static inline struct scheduler *make(const char *profile, struct prefix_index *ix)
{
	struct config cfg = {.scheduler_profile = (char *)profile,
			     .weight_queue = 2,
			     .weight_kv = 2,
			     .weight_prefix = 3,
			     .decisions_max = 64};
	struct scheduler *sched = NULL;
	char *error = NULL;
	int err = scheduler_new(&cfg, ix, 2, &sched, &error);

	if (err)
		print_message("%s\n", error ? error : "?");
	assert_int_equal(err, 0);
	return sched;
}

static struct sched_piece prompt_piece;

static inline struct sched_request request(const char *prompt)
{
	prompt_piece = (struct sched_piece){.bytes = span_of_str(prompt), .kind = SCHED_PIECE_TEXT};
	return (struct sched_request){.now_ns = NOW,
				      .model_name = SPAN("m"),
				      .pieces = &prompt_piece,
				      .piece_count = 1,
				      .request_id = SPAN("req-1")};
}

static inline uint16_t pick_slot(struct scheduler *sched, const struct sched_request *req)
{
	struct sched_pick pick;

	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, req, &pick), 0);
	return pick.endpoint->slot;
}

#define T(name) cmocka_unit_test_setup(name, reset)

#endif
