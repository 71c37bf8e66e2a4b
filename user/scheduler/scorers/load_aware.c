/* SPDX-License-Identifier: Apache-2.0 */
/* load-aware-scorer: 0.5 for an empty queue, falling to 0 at the threshold. */
#include "scheduler/plugin.h"

void score_load_aware(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double threshold = p->params[0] > 0 ? p->params[0] : 128;

	for (uint32_t i = 0; i < view->count; i++) {
		double q = view->candidates[i].waiting;

		scores[i] = (float)(0.5 * (1 - (q < threshold ? q : threshold) / threshold));
	}
	score_unknown(view, scores);
}
