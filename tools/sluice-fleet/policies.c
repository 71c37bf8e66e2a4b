/* SPDX-License-Identifier: Apache-2.0 */
/* The rules, one function each, and their table. */
#include "sluice-fleet/policies.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PREBLE_WINDOW_S 180.0

struct policy_world policy_world;

static double uncached_of(const struct sched_view *view, const struct sched_candidate *c)
{
	if (!view->total_blocks)
		return view->prompt_tokens;
	return view->prompt_tokens * (1 - (double)c->hit_blocks / view->total_blocks);
}

/* The same by what the engine really holds at this moment: no index could know more. */
static double uncached_really(const struct sched_view *view, const struct sched_candidate *c)
{
	double held = engine_cached_blocks(&policy_world.engines[c->endpoint->slot],
					   policy_world.request);

	return view->total_blocks ? view->prompt_tokens * (1 - held / view->total_blocks)
				  : view->prompt_tokens;
}

static uint32_t requests_of(const struct sched_candidate *c)
{
	uint32_t seen = c->known ? c->waiting + c->running : 0;

	return seen > c->own_requests ? seen : c->own_requests;
}

/* The index of the least cost; equals by chance. */
static uint32_t least(struct sched_view *view, const double *cost)
{
	uint32_t best = 0, ties = 0;

	for (uint32_t i = 0; i < view->count; i++) {
		if (ties && cost[i] > cost[best])
			continue;
		if (!ties || cost[i] < cost[best])
			ties = 0;
		ties++;
		if (plugin_random(view->rng) * ties < 1)
			best = i;
	}
	return best;
}

static uint32_t pick_round_robin(struct sched_view *view, const struct plugin *p,
				 const float *totals)
{
	(void)p;
	(void)totals;
	return (*policy_world.turn)++ % view->count;
}

/* The fewest requests that this gateway has there. */
static uint32_t pick_least_requests(struct sched_view *view, const struct plugin *p,
				    const float *totals)
{
	double cost[ENDPOINTS_MAX];

	(void)p;
	(void)totals;
	for (uint32_t i = 0; i < view->count; i++)
		cost[i] = view->candidates[i].own_requests;
	return least(view, cost);
}

/* Two at random, the one with fewer requests. */
static uint32_t pick_power_of_two(struct sched_view *view, const struct plugin *p,
				  const float *totals)
{
	uint32_t a = pick_random(view, p, totals), b = pick_random(view, p, totals);

	return view->candidates[a].own_requests <= view->candidates[b].own_requests ? a : b;
}

/*
 * llm-d with its precise producer, weights of its sample configuration: prefix 2, kv 1, queue 1.
 * Its index follows KV events: here it knows the caches themselves.
 */
static uint32_t pick_llm_d_precise(struct sched_view *view, const struct plugin *p,
				   const float *totals)
{
	float queue[ENDPOINTS_MAX], kv[ENDPOINTS_MAX];
	double cost[ENDPOINTS_MAX];

	(void)totals;
	score_queue(view, p, queue);
	score_kv(view, p, kv);
	for (uint32_t i = 0; i < view->count; i++) {
		const struct engine *e = &policy_world.engines[view->candidates[i].endpoint->slot];
		double held = engine_cached_blocks(e, policy_world.request);
		double share = view->total_blocks ? held / view->total_blocks : 0;

		cost[i] = -(2 * share + (double)kv[i] + (double)queue[i]);
	}
	return least(view, cost);
}

/*
 * SGLang's model gateway, policy cache_aware: while loads are balanced (not: max - min > 64 and
 * max > 1.5 min) the longest match if it is more than 0.3 of the prompt, else the endpoint whose
 * tree is smallest; out of balance the fewest requests.
 */
static uint32_t pick_sglang(struct sched_view *view, const struct plugin *p, const float *totals)
{
	double cost[ENDPOINTS_MAX];
	uint32_t most = 0, fewest = UINT32_MAX, best = 0;

	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];

		most = c->own_requests > most ? c->own_requests : most;
		fewest = c->own_requests < fewest ? c->own_requests : fewest;
		if (c->hit_blocks > view->candidates[best].hit_blocks)
			best = i;
	}
	if (most - fewest > 64 && most > 1.5 * fewest)
		return pick_least_requests(view, p, totals);
	if (view->candidates[best].hit_blocks > 0.3 * view->total_blocks)
		return best;
	for (uint32_t i = 0; i < view->count; i++)
		cost[i] = (double)prefix_index_endpoint_pairs(policy_world.index,
							      view->candidates[i].endpoint->slot);
	return least(view, cost);
}

/*
 * NVIDIA Dynamo's KV router: overlap weight 1 x blocks to prefill there (in flight and this one's
 * own) + blocks active there with this one; the least, temperature 0. Its index follows KV events:
 * here it knows the caches themselves.
 */
static uint32_t pick_dynamo(struct sched_view *view, const struct plugin *p, const float *totals)
{
	double block = policy_world.engines[0].model->block_tokens, cost[ENDPOINTS_MAX];

	(void)p;
	(void)totals;
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		const struct policy_place *place = &policy_world.places[c->endpoint->slot];

		cost[i] = ((double)c->own_tokens + uncached_really(view, c)) / block +
			  (double)place->active_blocks + view->total_blocks;
	}
	return least(view, cost);
}

/* LMetric: tokens to prefill there, with this one's uncached, x the size of the batch with it. */
static uint32_t pick_lmetric(struct sched_view *view, const struct plugin *p, const float *totals)
{
	double cost[ENDPOINTS_MAX];

	(void)p;
	(void)totals;
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];

		cost[i] =
			((double)c->own_tokens + uncached_of(view, c) + 1) * (requests_of(c) + 1.0);
	}
	return least(view, cost);
}

static double preble_work(const struct policy_place *place)
{
	return place->work_s * exp(-(policy_world.now_s - place->work_at_s) / PREBLE_WINDOW_S);
}

/*
 * Preble's E2: exploit where more of the prompt is cached than is missing (unless that endpoint has
 * more than twice the work of the least loaded), else explore: least work of the last three minutes
 * with this prompt's own prefill. The cost of evicting is left out.
 */
static uint32_t pick_preble(struct sched_view *view, const struct plugin *p, const float *totals)
{
	double rate = policy_world.engines[0].model->prefill_tokens_per_s, cost[ENDPOINTS_MAX];
	double lightest = INFINITY;
	uint32_t best = 0;

	(void)p;
	(void)totals;
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double work = preble_work(&policy_world.places[c->endpoint->slot]);

		cost[i] = work + uncached_of(view, c) / rate;
		lightest = fmin(lightest, work);
		if (c->hit_blocks > view->candidates[best].hit_blocks)
			best = i;
	}
	if (2 * view->candidates[best].hit_blocks > view->total_blocks &&
	    preble_work(&policy_world.places[view->candidates[best].endpoint->slot]) <=
		    2 * lightest + 1)
		return best;
	return least(view, cost);
}

/* Ours where engines send KV events: the caches themselves in place of what was sent where. */
static uint32_t pick_sluice_precise(struct sched_view *view, const struct plugin *p,
				    const float *totals)
{
	static struct sched_candidate known[ENDPOINTS_MAX];
	struct sched_view seen = *view;
	float scores[ENDPOINTS_MAX];
	struct plugin scorer;

	(void)p;
	(void)totals;
	for (uint32_t i = 0; i < view->count; i++) {
		const struct engine *e = &policy_world.engines[view->candidates[i].endpoint->slot];

		known[i] = view->candidates[i];
		known[i].hit_blocks = (uint16_t)engine_cached_blocks(e, policy_world.request);
	}
	seen.candidates = known;
	plugin_init(&scorer, plugin_find("sluice-scorer", 13));
	score_sluice(&seen, &scorer, scores);
	return pick_max(view, p, scores);
}

const struct policy policies[] = {
	{"round-robin", "each in turn", NULL, pick_round_robin},
	{"random", "any", "random-picker", NULL},
	{"power-of-two", "Mitzenmacher, The Power of Two Choices, 2001", NULL, pick_power_of_two},
	{"least-requests", "Envoy, nginx: LEAST_REQUEST over all", NULL, pick_least_requests},
	{"llm-d", "llm-d-router, built-in configuration: queue 2, kv 2, prefix 3", "llm-d", NULL},
	{"llm-d-precise", "llm-d-router, sample of the precise producer", NULL, pick_llm_d_precise},
	{"sglang", "SGLang model gateway, cache_aware, defaults", NULL, pick_sglang},
	{"dynamo", "NVIDIA Dynamo, KV router, overlap weight 1", NULL, pick_dynamo},
	{"lmetric", "LMetric: prefill tokens x batch size", NULL, pick_lmetric},
	{"preble", "Srivatsa et al., Preble, E2 scheduling, 2024", NULL, pick_preble},
	{"sluice", "scorers/sluice.c", "sluice", NULL},
	{"sluice-precise", "the same with KV events", NULL, pick_sluice_precise},
	{"sluice-many", "the same, for gateways that share nothing", "sluice-many", NULL},
	{NULL, NULL, NULL, NULL},
};

const struct policy *policy_find(const char *name)
{
	for (const struct policy *p = policies; p->name; p++)
		if (strcmp(p->name, name) == 0)
			return p;
	return NULL;
}

int policy_setup(const char *name, struct setup **ret, char **ret_error)
{
	static struct plugin_type types[sizeof(policies) / sizeof(policies[0])];
	const struct policy *policy = policy_find(name);
	struct plugin_type *type;
	struct plugin picker;
	int err;

	if (!policy || policy->profile)
		return setup_from_profile(policy ? policy->profile : name, ret, ret_error);
	err = setup_from_profile("queue-scorer=0", ret, ret_error);
	if (err)
		return err;
	type = &types[policy - policies];
	*type = (struct plugin_type){
		.name = policy->name, .kinds = PLUGIN_PICKER, .pick = policy->pick};
	plugin_init(&picker, type);
	plugin_fini(&(*ret)->profiles[0]->profile.picker);
	return profile_add(&(*ret)->profiles[0]->profile, &picker);
}

void policy_picked(struct policy_place *place, const struct fleet_request *r, double now_s,
		   uint32_t uncached_tokens)
{
	place->active_blocks += r->id_count;
	place->work_s *= exp(-(now_s - place->work_at_s) / PREBLE_WINDOW_S);
	place->work_at_s = now_s;
	place->work_s += uncached_tokens / 8000.0 + r->output * 0.35e-3;
}

void policy_ended(struct policy_place *place, const struct fleet_request *r)
{
	place->active_blocks -= r->id_count;
}
