/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stack of free slots and a queue of slots that wait for their endpoint's socket to close, both
 * in one array a worker: `free` grows from the left, the rest are in use or in the queue.
 */
#include "dataplane/steer_slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sluice/limits.h"

#define SWEEP 16 /* looked at in one turn */

struct pool {
	uint32_t count, free, first, waiting;
	uint32_t *slots; /* [0, free): free ones */
	uint32_t *queue; /* ring of `count`: from `first`, `waiting` of them */
};

static struct sluice_steer_flow *table;
static struct pool pools[WORKERS_MAX];

int steer_slots_init(struct sluice_steer_flow *flows, unsigned int workers)
{
	uint32_t each = STEER_FLOWS_MAX / workers;

	table = flows;
	for (unsigned int w = 0; w < workers; w++) {
		struct pool *p = &pools[w];

		*p = (struct pool){.count = each, .free = each};
		p->slots = calloc(each, sizeof(*p->slots));
		p->queue = calloc(each, sizeof(*p->queue));
		if (!p->slots || !p->queue) {
			steer_slots_fini();
			return -ENOMEM;
		}
		for (uint32_t i = 0; i < each; i++)
			p->slots[i] = w * each + (each - 1 - i);
	}
	return 0;
}

void steer_slots_fini(void)
{
	for (unsigned int w = 0; w < WORKERS_MAX; w++) {
		free(pools[w].slots);
		free(pools[w].queue);
		pools[w] = (struct pool){0};
	}
}

bool steer_slots_left(unsigned int worker)
{
	return pools[worker].free > 0;
}

int steer_slot_take(unsigned int worker)
{
	struct pool *p = &pools[worker];
	uint32_t slot;

	if (!p->free)
		return -ENOSPC;
	slot = p->slots[--p->free];
	memset(&table[slot], 0, sizeof(table[slot]));
	return (int)slot;
}

static bool is_quiet(uint32_t slot)
{
	uint32_t state = __atomic_load_n(&table[slot].state, __ATOMIC_ACQUIRE);

	return !(state & SLUICE_STEER_SEEN) || state & SLUICE_STEER_CLOSED;
}

void steer_slot_give(unsigned int worker, uint32_t slot)
{
	struct pool *p = &pools[worker];

	if (is_quiet(slot))
		p->slots[p->free++] = slot;
	else
		p->queue[(p->first + p->waiting++) % p->count] = slot;
}

void steer_slots_sweep(unsigned int worker)
{
	struct pool *p = &pools[worker];

	for (uint32_t n = p->waiting < SWEEP ? p->waiting : SWEEP; n; n--) {
		uint32_t slot = p->queue[p->first];

		p->first = (p->first + 1) % p->count;
		p->waiting--;
		steer_slot_give(worker, slot);
	}
}
