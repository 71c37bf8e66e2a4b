/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's requests of several legs: their memory, the settings they share, what they count. */
#ifndef SLUICE_DATAPLANE_DISAGG_POOL_H
#define SLUICE_DATAPLANE_DISAGG_POOL_H

#include "dataplane/disagg/disagg.h"

struct engine_id {
	uint32_t generation; /* of the endpoint in that slot */
	char id[80];	     /* "" unknown */
};

struct disagg_pool {
	const struct pd_connector *connector; /* NULL: off */
	bool off, encode_never;
	bool automatic; /* only while there are pods of both roles */
	struct pd_decider decider;
	uint32_t alone; /* requests that a decode pod does alone for want of another */
	struct disagg *items, *free;
	uint32_t fresh, count;

	struct engine_id engine_ids[ENDPOINTS_MAX]; /* by slot */

	/* Of the snapshot with this version: */
	uint64_t version;
	bool both_roles, encoders;

	struct encode *encodes, *encodes_free;
	uint32_t encodes_fresh;
};

struct disagg *disagg_new(struct worker *w);
void disagg_free(struct disagg *pd);

/* Are there pods that encode, and is their decider for it? */
bool disagg_encoders(struct worker *w);
struct encode *encode_new(struct worker *w);
void encode_free(struct worker *w, struct encode *e);

/* Are there pods for a prefill leg in the worker's snapshot at all? */
bool disagg_wanted(struct worker *w);

/* Counters by cause; see metrics_table.h. */
void disagg_count_decision(enum pd_reason reason);
void disagg_count_prefill_failure(enum pd_cause cause);
void disagg_count_decode_failure(enum pd_cause cause);
void disagg_count_encode_failure(enum pd_cause cause);
void disagg_count_alone(enum pd_cause cause);

#endif
