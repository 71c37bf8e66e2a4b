/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix index (map kv_affinity): which endpoints hold which prompt block.
 *
 *   mem: [bucket][bucket][bucket]…   64 bytes each: 3 pairs (block, endpoint) and their LRU links
 *
 *   block hash --> first home --> second home --> a step on --> …
 *
 * Up to INLINE_HOLDERS endpoints' pairs of a block are found on that walk, by a tag. Each bucket
 * counts the pairs that had to go past it, so a walk knows where to stop.
 * A block that more endpoints hold (a common system prompt) has a marker there that names a wide
 * record: one bit per endpoint. Its further pairs live at hash(block, endpoint), spread.
 *
 * Readers take no lock: a pair is one 64-bit word (tag, slot, epoch). There is one writer at any
 * moment: workers leave what they learned in their own ring, and whoever gets the try-lock drains
 * all rings, a bounded number of blocks each time. Nobody waits.
 * Invariants: no pair outside mem and the wide records made at start; an endpoint never has more
 * pairs than its capacity; a forgotten endpoint's pairs do not match from that moment on, and are
 * swept out little by little.
 */
#ifndef SLUICE_SCHEDULER_PREFIX_INDEX_H
#define SLUICE_SCHEDULER_PREFIX_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "sluice/abi.h"
#include "sluice/limits.h"

#define PREFIX_CAPACITY_DEFAULT 31250 /* blocks per endpoint whose engine does not say */
#define PREFIX_SLOT_WORDS	(ENDPOINTS_MAX / 64)

struct prefix_index;

struct prefix_index_stats {
	uint64_t pairs, pairs_max;			  /* held now; room at the fill limit */
	uint64_t wide_used, wide_max;			  /* records of blocks with many holders */
	uint64_t inserted, refreshed, evicted, forgotten; /* totals */
	uint64_t dropped_blocks;			  /* a ring was full */
	uint64_t refused_blocks; /* no room near the home bucket or no wide record */
	uint64_t bytes;		 /* everything, side tables included */
};

/*
 * mem: zeroed, 64-byte aligned, borrowed, e.g. the mmaped map; NULL: anonymous memory of
 * that size. bytes >= 64 KB. workers: learners, each with a ring of its own.
 */
int prefix_index_new(void *mem, size_t bytes, unsigned int workers, struct prefix_index **ret);
void prefix_index_free(struct prefix_index *ix);

/* Fetches what a match of these hashes will look at first; the match may follow a little later. */
void prefix_index_prefetch(const struct prefix_index *ix, const uint64_t *hashes, uint32_t count);

/*
 * ret_blocks[slot] = leading blocks that the endpoint of that slot and generation holds, for each
 * slot set in `slots`. Any thread, lock-free. generations[slot] is read for set slots only.
 */
void prefix_index_match(const struct prefix_index *ix, const uint64_t *hashes, uint32_t count,
			const uint64_t slots[PREFIX_SLOT_WORDS], const uint32_t *generations,
			uint16_t *ret_blocks);

/*
 * Worker `worker` says that the endpoint holds these blocks now; the first ones become the newest.
 * capacity: blocks the endpoint can hold, 0 unknown. Never blocks.
 */
void prefix_index_learn(struct prefix_index *ix, unsigned int worker, uint16_t slot,
			uint32_t generation, uint32_t capacity, const uint64_t *hashes,
			uint32_t count);

/* The endpoint restarted: nothing it held counts any more. Any thread, O(1). */
void prefix_index_forget(struct prefix_index *ix, uint16_t slot);

/* The same for main's wiring of the store's endpoint_lost hook: only if that generation has it. */
void prefix_index_endpoint_lost(void *ix, uint32_t slot, uint32_t generation);

/* Does a bounded piece of waiting work, if nobody else is at it. Call now and then. Any thread. */
void prefix_index_tick(struct prefix_index *ix);

/* Pairs of one endpoint; a snapshot of figures. Any thread. */
uint64_t prefix_index_endpoint_pairs(const struct prefix_index *ix, uint16_t slot);
/* Pairs that it may hold at most; 0: nothing was learned about it yet. */
uint64_t prefix_index_endpoint_capacity(const struct prefix_index *ix, uint16_t slot);
/* Appends the index's figures in Prometheus text. */
void prefix_index_write_metrics(const struct prefix_index *ix, bool llm_d, FILE *f);
void prefix_index_read_stats(const struct prefix_index *ix, struct prefix_index_stats *ret);

#endif
