/* SPDX-License-Identifier: Apache-2.0 */
/* Counters that several workers add to; whoever brings the last answer of a window weighs it. */
#include "kv/kv_trust.h"

static void begin(struct kv_trust_slot *s, uint32_t generation)
{
	atomic_store(&s->generation, generation);
	atomic_store(&s->answers, 0);
	atomic_store(&s->off, 0);
	atomic_store(&s->weight, 0);
	atomic_store(&s->distrusted, false);
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
