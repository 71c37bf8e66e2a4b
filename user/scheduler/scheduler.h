/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing the endpoint of one request: prefix match, then a profile of filters, scorers, a picker.
 *
 *   snapshot -> candidates -> filters -> scorers (sum of weight x score) -> picker -> sched_pick
 *
 * No sockets and no threads of its own: a gateway's workers and the fleet simulator call the same
 * functions. Invariant: after scheduler_new() nothing here allocates or blocks; a pick is counted
 * in endpoint_load before scheduler_pick() returns, so that a burst spreads. Left to others:
 * retries (the caller passes the endpoints it tried), health, references' lifetime.
 */
#ifndef SLUICE_SCHEDULER_H
#define SLUICE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/endpoint.h"
#include "base/path.h"
#include "base/span.h"
#include "scheduler/latency.h"

struct decisions;
struct prefix_index;
struct setup;
struct scheduler;
struct sched_worker;

enum sched_piece_kind {
	SCHED_PIECE_TEXT = 1,	/* words of a message or prompt */
	SCHED_PIECE_ROLE = 2,	/* "user", "assistant", … */
	SCHED_PIECE_TOOLS = 3,	/* tools, documents: raw JSON */
	SCHED_PIECE_TOKENS = 4, /* token ids as JSON text */
	SCHED_PIECE_MEDIA = 5,	/* image, audio: URL or data */
	SCHED_PIECE_OTHER = 6,
};

/*
 * A stretch of the prompt in a receive buffer. Where a piece goes on in the next buffer, the next
 * one has `continued` set; so the same prompt hashes alike however it was received.
 */
struct sched_piece {
	struct span bytes;
	uint8_t kind; /* enum sched_piece_kind */
	bool continued;
};

struct sched_request {
	uint64_t now_ns;	   /* CLOCK_MONOTONIC (or the simulator's) */
	const struct model *model; /* of the same snapshot; NULL: every endpoint may serve it */
	struct span model_name;	   /* as the client said it: seeds the prefix hashes */
	struct span cache_salt, session, request_id; /* len 0: none */
	const struct sched_piece *pieces;	     /* the prompt, in order */
	uint32_t piece_count;
	uint32_t prompt_tokens;	  /* estimate; 0: prompt bytes / 4 */
	const uint16_t *excluded; /* slots tried already; at most RETRIES_MAX + 1 matter */
	uint32_t excluded_count;
	int32_t priority;
	uint8_t role; /* SLUICE_ROLE_DECODE, _PREFILL or _ENCODE when a leg needs one, else 0 */
	bool stream;
	struct kv_losses *kv_losses;	    /* where its lost bytes are booked; may be NULL */
	struct kv_losses *kv_losses_tenant; /* and there, if not NULL */
	const struct kv_prompt *kv_prompt; /* as the engine will see it; NULL: not known for sure */
	const struct endpoint *peer;	   /* of the earlier leg, or NULL */
	/* A header field of the request by its name, len 0: none. May be NULL. */
	struct span (*header)(const void *arg, const char *name);
	const void *header_arg;
	uint32_t slo_ttft_ms, slo_tpot_ms; /* 0: none */
	const uint64_t *hashes; /* of the prompt's blocks, where the caller has them; else NULL */
	uint32_t hash_count;
};

struct sched_pick {
	struct endpoint *endpoint; /* borrowed from the snapshot: endpoint_get() to keep it */
	uint64_t decision;	   /* for scheduler_done() and decisions.h; 0 when none are kept */
	uint32_t hit_blocks, total_blocks, block_bytes;
	uint64_t hit_bytes, prompt_bytes;
	uint32_t prompt_tokens, cached_tokens_expected;
	uint32_t candidates;	  /* that the scorers compared */
	uint32_t inflight_tokens; /* counted for it in endpoint_load: tokens yet to be prefilled */
	uint32_t profile;	  /* of the setup */
	struct latency_features features;
	struct latency_estimate predicted;
	bool precise;		 /* the next is what the endpoint's events say */
	bool at_least;		 /* and there may be more: not all of the prompt is known */
	uint32_t precise_tokens; /* of the prompt, in its cache */
	struct recent *recent;	 /* where it is noted that its blocks are on their way, */
	uint32_t recent_number;	 /* until its first token; 0: nowhere */
	float score;
};

/* What a finished (or failed) request tells back. */
struct sched_outcome {
	uint64_t now_ns;
	uint32_t ttft_us, itl_us;	       /* 0 unknown */
	uint32_t prompt_tokens, cached_tokens; /* as the engine reported them */
	bool usage_known;		       /* the two above are set */
	bool cached_known;		       /* the engine did tell cached tokens */
	bool failed;			       /* no answer came from this endpoint */
	struct path_choice path;
};

/*
 * Makes the scheduler and its workers' scratch memory. cfg is read, not kept. index is borrowed and
 * may be NULL (no prefix matching). On a profile that cannot be, -EINVAL and *ret_error is one
 * sentence that lists the known plugin types (free() it). Free with scheduler_free().
 */
int scheduler_new(const struct config *cfg, struct prefix_index *index, unsigned int workers,
		  struct scheduler **ret, char **ret_error);
/* The same of a setup that is there already; it becomes the scheduler's, also after an error. */
int scheduler_new_of(const struct config *cfg, struct setup *setup, struct prefix_index *index,
		     unsigned int workers, struct scheduler **ret, char **ret_error);
void scheduler_free(struct scheduler *sched);
/* The same choices by chance again: for simulation. Before any pick. */
void scheduler_seed(struct scheduler *sched, uint64_t seed);

/* Events are heard: what they say goes before what is remembered. Both borrowed. Before any pick.
 */
struct kv_index;
struct kv_trust;
void scheduler_set_kv(struct scheduler *sched, const struct kv_index *index,
		      struct kv_trust *trust);

/* Worker i's side, i < workers. Each is used by one thread at a time. */
struct sched_worker *scheduler_worker(struct scheduler *sched, unsigned int i);

/* The decisions kept, for the admin port. Any thread. */
struct decisions *scheduler_decisions(struct scheduler *sched);

/* What it was made of: profiles, deciders, flow control. Lives as long as sched. */
const struct setup *scheduler_setup(const struct scheduler *sched);
const struct setup *scheduler_worker_setup(const struct sched_worker *w);

/* The profile in the form that config takes: "queue-scorer=2,…". Lives as long as sched. */
const char *scheduler_profile(const struct scheduler *sched);

/*
 * Chooses. The pick is counted at once: inflight_requests, inflight_tokens, requests_total.
 * A half-open circuit's trial is begun here (health_trial_begin): the caller only reports its end.
 * The prompt's hashes stay in the worker's scratch until its next pick, for scheduler_learn().
 * -ENOENT: no endpoint for the model. -EAGAIN: some, but all are open, draining or excluded.
 * -EBUSY: a filter of the profile left none, or a header names a profile that is not there.
 * -EDQUOT: an admitter of the setup refused it.
 */
int scheduler_pick(struct sched_worker *w, const struct endpoint_snapshot *snap,
		   const struct sched_request *req, struct sched_pick *ret);

/*
 * Remembers that the picked endpoint will hold the prompt's blocks. Call right after the pick, on
 * the same worker, before another pick. Never blocks: without room the blocks are dropped, counted.
 */
void scheduler_learn(struct sched_worker *w, const struct sched_pick *pick);

/* Its prefill is over (first token or answer seen): takes its in-flight tokens back early. */
void scheduler_first_token(struct sched_pick *pick);

/* Which way its answer takes, as far as it is known now. On the worker that picked. */
void scheduler_note_path(struct sched_worker *w, const struct sched_pick *pick,
			 const struct path_choice *path);

/*
 * The request left the endpoint: takes its counts back and notes the outcome. Exactly once per
 * pick. Any worker may call it; the decision's outcome is noted by the worker that picked only.
 */
void scheduler_done(struct sched_worker *w, struct sched_pick *pick,
		    const struct sched_outcome *outcome);

#endif
