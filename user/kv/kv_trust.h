/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does what the precise index expects of an endpoint come true? After each KV_TRUST_WINDOW answers
 * the sum of differences between expected and reported cached tokens is weighed against the tokens
 * in question; past 30 % the endpoint is matched approximately until a window is good again.
 */
#ifndef SLUICE_KV_KV_TRUST_H
#define SLUICE_KV_KV_TRUST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "sluice/limits.h"

#define KV_TRUST_WINDOW	      100 /* answers */
#define KV_TRUST_PERCENT      30
#define KV_TRUST_PAGE_PERCENT 20

struct kv_trust_slot {
	_Atomic uint32_t generation, answers; /* answers: of this window */
	_Atomic uint64_t off, weight;	     /* of this window: |expected - reported|, the larger */
	_Atomic uint64_t expected, reported; /* totals, tokens */
	_Atomic bool distrusted;
	/* of answers that do not tell: sums of this window, and the page's at its beginning */
	_Atomic uint32_t silent;
	_Atomic uint64_t silent_expected, silent_prompt, page_queries, page_hits;
};

struct kv_trust {
	struct kv_trust_slot slots[ENDPOINTS_MAX];
};

/* An answer of the endpoint told its cached tokens. Any thread. */
void kv_trust_note(struct kv_trust *t, uint16_t slot, uint32_t generation, uint32_t expected,
		   uint32_t reported);

/*
 * An answer of prompt_tokens did not tell; the engine's metrics page last said these sums
 * (vllm:prefix_cache_queries and _hits, tokens). After a window the page's growth is weighed
 * instead, if it is that of our own prompts (within KV_TRUST_PAGE_PERCENT): else others use the
 * engine too, and nothing can be told.
 */
void kv_trust_note_page(struct kv_trust *t, uint16_t slot, uint32_t generation, uint32_t expected,
			uint32_t prompt_tokens, uint64_t page_queries, uint64_t page_hits);

static inline bool kv_trusted(const struct kv_trust *t, uint16_t slot, uint32_t generation)
{
	const struct kv_trust_slot *s = &t->slots[slot];

	return !atomic_load_explicit(&s->distrusted, memory_order_relaxed) ||
	       atomic_load_explicit(&s->generation, memory_order_relaxed) != generation;
}

#endif
