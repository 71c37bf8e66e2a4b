/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The saturation detectors: as filters they keep the pods that have room, as detectors they say how
 * full the pool is (1: full).
 *
 * utilization-detector reads the engines' figures. Where they are stale it goes by this gateway's
 * own requests in flight against FALLBACK_CONCURRENCY: old figures must never halt dispatch.
 */
#include "scheduler/saturation.h"

#include <math.h>

#define FALLBACK_CONCURRENCY 100

enum utilization {
	QUEUE_DEPTH,
	KV_UTIL,
	STALENESS,
	UTIL_HEADROOM
};

enum concurrency {
	MAX_REQUESTS,
	MODE,
	MAX_TOKENS,
	CONC_HEADROOM
};

enum concurrency_mode {
	BY_REQUESTS,
	BY_TOKENS,
	BY_BOTH
};

double saturation_utilization(const struct plugin *p, const struct sched_candidate *c)
{
	if (!c->known)
		return (double)c->own_requests / FALLBACK_CONCURRENCY;
	return fmax(c->waiting / p->params[QUEUE_DEPTH], (double)c->kv_used / p->params[KV_UTIL]);
}

double saturation_concurrency(const struct plugin *p, const struct sched_candidate *c)
{
	double requests = c->own_requests / p->params[MAX_REQUESTS];
	double tokens = (double)c->own_tokens / p->params[MAX_TOKENS];

	switch ((enum concurrency_mode)p->params[MODE]) {
	case BY_REQUESTS:
		return requests;
	case BY_TOKENS:
		return tokens;
	case BY_BOTH:
		break;
	}
	return fmax(requests, tokens);
}

void narrow_saturated(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	double room = 1 + p->params[UTIL_HEADROOM];
	bool found = false;

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];

		keep[i] = c->known && c->waiting < p->params[QUEUE_DEPTH] * room &&
			  (double)c->kv_used < p->params[KV_UTIL] * room;
		found |= keep[i];
	}
	for (uint32_t i = 0; !found && i < view->count; i++)
		keep[i] = true;
}

void narrow_concurrency(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	double room = 1 + p->params[CONC_HEADROOM];
	enum concurrency_mode mode = (enum concurrency_mode)p->params[MODE];

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		bool requests = c->own_requests < floor(p->params[MAX_REQUESTS] * room);
		bool tokens = (double)c->own_tokens < floor(p->params[MAX_TOKENS] * room);

		keep[i] = (mode == BY_TOKENS || requests) && (mode == BY_REQUESTS || tokens);
	}
}
