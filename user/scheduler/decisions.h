/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last decisions, with every candidate's scores by plugin: what `sluicectl why` prints.
 *
 *   worker w: [record][record]…[record]   bytes, laps from the start; an entry table finds them
 *
 * One writer per worker ring, readers anywhere: a reader copies, then checks that the writer has
 * not come round. Memory is fixed at start: DECISION_BYTES_MEAN for each decision kept; larger
 * records (many candidates) only shorten the history.
 */
#ifndef SLUICE_SCHEDULER_DECISIONS_H
#define SLUICE_SCHEDULER_DECISIONS_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/endpoint.h"
#include "base/path.h"
#include "base/span.h"

#define DECISION_BYTES_MEAN    1024 /* room for about 70 candidates and 3 scorers */
#define DECISION_ID_BYTES      64   /* of the request id; longer ones are cut */
#define DECISION_PROFILES_MAX  16
#define DECISION_SCORERS_MAX   8 /* further scorers count but are not kept */
#define DECISION_SCORE_UNKNOWN 255

struct decisions;

/* One candidate; scores are 1/254ths, total is 1/65535ths of the sum of weights. */
struct decision_candidate {
	uint16_t slot, generation; /* low bits of the generation */
	uint16_t hit_blocks, total;
	uint8_t scores[DECISION_SCORERS_MAX];
};

struct decision {
	uint64_t id, id_hash, now_ns, wall_ns;
	char request_id[DECISION_ID_BYTES];
	char endpoint[64]; /* "10.0.0.1:8000" */
	uint16_t chosen;   /* index into candidates */
	uint16_t candidate_count, scorer_count, excluded_count;
	uint32_t hit_blocks, total_blocks, block_bytes;
	uint32_t prompt_tokens, cached_tokens_expected;
	uint16_t profile; /* number */
	uint16_t role;	  /* SLUICE_ROLE_* that the leg needed, 0 none */
	/* as struct decision_outcome; done is 0 until the request has ended */
	uint32_t done, failed, usage_known;
	uint32_t prompt_tokens_reported, cached_tokens_reported;
	uint32_t ttft_us, itl_us;
	struct path_choice path;
	struct decision_candidate candidates[];
};

struct decision_outcome {
	uint32_t done, failed, usage_known;
	uint32_t prompt_tokens_reported, cached_tokens_reported;
	uint32_t ttft_us, itl_us;
	struct path_choice path;
};

static_assert(offsetof(struct decision, done) % 8 == 0, "the outcome is written word by word");
static_assert(sizeof(struct decision_outcome) ==
		      offsetof(struct decision, candidates) - offsetof(struct decision, done),
	      "the outcome is the end of the fixed part");

/* count: DECISIONS_MAX or config's. */
int decisions_new(uint64_t count, unsigned int workers, struct decisions **ret);
/* The scorers of profile number i < DECISION_PROFILES_MAX: names are borrowed. Before any put. */
void decisions_profile(struct decisions *set, unsigned int i, const char *const *scorers,
		       const double *weights, unsigned int scorer_count);
void decisions_free(struct decisions *set);

/* Bytes of a record with that many candidates. */
size_t decision_bytes(unsigned int candidates);

/* Keeps a copy of d (d->id is set here) and returns its id; 0 if none are kept. Worker's thread. */
uint64_t decisions_put(struct decisions *set, unsigned int worker, struct decision *d);

/* Notes how it ended, if the record is still there. The worker that put it only. */
void decisions_finish(struct decisions *set, unsigned int worker, uint64_t id,
		      const struct decision_outcome *outcome);

/* Notes which way the answer takes while it still runs. The worker that put the record only. */
void decisions_note_path(struct decisions *set, unsigned int worker, uint64_t id,
			 const struct path_choice *path);

/* The newest decision for the request id, as a malloc()ed copy, or NULL: of the leg that answers
 * the client, or of one that helps it (SLUICE_ROLE_PREFILL, _ENCODE). Any thread. */
struct decision *decisions_find(struct decisions *set, struct span request_id);
struct decision *decisions_find_leg(struct decisions *set, struct span request_id, uint16_t role);
/* The newest ones, at most max, newest first; each to free(). Returns how many. Any thread. */
unsigned int decisions_recent(struct decisions *set, struct decision **ret, unsigned int max);

/* One JSON object, no newline. snap names the candidates; may be NULL. Never on a worker. */
void decision_write_json(FILE *f, struct decisions *set, const struct decision *d,
			 const struct endpoint_snapshot *snap);
/* One sentence: why this pod. Never on a worker. */
void decision_explain(FILE *f, const struct decisions *set, const struct decision *d);

#endif
