/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies that are compared: ours and the published ones, each rebuilt from its rule as a
 * picker over what this gateway's scheduler knows (its index, its own requests, scraped figures).
 * Where the original knows more (Dynamo: the engines' caches) it is given that here.
 */
#ifndef SLUICE_FLEET_POLICIES_H
#define SLUICE_FLEET_POLICIES_H

#include "scheduler/config/setup.h"
#include "scheduler/plugin.h"
#include "scheduler/prefix_index.h"
#include "sluice-fleet/engine.h"

/* What a gateway remembers of an endpoint for policies that count for themselves. */
struct policy_place {
	uint64_t active_blocks;	  /* of its own requests there, prompts only */
	double work_s, work_at_s; /* Preble: decayed work of the last minutes, and when it was so */
};

/* What the running pick may look at. One pick at a time. */
struct policy_world {
	const struct engine *engines;
	const struct prefix_index *index;
	const struct fleet_request *request;
	struct policy_place *places;
	double now_s;
	uint32_t *turn;
};

struct policy {
	const char *name, *source; /* where the rule is published */
	const char *profile;	   /* of plugins; NULL: pick */
	uint32_t (*pick)(struct sched_view *, const struct plugin *, const float *);
};

/* The table; the last row has no name. */
extern const struct policy policies[];
extern struct policy_world policy_world;

const struct policy *policy_find(const char *name);
/* A policy of the table, or any profile. 0, or an error with one malloc()ed sentence. */
int policy_setup(const char *name, struct setup **ret, char **ret_error);

/* The pick was made, the request ended: for those who count. */
void policy_picked(struct policy_place *place, const struct fleet_request *r, double now_s,
		   uint32_t uncached_tokens);
void policy_ended(struct policy_place *place, const struct fleet_request *r);

#endif
