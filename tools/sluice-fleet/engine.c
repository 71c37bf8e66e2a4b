/* SPDX-License-Identifier: Apache-2.0 */
/* The engine model: admission, steps, and an LRU of block ids as its prefix cache. */
#include "sluice-fleet/engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LRU over block ids: a hash table with chains, and a list through the same nodes. */
struct cached {
	uint32_t id, chain, newer, older;
};

struct cache {
	struct cached *nodes; /* 1-based; 0 is none */
	uint32_t *heads;
	uint32_t mask, count, max, newest, oldest, free;
};

static struct cache *cache_new(uint32_t blocks)
{
	struct cache *c = calloc(1, sizeof(*c));
	uint32_t size = 1;

	if (!c)
		return NULL;
	while (size < blocks * 2)
		size *= 2;
	c->mask = size - 1;
	c->max = blocks;
	c->nodes = calloc(blocks + 1, sizeof(*c->nodes));
	c->heads = calloc(size, sizeof(*c->heads));
	for (uint32_t i = 1; c->nodes && i <= blocks; i++)
		c->nodes[i].chain = i < blocks ? i + 1 : 0;
	c->free = 1;
	return c;
}

static uint32_t *cache_head(struct cache *c, uint32_t id)
{
	return &c->heads[id * 2654435761u >> 7 & c->mask];
}

static uint32_t cache_find(struct cache *c, uint32_t id)
{
	uint32_t n = *cache_head(c, id);

	while (n && c->nodes[n].id != id)
		n = c->nodes[n].chain;
	return n;
}

static void cache_unlink(struct cache *c, uint32_t n)
{
	struct cached *x = &c->nodes[n];

	*(x->newer ? &c->nodes[x->newer].older : &c->newest) = x->older;
	*(x->older ? &c->nodes[x->older].newer : &c->oldest) = x->newer;
}

static void cache_push(struct cache *c, uint32_t n)
{
	c->nodes[n].newer = 0;
	c->nodes[n].older = c->newest;
	*(c->newest ? &c->nodes[c->newest].newer : &c->oldest) = n;
	c->newest = n;
}

static void cache_evict(struct cache *c)
{
	uint32_t n = c->oldest, *at = cache_head(c, c->nodes[n].id);

	while (*at != n)
		at = &c->nodes[*at].chain;
	*at = c->nodes[n].chain;
	cache_unlink(c, n);
	c->nodes[n].chain = c->free;
	c->free = n;
	c->count--;
}

static void cache_add(struct cache *c, uint32_t id, uint32_t limit)
{
	uint32_t n = cache_find(c, id), *head = cache_head(c, id);

	if (n) {
		cache_unlink(c, n);
		cache_push(c, n);
		return;
	}
	while (c->count && c->count >= limit)
		cache_evict(c);
	if (!c->free || limit == 0)
		return;
	n = c->free;
	c->free = c->nodes[n].chain;
	c->nodes[n].id = id;
	c->nodes[n].chain = *head;
	*head = n;
	cache_push(c, n);
	c->count++;
}

/* ---- the engine ---- */

int engine_init(struct engine *e, const struct engine_model *model, uint32_t requests_max)
{
	memset(e, 0, sizeof(*e));
	e->model = model;
	e->waiting_max = requests_max + 1;
	e->cache = cache_new(model->blocks);
	e->waiting = calloc(e->waiting_max, sizeof(struct fleet_request *));
	e->running = calloc(model->seqs_max, sizeof(struct fleet_request *));
	e->step_end_s = INFINITY;
	return e->cache && e->waiting && e->running ? 0 : -ENOMEM;
}

void engine_fini(struct engine *e)
{
	if (e->cache) {
		free(e->cache->nodes);
		free(e->cache->heads);
	}
	free(e->cache);
	free(e->waiting);
	free(e->running);
}

double engine_kv_used(const struct engine *e)
{
	double used = (double)e->kv_tokens / ((double)e->model->blocks * e->model->block_tokens);

	return used < 1 ? used : 1;
}

static uint32_t request_tokens(const struct fleet_request *r)
{
	return r->input + r->output;
}

/* Takes requests from the queue while there is a seat and room in the pool. */
static void admit(struct engine *e)
{
	uint64_t room = (uint64_t)e->model->blocks * e->model->block_tokens;

	while (e->waiting_count && e->running_count < e->model->seqs_max) {
		struct fleet_request *r = e->waiting[e->waiting_first];
		uint32_t hit = 0;

		if (e->running_count && e->kv_tokens + request_tokens(r) > room)
			return;
		e->waiting_first = (e->waiting_first + 1) % e->waiting_max;
		e->waiting_count--;
		while (hit < r->id_count && cache_find(e->cache, r->ids[hit]))
			hit++;
		r->cached = hit * e->model->block_tokens;
		if (r->remote || r->cached >= r->input) /* the last token is always computed */
			r->cached = r->input - 1;
		for (uint32_t i = hit; i-- > 0;)
			cache_add(e->cache, r->ids[i], e->model->blocks);
		r->prefill_left = r->input - r->cached;
		r->generated = 0;
		e->kv_tokens += request_tokens(r);
		e->cached_tokens += r->cached;
		e->prompt_tokens += r->input;
		e->running[e->running_count++] = r;
	}
}

/* Nothing to prefill until a request ends or comes: all steps until the next end. */
static void begin_bulk(struct engine *e, double now_s, uint32_t decoding)
{
	uint32_t steps = UINT32_MAX;

	for (uint32_t i = 0; i < e->running_count; i++) {
		const struct fleet_request *r = e->running[i];
		uint32_t left = r->output > r->generated ? r->output - r->generated : 1;

		steps = left < steps ? left : steps;
	}
	e->bulk = steps;
	e->bulk_begin_s = now_s;
	e->bulk_step_s = e->model->step_base_ms / 1e3 + decoding * e->model->step_decode_ms / 1e3;
	e->step_end_s = now_s + steps * e->bulk_step_s;
}

/* A request came: only the step that runs now is finished before it is looked at. */
static void cut_bulk(struct engine *e, double now_s)
{
	uint32_t done;

	if (e->bulk <= 1 || e->bulk_step_s <= 0) /* its length is known only while one runs */
		return;
	done = (uint32_t)((now_s - e->bulk_begin_s) / e->bulk_step_s) + 1;
	if (done >= e->bulk)
		return;
	e->bulk = done;
	e->step_end_s = e->bulk_begin_s + done * e->bulk_step_s;
}

/* Lays out the next step: how long it lasts follows from what is in it. */
static void begin_step(struct engine *e, double now_s)
{
	uint32_t budget = e->model->chunk_tokens, decoding = 0, prefilled = 0;

	admit(e);
	if (!e->running_count) {
		e->step_end_s = INFINITY;
		return;
	}
	for (uint32_t i = 0; i < e->running_count; i++) {
		struct fleet_request *r = e->running[i];

		if (r->prefill_left == 0)
			decoding++;
	}
	e->bulk = 1;
	if (decoding == e->running_count) {
		begin_bulk(e, now_s, decoding);
		return;
	}
	budget = decoding < budget ? budget - decoding : 0;
	for (uint32_t i = 0; i < e->running_count && budget; i++) {
		struct fleet_request *r = e->running[i];
		uint32_t take = r->prefill_left < budget ? r->prefill_left : budget;

		if (!take)
			continue;
		r->prefill_left -= take;
		r->generated = UINT32_MAX; /* its first token, if this was the last chunk */
		budget -= take;
		prefilled += take;
	}
	e->work_tokens += prefilled;
	e->step_end_s = now_s + e->model->step_base_ms / 1e3 +
			decoding * e->model->step_decode_ms / 1e3 +
			prefilled / e->model->prefill_tokens_per_s;
}

void engine_submit(struct engine *e, struct fleet_request *r, double now_s)
{
	e->waiting[(e->waiting_first + e->waiting_count++) % e->waiting_max] = r;
	if (e->step_end_s == INFINITY)
		begin_step(e, now_s);
	else
		cut_bulk(e, now_s);
}

void engine_fail(struct engine *e, engine_event fn, void *arg, double now_s)
{
	uint32_t running = e->running_count, waiting = e->waiting_count;

	while (e->cache->count)
		cache_evict(e->cache);
	e->running_count = e->waiting_count = 0;
	e->kv_tokens = 0;
	e->step_end_s = INFINITY;
	for (uint32_t i = 0; i < running; i++)
		fn(arg, e->running[i], now_s);
	for (uint32_t i = 0; i < waiting; i++)
		fn(arg, e->waiting[(e->waiting_first + i) % e->waiting_max], now_s);
}

uint32_t engine_cached_blocks(const struct engine *e, const struct fleet_request *r)
{
	uint32_t n = 0;

	while (n < r->id_count && cache_find(e->cache, r->ids[n]))
		n++;
	return n;
}

static void prefilled(struct engine *e, struct fleet_request *r)
{
	uint64_t pool = e->model->blocks;
	uint64_t output = (uint64_t)e->running_count * r->output / e->model->block_tokens;

	for (uint32_t i = r->id_count; i-- > 0;)
		cache_add(e->cache, r->ids[i], (uint32_t)(output < pool ? pool - output : 1));
}

void engine_step(struct engine *e, engine_event on_first, engine_event on_end, void *arg)
{
	double now_s = e->step_end_s;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < e->running_count; i++) {
		struct fleet_request *r = e->running[i];

		if (r->prefill_left == 0 && r->generated == UINT32_MAX) { /* in this step */
			r->generated = 1;
			r->first_s = now_s;
			prefilled(e, r);
			on_first(arg, r, now_s);
		} else if (r->prefill_left == 0) {
			r->generated += e->bulk;
		}
		if (r->prefill_left == 0 && r->generated >= r->output) {
			e->kv_tokens -= request_tokens(r);
			r->end_s = now_s;
			on_end(arg, r, now_s);
			continue;
		}
		e->running[kept++] = r;
	}
	e->running_count = kept;
	begin_step(e, now_s);
}
