/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the state machine: disagg.c, prefill.c, leave.c. */
#ifndef SLUICE_DATAPLANE_DISAGG_STAGES_H
#define SLUICE_DATAPLANE_DISAGG_STAGES_H

#include "base/health.h"
#include "dataplane/disagg/pool.h"

/* disagg.c. A leg's body from the connector's members; its head in a block, NULL without memory. */
int leg_body(struct disagg *pd, void (*members)(const struct disagg *, struct edits *),
	     struct body_view *view);
struct block *leg_head(struct disagg *pd, const struct endpoint *ep, uint64_t body_bytes);
/* The decode pod does it all, if its share allows. */
void decode_alone(struct disagg *pd, enum pd_cause cause);
/* The prefill answered, or runs beside. */
void decode_begin(struct disagg *pd);

/* prefill.c. Picks a prefill pod and begins its leg, or goes on without. */
void prefill_begin(struct disagg *pd);
/* Not that pod again. */
void prefill_exclude(struct disagg *pd);
bool prefill_may_repeat(const struct disagg *pd);
/* No prefill for this request, or none that worked. */
void prefill_given_up(struct disagg *pd, enum pd_cause cause);
/* Gives the pick back and says how the pod did. Idempotent. */
void prefill_end(struct disagg *pd, enum health_outcome health, bool failed);
/* What a leg's end means: cause and health. */
void cause_of(const struct leg *leg, enum pd_cause *ret_cause, enum health_outcome *ret_health);
/* Forgets the prefill's answer. */
void answer_drop(struct disagg *pd);

/* leave.c. The blocks behind pd->params are given up; pd ends with it. */
void release_begin(struct disagg *pd);
/* Gives everything back, pd itself too. */
void orphan_free(struct disagg *pd);

#endif
