/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-scorer: the least work before this request's first token, in tokens of prefill:
 *
 *   cost = tokens this gateway has in prefill there + this prompt's uncached tokens
 *        + requestTokens x requests there (each slows every step)
 *        + strangers x this gateway's mean prompt (what other gateways have waiting there)
 *
 * score = least cost / cost, so that the best is 1 and one of twice the work 0.5.
 */
#include "scheduler/plugin.h"

void score_sluice(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double request_tokens = p->params[0], tokens = view->prompt_tokens, least = 0;
	double cost[ENDPOINTS_MAX];

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double hit = view->total_blocks ? (double)c->hit_blocks / view->total_blocks : 0;
		uint32_t seen = c->known ? c->waiting + c->running : 0;
		uint32_t strangers = 0, requests = c->own_requests;

		if (seen > requests)
			requests = seen;
		if (c->known && c->waiting && requests > c->own_requests)
			strangers = requests - c->own_requests;
		if (strangers > c->waiting)
			strangers = c->waiting;
		cost[i] = 1 + (double)c->own_tokens + p->params[2] * tokens * (1 - hit) +
			  request_tokens * requests + strangers * tokens * p->params[1];
		if (i == 0 || cost[i] < least)
			least = cost[i];
	}
	for (uint32_t i = 0; i < view->count; i++)
		scores[i] = (float)(least / cost[i]);
}
