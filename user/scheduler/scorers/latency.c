/* SPDX-License-Identifier: Apache-2.0 */
/*
 * latency-scorer: by the headroom between the SLO and what is predicted. One group is scored, all
 * others have 0: those that meet both SLOs (or of whom nothing is predicted); else the idle; else
 * those that miss only TPOT, only TTFT, both. Within it the pod nearest its SLO ("least", so that
 * the roomy ones stay free for others) or farthest from it ("most").
 * With no prediction at all: the weighted mean of free KV, short queue and matched prefix.
 */
#include <math.h>

#include "scheduler/plugin.h"

enum {
	TTFT_WEIGHT,
	TPOT_WEIGHT,
	STRATEGY, /* 0 least, 1 most */
	KV_WEIGHT,
	QUEUE_WEIGHT,
	PREFIX_WEIGHT
};

enum tier {
	MEETS_BOTH,
	IDLE,
	MISSES_TPOT,
	MISSES_TTFT,
	MISSES_BOTH
};

struct range {
	double min, max;
};

static enum tier tier_of(const struct sched_candidate *c)
{
	bool ttft = c->ttft_headroom >= 0, tpot = c->tpot_headroom >= 0;

	if (!c->predicted || (ttft && tpot))
		return MEETS_BOTH;
	if (c->own_requests == 0)
		return IDLE;
	if (ttft)
		return MISSES_TPOT;
	return tpot ? MISSES_TTFT : MISSES_BOTH;
}

static void widen(struct range *r, double x)
{
	r->min = fmin(r->min, x);
	r->max = fmax(r->max, x);
}

static double place(const struct range *r, double x)
{
	return r->max > r->min ? (x - r->min) / (r->max - r->min) : 0.5;
}

static void score_composite(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double sum = p->params[KV_WEIGHT] + p->params[QUEUE_WEIGHT] + p->params[PREFIX_WEIGHT];
	uint32_t longest = 0;

	for (uint32_t i = 0; i < view->count; i++)
		if (view->candidates[i].waiting > longest)
			longest = view->candidates[i].waiting;
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double queue = longest ? (double)(longest - c->waiting) / longest : 1;
		double prefix = view->total_blocks ? (double)c->hit_blocks / view->total_blocks : 0;

		scores[i] = sum > 0 ? (float)((p->params[KV_WEIGHT] * (1 - (double)c->kv_used) +
					       p->params[QUEUE_WEIGHT] * queue +
					       p->params[PREFIX_WEIGHT] * prefix) /
					      sum)
				    : 0;
	}
}

static double combined(const struct plugin *p, const struct range *ttft, const struct range *tpot,
		       const struct sched_candidate *c)
{
	double w1 = p->params[TTFT_WEIGHT], w2 = p->params[TPOT_WEIGHT], sum = w1 + w2;

	if (!(ttft->max > ttft->min) && tpot->max > tpot->min)
		w1 = 0, w2 = sum;
	else if (ttft->max > ttft->min && !(tpot->max > tpot->min))
		w1 = sum, w2 = 0;
	if (w1 + w2 <= 0)
		return 0.5;
	return (w1 * place(ttft, fabs((double)c->ttft_headroom)) +
		w2 * place(tpot, fabs((double)c->tpot_headroom))) /
	       (w1 + w2);
}

void score_latency(const struct sched_view *view, const struct plugin *p, float *scores)
{
	struct range ttft = {INFINITY, -INFINITY}, tpot = {INFINITY, -INFINITY};
	enum tier best = MISSES_BOTH;
	bool most;

	if (!view->any_predicted) {
		score_composite(view, p, scores);
		return;
	}
	for (uint32_t i = 0; i < view->count; i++)
		if (tier_of(&view->candidates[i]) < best)
			best = tier_of(&view->candidates[i]);
	for (uint32_t i = 0; i < view->count; i++) {
		if (tier_of(&view->candidates[i]) != best)
			continue;
		widen(&ttft, fabs((double)view->candidates[i].ttft_headroom));
		widen(&tpot, fabs((double)view->candidates[i].tpot_headroom));
	}
	most = p->params[STRATEGY] != 0 && best == MEETS_BOTH;
	for (uint32_t i = 0; i < view->count; i++) {
		double c = combined(p, &ttft, &tpot, &view->candidates[i]);

		scores[i] = 0;
		if (tier_of(&view->candidates[i]) == best)
			scores[i] = (float)((floor(100 * (most ? c : 1 - c) + 1e-9) + 1) / 100);
	}
}
