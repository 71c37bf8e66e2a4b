/* SPDX-License-Identifier: Apache-2.0 */
/* Facts of earlier picks: a clock of cold prompts, and a 4-way table of media items sent. */
#include "scheduler/facts.h"

#define XXH_STATIC_LINKING_ONLY /* its state lies on the stack */
#include <xxhash.h>

#include "scheduler/prefix_hash.h"
#include "scheduler/scheduler.h"

uint32_t facts_media_items(const struct sched_request *req, uint64_t *ret)
{
	uint32_t count = 0, k;

	for (uint32_t i = 0; i < req->piece_count && count < MEDIA_ITEMS_MAX;) {
		XXH3_state_t state;
		uint64_t hash;

		if (req->pieces[i].kind != SCHED_PIECE_MEDIA) {
			i++;
			continue;
		}
		XXH3_64bits_reset(&state);
		do { /* an item may lie in several buffers */
			XXH3_64bits_update(&state, req->pieces[i].bytes.ptr,
					   req->pieces[i].bytes.len);
			i++;
		} while (i < req->piece_count && req->pieces[i].continued);
		hash = XXH3_64bits_digest(&state);
		for (k = 0; k < count && ret[k] != hash; k++)
			;
		if (k == count)
			ret[count++] = hash;
	}
	return count;
}

void facts_cold_pick(struct shared_facts *f, const struct endpoint *ep)
{
	uint64_t now = atomic_fetch_add_explicit(&f->cold_clock, 1, memory_order_relaxed) + 1;

	atomic_store_explicit(&f->cold_at[ep->slot], now, memory_order_relaxed);
}

static uint64_t media_word(const struct endpoint *ep, uint64_t item)
{
	return prefix_mix(item, (uint64_t)ep->generation << 16 | ep->slot) | 1;
}

bool facts_media_held(const struct shared_facts *f, const struct endpoint *ep, uint64_t item)
{
	uint64_t word = media_word(ep, item), at = word >> 40 & (MEDIA_TABLE_ITEMS - MEDIA_WAYS);

	for (unsigned int i = 0; i < MEDIA_WAYS; i++)
		if (atomic_load_explicit(&f->media[at + i], memory_order_relaxed) == word)
			return true;
	return false;
}

void facts_media_sent(struct shared_facts *f, const struct endpoint *ep, uint64_t item)
{
	uint64_t word = media_word(ep, item), at = word >> 40 & (MEDIA_TABLE_ITEMS - MEDIA_WAYS);
	uint64_t older;

	if (facts_media_held(f, ep, item))
		return;
	/* The newest comes first; the last of the four goes. */
	for (unsigned int i = 0; i < MEDIA_WAYS; i++) {
		older = atomic_exchange_explicit(&f->media[at + i], word, memory_order_relaxed);
		word = older;
	}
}
