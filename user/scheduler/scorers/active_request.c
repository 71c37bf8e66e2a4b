/* SPDX-License-Identifier: Apache-2.0 */
/* active-request-scorer: by this gateway's own requests in flight; needs nothing from engines. */
#include "scheduler/plugin.h"

void score_active(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double idle = p->params[0], busy_max = p->params[1];
	uint32_t max = 0;

	if (busy_max < 0 || busy_max > 1)
		busy_max = 1;

	for (uint32_t i = 0; i < view->count; i++)
		if (view->candidates[i].own_requests > max)
			max = view->candidates[i].own_requests;
	for (uint32_t i = 0; i < view->count; i++) {
		uint32_t n = view->candidates[i].own_requests;

		scores[i] = n <= idle ? 1 : (float)((double)(max - n) / max * busy_max);
	}
}
