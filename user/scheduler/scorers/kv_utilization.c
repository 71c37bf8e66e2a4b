/* SPDX-License-Identifier: Apache-2.0 */
/* kv-cache-utilization-scorer: the share of the engine's KV cache that is free. */
#include "scheduler/plugin.h"

void score_kv(const struct sched_view *view, const struct plugin *p, float *scores)
{
	(void)p;
	for (uint32_t i = 0; i < view->count; i++)
		scores[i] = 1 - view->candidates[i].kv_used;
	score_unknown(view, scores);
}
