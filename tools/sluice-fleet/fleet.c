/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtual clock: arrivals, steps of engines and scrapes in order of time. Each gateway has a
 * scheduler, an index and load figures of its own, as separate processes would.
 */
#include "sluice-fleet/fleet.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/load.h"
#include "scheduler/prefix_hash.h"
#include "scheduler/pd.h"
#include "scheduler/prefix_index.h"
#include "sluice-fleet/policies.h"

#define ID_BYTES	 64 /* stand-in length of one block of the trace */
#define INDEX_PAIR_BYTES 48 /* with room to spare */

struct gateway {
	struct scheduler *sched;
	struct prefix_index *index;
	struct endpoint_snapshot snap;
	struct endpoint *endpoints;
	struct sluice_endpoint_load *loads;
	struct policy_place *places;
	uint32_t *own_at_look; /* inflight_requests when the engines were looked at */
	uint32_t turn;	       /* of round robin */
};

/* What an engine showed at a scrape that is still on its way. */
struct look {
	uint32_t waiting, running, kv_ppm;
};

struct fleet {
	const struct fleet_options *o;
	struct trace *trace;
	struct engine *engines;
	struct gateway *gateways;
	struct look *looks;
	double looked_s, scrape_next_s, deliver_s;
	double change_s; /* engine 0 fails or returns */
	bool failed;
	struct engine_model *models;
	uint32_t retried;
	uint64_t rng;
	struct fleet_request *legs, *moving; /* moving: blocks on their way, soonest first */
	struct pd_decider decider;
};

static size_t index_bytes(const struct fleet_options *o)
{
	size_t bytes = 1 << 20;

	while (bytes < (size_t)o->endpoints * o->model.blocks * INDEX_PAIR_BYTES)
		bytes *= 2;
	return bytes;
}

static int gateway_init(struct gateway *g, const struct fleet_options *o, uint32_t number)
{
	struct config cfg = {.prompt_block_bytes = ID_BYTES};
	struct setup *setup = NULL;
	char *error = NULL;
	int err;

	g->endpoints = calloc(o->endpoints, sizeof(*g->endpoints));
	g->loads = calloc(o->endpoints, sizeof(*g->loads));
	g->own_at_look = calloc(o->endpoints, sizeof(*g->own_at_look));
	g->places = calloc(o->endpoints, sizeof(*g->places));
	g->snap.views = calloc(o->endpoints, sizeof(*g->snap.views));
	if (!g->endpoints || !g->loads || !g->places || !g->own_at_look || !g->snap.views)
		return -ENOMEM;
	g->snap.view_count = o->endpoints;
	for (uint32_t i = 0; i < o->endpoints; i++) {
		struct endpoint *ep = &g->endpoints[i];

		ep->slot = (uint16_t)i;
		ep->generation = 1;
		ep->load = &g->loads[i];
		ep->breaker.state = SLUICE_ENDPOINT_READY;
		if (o->decider)
			ep->role = !o->prefill_engines ? SLUICE_ROLE_PREFILL | SLUICE_ROLE_DECODE
				   : i < o->prefill_engines ? SLUICE_ROLE_PREFILL
							    : SLUICE_ROLE_DECODE;
		snprintf(ep->address, sizeof(ep->address), "10.0.%u.%u:8000", i / 256, i % 256);
		ep->load->block_tokens = ID_BYTES / 4; /* so that capacity = blocks */
		ep->load->blocks_total = o->model.blocks;
		g->snap.views[i] = ep;
	}
	err = prefix_index_new(NULL, index_bytes(o), 1, &g->index);
	if (!err)
		err = policy_setup(o->policy, &setup, &error);
	if (!err)
		err = scheduler_new_of(&cfg, setup, g->index, 1, &g->sched, &error);
	if (!err)
		scheduler_seed(g->sched, o->seed * 1000 + number);
	if (error)
		fprintf(stderr, "sluice-fleet: %s\n", error);
	free(error);
	return err;
}

static void gateway_fini(struct gateway *g)
{
	scheduler_free(g->sched);
	prefix_index_free(g->index);
	free(g->endpoints);
	free(g->loads);
	free(g->places);
	free(g->own_at_look);
	free(g->snap.views);
}

static uint64_t fleet_random(struct fleet *f)
{
	f->rng = prefix_mix(f->rng, 0x5eed);
	return f->rng;
}

static uint64_t virtual_ns(double now_s)
{
	return (uint64_t)((now_s + 10) * 1e9); /* a clock that never reads 0 */
}

static uint32_t choose(struct fleet *f, struct gateway *g, struct fleet_request *r, double now_s)
{
	uint16_t decode = r->whole ? r->whole->pick.endpoint->slot : 0;
	struct sched_request req = {.now_ns = virtual_ns(now_s),
				    .model_name = SPAN("m"),
				    .hashes = r->hashes,
				    .hash_count = r->id_count,
				    .prompt_tokens = r->input,
				    .excluded = &decode,
				    .excluded_count = r->whole != NULL,
				    .role = !f->o->decider ? 0
					    : r->whole	   ? SLUICE_ROLE_PREFILL
							   : SLUICE_ROLE_DECODE};

	policy_world = (struct policy_world){.engines = f->engines,
					     .index = g->index,
					     .request = r,
					     .places = g->places,
					     .now_s = now_s,
					     .turn = &g->turn};
	if (scheduler_pick(scheduler_worker(g->sched, 0), &g->snap, &req, &r->pick))
		abort(); /* one engine at most is ever down */
	scheduler_learn(scheduler_worker(g->sched, 0), &r->pick);
	policy_picked(&g->places[r->pick.endpoint->slot], r, now_s,
		      r->pick.prompt_tokens - r->pick.cached_tokens_expected);
	r->picked = true;
	r->engine = r->pick.endpoint->slot;
	return r->engine;
}

static void on_first(void *arg, struct fleet_request *r, double now_s)
{
	(void)arg;
	(void)now_s;
	if (r->picked)
		scheduler_first_token(&r->pick);
}

/* The prefill leg is over: its blocks are on their way to the decode engine. */
static void move_begin(struct fleet *f, struct fleet_request *leg, double now_s)
{
	struct fleet_request *r = leg->whole, **at = &f->moving;

	r->leg_cached = leg->cached;
	leg->ready_s =
		now_s + f->o->transfer_ms / 1e3 + r->input * f->o->transfer_us_per_token / 1e6;
	while (*at && (*at)->ready_s <= leg->ready_s)
		at = &(*at)->leg;
	leg->leg = *at;
	*at = leg;
}

static void move_end(struct fleet *f, double now_s)
{
	struct fleet_request *leg = f->moving;

	f->moving = leg->leg;
	engine_submit(&f->engines[leg->whole->engine], leg->whole, now_s);
}

/* The decode engine is chosen: does another one prefill? Where the request goes now. */
static struct fleet_request *first_leg(struct fleet *f, struct gateway *g, struct fleet_request *r)
{
	struct pd_question q = {.snapshot = &g->snap, .decode = &r->pick};
	struct fleet_request *leg = &f->legs[r - f->trace->rows];
	enum pd_reason why;

	r->remote = f->o->decider && pd_decide(&f->decider, &q, &why);
	if (!r->remote)
		return r;
	*leg = (struct fleet_request){.input = r->input,
				      .output = 1,
				      .ids = r->ids,
				      .id_count = r->id_count,
				      .hashes = r->hashes,
				      .gateway = r->gateway,
				      .whole = r};
	scheduler_first_token(&r->pick); /* nothing of it is prefilled where it is decoded */
	return leg;
}

static void on_end(void *arg, struct fleet_request *r, double now_s)
{
	struct fleet *f = arg;
	struct sched_outcome outcome = {.now_ns = virtual_ns(now_s),
					.usage_known = true,
					.prompt_tokens = r->input,
					.cached_tokens = r->cached};

	if (!r->picked)
		return;
	policy_ended(&f->gateways[r->gateway].places[r->engine], r);
	scheduler_done(scheduler_worker(f->gateways[r->gateway].sched, 0), &r->pick, &outcome);
	if (r->whole)
		move_begin(f, r, now_s);
}

/* The engine died under it: its gateway sends it elsewhere. */
static void on_lost(void *arg, struct fleet_request *r, double now_s)
{
	struct fleet *f = arg;

	on_end(f, r, now_s);
	f->retried++;
	engine_submit(&f->engines[choose(f, &f->gateways[r->gateway], r, now_s)], r, now_s);
}

static void set_state(struct fleet *f, uint32_t state)
{
	for (uint32_t g = 0; g < f->o->gateways; g++) {
		f->gateways[g].endpoints[0].breaker.state = state;
		f->gateways[g].endpoints[0].breaker.reopen_at_ns = UINT64_MAX;
		prefix_index_forget(f->gateways[g].index, 0);
	}
}

/* Engine 0 goes down, or comes back. */
static void fail_or_return(struct fleet *f, double now_s)
{
	if (!f->failed) {
		set_state(f, SLUICE_ENDPOINT_OPEN);
		engine_fail(&f->engines[0], on_lost, f, now_s);
		f->change_s = now_s + f->o->fail_for_s / f->o->speed;
	} else {
		set_state(f, SLUICE_ENDPOINT_READY);
		f->change_s = INFINITY;
	}
	f->failed = !f->failed;
}

/* Looks at the engines; what was seen is known delay_s later. */
static void scrape(struct fleet *f, double now_s)
{
	for (uint32_t i = 0; i < f->o->endpoints; i++) {
		const struct engine *e = &f->engines[i];

		f->looks[i] = (struct look){e->waiting_count, e->running_count,
					    (uint32_t)(engine_kv_used(e) * 1e6)};
	}
	for (uint32_t g = 0; g < f->o->gateways; g++)
		for (uint32_t i = 0; i < f->o->endpoints; i++)
			f->gateways[g].own_at_look[i] = f->gateways[g].loads[i].inflight_requests;
	f->looked_s = now_s;
	f->deliver_s = now_s + f->o->delay_s;
	f->scrape_next_s = now_s + f->o->scrape_s;
}

static void deliver(struct fleet *f)
{
	for (uint32_t g = 0; g < f->o->gateways; g++)
		for (uint32_t i = 0; i < f->o->endpoints; i++) {
			struct sluice_endpoint_load *l = &f->gateways[g].loads[i];

			l->waiting = f->looks[i].waiting;
			l->running = f->looks[i].running;
			l->kv_used_ppm = f->looks[i].kv_ppm;
			l->inflight_at_scrape = f->gateways[g].own_at_look[i] + 1;
			l->scraped_at_ns = virtual_ns(f->looked_s);
		}
	f->deliver_s = INFINITY;
}

static void arrive(struct fleet *f, struct fleet_request *r, double now_s)
{
	struct gateway *g;
	struct fleet_request *leg;
	uint32_t engine;

	r->sent_s = now_s;
	r->gateway = (uint32_t)(fleet_random(f) % f->o->gateways);
	r->picked = false;
	r->whole = NULL;
	g = &f->gateways[r->gateway];
	engine = choose(f, g, r, now_s);
	leg = first_leg(f, g, r);
	if (leg != r)
		engine = choose(f, g, leg, now_s);
	engine_submit(&f->engines[engine], leg, now_s);
}

static void run_clock(struct fleet *f)
{
	uint32_t next = 0, soonest;

	for (;;) {
		double arrive_s = INFINITY, step_s = INFINITY;

		soonest = 0;
		for (uint32_t i = 0; i < f->o->endpoints; i++)
			if (f->engines[i].step_end_s < step_s) {
				step_s = f->engines[i].step_end_s;
				soonest = i;
			}
		if (next < f->trace->count)
			arrive_s = f->trace->rows[next].arrival_s / f->o->speed;
		if (arrive_s == INFINITY && step_s == INFINITY && !f->moving)
			return;
		if (f->moving && f->moving->ready_s <= step_s && f->moving->ready_s <= arrive_s) {
			move_end(f, f->moving->ready_s);
			continue;
		}
		if (f->change_s <= step_s && f->change_s <= arrive_s) {
			fail_or_return(f, f->change_s);
		} else if (f->deliver_s <= step_s && f->deliver_s <= arrive_s) {
			deliver(f);
		} else if (f->scrape_next_s <= step_s && f->scrape_next_s <= arrive_s &&
			   f->deliver_s == INFINITY) {
			scrape(f, f->scrape_next_s);
		} else if (step_s <= arrive_s) {
			engine_step(&f->engines[soonest], on_first, on_end, f);
		} else {
			arrive(f, &f->trace->rows[next++], arrive_s);
		}
	}
}

/* ---- the result ---- */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double percentile(double *v, uint32_t n, double p)
{
	if (!n)
		return 0;
	qsort(v, n, sizeof(*v), by_value);
	return v[(uint32_t)(p * (n - 1))];
}

static void sum_up(struct fleet *f, double *ttft, double *itl, double *e2e,
		   struct fleet_result *ret)
{
	uint32_t from = (uint32_t)(f->o->from * f->trace->count), n = 0, good = 0;
	uint32_t to = (uint32_t)(f->o->to * f->trace->count);
	double input = 0, cached = 0, mean = 0, square = 0, apart = 0, span_s;

	for (uint32_t i = from; i < to; i++) {
		const struct fleet_request *r = &f->trace->rows[i];

		ttft[n] = r->first_s - r->sent_s;
		itl[n] = r->output > 1 ? (r->end_s - r->first_s) / (r->output - 1) : 0;
		e2e[n] = r->end_s - r->sent_s;
		good += ttft[n] <= f->o->slo_ttft_s && itl[n] <= f->o->slo_itl_s;
		input += r->input;
		cached += r->remote ? r->leg_cached : r->cached;
		apart += r->remote;
		n++;
	}
	for (uint32_t i = 0; i < f->o->endpoints; i++) {
		double w = f->engines[i].work_tokens;

		mean += w / f->o->endpoints;
		square += w * w / f->o->endpoints;
	}
	span_s = n ? f->trace->rows[to - 1].sent_s - f->trace->rows[from].sent_s : 1;
	ret->completed = n;
	ret->completed_all = f->trace->count;
	ret->retried = f->retried;
	ret->apart_share = n ? apart / n : 0;
	ret->hit_share = input > 0 ? cached / input : 0;
	ret->prefill_cv = mean > 0 ? sqrt(fmax(0, square - mean * mean)) / mean : 0;
	ret->offered_rps = n / span_s;
	ret->goodput_rps = good / span_s;
	ret->goodput_share = n ? (double)good / n : 0;
	ret->ttft_p50_ms = percentile(ttft, n, 0.5) * 1e3;
	ret->ttft_p90_ms = percentile(ttft, n, 0.9) * 1e3;
	ret->ttft_p99_ms = percentile(ttft, n, 0.99) * 1e3;
	ret->itl_p50_ms = percentile(itl, n, 0.5) * 1e3;
	ret->itl_p90_ms = percentile(itl, n, 0.9) * 1e3;
	ret->e2e_p90_ms = percentile(e2e, n, 0.9) * 1e3;
}

static int fleet_init(struct fleet *f)
{
	const struct fleet_options *o = f->o;
	int err = 0;

	f->engines = calloc(o->endpoints, sizeof(*f->engines));
	f->gateways = calloc(o->gateways, sizeof(*f->gateways));
	f->looks = calloc(o->endpoints, sizeof(*f->looks));
	f->legs = calloc(f->trace->count, sizeof(*f->legs));
	f->models = calloc(o->endpoints, sizeof(*f->models));
	if (!f->engines || !f->gateways || !f->looks || !f->models || !f->legs)
		return -ENOMEM;
	if (o->decider)
		pd_decider_init(&f->decider, pd_decider_find(o->decider));
	for (uint32_t i = 0; i < o->endpoints; i++) {
		double speed = o->speed_count ? o->speeds[i % o->speed_count] : 1;

		f->models[i] = o->model;
		f->models[i].prefill_tokens_per_s *= speed;
		f->models[i].step_base_ms /= speed;
		f->models[i].step_decode_ms /= speed;
	}
	for (uint32_t i = 0; !err && i < o->endpoints; i++)
		err = engine_init(&f->engines[i], &f->models[i], f->trace->count);
	for (uint32_t i = 0; !err && i < o->gateways; i++)
		err = gateway_init(&f->gateways[i], o, i);
	f->change_s = o->fail_for_s > 0 ? o->fail_at_s / o->speed : INFINITY;
	f->deliver_s = INFINITY;
	f->rng = o->seed;
	return err;
}

static double cpu_now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int fleet_run(struct trace *t, const struct fleet_options *o, struct fleet_result *ret)
{
	struct fleet *f = calloc(1, sizeof(*f));
	double *values = calloc(t->count * 3 + 1, sizeof(*values));
	uint64_t began;
	int err = -ENOMEM;

	if (f && values) {
		f->o = o;
		f->trace = t;
		err = fleet_init(f);
		if (!err) {
			began = clock_mono_ns();
			ret->cpu_s = -cpu_now_s();
			run_clock(f);
			ret->cpu_s += cpu_now_s();
			ret->wall_s = (double)(clock_mono_ns() - began) / 1e9;
			sum_up(f, values, values + t->count, values + 2 * t->count, ret);
		}
		for (uint32_t i = 0; f->engines && i < o->endpoints; i++)
			engine_fini(&f->engines[i]);
		for (uint32_t i = 0; f->gateways && i < o->gateways; i++)
			gateway_fini(&f->gateways[i]);
		free(f->engines);
		free(f->gateways);
		free(f->looks);
		free(f->legs);
		free(f->models);
	}
	free(values);
	free(f);
	return err;
}
