/* SPDX-License-Identifier: Apache-2.0 */
/* weighted-random-picker: the largest U^(1/score). A score of 0 comes last; all 0: any of them. */
#include <math.h>

#include "scheduler/plugin.h"

uint32_t pick_weighted(struct sched_view *view, const struct plugin *p, const float *totals)
{
	uint32_t best = 0;
	double best_key = -INFINITY;

	for (uint32_t i = 0; i < view->count; i++) {
		double key;

		if (totals[i] <= 0)
			continue;
		key = log(plugin_random(view->rng)) / totals[i]; /* log of U^(1/score) */
		if (key > best_key) {
			best_key = key;
			best = i;
		}
	}
	return best_key == -INFINITY ? pick_random(view, p, totals) : best;
}
