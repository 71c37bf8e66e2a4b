/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix-cache-affinity-filter: those that hold at least affinityThreshold of the prompt, unless
 * waiting for them costs more than maxTTFTPenaltyMs against the best of the rest.
 */
#include <math.h>

#include "scheduler/plugin.h"

enum {
	THRESHOLD,
	EXPLORATION,
	PENALTY_MS,
	SOURCE,
	THROUGHPUT
};

static double ttft_of(const struct plugin *p, const struct sched_candidate *c)
{
	if (p->params[SOURCE] != 0)
		return c->predicted ? (double)c->ttft_ms : INFINITY;
	return 1000 * (double)c->own_tokens / p->params[THROUGHPUT];
}

void narrow_prefix_affinity(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	double sticky_ms = INFINITY, rest_ms = INFINITY;
	uint32_t sticky = 0;
	bool all;

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double ttft = ttft_of(p, c);

		keep[i] = view->total_blocks &&
			  (double)c->hit_blocks / view->total_blocks >= p->params[THRESHOLD] - 1e-9;
		sticky += keep[i];
		if (keep[i])
			sticky_ms = fmin(sticky_ms, ttft);
		else
			rest_ms = fmin(rest_ms, ttft);
	}
	all = view->count <= 1 || sticky == 0 || p->params[THRESHOLD] <= 0 ||
	      (p->params[EXPLORATION] > 0 && plugin_random(view->rng) < p->params[EXPLORATION]) ||
	      (p->params[PENALTY_MS] > 0 && isfinite(rest_ms) &&
	       sticky_ms - rest_ms > p->params[PENALTY_MS]);
	for (uint32_t i = 0; all && i < view->count; i++)
		keep[i] = true;
}
