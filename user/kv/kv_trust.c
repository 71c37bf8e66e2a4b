/* SPDX-License-Identifier: Apache-2.0 */
/* Counters that several workers add to; whoever brings the last answer of a window weighs it. */
#include "kv/kv_trust.h"

static uint64_t difference(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static void begin(struct kv_trust_slot *s, uint32_t generation)
{
	atomic_store(&s->generation, generation);
	atomic_store(&s->answers, 0);
	atomic_store(&s->off, 0);
	atomic_store(&s->weight, 0);
	atomic_store(&s->distrusted, false);
	atomic_store(&s->silent, 0);
}

void kv_trust_note(struct kv_trust *t, uint16_t slot, uint32_t generation, uint32_t expected,
		   uint32_t reported)
{
	struct kv_trust_slot *s = &t->slots[slot];
	uint32_t larger = expected > reported ? expected : reported;
	uint64_t off, weight;

	if (atomic_load_explicit(&s->generation, memory_order_relaxed) != generation)
		begin(s, generation);
	atomic_fetch_add_explicit(&s->expected, expected, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->reported, reported, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->off, larger - (expected < reported ? expected : reported),
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&s->weight, larger, memory_order_relaxed);
	if (atomic_fetch_add(&s->answers, 1) + 1 != KV_TRUST_WINDOW)
		return;
	off = atomic_exchange(&s->off, 0);
	weight = atomic_exchange(&s->weight, 0);
	atomic_store(&s->distrusted, off * 100 > weight * KV_TRUST_PERCENT);
	atomic_store(&s->answers, 0);
}

void kv_trust_note_page(struct kv_trust *t, uint16_t slot, uint32_t generation, uint32_t expected,
			uint32_t prompt_tokens, uint64_t page_queries, uint64_t page_hits)
{
	struct kv_trust_slot *s = &t->slots[slot];
	uint64_t queries, hits, ours, prompt;
	uint32_t n;

	if (atomic_load_explicit(&s->generation, memory_order_relaxed) != generation)
		begin(s, generation);
	atomic_fetch_add_explicit(&s->expected, expected, memory_order_relaxed);
	n = atomic_fetch_add(&s->silent, 1);
	if (n == 0) { /* this answer may be on the page or not: it only begins the window */
		atomic_store(&s->silent_expected, 0);
		atomic_store(&s->silent_prompt, 0);
		atomic_store(&s->page_queries, page_queries);
		atomic_store(&s->page_hits, page_hits);
		return;
	}
	ours = atomic_fetch_add(&s->silent_expected, expected) + expected;
	prompt = atomic_fetch_add(&s->silent_prompt, prompt_tokens) + prompt_tokens;
	if (n != KV_TRUST_WINDOW)
		return;
	queries = page_queries - atomic_load(&s->page_queries);
	hits = page_hits - atomic_load(&s->page_hits);
	atomic_store(&s->silent, 0);
	if (page_queries < atomic_load(&s->page_queries) ||
	    difference(queries, prompt) * 100 > prompt * KV_TRUST_PAGE_PERCENT)
		return;
	atomic_store(&s->distrusted,
		     difference(hits, ours) * 100 > (hits > ours ? hits : ours) * KV_TRUST_PERCENT);
}
