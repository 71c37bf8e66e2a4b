/* SPDX-License-Identifier: Apache-2.0 */
/*
 * max-score-picker: the best total. Ties go by rendezvous hash of (block, address), so that
 * gateways that know nothing of each other send the same prefix to the same pod. The block is the
 * prompt's first, or the first one beyond what several pods hold: otherwise a system prompt that
 * all requests share would send every tie to one pod.
 */
#include <xxhash.h>

#include "scheduler/plugin.h"
#include "scheduler/prefix_hash.h"

#define TIE 1e-5f

static uint64_t tie_rank(const struct sched_view *view, uint32_t i)
{
	const char *address = view->candidates[i].endpoint->address;

	return prefix_mix(view->own_hash, XXH3_64bits(address, strlen(address)));
}

uint32_t pick_max(struct sched_view *view, const struct plugin *p, const float *totals)
{
	uint32_t best = 0, ties = 0;
	uint64_t best_rank = 0;
	float top = totals[0];

	(void)p;
	for (uint32_t i = 1; i < view->count; i++)
		if (totals[i] > top)
			top = totals[i];
	for (uint32_t i = 0; i < view->count; i++) {
		uint64_t rank;

		if (totals[i] < top - TIE)
			continue;
		rank = tie_rank(view, i);
		if (ties++ == 0 || rank > best_rank) {
			best = i;
			best_rank = rank;
		}
	}
	return best;
}
