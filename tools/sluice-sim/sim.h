/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-sim: engines without GPUs.
 *   server.c (HTTP) -> engine.c (when does which token come) -> reply.c (its bytes)
 *                        `-> cache.c (which prompt blocks are cached)
 */
#ifndef SLUICE_SIM_H
#define SLUICE_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_BLOCK_BYTES 64 /* 16 tokens of 4 bytes */

/* --fake-metrics: what /metrics says, whatever runs. */
struct sim_fake {
	bool given;
	double running, waiting, kv_usage;
};

struct sim_options {
	char *model, *served_model, *lora_modules, *failure_types, *host;
	unsigned int port, instances, max_num_seqs, max_waiting, block_size;
	unsigned int kv_blocks, max_model_len, seed;
	double time_scale, ttft_ms, itl_ms, prefill_overhead_ms, prefill_ms_per_token;
	double step_ms, step_ms_per_seq, prefill_tokens_per_s, failure_rate;
	unsigned int chunk_tokens, default_max_tokens;
	bool constant; /* --latency-calculator constant|per-token instead of the batch model */
	bool cache, details, echo, request_ids;
	unsigned int ranks, max_loras;
	double ttft_sd_ms, itl_sd_ms, prefill_sd_ms_per_token, time_factor;
	struct sim_fake fake;
	char *kv_connector; /* prefill and decode apart */
	double kv_transfer_ms, kv_transfer_sd_ms, kv_transfer_ms_per_token;
	char *tokenizer, *zmq_endpoint, *replay_endpoint; /* real tokens; KV events */
	unsigned int event_batch, event_hwm;
	bool map_events, hide_sources, zmq_connect, stamp_events;
	bool event_keep, load_stat, rank_sources, clock_sequence, prompts_only; /* see main.c */
	char *template_extra;
	double event_loss, event_duplicate, event_reorder; /* per cent of messages */
};

/* Prefix cache: chain hashes of blocks, least recently used out. */
struct cache;
struct cache *cache_new(uint32_t blocks);
void cache_free(struct cache *c);
/* Leading blocks of the chain that are cached. */
uint32_t cache_match(const struct cache *c, const uint64_t *chain, uint32_t count);
/* The chain is cached now, its first blocks the freshest. */
void cache_store(struct cache *c, const uint64_t *chain, uint32_t count);
uint32_t cache_used(const struct cache *c);
/* Tells of each block that comes or goes; NULL: nobody. */
void cache_observe(struct cache *c, void (*changed)(void *arg, uint64_t hash, bool stored),
		   void *arg);
/* Holds at most so many blocks from now on, at least one. */
void cache_limit(struct cache *c, uint32_t blocks);

enum seq_state {
	SEQ_WAITING,
	SEQ_PREFILL,
	SEQ_DECODE,
	SEQ_DONE
};

/* One request in an engine. */
struct seq {
	struct seq *next;
	enum seq_state state;
	uint32_t prompt_tokens, cached_tokens, prefilled, max_tokens, made;
	uint64_t *chain; /* block hashes, owned */
	uint32_t chain_count;
	uint32_t *tokens;    /* of the prompt, owned; NULL without --tokenizer */
	char salt[128];	     /* cache_salt */
	uint32_t held;	     /* blocks that are this sequence's alone */
	bool remote;	     /* its prompt's blocks came from another engine */
	uint32_t unstored;   /* of them, not in the prefix cache */
	double due_ms;	     /* constant model: when the next token comes */
	const char *adapter; /* borrowed; NULL: the base model */
	void *owner;
};

struct engine {
	const struct sim_options *opt;
	/* Its events; stored NULL: none are published. */
	struct events *events;
	void (*stored)(struct events *ev, const struct cache *cache, const struct seq *s);
	void (*changed)(void *events, uint64_t hash, bool stored);
	struct cache *cache;
	struct seq *waiting, **waiting_end, *running;
	uint32_t waiting_count, running_count;
	uint32_t held, unstored; /* sums of the running sequences' */
	double step_end_ms;	 /* 0: idle */
	uint64_t random;
	uint64_t queries, hits, prompt_total, generated_total, successes, preemptions;
	/* Called for each token; the last one has seq->made == max_tokens. */
	void (*token)(struct seq *seq);
};

void engine_init(struct engine *e, const struct sim_options *opt, void (*token)(struct seq *));
void engine_fini(struct engine *e);
/* What it has cached is gone, as after a restart of its process. */
void engine_forget(struct engine *e);
bool engine_full(const struct engine *e);
/* 0 or -EBUSY: the waiting queue is full. */
int engine_submit(struct engine *e, struct seq *seq, double now_ms);
/* The client left: the sequence is out at once. */
void engine_cancel(struct engine *e, struct seq *seq);
/* A duration about its mean, within 70 % of it; sd counts as 30 % of the mean at most. */
double engine_sample(struct engine *e, double mean, double sd);
/* Runs what is due; returns ms until the next step, or -1 when idle. */
double engine_run(struct engine *e, double now_ms);

#endif
