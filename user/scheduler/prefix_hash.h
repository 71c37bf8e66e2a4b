/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chained hashes over the blocks of a prompt: hash i names the whole prefix up to block i.
 * Model (or adapter) and cache_salt seed the chain, so that prompts of different ones never meet.
 */
#ifndef SLUICE_SCHEDULER_PREFIX_HASH_H
#define SLUICE_SCHEDULER_PREFIX_HASH_H

#include <stdint.h>

#include "scheduler/scheduler.h"

#define PREFIX_BLOCK_BYTES_MAX 4096

/*
 * The high bits of a hash choose the window of the index, the bits above the tag the bucket in it,
 * the tag tells blocks apart. Blocks that follow each other share a window and go through its
 * buckets two by two: they are learned, matched and evicted together, and so eight of them cost one
 * page walk and four lines of memory.
 */
#define PREFIX_GROUP_BLOCKS 8
#define PREFIX_GROUP_BITS   20 /* for the window */
#define PREFIX_INSIDE_BITS  7  /* for the bucket in its window */
#define PREFIX_TAG_BITS	    37
#define PREFIX_PAIR_STEP    (1u << (PREFIX_INSIDE_BITS - 4)) /* a bucket of 16 */

/* Mixes two 64-bit values; the same on every machine. */
static inline uint64_t prefix_mix(uint64_t a, uint64_t b)
{
	uint64_t x = (a * 0x9e3779b97f4a7c15ULL + 0x2545f4914f6cdd1dULL) ^ b;

	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	return x ^ (x >> 32);
}

/* The hash of block i of its group; group: the chain at the group's first block. */
static inline uint64_t prefix_grouped(uint64_t group, uint64_t chain, uint32_t i)
{
	const uint64_t tag = ~0ULL >> (64 - PREFIX_TAG_BITS);
	const uint64_t window = ~0ULL << (64 - PREFIX_GROUP_BITS);
	uint64_t inside = (group >> PREFIX_TAG_BITS) + i / 2 * PREFIX_PAIR_STEP;

	inside &= (1u << PREFIX_INSIDE_BITS) - 1;
	return (group & window) | inside << PREFIX_TAG_BITS | (chain & tag);
}

/*
 * Fills ret_hashes for the first blocks of the prompt, at most max, the last partial one included.
 * block_bytes <= PREFIX_BLOCK_BYTES_MAX. *ret_bytes: the whole prompt's bytes. Returns the blocks.
 */
uint32_t prefix_hash(const struct sched_request *req, uint32_t block_bytes, uint64_t *ret_hashes,
		     uint32_t max, uint64_t *ret_bytes);

#endif
