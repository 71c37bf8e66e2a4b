/* SPDX-License-Identifier: Apache-2.0 */
/* What lies behind the longest match is lost for one cause: that of the first byte missing. */
#include "kv/kv_losses.h"

#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

const char *const kv_loss_names[KV_LOSSES] = {"hit", "routed-away", "evicted", "differs", "cold"};

static void add(_Atomic uint64_t *figure, uint64_t n)
{
	atomic_fetch_add_explicit(figure, n, memory_order_relaxed);
}

static void vote(struct kv_losses *l, uint32_t offset)
{
	uint64_t old = atomic_load_explicit(&l->vote, memory_order_relaxed), new;

	do {
		if ((uint32_t)old == 0)
			new = (uint64_t)offset << 32 | 1;
		else if (old >> 32 != offset)
			new = old - 1;
		else
			new = (uint32_t)old == UINT32_MAX ? old : old + 1;
	} while (!atomic_compare_exchange_weak_explicit(&l->vote, &old, new, memory_order_relaxed,
							memory_order_relaxed));
}

bool kv_losses_offset(const struct kv_losses *l, uint32_t *ret)
{
	uint64_t v = atomic_load_explicit(&l->vote, memory_order_relaxed);

	/* A vote without a majority hovers about none. */
	if ((uint32_t)v * 4ULL < atomic_load_explicit(&l->differing, memory_order_relaxed))
		return false;
	*ret = (uint32_t)(v >> 32);
	return (uint32_t)v > 0;
}

struct kv_losses *kv_losses_tenant(struct kv_losses_model *m, struct span tenant)
{
	uint64_t hash = XXH3_64bits(tenant.ptr, tenant.len) | 1;

	for (unsigned int i = 0; tenant.len && i < KV_TENANTS_MAX; i++) {
		struct kv_tenant *t = &m->tenants[i];
		uint64_t seen = atomic_load_explicit(&t->hash, memory_order_relaxed);

		if (!seen && atomic_compare_exchange_strong(&t->hash, &seen, hash)) {
			snprintf(t->name, sizeof(t->name), "%.*s", SPAN_FMT(tenant));
			atomic_store_explicit(&t->ready, 1, memory_order_release);
			seen = hash;
		}
		if (seen == hash)
			return &t->losses;
	}
	return NULL;
}

static void book(struct kv_losses *l, enum kv_loss cause, uint32_t bytes, uint32_t best,
		 uint32_t chosen)
{
	add(&l->prompts, 1);
	add(&l->bytes[KV_LOSS_NONE], chosen);
	add(&l->bytes[KV_LOSS_ROUTED], best - chosen);
	add(&l->bytes[cause], bytes - best);
	if (cause == KV_LOSS_DIFFERS) {
		add(&l->differing, 1);
		add(&l->differs_at, best);
		vote(l, best);
	}
}

void kv_losses_note(struct kv_losses *l, struct kv_losses *tenant, const struct kv_index *ix,
		    const struct kv_prompt *prompt, uint32_t best, uint32_t chosen)
{
	struct kv_beyond beyond;
	enum kv_loss cause = KV_LOSS_COLD;

	kv_index_beyond(ix, prompt, best, &beyond);
	if (beyond.same)
		cause = KV_LOSS_EVICTED;
	else if (beyond.lengths)
		cause = KV_LOSS_DIFFERS;
	book(l, cause, prompt->len, best, chosen);
	if (tenant)
		book(tenant, cause, prompt->len, best, chosen);
}
