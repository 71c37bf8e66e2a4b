/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An inference engine in virtual time: continuous batching under a token budget, FCFS admission, a
 * block pool with an LRU prefix cache. One step decodes one token for each running request and
 * prefills a chunk; it lasts base + per decode x decoding + prefilled / rate.
 */
#ifndef SLUICE_FLEET_ENGINE_H
#define SLUICE_FLEET_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/scheduler.h"

struct engine_model {
	uint32_t blocks, block_tokens, seqs_max, chunk_tokens;
	double prefill_tokens_per_s, step_base_ms, step_decode_ms;
};

/* A request of the trace and what became of it. */
struct fleet_request {
	double arrival_s; /* at speed 1 */
	uint32_t input, output, id_count;
	const uint32_t *ids; /* one per block_tokens of prompt */
	uint64_t *hashes;    /* of the prefixes that end with each id */
	/* this run's */
	double sent_s, first_s, end_s;
	uint32_t cached, prefill_left, generated, gateway, engine;
	struct sched_pick pick;
	bool picked;
	/* Prefill and decode apart: */
	bool remote;		     /* its prompt's blocks come from another engine */
	struct fleet_request *leg;   /* its prefill elsewhere; of that: NULL */
	struct fleet_request *whole; /* of a prefill leg: whose */
	double ready_s;		     /* when the blocks are there */
	uint32_t leg_cached;
};

struct cache;

struct engine {
	const struct engine_model *model;
	struct cache *cache;
	struct fleet_request **waiting, **running;
	uint32_t waiting_count, waiting_first, waiting_max, running_count;
	uint64_t kv_tokens; /* of running requests */
	double step_end_s;  /* of the running step; INFINITY when idle */
	/* Equal steps of decoding only are taken at once: the end of the last one is step_end_s. */
	double bulk_begin_s, bulk_step_s;
	uint32_t bulk;	    /* steps until step_end_s; 1 where something is prefilled */
	double work_tokens; /* prefilled in all */
	uint64_t cached_tokens, prompt_tokens;
};

int engine_init(struct engine *e, const struct engine_model *model, uint32_t requests_max);
void engine_fini(struct engine *e);

/* A request comes; an idle engine begins a step. */
void engine_submit(struct engine *e, struct fleet_request *r, double now_s);

/*
 * The step has ended: on_first and on_end are called for requests whose first token came or that
 * are done; then the next step begins, if there is work.
 */
typedef void (*engine_event)(void *arg, struct fleet_request *r, double now_s);
void engine_step(struct engine *e, engine_event on_first, engine_event on_end, void *arg);

/* Its cache is lost and its requests are handed to fn: the process died. It can be used again. */
void engine_fail(struct engine *e, engine_event fn, void *arg, double now_s);

/* Leading blocks of the prompt that are in the cache now. */
uint32_t engine_cached_blocks(const struct engine *e, const struct fleet_request *r);

/* Share of the pool in use by running requests. */
double engine_kv_used(const struct engine *e);

#endif
