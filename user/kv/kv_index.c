/* SPDX-License-Identifier: Apache-2.0 */
/* The index as a whole: its memory, who owns which pairs, what has been counted. */
#include "kv/kv_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kv/kv_table.h"

/*
 * Shares of the memory: for each pair that may be held 1 / .85 places of 15 bytes among the pairs,
 * 1 / .95 words (a line has room for 7), and half a byte of lengths.
 */
#define PAIR_FILL    0.85
#define WORD_FILL    0.95
#define LENGTH_BYTES 0.5

static uint64_t round_up(uint64_t n)
{
	return (n + 63) & ~63ULL;
}

int kv_index_new(size_t bytes, uint64_t seed, struct kv_index **ret)
{
	double each = sizeof(struct kv_pair) / PAIR_FILL +
		      sizeof(struct kv_line) / (LINE_WORDS * WORD_FILL) + LENGTH_BYTES;
	struct kv_index *ix = calloc(1, sizeof(*ix));
	uint64_t room, line_bytes, length_bytes;

	if (!ix)
		return -ENOMEM;
	room = bytes > sizeof(*ix) + 65536 ? (uint64_t)((double)(bytes - sizeof(*ix)) / each) : 0;
	if (room < 1024)
		room = 1024;
	ix->stats.pairs_max = room;
	ix->pair_slots = (uint64_t)((double)room / PAIR_FILL) + 1;
	ix->line_count = (uint64_t)((double)room / (LINE_WORDS * WORD_FILL)) + 1;
	ix->length_sets =
		(uint64_t)((double)room * LENGTH_BYTES / sizeof(struct kv_lengths) / LENGTHS_WAYS) +
		16;
	line_bytes = ix->line_count * sizeof(struct kv_line);
	length_bytes = ix->length_sets * LENGTHS_WAYS * sizeof(struct kv_lengths);
	ix->mapped_bytes =
		line_bytes + length_bytes + round_up(ix->pair_slots * sizeof(struct kv_pair));
	ix->memory = mmap(NULL, ix->mapped_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ix->memory == MAP_FAILED) {
		free(ix);
		return -ENOMEM;
	}
	madvise(ix->memory, ix->mapped_bytes, MADV_HUGEPAGE);
	ix->lines = ix->memory;
	ix->lengths = (void *)((char *)ix->memory + line_bytes);
	ix->pairs = (void *)((char *)ix->memory + line_bytes + length_bytes);
	ix->stats.bytes = ix->mapped_bytes + sizeof(*ix);
	kv_hash_init(&ix->hash, seed);
	*ret = ix;
	return 0;
}

void kv_index_free(struct kv_index *ix)
{
	if (!ix)
		return;
	munmap(ix->memory, ix->mapped_bytes);
	free(ix);
}

const struct kv_hash *kv_index_hash(const struct kv_index *ix)
{
	return &ix->hash;
}

static int owner_take(struct kv_index *ix)
{
	for (;;) {
		for (int o = 0; o < OWNERS; o++)
			if (ix->owner_state[o] == OWNER_FREE)
				return o;
		kv_index_sweep(ix, 4096); /* more restarts than could be swept out meanwhile */
	}
}

void kv_index_forget(struct kv_index *ix, uint16_t slot)
{
	uint64_t old = atomic_load_explicit(&ix->owner_of[slot], memory_order_relaxed);
	uint32_t owner = (uint32_t)old - 1;

	if (!old)
		return;
	atomic_store_explicit(&ix->owner_of[slot], 0, memory_order_release);
	ix->owner_state[owner] = ix->owner_pairs[owner] ? OWNER_DYING : OWNER_FREE;
	ix->dying += ix->owner_state[owner] == OWNER_DYING;
}

void kv_index_bind(struct kv_index *ix, uint16_t slot, uint32_t generation)
{
	uint32_t owner;

	kv_index_forget(ix, slot);
	owner = (uint32_t)owner_take(ix);
	ix->owner_state[owner] = OWNER_LIVE;
	atomic_store_explicit(&ix->slot_of[owner], slot, memory_order_relaxed);
	atomic_store_explicit(&ix->owner_of[slot], (uint64_t)generation << 32 | (owner + 1),
			      memory_order_release);
}

bool kv_index_bound(const struct kv_index *ix, uint16_t slot)
{
	return atomic_load_explicit(&ix->owner_of[slot], memory_order_relaxed) != 0;
}

uint64_t kv_index_endpoint_pairs(const struct kv_index *ix, uint16_t slot)
{
	uint64_t owner = atomic_load_explicit(&ix->owner_of[slot], memory_order_acquire);

	return owner ? figure_read(&ix->owner_pairs[(uint32_t)owner - 1]) : 0;
}

void kv_index_read_stats(const struct kv_index *ix, struct kv_index_stats *ret)
{
	const uint64_t *from = (const uint64_t *)&ix->stats;
	uint64_t *to = (uint64_t *)ret;

	for (size_t i = 0; i < sizeof(*ret) / sizeof(uint64_t); i++)
		to[i] = figure_read(&from[i]);
}
