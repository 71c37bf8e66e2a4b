/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a scheduler is made of: its profiles, which one serves which leg, deciders, admitters, flow
 * control. Comes from an EndpointPickerConfig, or from the compact form of one profile.
 *
 *   file -> tree -> instances (plugins) -> profiles that refer to them, handler, flow control
 *
 * Immutable once made.
 */
#ifndef SLUICE_SCHEDULER_CONFIG_SETUP_H
#define SLUICE_SCHEDULER_CONFIG_SETUP_H

#include <stdio.h>

#include "base/config.h"
#include "scheduler/config/tree.h"
#include "scheduler/pd.h"
#include "scheduler/profile.h"

#define SETUP_PLUGINS_MAX  128
#define SETUP_PROFILES_MAX 16
#define SETUP_BANDS_MAX	   16
#define SETUP_NONE	   UINT32_MAX /* no profile, no plugin */

enum sched_handler {
	HANDLER_SINGLE,
	HANDLER_HEADER,
	HANDLER_DATA_PARALLEL,
	HANDLER_DISAGG,
};

/* The plugins of a band are indexes of setup->plugins. */
struct flow_band {
	int32_t priority;
	double requests_max, bytes_max;
	uint32_t fairness, ordering;
};

struct flow_setup {
	bool on;			    /* the feature gate */
	double requests_max, bytes_max;	    /* queued; 0: no limit */
	uint64_t ttl_ms, empty_pool_ttl_ms; /* ttl 0: never */
	struct flow_band bands[SETUP_BANDS_MAX];
	unsigned int band_count;
	struct flow_band usual, negative; /* of priorities without a band of their own */
	uint32_t usage_limit, detector;	  /* plugins */
	bool evicts;
};

struct objective {
	char *name;
	int32_t priority;
};

struct setup_profile {
	char *name;
	struct profile profile;
};

struct setup {
	bool from_file, has_alpha;
	struct plugin *plugins[SETUP_PLUGINS_MAX];
	uint32_t plugin_lines[SETUP_PLUGINS_MAX]; /* 0: added, not listed */
	unsigned int plugin_count;
	struct setup_profile *profiles[SETUP_PROFILES_MAX];
	unsigned int profile_count;
	enum sched_handler handler;
	uint32_t handler_plugin;
	uint32_t decode, prefill, encode; /* profiles; SETUP_NONE: none */
	bool prefill_first, has_prefill_decider, has_encode_decider;
	struct pd_decider prefill_decider, encode_decider;
	struct flow_setup flow;
	uint32_t latency_plugin; /* a predicted-latency-producer; SETUP_NONE: defaults */
	bool knows_agents;	 /* agent-identity is listed */
	/* Fields that name a session, in this order; answers carry the first, if there is one. */
	char *session_token, *session_id;
	struct objective *objectives;
	unsigned int objective_count;
	const char *endpoints_file; /* of file-discovery; NULL: none */
};

/* From the compact form. *ret_error: one malloc()ed sentence. -EINVAL, -ENOMEM. */
int setup_from_profile(const char *text, struct setup **ret, char **ret_error);
/* From an EndpointPickerConfig in memory, or Helm values that hold one. name is for errors. */
int setup_from_text(const char *name, struct span text, struct setup **ret, char **ret_error);
int setup_from_file(const char *path, struct setup **ret, char **ret_error);
/* What cfg asks for: the file, else the profile; llm-d or none has the weights of cfg. */
int setup_from_config(const struct config *cfg, struct setup **ret, char **ret_error);
void setup_free(struct setup *s);

/* By name; SETUP_NONE: there is none. */
uint32_t setup_profile_find(const struct setup *s, const char *name);
/* Priority of the objective of that name; 0 when there is none. */
int32_t setup_objective(const struct setup *s, struct span name);
/* Reads `objectives: [{name, priority}]`. -EINVAL with one malloc()ed sentence. */
int setup_read_objectives(struct setup *s, const char *path, char **ret_error);

/* Does any profile have such a scorer or filter? */
bool setup_uses(const struct setup *s, const char *type);

/* The effective configuration as YAML, each line after `prefix`, notes included. */
void setup_explain(FILE *f, const struct setup *s, const char *prefix);

/* Between the files of this directory. */
int setup_add(struct setup *s, const struct plugin_type *type, const char *name, uint32_t line,
	      uint32_t *ret);
uint32_t setup_plugin_find(const struct setup *s, const char *name);
/* The plugin a reference names, of one of these kinds. -EINVAL with a complaint. */
int setup_ref(const struct setup *s, const struct node *ref, unsigned int kinds, const char *what,
	      struct complaint *c, uint32_t *ret);
/* Every key is one of known (NULL-terminated). map may be NULL. */
int keys_check(const struct node *map, const char *where, const char *const *known,
	       struct complaint *c);
int read_flow(struct setup *s, const struct node *root, struct complaint *c);
int read_handler(struct setup *s, struct complaint *c);
int read_data_layer(struct setup *s, const struct node *root, struct complaint *c);

#endif
