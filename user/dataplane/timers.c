/* SPDX-License-Identifier: Apache-2.0 */
/* The wheel. A deadline further than one round stays in its slot until its round has come. */
#include "dataplane/timers.h"

#include <string.h>

void timers_init(struct timers *ts, uint64_t now_ms)
{
	memset(ts, 0, sizeof(*ts));
	ts->now_ms = now_ms;
	ts->slot = now_ms / TIMER_SLOT_MS;
}

void timer_clear(struct timer *t)
{
	if (!t->link)
		return;
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->link = NULL;
}

void timer_set(struct timers *ts, struct timer *t, uint64_t after_ms)
{
	struct timer **head;

	timer_clear(t);
	t->deadline_ms = ts->now_ms + after_ms;
	head = &ts->slots[(t->deadline_ms / TIMER_SLOT_MS + 1) % TIMER_SLOTS];
	t->next = *head;
	if (t->next)
		t->next->link = &t->next;
	*head = t;
	t->link = head;
}

static void slot_run(struct timers *ts, struct timer **head)
{
	struct timer *due = NULL, *t = *head;

	while (t) { /* first apart, then fire: a callback may set or clear any timer */
		struct timer *next = t->next;

		if (t->deadline_ms <= ts->now_ms) {
			timer_clear(t);
			t->next = due;
			if (due)
				due->link = &t->next;
			due = t;
			t->link = &due;
		}
		t = next;
	}
	while (due) {
		t = due;
		timer_clear(t);
		t->fired(t);
	}
}

void timers_run(struct timers *ts, uint64_t now_ms)
{
	uint64_t last = now_ms / TIMER_SLOT_MS;

	ts->now_ms = now_ms;
	if (last - ts->slot > TIMER_SLOTS)
		ts->slot = last - TIMER_SLOTS;
	for (; ts->slot < last; ts->slot++)
		slot_run(ts, &ts->slots[(ts->slot + 1) % TIMER_SLOTS]);
}
