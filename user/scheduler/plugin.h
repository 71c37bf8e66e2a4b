/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plugin of a scheduling profile is: one row in plugins.c, one small file.
 *
 * A filter says which candidates stay, a scorer gives each one a score in [0, 1], a picker takes
 * one of the totals. All see the same view of the pool, read once per pick.
 *
 * Figures that an endpoint has not renewed within load_stale_ms are unknown (known == false), never
 * idle: a scorer that needs them gives such a candidate the worst score among those known, and
 * everyone 0.5 when none is known (score_unknown()).
 * What this gateway sent and the engine has not shown yet (in flight here, beyond waiting +
 * running) counts as waiting, so that a burst between two scrapes spreads.
 */
#ifndef SLUICE_SCHEDULER_PLUGIN_H
#define SLUICE_SCHEDULER_PLUGIN_H

#include "scheduler/scheduler.h"

#define PLUGIN_PARAMS_MAX 4
#define PLUGIN_RULES_MAX  16

struct sessions;

struct sched_candidate {
	struct endpoint *endpoint;
	uint32_t view; /* index in the snapshot */
	bool known;    /* the engine's figures are fresh */
	uint16_t hit_blocks;
	uint32_t waiting, running; /* engine's; waiting with what it has not shown yet */
	uint32_t own_requests;	   /* in flight from this gateway */
	uint64_t own_tokens;	   /* of those, yet to be prefilled */
	float kv_used;		   /* 0..1 */
};

struct sched_view {
	const struct endpoint_snapshot *snapshot;
	const struct sched_request *request;
	struct sched_candidate *candidates;
	uint32_t count;
	uint32_t total_blocks, block_bytes, prompt_tokens;
	/*
	 * Hash of the first block that at most one candidate holds: it tells this prompt from those
	 * that only share a system prompt with it. The first block as long as nothing is known.
	 */
	uint64_t own_hash;
	uint64_t *rng;
	struct sessions *sessions;
	int32_t session_view; /* view the session is bound to, -1 none */
};

enum label_op {
	LABEL_IN,
	LABEL_NOT_IN,
	LABEL_EXISTS,
	LABEL_ABSENT
};

/* "key=a|b" (in), "key!=a|b" (not in), "key" (exists), "!key" (absent). */
struct label_rule {
	enum label_op op;
	char *key, *values; /* values: "a|b" */
};

struct plugin {
	const struct plugin_type *type;
	double weight;
	double params[PLUGIN_PARAMS_MAX];
	struct label_rule rules[PLUGIN_RULES_MAX];
	unsigned int rule_count;
};

struct plugin_param {
	const char *name;
	double value, min, max; /* default and bounds */
};

enum plugin_kind {
	PLUGIN_FILTER,
	PLUGIN_SCORER,
	PLUGIN_PICKER
};

struct plugin_type {
	const char *name;
	enum plugin_kind kind;
	bool takes_labels, uses_session;
	bool (*keep)(const struct sched_view *, const struct plugin *,
		     const struct sched_candidate *);
	/* Fills scores[0..view->count). The caller clamps to [0, 1]. */
	void (*score)(const struct sched_view *, const struct plugin *, float *scores);
	/* Returns an index; count > 0. */
	uint32_t (*pick)(struct sched_view *, const struct plugin *, const float *totals);
	struct plugin_param params[PLUGIN_PARAMS_MAX];
};

/* The table; the last row has no name. */
extern const struct plugin_type plugin_types[];

const struct plugin_type *plugin_find(const char *name, size_t len);

/* Gives unknown candidates the worst known score; 0.5 for all when none is known. */
void score_unknown(const struct sched_view *view, float *scores);

/* (max - x) / (max - min) over the known ones, 1 when all are equal; unknown ones as above. */
void score_least(const struct sched_view *view, const uint32_t *values, float *scores);

/* Uniform in (0, 1). */
double plugin_random(uint64_t *rng);

/* The filters. */
bool filter_decode(const struct sched_view *, const struct plugin *,
		   const struct sched_candidate *);
bool filter_prefill(const struct sched_view *, const struct plugin *,
		    const struct sched_candidate *);
bool filter_labels(const struct sched_view *, const struct plugin *,
		   const struct sched_candidate *);
/* The scorers. */
void score_queue(const struct sched_view *, const struct plugin *, float *);
void score_running(const struct sched_view *, const struct plugin *, float *);
void score_kv(const struct sched_view *, const struct plugin *, float *);
void score_prefix(const struct sched_view *, const struct plugin *, float *);
void score_load_aware(const struct sched_view *, const struct plugin *, float *);
void score_active(const struct sched_view *, const struct plugin *, float *);
void score_token_load(const struct sched_view *, const struct plugin *, float *);
void score_session(const struct sched_view *, const struct plugin *, float *);
void score_sluice(const struct sched_view *, const struct plugin *, float *);
void score_lora(const struct sched_view *, const struct plugin *, float *);
/* The pickers. */
uint32_t pick_max(struct sched_view *, const struct plugin *, const float *);
uint32_t pick_random(struct sched_view *, const struct plugin *, const float *);
uint32_t pick_weighted(struct sched_view *, const struct plugin *, const float *);

#endif
