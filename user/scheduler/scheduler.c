/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pick, in order: hash the prompt, gather the candidates, match prefixes, filter, score, pick,
 * count, note the decision. All of it in the worker's scratch memory.
 */
#include "scheduler/scheduler.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "base/load.h"
#include "scheduler/decisions.h"
#include "scheduler/admission.h"
#include "scheduler/facts.h"
#include "scheduler/precise.h"
#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"
#include "scheduler/profile.h"
#include "scheduler/sessions.h"

#define BYTES_PER_TOKEN 4
#define EWMA_SHIFT	3 /* a new time counts an eighth */

struct sched_worker {
	struct scheduler *sched;
	unsigned int number;
	uint64_t rng;
	uint64_t slots[PREFIX_SLOT_WORDS]; /* of the candidates */
	uint64_t hashes[PROMPT_BLOCKS_MAX];
	uint32_t generations[ENDPOINTS_MAX]; /* by slot, set where slots has a bit */
	struct kv_match kv[ENDPOINTS_MAX];   /* by slot */
	struct recent recent;
	uint16_t hits[ENDPOINTS_MAX]; /* by slot */
	uint32_t hash_count;
	struct sched_candidate candidates[ENDPOINTS_MAX];
	float totals[ENDPOINTS_MAX], scores[PLUGINS_MAX][ENDPOINTS_MAX];
	bool keep[ENDPOINTS_MAX];
	uint64_t media[MEDIA_ITEMS_MAX];
	uint32_t media_count;
	struct decision *decision;
};

struct scheduler {
	struct setup *setup;
	struct shared_facts *facts;
	struct latency_model *latency;	     /* by slot */
	const struct plugin *latency_params; /* of its producer; NULL: defaults */
	bool uses_media, uses_cold, uses_admitters, uses_latency;
	struct prefix_index *index;
	const struct kv_index *kv_index; /* NULL: no events are heard */
	struct kv_trust *kv_trust;
	struct decisions *decisions;
	struct sessions *sessions;
	uint64_t load_stale_ns;
	uint32_t block_bytes;
	unsigned int workers;
	struct sched_worker *worker[WORKERS_MAX];
};

/* ---- making ---- */

static int make_decisions(struct scheduler *s, uint64_t count)
{
	int err = decisions_new(count, s->workers, &s->decisions);

	for (unsigned int i = 0; i < s->setup->profile_count && !err; i++) {
		const struct profile *p = &s->setup->profiles[i]->profile;
		const char *names[DECISION_SCORERS_MAX];
		double weights[DECISION_SCORERS_MAX];
		unsigned int n = 0;

		for (; n < p->scorer_count && n < DECISION_SCORERS_MAX; n++) {
			names[n] = plugin_name(&p->scorers[n]);
			weights[n] = p->scorers[n].weight;
		}
		decisions_profile(s->decisions, i, names, weights, n);
	}
	return err;
}

static bool uses_admitters(const struct setup *setup)
{
	for (unsigned int i = 0; i < setup->plugin_count; i++)
		if (setup->plugins[i]->type->kinds & PLUGIN_ADMITTER)
			return true;
	return false;
}

static bool uses_session(const struct setup *setup)
{
	for (unsigned int i = 0; i < setup->profile_count; i++)
		if (setup->profiles[i]->profile.uses_session)
			return true;
	return false;
}

static struct sched_worker *worker_new(struct scheduler *s, unsigned int number)
{
	struct sched_worker *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->sched = s;
	w->number = number;
	w->rng = prefix_mix(clock_wall_ns(), number + 1) | 1;
	w->decision = calloc(1, decision_bytes(ENDPOINTS_MAX));
	if (!w->decision) {
		free(w);
		return NULL;
	}
	return w;
}

/* What can be read but not run. */
static int check_runs(const struct config *cfg, const struct setup *setup, char **ret_error)
{
	for (unsigned int i = 0; i < setup->plugin_count; i++) {
		const struct plugin_type *t = setup->plugins[i]->type;
		const char *why = NULL;

		if (t->flags & PLUGIN_REFUSED)
			why = t->note;
		else if (setup->from_file && (t->flags & PLUGIN_ALPHA) &&
			 !cfg->allow_experimental_plugins)
			why = "alpha: give --allow-experimental-plugins";
		if (!why)
			continue;
		if (asprintf(ret_error, "%s:%u: %s: %s", cfg->scheduler_config,
			     setup->plugin_lines[i], t->name, why) < 0)
			*ret_error = NULL;
		return -EINVAL;
	}
	return 0;
}

int scheduler_new(const struct config *cfg, struct prefix_index *index, unsigned int workers,
		  struct scheduler **ret, char **ret_error)
{
	struct setup *setup;
	int err;

	*ret_error = NULL;
	err = setup_from_config(cfg, &setup, ret_error);
	return err ? err : scheduler_new_of(cfg, setup, index, workers, ret, ret_error);
}

int scheduler_new_of(const struct config *cfg, struct setup *setup, struct prefix_index *index,
		     unsigned int workers, struct scheduler **ret, char **ret_error)
{
	struct scheduler *s = calloc(1, sizeof(*s));
	int err;

	*ret_error = NULL;
	if (!s) {
		setup_free(setup);
		return -ENOMEM;
	}
	s->setup = setup;
	s->index = index;
	s->workers = workers;
	s->block_bytes =
		cfg->prompt_block_bytes ? (uint32_t)cfg->prompt_block_bytes : PROMPT_BLOCK_BYTES;
	s->load_stale_ns = (cfg->load_stale_ms ? cfg->load_stale_ms : LOAD_STALE_MS) * NS_PER_MS;
	err = check_runs(cfg, s->setup, ret_error);
	if (!err && (s->block_bytes < 16 || s->block_bytes > PREFIX_BLOCK_BYTES_MAX)) {
		err = -EINVAL;
		if (asprintf(ret_error, "prompt block bytes: %u is not in 16 to %d", s->block_bytes,
			     PREFIX_BLOCK_BYTES_MAX) < 0)
			*ret_error = NULL;
	}
	if (!err && (workers == 0 || workers > WORKERS_MAX))
		err = -EINVAL;
	if (!err)
		err = make_decisions(s, cfg->decisions_max);
	if (!err) {
		s->facts = calloc(1, sizeof(*s->facts));
		s->uses_media = setup_uses(s->setup, "mm-embeddings-cache-scorer");
		s->uses_cold = setup_uses(s->setup, "no-hit-lru-scorer");
		s->uses_admitters = uses_admitters(s->setup);
		s->uses_latency = s->uses_admitters || setup_uses(s->setup, "latency-scorer") ||
				  setup_uses(s->setup, "slo-headroom-tier-filter") ||
				  setup_uses(s->setup, "prefix-cache-affinity-filter");
		s->latency = calloc(ENDPOINTS_MAX, sizeof(*s->latency));
		if (s->setup->latency_plugin != SETUP_NONE)
			s->latency_params = s->setup->plugins[s->setup->latency_plugin];
		err = s->facts && s->latency ? 0 : -ENOMEM;
	}
	if (!err && uses_session(s->setup)) {
		s->sessions = sessions_new();
		err = s->sessions ? 0 : -ENOMEM;
	}
	for (unsigned int i = 0; !err && i < workers; i++) {
		s->worker[i] = worker_new(s, i);
		err = s->worker[i] ? 0 : -ENOMEM;
	}
	if (err) {
		scheduler_free(s);
		return err;
	}
	*ret = s;
	return 0;
}

void scheduler_free(struct scheduler *s)
{
	if (!s)
		return;
	for (unsigned int i = 0; i < WORKERS_MAX; i++) {
		if (!s->worker[i])
			continue;
		free(s->worker[i]->decision);
		free(s->worker[i]);
	}
	decisions_free(s->decisions);
	free(s->sessions);
	setup_free(s->setup);
	free(s->facts);
	free(s->latency);
	free(s);
}

struct sched_worker *scheduler_worker(struct scheduler *s, unsigned int i)
{
	return s->worker[i];
}

void scheduler_seed(struct scheduler *s, uint64_t seed)
{
	for (unsigned int i = 0; i < s->workers; i++)
		s->worker[i]->rng = prefix_mix(seed, i + 1) | 1;
}

struct decisions *scheduler_decisions(struct scheduler *s)
{
	return s->decisions;
}

void scheduler_set_kv(struct scheduler *s, const struct kv_index *index, struct kv_trust *trust)
{
	s->kv_index = index;
	s->kv_trust = trust;
}

const char *scheduler_profile(const struct scheduler *s)
{
	return s->setup->profiles[s->setup->decode]->profile.text;
}

const struct setup *scheduler_worker_setup(const struct sched_worker *w)
{
	return w->sched->setup;
}

const struct setup *scheduler_setup(const struct scheduler *s)
{
	return s->setup;
}

/* ---- candidates ---- */

static bool excluded(const struct sched_request *req, uint16_t slot)
{
	for (uint32_t i = 0; i < req->excluded_count; i++)
		if (req->excluded[i] == slot)
			return true;
	return false;
}

static bool role_fits(const struct endpoint *ep, uint8_t wanted)
{
	if (wanted == 0)
		return true;
	return ep->role == 0 || ep->role & wanted;
}

/* Fills w->candidates and the slots for matching. 0, -ENOENT or -EAGAIN. */
static int gather(struct sched_worker *w, const struct endpoint_snapshot *snap,
		  const struct sched_request *req, uint32_t *ret_count)
{
	uint32_t serving = 0, n = 0;

	memset(w->slots, 0, sizeof(w->slots));
	for (uint32_t i = 0; i < snap->view_count && i < ENDPOINTS_MAX; i++) {
		struct endpoint *ep = snap->views[i];

		if (req->model && !(req->model->views[i / 64] >> (i % 64) & 1))
			continue;
		serving++;
		if (excluded(req, ep->slot) || !health_may_pick(ep) || !role_fits(ep, req->role))
			continue;
		candidate_read(&w->candidates[n++], ep, i, req->now_ns, w->sched->load_stale_ns);
		w->slots[ep->slot / 64] |= 1ULL << (ep->slot % 64);
		w->generations[ep->slot] = ep->generation;
	}
	if (n == 0)
		return serving ? -EAGAIN : -ENOENT;
	*ret_count = n;
	return 0;
}

static void match(struct sched_worker *w, struct sched_view *view)
{
	uint32_t most = 0, second = 0; /* longest matches */

	if (!w->sched->index || !w->hash_count)
		return;
	prefix_index_match(w->sched->index, w->hashes, w->hash_count, w->slots, w->generations,
			   w->hits);
	for (uint32_t i = 0; i < view->count; i++) {
		uint16_t hit = w->hits[view->candidates[i].endpoint->slot];

		view->candidates[i].hit_blocks = hit;
		if (hit > most) {
			second = most;
			most = hit;
		} else if (hit > second) {
			second = hit;
		}
	}
	view->own_hash = w->hashes[second < w->hash_count ? second : w->hash_count - 1];
}

/* ---- the profile ---- */

static int run_filters(struct sched_worker *w, const struct profile *profile,
		       struct sched_view *view)
{
	for (unsigned int f = 0; f < profile->filter_count; f++) {
		const struct plugin *p = &profile->filters[f];
		uint32_t kept = 0;

		if (p->type->narrow)
			p->type->narrow(view, p, w->keep);
		for (uint32_t i = 0; i < view->count; i++)
			if (p->type->narrow ? w->keep[i]
					    : p->type->keep(view, p, &view->candidates[i]))
				view->candidates[kept++] = view->candidates[i];
		view->count = kept;
		if (!kept)
			return -EBUSY;
	}
	return 0;
}

static void run_scorers(struct sched_worker *w, const struct profile *profile,
			const struct sched_view *view)
{
	memset(w->totals, 0, view->count * sizeof(w->totals[0]));
	for (unsigned int s = 0; s < profile->scorer_count; s++) {
		const struct plugin *p = &profile->scorers[s];
		float *scores = w->scores[s], weight = (float)p->weight;

		p->type->score(view, p, scores);
		for (uint32_t i = 0; i < view->count; i++) {
			if (!(scores[i] > 0)) /* NaN too */
				scores[i] = 0;
			if (scores[i] > 1)
				scores[i] = 1;
			w->totals[i] += weight * scores[i];
		}
	}
}

/* Picks until one may be used: another worker may have begun a half-open circuit's one trial. */
static int run_picker(struct sched_worker *w, const struct profile *profile,
		      struct sched_view *view, uint32_t *ret_chosen)
{
	while (view->count) {
		uint32_t n = profile->picker.type->pick(view, &profile->picker, w->totals);

		if (health_trial_begin(view->candidates[n].endpoint)) {
			*ret_chosen = n;
			return 0;
		}
		view->count--;
		view->candidates[n] = view->candidates[view->count];
		w->totals[n] = w->totals[view->count];
		for (unsigned int s = 0; s < profile->scorer_count; s++)
			w->scores[s][n] = w->scores[s][view->count];
	}
	return -EAGAIN;
}

/* ---- latency ---- */

static void features_of(const struct sched_view *view, const struct sched_candidate *c,
			struct latency_features *f)
{
	double uncached = view->prompt_tokens;

	if (view->total_blocks)
		uncached -= uncached * c->hit_blocks / view->total_blocks;
	f->uncached_ktokens = (float)(uncached / 1e3);
	f->prefill_ktokens = (float)((double)c->own_tokens / 1e3);
	f->waiting = (float)c->waiting;
	f->running = (float)(c->running > c->own_requests ? c->running : c->own_requests);
	f->kv_used = c->kv_used;
}

/* predicted-latency-producer's parameters. */
enum latency_param {
	SLO_BUFFER,
	CONTEXT_TTL,
	STREAMING
};

/* What is predicted of each candidate, and the headroom to the request's SLOs. */
static void predict_latencies(const struct sched_worker *w, struct sched_view *view)
{
	const struct plugin *p = w->sched->latency_params;
	const struct sched_request *req = view->request;

	for (uint32_t i = 0; i < view->count; i++) {
		struct sched_candidate *c = &view->candidates[i];
		struct latency_features f;
		struct latency_estimate e;

		features_of(view, c, &f);
		e = latency_predict(&w->sched->latency[c->endpoint->slot], c->endpoint->generation,
				    &f);
		c->predicted = e.valid;
		view->any_predicted |= e.valid;
		c->ttft_ms = e.ttft_ms;
		c->tpot_ms = e.itl_ms;
		c->ttft_headroom = (float)req->slo_ttft_ms - e.ttft_ms;
		c->tpot_headroom = 0;
		if (p && p->params[STREAMING] != 0 && req->slo_tpot_ms)
			c->tpot_headroom =
				(float)(req->slo_tpot_ms * p->params[SLO_BUFFER]) - e.itl_ms;
	}
}

/* ---- after the pick ---- */

static void fill_pick(const struct sched_worker *w, const struct sched_view *view, uint32_t chosen,
		      uint64_t prompt_bytes, struct sched_pick *ret)
{
	const struct sched_candidate *c = &view->candidates[chosen];

	memset(ret, 0, sizeof(*ret));
	ret->endpoint = c->endpoint;
	ret->hit_blocks = c->hit_blocks;
	ret->total_blocks = view->total_blocks;
	ret->block_bytes = view->block_bytes;
	ret->prompt_bytes = prompt_bytes;
	ret->hit_bytes = (uint64_t)c->hit_blocks * view->block_bytes;
	if (ret->hit_bytes > prompt_bytes)
		ret->hit_bytes = prompt_bytes;
	ret->prompt_tokens = view->prompt_tokens;
	if (prompt_bytes)
		ret->cached_tokens_expected =
			(uint32_t)(view->prompt_tokens * ret->hit_bytes / prompt_bytes);
	ret->precise = c->precise && !c->on_its_way; /* what is under way may come too late */
	ret->precise_tokens = c->precise_tokens;
	ret->at_least = view->request->kv_prompt && view->request->kv_prompt->cut;
	if (c->trusted && !c->on_its_way) { /* tokens of the engine's, not bytes of ours */
		ret->cached_tokens_expected = c->precise_tokens;
		if (ret->prompt_tokens < c->precise_tokens)
			ret->prompt_tokens = c->precise_tokens;
	}
	ret->inflight_tokens = ret->prompt_tokens - ret->cached_tokens_expected;
	features_of(view, c, &ret->features);
	ret->predicted = latency_predict(&w->sched->latency[c->endpoint->slot],
					 c->endpoint->generation, &ret->features);
	ret->candidates = view->count;
	ret->score = w->totals[chosen];
}

static void count_pick(const struct sched_pick *pick)
{
	struct sluice_endpoint_load *load = pick->endpoint->load;

	load_add(load->inflight_requests, 1);
	load_add(load->inflight_tokens, pick->inflight_tokens);
	load_add(load->requests_total, 1);
}

static void decision_candidates(const struct sched_worker *w, const struct sched_view *view,
				double sum, struct decision *d)
{
	for (uint32_t i = 0; i < view->count; i++) {
		struct decision_candidate *c = &d->candidates[i];
		const struct sched_candidate *from = &view->candidates[i];

		c->slot = from->endpoint->slot;
		c->generation = (uint16_t)from->endpoint->generation;
		c->hit_blocks = from->hit_blocks;
		c->total = sum > 0 && w->totals[i] > 0
				   ? (uint16_t)(w->totals[i] / sum * 65535 + 0.5)
				   : 0;
		for (unsigned int s = 0; s < d->scorer_count; s++)
			c->scores[s] = (uint8_t)(w->scores[s][i] * 254 + 0.5f);
	}
}

static uint64_t note_decision(struct sched_worker *w, const struct sched_view *view,
			      uint32_t chosen, const struct sched_pick *pick)
{
	const struct sched_request *req = view->request;
	const struct profile *profile = &w->sched->setup->profiles[pick->profile]->profile;
	struct decision *d = w->decision;
	size_t id_len = req->request_id.len;

	memset(d, 0, sizeof(*d));
	if (id_len > DECISION_ID_BYTES - 1)
		id_len = DECISION_ID_BYTES - 1;
	if (id_len)
		memcpy(d->request_id, req->request_id.ptr, id_len);
	memcpy(d->endpoint, pick->endpoint->address, sizeof(d->endpoint));
	d->now_ns = req->now_ns;
	d->wall_ns = clock_wall_ns();
	d->chosen = (uint16_t)chosen;
	d->candidate_count = (uint16_t)view->count;
	d->profile = (uint16_t)pick->profile;
	d->role = req->role;
	d->scorer_count = (uint16_t)profile->scorer_count;
	if (d->scorer_count > DECISION_SCORERS_MAX)
		d->scorer_count = DECISION_SCORERS_MAX;
	d->excluded_count = (uint16_t)req->excluded_count;
	d->hit_blocks = pick->hit_blocks;
	d->total_blocks = pick->total_blocks;
	d->block_bytes = pick->block_bytes;
	d->prompt_tokens = pick->prompt_tokens;
	d->cached_tokens_expected = pick->cached_tokens_expected;
	decision_candidates(w, view, profile->weight_sum, d);
	return decisions_put(w->sched->decisions, w->number, d);
}

/* Which profile serves this leg; SETUP_NONE: the request names one that is not there. */
static uint32_t profile_for(const struct setup *setup, const struct sched_request *req)
{
	const struct plugin *handler;
	struct span named;
	uint32_t i;

	switch (setup->handler) {
	case HANDLER_DISAGG:
		i = req->role & SLUICE_ROLE_PREFILL  ? setup->prefill
		    : req->role & SLUICE_ROLE_ENCODE ? setup->encode
						     : setup->decode;
		return i == SETUP_NONE ? setup->decode : i;
	case HANDLER_HEADER:
		handler = setup->plugins[setup->handler_plugin];
		if (setup->profile_count == 1)
			return 0;
		named = request_header(req, plugin_text(handler, 0));
		for (i = 0; named.len && i < setup->profile_count; i++)
			if (span_eq(named, span_of_str(setup->profiles[i]->name)))
				return i;
		return named.len ? SETUP_NONE : setup_profile_find(setup, plugin_text(handler, 1));
	case HANDLER_SINGLE:
	case HANDLER_DATA_PARALLEL:
		break;
	}
	return 0;
}

/* The request's distinct media items, and who was sent how many of them. */
static void match_media(struct sched_worker *w, struct sched_view *view)
{
	const struct sched_request *req = view->request;

	w->media_count = facts_media_items(req, w->media);
	view->media_count = w->media_count;
	for (uint32_t i = 0; i < view->count; i++)
		for (uint32_t k = 0; k < w->media_count; k++)
			view->candidates[i].media_held += facts_media_held(
				w->sched->facts, view->candidates[i].endpoint, w->media[k]);
}

static void note_facts(struct sched_worker *w, const struct sched_pick *pick, bool hit)
{
	if (w->sched->uses_cold && !hit)
		facts_cold_pick(w->sched->facts, pick->endpoint);
	for (uint32_t k = 0; k < w->media_count; k++)
		facts_media_sent(w->sched->facts, pick->endpoint, w->media[k]);
}

static bool any_hit(const struct sched_view *view)
{
	for (uint32_t i = 0; i < view->count; i++)
		if (view->candidates[i].hit_blocks)
			return true;
	return false;
}

/* Everything that is known of the candidates before the profile runs. */
static uint64_t know(struct sched_worker *w, const struct endpoint_snapshot *snap,
		     struct sched_view *view)
{
	const struct scheduler *s = w->sched;
	const struct sched_request *req = view->request;
	uint64_t prompt_bytes = 0;

	w->hash_count = req->hash_count < PROMPT_BLOCKS_MAX ? req->hash_count : PROMPT_BLOCKS_MAX;
	if (req->hashes) {
		memcpy(w->hashes, req->hashes, w->hash_count * sizeof(w->hashes[0]));
		prompt_bytes = (uint64_t)req->hash_count * s->block_bytes;
	} else {
		w->hash_count = prefix_hash(req, s->block_bytes, w->hashes, PROMPT_BLOCKS_MAX,
					    &prompt_bytes);
	}
	if (s->index)
		prefix_index_prefetch(s->index, w->hashes, w->hash_count);
	view->total_blocks = w->hash_count;
	view->own_hash = w->hash_count ? w->hashes[0] : plugin_random(&w->rng) * 1e18;
	view->prompt_tokens = req->prompt_tokens ? req->prompt_tokens
						 : (uint32_t)(prompt_bytes / BYTES_PER_TOKEN);
	if (s->sessions && req->session.len)
		view->session_view = sessions_find(s->sessions, snap, req->session, req->now_ns);
	match(w, view);
	if (s->kv_index && req->kv_prompt && req->kv_prompt->len)
		precise_match(s->kv_index, s->kv_trust, &w->recent, view, w->slots, w->generations,
			      w->hashes, w->kv);
	w->media_count = 0;
	if (s->uses_media)
		match_media(w, view);
	return prompt_bytes;
}

int scheduler_pick(struct sched_worker *w, const struct endpoint_snapshot *snap,
		   const struct sched_request *req, struct sched_pick *ret)
{
	const struct scheduler *s = w->sched;
	struct sched_view view = {.snapshot = snap,
				  .request = req,
				  .candidates = w->candidates,
				  .block_bytes = s->block_bytes,
				  .rng = &w->rng,
				  .facts = s->facts,
				  .peer = req->peer,
				  .session_view = -1};
	const struct profile *profile;
	uint32_t chosen, number = profile_for(s->setup, req);
	uint64_t prompt_bytes;
	bool hit;
	int err;

	w->hash_count = 0;
	if (number == SETUP_NONE)
		return -EBUSY;
	profile = &s->setup->profiles[number]->profile;
	err = gather(w, snap, req, &view.count);
	if (err)
		return err;
	prompt_bytes = know(w, snap, &view);
	hit = any_hit(&view);
	if (s->uses_latency)
		predict_latencies(w, &view);
	if (s->uses_admitters && !admission_admits(s->setup, &view))
		return -EDQUOT;
	err = run_filters(w, profile, &view);
	if (err)
		return err;
	run_scorers(w, profile, &view);
	err = run_picker(w, profile, &view, &chosen);
	if (err)
		return err;
	fill_pick(w, &view, chosen, prompt_bytes, ret);
	ret->profile = number;
	count_pick(ret);
	note_facts(w, ret, hit);
	if (s->kv_index && req->kv_prompt && req->kv_prompt->len)
		precise_account(s->kv_index, req, w->slots, w->kv, ret->endpoint);
	if (s->kv_index) {
		ret->recent = &w->recent;
		ret->recent_number = recent_note(&w->recent, w->hashes, w->hash_count,
						 ret->endpoint->slot, ret->endpoint->generation);
	}
	if (s->sessions && req->session.len)
		sessions_bind(s->sessions, ret->endpoint, req->session, req->now_ns);
	ret->decision = note_decision(w, &view, chosen, ret);
	return 0;
}

void scheduler_learn(struct sched_worker *w, const struct sched_pick *pick)
{
	const struct sluice_endpoint_load *load = pick->endpoint->load;
	uint64_t capacity;

	if (!w->sched->index || !w->hash_count)
		return;
	capacity = (uint64_t)load_read(load->blocks_total) * load_read(load->block_tokens) *
		   BYTES_PER_TOKEN / w->sched->block_bytes;
	if (capacity > UINT32_MAX)
		capacity = UINT32_MAX;
	prefix_index_learn(w->sched->index, w->number, pick->endpoint->slot,
			   pick->endpoint->generation, (uint32_t)capacity, w->hashes,
			   w->hash_count);
}

void scheduler_first_token(struct sched_pick *pick)
{
	load_sub(pick->endpoint->load->inflight_tokens, pick->inflight_tokens);
	pick->inflight_tokens = 0;
	if (pick->recent_number)
		recent_end(pick->recent, pick->recent_number);
	pick->recent_number = 0;
}

static void average(uint32_t *field, uint32_t value)
{
	uint32_t old = load_read(*field);

	if (!value)
		return;
	load_write(*field, old ? old + (uint32_t)(((int64_t)value - old) >> EWMA_SHIFT) : value);
}

static void learn_latency(struct scheduler *s, const struct sched_pick *pick,
			  const struct sched_outcome *outcome)
{
	struct latency_model *m = &s->latency[pick->endpoint->slot];
	struct latency_errors e;
	struct sluice_endpoint_load *load = pick->endpoint->load;

	if (!latency_learn(m, pick->endpoint->generation, &pick->features, &pick->predicted,
			   outcome->ttft_us / 1e3, outcome->itl_us / 1e3, &e))
		return;
	load_write(load->ttft_error_mean_ppm, (uint32_t)(e.ttft_mean * 1e6));
	load_write(load->ttft_error_p90_ppm, (uint32_t)(e.ttft_p90 * 1e6));
	load_write(load->itl_error_mean_ppm, (uint32_t)(e.itl_mean * 1e6));
	load_write(load->itl_error_p90_ppm, (uint32_t)(e.itl_p90 * 1e6));
}

void scheduler_note_path(struct sched_worker *w, const struct sched_pick *pick,
			 const struct path_choice *path)
{
	if (pick->decision)
		decisions_note_path(w->sched->decisions, w->number, pick->decision, path);
}

/* What was expected of the endpoint, against what its answer says, or, without that, its page. */
static void note_trust(struct kv_trust *trust, const struct sched_pick *pick,
		       const struct sched_outcome *outcome)
{
	struct endpoint *ep = pick->endpoint;

	if (outcome->cached_known)
		kv_trust_note(trust, ep->slot, ep->generation, pick->precise_tokens,
			      outcome->cached_tokens);
	else if (outcome->usage_known)
		kv_trust_note_page(trust, ep->slot, ep->generation, pick->precise_tokens,
				   outcome->prompt_tokens, ep->page_query_tokens,
				   ep->page_hit_tokens);
}

void scheduler_done(struct sched_worker *w, struct sched_pick *pick,
		    const struct sched_outcome *outcome)
{
	struct sluice_endpoint_load *load = pick->endpoint->load;
	struct decision_outcome noted = {.done = 1,
					 .failed = outcome->failed,
					 .usage_known = outcome->usage_known,
					 .prompt_tokens_reported = outcome->prompt_tokens,
					 .cached_tokens_reported = outcome->cached_tokens,
					 .ttft_us = outcome->ttft_us,
					 .itl_us = outcome->itl_us,
					 .path = outcome->path};

	load_sub(load->inflight_requests, 1);
	scheduler_first_token(pick);
	average(&load->ttft_us, outcome->ttft_us);
	average(&load->itl_us, outcome->itl_us);
	if (!outcome->failed)
		learn_latency(w->sched, pick, outcome);
	if (outcome->usage_known) {
		load_add(load->cached_tokens_total, outcome->cached_tokens);
		load_add(load->prompt_tokens_total, outcome->prompt_tokens);
	}
	if (pick->precise && !pick->at_least && w->sched->kv_trust)
		note_trust(w->sched->kv_trust, pick, outcome);
	if (pick->decision)
		decisions_finish(w->sched->decisions, w->number, pick->decision, &noted);
}
