/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engines' own events say of the candidates, in place of what we only remember: used for
 * each endpoint whose events are heard and whose answers bear them out.
 */
#ifndef SLUICE_SCHEDULER_PRECISE_H
#define SLUICE_SCHEDULER_PRECISE_H

#include "kv/kv_index.h"
#include "kv/kv_losses.h"
#include "kv/kv_trust.h"
#include "scheduler/plugin.h"
#include "scheduler/recent.h"

#define KV_CPU_WORTH 0.8 /* of a block in the CPU tier, against one in GPU memory */

/*
 * Fills hit_blocks (in the view's blocks), precise and precise_tokens of candidates, whose
 * hit_blocks are those of the approximate index before. scratch has ENDPOINTS_MAX elements; slots
 * and generations are the candidates'; hashes: the view's total_blocks of them.
 */
void precise_match(const struct kv_index *index, const struct kv_trust *trust,
		   const struct recent *recent, struct sched_view *view, const uint64_t *slots,
		   const uint32_t *generations, const uint64_t *hashes, struct kv_match *scratch);

/* Books why the pick's prompt is not all in the chosen endpoint's cache. After precise_match(). */
void precise_account(const struct kv_index *index, const struct sched_request *req,
		     const uint64_t *slots, const struct kv_match *matches,
		     const struct endpoint *chosen);

#endif
