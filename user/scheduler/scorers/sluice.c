/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-scorer: the least work that this choice makes, in tokens of prefill:
 *
 *   cost = tokens this gateway has in prefill there    what the prompt waits for
 *        + w x its own uncached tokens                 what it makes itself and all others wait for
 *        + requestTokens x requests there              each one slows every step
 *   w    = uncachedWeight + tokens in prefill at an endpoint, in the mean / backlogTokens
 *
 * The longer the lines everywhere, the more wait behind every token of work that this choice makes:
 * then it counts more to make none. backlogTokens 0: w is uncachedWeight.
 *
 * With rendezvousShare r, the endpoint that every gateway would name for this prompt is taken to
 * hold r of what is uncached: another gateway may have sent the prompt's beginning there. For
 * several gateways that share nothing; a single one knows better.
 *
 * score = least cost / cost: the best has 1, one of twice the work 0.5. An endpoint whose figures
 * are stale is taken to be as busy as the busiest known one.
 * The weights were tuned on the first half of the Mooncake conversation trace (sluice-fleet).
 */
#include <xxhash.h>

#include "scheduler/plugin.h"
#include "scheduler/prefix_hash.h"

/* The candidate that every gateway would name for this prompt, whatever it knows. */
static uint32_t rendezvous(const struct sched_view *view)
{
	uint64_t best_rank = 0;
	uint32_t best = 0;

	for (uint32_t i = 0; i < view->count; i++) {
		const char *address = view->candidates[i].endpoint->address;
		uint64_t rank = prefix_mix(view->own_hash, XXH3_64bits(address, strlen(address)));

		if (rank > best_rank) {
			best_rank = rank;
			best = i;
		}
	}
	return best;
}

/* Tokens in prefill at an endpoint, in the mean. */
static double backlog(const struct sched_view *view)
{
	double sum = 0;

	for (uint32_t i = 0; i < view->count; i++)
		sum += (double)view->candidates[i].own_tokens;
	return view->count ? sum / view->count : 0;
}

static uint32_t requests_at(const struct sched_candidate *c, uint32_t busiest)
{
	uint32_t seen = c->known ? c->waiting + c->running : busiest;

	return seen > c->own_requests ? seen : c->own_requests;
}

void score_sluice(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double request_tokens = p->params[0], uncached_weight = p->params[1];
	double cost[ENDPOINTS_MAX], least = 0;
	uint32_t busiest = 0, named = p->params[2] > 0 ? rendezvous(view) : UINT32_MAX;

	if (p->params[3] > 0)
		uncached_weight += backlog(view) / p->params[3];
	for (uint32_t i = 0; i < view->count; i++)
		if (view->candidates[i].known && requests_at(&view->candidates[i], 0) > busiest)
			busiest = requests_at(&view->candidates[i], 0);
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double uncached = view->prompt_tokens;

		if (view->total_blocks)
			uncached = view->prompt_tokens *
				   (1 - (double)c->hit_blocks / view->total_blocks);
		if (i == named)
			uncached *= 1 - p->params[2];
		cost[i] = 1 + (double)c->own_tokens + uncached_weight * uncached +
			  request_tokens * requests_at(c, busiest);
		if (i == 0 || cost[i] < least)
			least = cost[i];
	}
	for (uint32_t i = 0; i < view->count; i++)
		scores[i] = (float)(least / cost[i]);
}
