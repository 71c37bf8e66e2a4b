/* SPDX-License-Identifier: Apache-2.0 */
/*
 * no-hit-lru-scorer: cold prompts go round. If anybody holds a part of the prompt, 0.5 for all.
 * Else by rank r: those that never had a cold prompt in their order, then the longest ago first:
 * 1 - r / (n - 1). Only the lruSize most recent cold picks are remembered.
 */
#include "scheduler/facts.h"
#include "scheduler/plugin.h"

static uint64_t cold_at(const struct sched_view *view, const struct plugin *p, uint32_t i)
{
	uint64_t size = p->params[0] > 0 ? (uint64_t)p->params[0] : 1024, now, at;

	if (!view->facts)
		return 0;
	now = atomic_load_explicit(&view->facts->cold_clock, memory_order_relaxed);
	at = atomic_load_explicit(&view->facts->cold_at[view->candidates[i].endpoint->slot],
				  memory_order_relaxed);
	return at && now >= at && now - at < size ? at : 0;
}

/* How many come before i: the never used in order, then by age. */
static uint32_t rank_of(const uint64_t *at, uint32_t count, uint32_t i)
{
	uint32_t rank = 0;

	for (uint32_t k = 0; k < count; k++)
		rank += at[k] < at[i] || (at[k] == at[i] && k < i);
	return rank;
}

void score_no_hit_lru(const struct sched_view *view, const struct plugin *p, float *scores)
{
	uint64_t at[ENDPOINTS_MAX];
	bool hit = false;

	for (uint32_t i = 0; i < view->count; i++) {
		hit |= view->candidates[i].hit_blocks > 0;
		at[i] = cold_at(view, p, i);
	}
	for (uint32_t i = 0; i < view->count; i++) {
		if (hit)
			scores[i] = 0.5f;
		else if (view->count == 1)
			scores[i] = 1;
		else
			scores[i] =
				1 - (float)rank_of(at, view->count, i) / (float)(view->count - 1);
	}
}
