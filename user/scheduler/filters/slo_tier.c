/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slo-headroom-tier-filter: those predicted to meet both SLOs; now and then (epsilon) the others,
 * so that what is known of them does not grow old.
 */
#include "scheduler/plugin.h"

void narrow_slo_tier(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	uint32_t positive = 0;
	bool all, other;

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];

		keep[i] = c->predicted && c->ttft_headroom >= 0 && c->tpot_headroom >= 0;
		positive += keep[i];
	}
	all = view->count <= 1 || !view->any_predicted || positive == 0 || positive == view->count;
	other = !all && p->params[0] > 0 && plugin_random(view->rng) < p->params[0];
	for (uint32_t i = 0; i < view->count; i++)
		keep[i] = all || keep[i] != other;
}
