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

#define PLUGIN_PARAMS_MAX 32
#define PLUGIN_RULES_MAX  16

struct node;
struct complaint;
struct sessions;
struct shared_facts;

struct sched_candidate {
	struct endpoint *endpoint;
	uint32_t view; /* index in the snapshot */
	bool known;    /* the engine's figures are fresh */
	uint16_t hit_blocks;
	uint32_t waiting, running;	    /* engine's; waiting with what it has not shown yet */
	uint32_t own_requests;		    /* in flight from this gateway */
	uint64_t own_tokens;		    /* of those, yet to be prefilled */
	float kv_used;			    /* 0..1 */
	bool precise;			    /* its events are heard: the next is what they say */
	bool trusted;			    /* and hit_blocks too */
	bool on_its_way;		    /* hit_blocks are what its events will say soon */
	uint32_t precise_tokens;	    /* of the prompt, in its cache */
	uint16_t media_held;		    /* of this request's, sent there lately */
	bool predicted;			    /* the four below are set */
	float ttft_ms, tpot_ms;		    /* the latency model's */
	float ttft_headroom, tpot_headroom; /* SLO (0 without) - predicted; ms */
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
	int32_t session_view;	     /* view the session is bound to, -1 none */
	const struct endpoint *peer; /* the earlier leg's pod, or NULL */
	struct shared_facts *facts;  /* what all workers remember of picks; NULL in tests */
	uint32_t media_count;	     /* distinct media items of the request */
	bool any_predicted;
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
	char *name; /* of this instance; NULL: the type's */
	double weight;
	double params[PLUGIN_PARAMS_MAX]; /* in the order of type->params */
	char *texts[PLUGIN_PARAMS_MAX];	  /* of PARAM_TEXT; NULL: see plugin_text() */
	struct label_rule rules[PLUGIN_RULES_MAX];
	unsigned int rule_count;
};

enum param_kind {
	PARAM_NUMBER,
	PARAM_INTEGER,
	PARAM_BOOL,
	PARAM_WORD,	/* one of words, "a|b|c"; the value is its index */
	PARAM_TEXT,	/* words: the default */
	PARAM_TIME,	/* "5s" as Go writes it; the value is in ms */
	PARAM_QUANTITY, /* "64Mi" as Kubernetes writes it */
	PARAM_TREE,	/* anything below is taken; type->read looks at it */
};

/*
 * One parameter. Nested ones are named by their path, "vllm.url"; "conditions[].metric" is checked
 * in each item of the list but kept by type->read only.
 */
struct plugin_param {
	const char *name;
	double value, min, max; /* default and bounds; both 0: none */
	enum param_kind kind;
	const char *words;
};

/* What a type can be referred to as; a type may be several. */
enum plugin_kind {
	PLUGIN_FILTER = 1 << 0,
	PLUGIN_SCORER = 1 << 1,
	PLUGIN_PICKER = 1 << 2,
	PLUGIN_HANDLER = 1 << 3,
	PLUGIN_DECIDER = 1 << 4,
	PLUGIN_PRODUCER = 1 << 5,
	PLUGIN_SOURCE = 1 << 6,
	PLUGIN_EXTRACTOR = 1 << 7,
	PLUGIN_DISCOVERY = 1 << 8,
	PLUGIN_PARSER = 1 << 9,
	PLUGIN_ADMITTER = 1 << 10,
	PLUGIN_DETECTOR = 1 << 11,
	PLUGIN_FAIRNESS = 1 << 12,
	PLUGIN_ORDERING = 1 << 13,
	PLUGIN_USAGE_LIMIT = 1 << 14,
	PLUGIN_EVICTION = 1 << 15,
	PLUGIN_OTHER = 1 << 16,
};

enum plugin_flag {
	PLUGIN_ALPHA = 1 << 0,	    /* needs --allow-experimental-plugins */
	PLUGIN_DEPRECATED = 1 << 1, /* works; said so at start */
	PLUGIN_ANY_PARAMS = 1 << 2, /* parameters are ignored, as the reference does */
	PLUGIN_NO_EFFECT = 1 << 3,  /* taken and without meaning here: `note` says why */
	PLUGIN_REFUSED = 1 << 4,    /* known, and cannot run here: `note` says why */
};

struct plugin_type {
	const char *name;
	unsigned int kinds, flags; /* enum plugin_kind, plugin_flag */
	const char *note;	   /* what is different here; NULL: nothing */
	bool takes_labels, uses_session;
	bool (*keep)(const struct sched_view *, const struct plugin *,
		     const struct sched_candidate *);
	/* A filter that compares: fills keep[0..view->count). In place of keep(). */
	void (*narrow)(const struct sched_view *, const struct plugin *, bool *keep);
	/* Fills scores[0..view->count). The caller clamps to [0, 1]. */
	void (*score)(const struct sched_view *, const struct plugin *, float *scores);
	/* Returns an index; count > 0. */
	uint32_t (*pick)(struct sched_view *, const struct plugin *, const float *totals);
	/* Reads lists and maps that params cannot hold, after the params. -EINVAL: complained. */
	int (*read)(struct plugin *, const struct node *parameters, struct complaint *);
	const struct plugin_param *params; /* the last one has no name; NULL: takes none */
};

#define NUM(n, d, lo, hi) {.name = n, .value = d, .min = lo, .max = hi}
#define PARAMS(...)                                                                                \
	.params = (const struct plugin_param[])                                                    \
	{                                                                                          \
		__VA_ARGS__,                                                                       \
		{                                                                                  \
			.name = NULL                                                               \
		}                                                                                  \
	}

/* The table; the last row has no name. */
extern const struct plugin_type plugin_types[];

/* Types that are no filter, scorer or picker: producers, handlers, policies, parsers, ... */
extern const struct plugin_type other_types[];

/* In either table, or NULL. */
const struct plugin_type *plugin_find(const char *name, size_t len);

/* *p becomes an instance of the type with default parameters. */
void plugin_init(struct plugin *p, const struct plugin_type *type);
/* A deep copy; plugin_fini() both. 0 or -ENOMEM (then *to is finished already). */
int plugin_copy(struct plugin *to, const struct plugin *from);
void plugin_fini(struct plugin *p);
/* The instance's name; the value of a text parameter or its default. Never NULL. */
const char *plugin_name(const struct plugin *p);
const char *plugin_text(const struct plugin *p, unsigned int param);

/* Gives unknown candidates the worst known score; 0.5 for all when none is known. */
void score_unknown(const struct sched_view *view, float *scores);

/* (max - x) / (max - min) over the known ones, 1 when all are equal; unknown ones as above. */
void score_least(const struct sched_view *view, const uint32_t *values, float *scores);

/* Uniform in (0, 1). */
double plugin_random(uint64_t *rng);

/* As an "x-…" field of the request; len 0 when there is none. */
struct span request_header(const struct sched_request *req, const char *name);

#include "scheduler/plugin_list.h"

#endif
