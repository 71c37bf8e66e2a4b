/* SPDX-License-Identifier: Apache-2.0 */
/* A block whose bytes cannot be told ends its chain: nothing behind it could ever be matched. */
#include "controlplane/kv_apply.h"

#include <errno.h>
#include <stdio.h>

#include "base/load.h"
#include "base/metrics.h"
#include "sluice/abi.h"

static uint64_t root_of(const struct kv_applier *a, const struct kv_event *e)
{
	char text[32];
	struct span adapter = e->lora_name;

	if (!adapter.len && e->lora_id) { /* before 0.14: no name, so no prompt will ask for it */
		snprintf(text, sizeof(text), "lora_id:%llu", (unsigned long long)e->lora_id - 1);
		adapter = span_of_str(text);
	}
	return kv_hash_root(kv_index_hash(a->index), adapter, e->extras[0]);
}

static void blocks_lost(struct kv_applier *a, uint64_t n, int err)
{
	if (err == -ENOENT)
		a->applied.orphans += n;
	else if (err == -ENOSPC)
		a->applied.no_room += n;
	else
		a->applied.unknown_tokens += n;
	metric_add(err == -ENOENT   ? M_KV_ORPHANS
		   : err == -ENOSPC ? M_KV_NO_ROOM
				    : M_KV_UNKNOWN_TOKENS,
		   n);
}

static void stored(struct kv_applier *a, const struct kv_event *e, enum kv_tier tier)
{
	char bytes[KV_BLOCK_BYTES_MAX];
	struct kv_chain chain;
	int err;

	if (e->block_count == 0)
		return;
	a->block_tokens = e->block_tokens;
	err = e->has_parent ? kv_index_after(a->index, a->slot, tier, e->parent, &chain)
			    : kv_index_begin(a->index, a->slot, tier, root_of(a, e), &chain);
	for (uint32_t i = 0; i < e->block_count; i++) {
		size_t len = 0;

		if (!err && vocab_decode(a->vocab, e->tokens + (size_t)i * e->block_tokens,
					 e->block_tokens, bytes, sizeof(bytes), &len))
			err = -EILSEQ;
		if (err == -EILSEQ && a->vocab->learned)
			a->applied.unlearned += vocab_want(a->vocab, e->tokens, e->token_count);
		if (!err)
			err = kv_index_add(a->index, &chain, e->hashes[i],
					   i || e->has_parent ? e->extras[i] : 0, bytes, len);
		if (err) {
			blocks_lost(a, e->block_count - i, err);
			return;
		}
		a->applied.stored++;
	}
}

/* Another tier names blocks that are known by their hash. */
static void copied(struct kv_applier *a, const struct kv_event *e, enum kv_tier tier)
{
	for (uint32_t i = 0; i < e->block_count; i++) {
		int err = kv_index_copy(a->index, a->slot, tier, e->hashes[i]);

		if (err)
			blocks_lost(a, 1, err);
		else
			a->applied.stored++;
	}
}

static void removed(struct kv_applier *a, const struct kv_event *e, enum kv_tier tier)
{
	for (uint32_t i = 0; i < e->block_count; i++) {
		if (i + 8 < e->block_count)
			kv_index_prefetch(a->index, a->slot, tier, e->hashes[i + 8]);
		if (i + 4 < e->block_count)
			kv_index_prefetch_word(a->index, a->slot, tier, e->hashes[i + 4]);
		a->applied.removed += kv_index_remove(a->index, a->slot, tier, e->hashes[i]) == 0;
	}
}

/* Pushed at each step of the engine: newer than any page. */
static void loaded(struct kv_applier *a, const struct kv_event *e)
{
	a->applied.loads++;
	metric_inc(M_KV_LOADS);
	if (!a->load)
		return;
	load_write(a->load->inflight_at_scrape, load_read(a->load->inflight_requests) + 1);
	load_write(a->load->running, e->running);
	load_write(a->load->waiting, e->waiting);
	if (e->max_tokens)
		load_write(
			a->load->kv_used_ppm,
			(uint32_t)(e->used_tokens >= e->max_tokens
					   ? 1000000
					   : (double)e->used_tokens / (double)e->max_tokens * 1e6));
	load_write(a->load->scraped_at_ns, a->now_ns);
}

void kv_apply(void *arg, const struct kv_event *e)
{
	struct kv_applier *a = arg;
	enum kv_tier tier = e->medium == KV_CPU ? KV_TIER_CPU : KV_TIER_GPU;

	if (e->kind == KV_LOAD) {
		loaded(a, e);
		return;
	}
	if (e->kind == KV_CLEARED) {
		a->applied.cleared++;
		kv_index_bind(a->index, a->slot, a->generation);
		return;
	}
	if (!e->reusable || e->medium == KV_OTHER) {
		a->applied.ignored += e->block_count;
		return;
	}
	metric_add(e->kind == KV_STORED ? M_KV_STORED : M_KV_REMOVED, e->block_count);
	if (e->kind == KV_REMOVED)
		removed(a, e, tier);
	else if (e->token_count)
		stored(a, e, tier);
	else
		copied(a, e, tier);
}
