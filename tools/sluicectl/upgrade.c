/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /upgrade, then /state/upgrade until somebody else answers there: the admin port's socket is
 * handed over like the others, so that the same address reaches the successor once it serves.
 */
#include "sluicectl/upgrade.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define WAIT_NS (90 * NS_PER_S) /* longer than the gateway itself waits for a successor */
#define LOOK_US 50000

static long long number(json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

/* 1 it serves, 0 not yet, -1 it will not. */
static int look(upgrade_ask ask, long long old, long long successor)
{
	int status = 0, found = 0;
	json_t *o = ask("GET", "/state/upgrade", &status);
	const char *state = json_string_value(json_object_get(o, "state"));

	if (status == 200 && number(o, "pid") == successor)
		found = 1;
	else if (status == 200 && number(o, "pid") == old && state && !strcmp(state, "failed"))
		found = -1;
	json_decref(o);
	return found;
}

int upgrade_run(upgrade_ask ask, int json)
{
	uint64_t until = clock_mono_ns() + WAIT_NS;
	int status = 0, found = 0;
	json_t *o = ask("POST", "/upgrade", &status);
	long long old = number(o, "pid"), successor = number(o, "successor");
	const char *why = json_string_value(json_object_get(o, "error"));

	if (status != 200) {
		fprintf(stderr, "sluicectl: no upgrade: %s\n",
			why ? why : "the gateway does not answer");
		json_decref(o);
		return 1;
	}
	json_decref(o);
	while (!found && clock_mono_ns() < until) {
		usleep(LOOK_US);
		found = look(ask, old, successor);
	}
	if (found != 1) {
		fprintf(stderr,
			"sluicectl: process %lld did not become ready, see the log; %lld goes on\n",
			successor, old);
		return 1;
	}
	if (json)
		printf("{\"predecessor\":%lld,\"pid\":%lld}\n", old, successor);
	else
		printf("process %lld serves; %lld ends what it runs and exits\n", successor, old);
	return 0;
}
