/* SPDX-License-Identifier: Apache-2.0 */
/* running-requests-size-scorer: the smaller the engine's batch, the better, relative to the pool.
 */
#include "scheduler/plugin.h"

void score_running(const struct sched_view *view, const struct plugin *p, float *scores)
{
	uint32_t values[ENDPOINTS_MAX];

	(void)p;
	for (uint32_t i = 0; i < view->count; i++)
		values[i] = view->candidates[i].running;
	score_least(view, values, scores);
}
