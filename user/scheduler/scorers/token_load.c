/* SPDX-License-Identifier: Apache-2.0 */
/* token-load-scorer: tokens this gateway waits for there, with this request's uncached ones. */
#include "scheduler/plugin.h"

void score_token_load(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double threshold = p->params[0] > 0 ? p->params[0] : 4194304;

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double tokens = view->prompt_tokens;

		if (view->total_blocks)
			tokens -= tokens * c->hit_blocks / view->total_blocks;
		tokens += (double)c->own_tokens;
		scores[i] = tokens < threshold ? (float)(1 - tokens / threshold) : 0;
	}
}
