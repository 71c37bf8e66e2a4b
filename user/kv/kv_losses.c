/* SPDX-License-Identifier: Apache-2.0 */
/* What lies behind the longest match is lost for one cause: that of the first byte missing. */
#include "kv/kv_losses.h"

const char *const kv_loss_names[KV_LOSSES] = {"hit", "routed-away", "evicted", "differs", "cold"};

static void add(_Atomic uint64_t *figure, uint64_t n)
{
	atomic_fetch_add_explicit(figure, n, memory_order_relaxed);
}

void kv_losses_note(struct kv_losses *l, const struct kv_index *ix, const struct kv_prompt *prompt,
		    uint32_t best, uint32_t chosen)
{
	struct kv_beyond beyond;
	enum kv_loss cause = KV_LOSS_COLD;

	kv_index_beyond(ix, prompt, best, &beyond);
	if (beyond.same)
		cause = KV_LOSS_EVICTED;
	else if (beyond.lengths)
		cause = KV_LOSS_DIFFERS;
	add(&l->prompts, 1);
	add(&l->bytes[KV_LOSS_NONE], chosen);
	add(&l->bytes[KV_LOSS_ROUTED], best - chosen);
	add(&l->bytes[cause], prompt->len - best);
	if (cause == KV_LOSS_DIFFERS) {
		add(&l->differing, 1);
		add(&l->differs_at, best);
	}
}
