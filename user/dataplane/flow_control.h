/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flow control: stands between a whole, valid request and its pick.
 *
 *   request_run -> flow_begin -> (gate open) -> request_dispatch -> pick, forward
 *                     | full: 429     ^
 *                     `-> queue ------' each loop turn, while saturation < the band's ceiling
 *                          `-> TTL: 429; client left: out at once; shutting down: 503
 *
 * Each worker has its own queue; limits are counted over all workers, and a worker lets another
 * one's higher priority go first. The gate looks at counts of this gateway, so that engines whose
 * figures are old never halt it. Invariant: a waiting request holds its connection and its bytes,
 * no timer but its time to live, and no endpoint.
 */
#ifndef SLUICE_DATAPLANE_FLOW_CONTROL_H
#define SLUICE_DATAPLANE_FLOW_CONTROL_H

#include <stdatomic.h>
#include <stdio.h>

#include "base/endpoint.h"
#include "dataplane/flow_queue.h"

#define FLOW_TURN_MS 2 /* a loop turn lasts at most so long while something waits */

struct request;
struct worker;

struct flow_shared_band {
	_Atomic uint64_t name; /* 1 << 32 | priority; 0: free */
	_Atomic int64_t queued, bytes;
};

/* What all workers share of it. */
struct flow_shared {
	const struct setup *setup;
	uint64_t stale_ns;
	struct flow_shared_band bands[FLOW_BANDS_MAX];
	_Atomic int64_t queued, bytes;
	_Atomic int64_t
		heads[WORKERS_MAX]; /* priority of a worker's best waiting one + 2^32; 0 none */
	_Atomic uint64_t saturation_ppm;
};

struct flow_control {
	struct flow_shared *shared;
	struct flow_queue queue;
	struct flow_item *evictable; /* running ones of negative priority */
	uint64_t calls;		     /* of the soft ceiling */
	uint64_t evicted_ns;
	bool dispatching;
};

void flow_shared_init(struct flow_shared *shared, const struct setup *setup, uint64_t stale_ms);
/* 0 or -ENOMEM. */
int flow_init(struct worker *w, struct flow_shared *shared);
void flow_fini(struct worker *w);

/* Whose request it is: what the fairness header or an agent's session says; never empty. */
struct span flow_tenant(const struct request *req);
/* The request is valid: picks now, queues it, or answers. */
void flow_begin(struct request *req);
/* It ends, however it does: out of the queue. Idempotent. */
void flow_end(struct request *req);
/* Each loop turn: dispatches what may go. */
void flow_turn(struct worker *w);
/* How long the loop may sleep. */
uint32_t flow_sleep_ms(const struct worker *w, uint32_t usual_ms);

/* Gauges for the exporter, in both names. Any thread. */
void flow_write_metrics(FILE *f, const struct flow_shared *shared, bool llm_d_names);

#endif
