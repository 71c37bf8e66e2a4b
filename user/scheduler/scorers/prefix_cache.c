/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix-cache-scorer: the share of the prompt's blocks that the endpoint holds. With
 * matchLengthWeight w, long matches count more: w min(1, matched tokens / scale)^2 + (1 - w) share.
 */
#include "scheduler/plugin.h"

#define BYTES_PER_TOKEN 4

void score_prefix(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double w = p->params[0], scale = p->params[1];
	double block_tokens = (double)view->block_bytes / BYTES_PER_TOKEN;

	for (uint32_t i = 0; i < view->count; i++) {
		double match = view->candidates[i].hit_blocks,
		       length = match * block_tokens / scale;

		scores[i] = 0;
		if (view->total_blocks == 0)
			continue;
		if (length > 1)
			length = 1;
		scores[i] = (float)(w * length * length + (1 - w) * match / view->total_blocks);
	}
}
