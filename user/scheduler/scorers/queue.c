/* SPDX-License-Identifier: Apache-2.0 */
/* queue-scorer: the fewer requests wait in the engine's queue, the better, relative to the pool. */
#include "scheduler/plugin.h"

void score_queue(const struct sched_view *view, const struct plugin *p, float *scores)
{
	uint32_t values[ENDPOINTS_MAX];

	(void)p;
	for (uint32_t i = 0; i < view->count; i++)
		values[i] = view->candidates[i].waiting;
	score_least(view, values, scores);
}
