/* SPDX-License-Identifier: Apache-2.0 */
/* Deadlines in a wheel of 100 ms slots: set and cleared in O(1), late by one slot at most. */
#ifndef SLUICE_DATAPLANE_TIMERS_H
#define SLUICE_DATAPLANE_TIMERS_H

#include <stdint.h>

#define TIMER_SLOTS   1024
#define TIMER_SLOT_MS 100

struct timer {
	struct timer *next, **link; /* link: who points at us; NULL when not set */
	uint64_t deadline_ms;
	void (*fired)(struct timer *t);
};

struct timers {
	struct timer *slots[TIMER_SLOTS];
	uint64_t now_ms, slot;
};

void timers_init(struct timers *ts, uint64_t now_ms);
/* (Re)sets t to fire `after_ms` from the wheel's now; t->fired must be set. */
void timer_set(struct timers *ts, struct timer *t, uint64_t after_ms);
void timer_clear(struct timer *t);
/* Fires what is due. A fired timer is cleared before its call. */
void timers_run(struct timers *ts, uint64_t now_ms);

#endif
