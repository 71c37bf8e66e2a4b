/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the prefix index, shared by its reader (prefix_index.c) and writer
 * (prefix_writer.c). Nobody else includes it.
 */
#ifndef SLUICE_SCHEDULER_PREFIX_TABLE_H
#define SLUICE_SCHEDULER_PREFIX_TABLE_H

#include <stdatomic.h>

#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"

#define INLINE_HOLDERS	6      /* of a block, at its home; further ones are wide */
#define CROWDED_HOLDERS 48     /* at home when no wide record is left; then refused */
#define PROBE_MAX	255    /* buckets past home: fits in 8 bits of `where` */
#define RING_WORDS	16384u /* of learned blocks, per worker: a power of two */
#define CHUNK_HASHES	64     /* hashes behind one header in the ring */
#define CHUNK_HEAD	2      /* words: slot and count; generation and capacity */
#define DRAIN_BLOCKS	512    /* by one writer before it lets go */
#define SWEEP_PAIRS	64     /* forgotten pairs swept out by one writer */
#define NONE		0      /* pair numbers start at 1 */

#define key_read(p)	   __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define key_write(p, v)	   __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define figure_read(p)	   __atomic_load_n((p), __ATOMIC_RELAXED)
#define figure_write(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

#define KEY_WIDE       (1ULL << 26)
#define key_tag(key)   ((key) >> 27)
#define key_slot(key)  ((uint32_t)((key) >> 16) & 1023)
#define key_epoch(key) ((uint16_t)(key))
#define hash_tag(hash) ((hash) & ((1ULL << PREFIX_TAG_BITS) - 1))

/* A block with many holders: one bit per endpoint. hash 0: free. */
struct wide {
	uint64_t hash;
	uint64_t bits[PREFIX_SLOT_WORDS];
	uint32_t count;	 /* of bits; writer's */
	uint32_t marker; /* pair number; writer's. In a free record: the next free one + 1 */
};

/* A list of pairs, newest first: an endpoint's LRU, or all forgotten ones. */
struct pair_list {
	uint32_t newest, oldest;
};

struct slot_state {
	struct pair_list lru;
	uint32_t count;	     /* pairs in lru */
	uint32_t graves;     /* its pairs among the forgotten */
	uint32_t list_epoch; /* of the pairs in lru */
	uint32_t capacity;
};

/* Learned blocks on their way to the writer; one producer, one consumer. */
struct learn_ring {
	_Atomic uint64_t head __attribute__((aligned(64))); /* producer's */
	_Atomic uint64_t dropped;
	_Atomic uint64_t tail __attribute__((aligned(64))); /* consumer's */
	uint64_t words[RING_WORDS];
};

struct prefix_index {
	struct sluice_affinity_bucket *buckets;
	uint64_t bucket_count, window_count, window_buckets;
	uint64_t pairs_max, bytes, mapped_bytes;
	struct wide *wides;
	uint32_t wide_max, workers;
	struct learn_ring *rings;
	/* read by matchers */
	_Atomic uint32_t epochs[ENDPOINTS_MAX];	     /* an endpoint's present epoch */
	_Atomic uint64_t owners[ENDPOINTS_MAX];	     /* generation + 1, 0 nobody yet */
	_Atomic uint64_t pending[PREFIX_SLOT_WORDS]; /* forgotten, not all swept: no wide bits */
	/* the writer's */
	atomic_flag writing;
	struct pair_list graves;
	uint32_t wide_free, victim, victim_left, next_ring;
	struct slot_state slots[ENDPOINTS_MAX];
	/* figures, written by the writer, read by anybody */
	uint64_t pairs, wide_used, inserted, refreshed, evicted, forgotten, refused;
};

/*
 * The table is windows of 16 buckets (more in a huge one), 1 KB each. The hash's high bits, which
 * neighbouring blocks share, choose the window; bits above the tag choose the bucket in it.
 */
#define WINDOW_BUCKETS_MIN 16

static inline uint64_t hash_home(const struct prefix_index *ix, uint64_t hash)
{
	uint64_t window = (hash >> (64 - PREFIX_GROUP_BITS)) * ix->window_count;
	uint64_t inside =
		(hash >> PREFIX_TAG_BITS & ((1u << PREFIX_INSIDE_BITS) - 1)) * ix->window_buckets;

	return (window >> PREFIX_GROUP_BITS) * ix->window_buckets + (inside >> PREFIX_INSIDE_BITS);
}

/*
 * The buckets where pairs of a hash may be: home, the other half of home's 128 bytes, a second home
 * far away, and on from there in steps when all are full. `passed` of a bucket counts the pairs
 * that went past it, in 8 counters of 4 bits that the tag chooses among: a walk ends where its
 * counter is 0. Offset and step follow from the tag, so freeing a pair finds the way back. A
 * counter that reached 15 stays: then some walks are longer than needed, nothing else.
 */
struct walk {
	uint64_t home, bucket, offset, step;
	uint32_t shift; /* of the counter */
	uint32_t d;	/* buckets behind: 0 home, 1 its other half, 2 second home */
};

static inline uint64_t tag_offset(const struct prefix_index *ix, uint64_t tag)
{
	uint64_t spread = tag * 0x9e3779b97f4a7c15ULL;

	return (uint64_t)(((unsigned __int128)spread * ix->bucket_count) >> 64);
}

static inline uint64_t tag_step(uint64_t tag)
{
	return (tag & 63) * 2 + 1;
}

static inline uint32_t tag_shift(uint64_t tag)
{
	return (uint32_t)(tag >> 6 & 7) * 4;
}

static inline struct walk walk_from(const struct prefix_index *ix, uint64_t home, uint64_t tag)
{
	return (struct walk){.home = home,
			     .bucket = home,
			     .offset = tag_offset(ix, tag),
			     .step = tag_step(tag),
			     .shift = tag_shift(tag)};
}

static inline struct walk walk_begin(const struct prefix_index *ix, uint64_t hash)
{
	return walk_from(ix, hash_home(ix, hash), hash_tag(hash));
}

static inline void walk_next(const struct prefix_index *ix, struct walk *w)
{
	if (w->d++ == 0) {
		w->bucket = w->home ^ 1;
		return;
	}
	w->bucket = w->d == 2 ? w->home + w->offset : w->bucket + w->step;
	if (w->bucket >= ix->bucket_count)
		w->bucket -= ix->bucket_count;
}

/* The home of a pair that sits in `bucket`, d buckets from it. */
static inline uint64_t walk_back(const struct prefix_index *ix, uint64_t bucket, uint64_t tag,
				 uint32_t d)
{
	uint64_t way;

	if (d < 2)
		return bucket ^ d;
	way = (tag_offset(ix, tag) + (d - 2) * tag_step(tag)) % ix->bucket_count;
	return bucket >= way ? bucket - way : bucket + ix->bucket_count - way;
}

/* False where no pair of the hash can be further on. */
static inline bool walk_goes_on(const struct walk *w, uint32_t passed)
{
	return (passed >> w->shift & 15) && w->d < PROBE_MAX;
}

/* Never 0, so that no key is 0. */
static inline uint16_t epoch_bits(uint32_t epoch)
{
	return (uint16_t)(epoch % 65535 + 1);
}

/* Applies what rings hold, within bounds. The caller has the writer's role. */
void prefix_write_some(struct prefix_index *ix);

#endif
