/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix index: its memory, the lock-free reading side, the learners' rings and the try-lock
 * that makes one of the learners the writer. What the writer does is in prefix_writer.c.
 */
#include "scheduler/prefix_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/metrics.h"
#include "scheduler/prefix_table.h"

#define INDEX_BYTES_MIN	   (64 * 1024)
#define WIDE_EVERY_BYTES   2048 /* one wide record for so many bytes of buckets */
#define FILL_LIMIT_PERCENT 85
#define PREFETCH_AHEAD	   16
#define PREFETCH_STEPS	   4
#define PREFETCH_SECOND	   6

static void wides_init(struct prefix_index *ix)
{
	ix->wide_free = 1;
	for (uint32_t i = 0; i < ix->wide_max; i++)
		ix->wides[i].marker = i + 1 < ix->wide_max ? i + 2 : 0;
}

/* All of the buckets but a few that make no whole window. */
static void windows_init(struct prefix_index *ix, uint64_t buckets)
{
	ix->window_buckets = buckets >> PREFIX_GROUP_BITS;
	if (ix->window_buckets < WINDOW_BUCKETS_MIN)
		ix->window_buckets = WINDOW_BUCKETS_MIN;
	ix->window_buckets &= ~1ULL; /* both halves of a home are in its window */
	ix->window_count = buckets / ix->window_buckets;
	ix->bucket_count = ix->window_count * ix->window_buckets;
}

int prefix_index_new(void *mem, size_t bytes, unsigned int workers, struct prefix_index **ret)
{
	struct prefix_index *ix;

	if (bytes < INDEX_BYTES_MIN || workers == 0 || workers > WORKERS_MAX)
		return -EINVAL;
	ix = calloc(1, sizeof(*ix));
	if (!ix)
		return -ENOMEM;
	ix->workers = workers;
	windows_init(ix, bytes / sizeof(*ix->buckets));
	ix->pairs_max = ix->bucket_count * SLUICE_AFFINITY_PAIRS * FILL_LIMIT_PERCENT / 100;
	ix->wide_max = (uint32_t)(bytes / WIDE_EVERY_BYTES);
	ix->bytes = bytes + ix->wide_max * sizeof(*ix->wides) + sizeof(*ix) +
		    workers * sizeof(*ix->rings);
	ix->wides = calloc(ix->wide_max, sizeof(*ix->wides));
	ix->rings = aligned_alloc(64, workers * sizeof(*ix->rings));
	if (mem) {
		ix->buckets = mem;
	} else {
		ix->buckets = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				   -1, 0);
		if (ix->buckets == MAP_FAILED)
			ix->buckets = NULL;
		else
			ix->mapped_bytes = bytes;
		if (ix->mapped_bytes)
			madvise(ix->buckets, bytes, MADV_HUGEPAGE); /* fewer TLB misses; a wish */
	}
	if (!ix->wides || !ix->rings || !ix->buckets) {
		prefix_index_free(ix);
		return -ENOMEM;
	}
	memset(ix->rings, 0, workers * sizeof(*ix->rings));
	wides_init(ix);
	*ret = ix;
	return 0;
}

void prefix_index_free(struct prefix_index *ix)
{
	if (!ix)
		return;
	if (ix->mapped_bytes)
		munmap(ix->buckets, ix->mapped_bytes);
	free(ix->wides);
	free(ix->rings);
	free(ix);
}

/* Adds the holders that a wide record names, unless it was given to another block meanwhile. */
static void add_wide(const struct prefix_index *ix, uint32_t where, uint64_t hash, uint64_t *bits,
		     unsigned int words)
{
	uint32_t number = where >> 8;
	uint64_t seen[PREFIX_SLOT_WORDS];
	const struct wide *rec;

	if (number == 0 || number > ix->wide_max)
		return;
	rec = &ix->wides[number - 1];
	if (key_read(&rec->hash) != hash)
		return;
	for (unsigned int i = 0; i < words; i++)
		seen[i] = figure_read(&rec->bits[i]) &
			  ~atomic_load_explicit(&ix->pending[i], memory_order_relaxed);
	if (key_read(&rec->hash) != hash)
		return;
	for (unsigned int i = 0; i < words; i++)
		bits[i] |= seen[i];
}

static void find_holders(const struct prefix_index *ix, uint64_t hash, uint64_t *bits,
			 unsigned int words)
{
	uint64_t tag = hash_tag(hash);
	struct walk w = walk_begin(ix, hash);

	for (unsigned int i = 0; i < words; i++)
		bits[i] = 0;
	for (;; walk_next(ix, &w)) {
		const struct sluice_affinity_bucket *bucket = &ix->buckets[w.bucket];

		for (unsigned int i = 0; i < SLUICE_AFFINITY_PAIRS; i++) {
			uint64_t key = key_read(&bucket->key[i]);
			uint32_t slot = key_slot(key);

			if (key_tag(key) != tag || key == 0)
				continue;
			if (key & KEY_WIDE)
				add_wide(ix, figure_read(&bucket->where[i]), hash, bits, words);
			else if (slot / 64 < words &&
				 key_epoch(key) ==
					 epoch_bits(atomic_load_explicit(&ix->epochs[slot],
									 memory_order_relaxed)))
				bits[slot / 64] |= 1ULL << (slot % 64);
		}
		if (!walk_goes_on(&w, figure_read(&bucket->passed)))
			return;
	}
}

/* The slots that have an owner in the index; *ret_words: words up to the last of them. */
static bool alive_init(const struct prefix_index *ix, const uint64_t *slots,
		       const uint32_t *generations, uint16_t *ret_blocks, uint64_t *alive,
		       unsigned int *ret_words)
{
	bool any = false;

	*ret_words = 0;
	for (unsigned int i = 0; i < PREFIX_SLOT_WORDS; i++) {
		alive[i] = 0;
		for (uint64_t left = slots[i]; left; left &= left - 1) {
			unsigned int bit = (unsigned int)__builtin_ctzll(left), s = i * 64 + bit;

			ret_blocks[s] = 0;
			if (atomic_load_explicit(&ix->owners[s], memory_order_relaxed) ==
			    (uint64_t)generations[s] + 1)
				alive[i] |= 1ULL << bit;
		}
		if (alive[i]) {
			*ret_words = i + 1;
			any = true;
		}
	}
	return any;
}

/* Two stages, so that memory is on its way before it is needed: homes, then second homes. */
static void prefetch(const struct prefix_index *ix, const uint64_t *hashes, uint32_t count,
		     uint32_t i)
{
	if (i + PREFETCH_AHEAD < count)
		__builtin_prefetch(&ix->buckets[hash_home(ix, hashes[i + PREFETCH_AHEAD])]);
	if (i + PREFETCH_SECOND < count) {
		struct walk w = walk_begin(ix, hashes[i + PREFETCH_SECOND]);

		if (!walk_goes_on(&w, figure_read(&ix->buckets[w.bucket].passed)))
			return;
		for (unsigned int n = 0; n < PREFETCH_STEPS; n++) {
			walk_next(ix, &w);
			__builtin_prefetch(&ix->buckets[w.bucket]);
		}
	}
}

void prefix_index_prefetch(const struct prefix_index *ix, const uint64_t *hashes, uint32_t count)
{
	for (uint32_t i = 0; i < count && i < PREFETCH_AHEAD; i++)
		__builtin_prefetch(&ix->buckets[hash_home(ix, hashes[i])]);
}

void prefix_index_match(const struct prefix_index *ix, const uint64_t *hashes, uint32_t count,
			const uint64_t slots[PREFIX_SLOT_WORDS], const uint32_t *generations,
			uint16_t *ret_blocks)
{
	uint64_t alive[PREFIX_SLOT_WORDS], holders[PREFIX_SLOT_WORDS];
	unsigned int words;
	bool any = alive_init(ix, slots, generations, ret_blocks, alive, &words);

	prefix_index_prefetch(ix, hashes, any ? count : 0);
	for (uint32_t i = 0; any && i < count; i++) {
		prefetch(ix, hashes, count, i);
		find_holders(ix, hashes[i], holders, words);
		any = false;
		for (unsigned int w = 0; w < words; w++) {
			uint64_t lost = alive[w] & ~holders[w];

			alive[w] &= holders[w];
			any |= alive[w] != 0;
			for (; lost; lost &= lost - 1)
				ret_blocks[w * 64 + (unsigned int)__builtin_ctzll(lost)] =
					(uint16_t)i;
		}
	}
	for (unsigned int w = 0; w < words; w++)
		for (uint64_t left = alive[w]; left; left &= left - 1)
			ret_blocks[w * 64 + (unsigned int)__builtin_ctzll(left)] = (uint16_t)count;
}

static bool ring_push(struct learn_ring *r, uint64_t head0, uint64_t head1, const uint64_t *hashes,
		      uint32_t count)
{
	uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);

	if (head - tail + CHUNK_HEAD + count > RING_WORDS)
		return false;
	r->words[head++ % RING_WORDS] = head0;
	r->words[head++ % RING_WORDS] = head1;
	for (uint32_t i = 0; i < count; i++)
		r->words[head++ % RING_WORDS] = hashes[i];
	atomic_store_explicit(&r->head, head, memory_order_release);
	return true;
}

void prefix_index_learn(struct prefix_index *ix, unsigned int worker, uint16_t slot,
			uint32_t generation, uint32_t capacity, const uint64_t *hashes,
			uint32_t count)
{
	struct learn_ring *r = &ix->rings[worker];
	uint64_t head1 = (uint64_t)generation << 32 | capacity;

	/* The deepest blocks first: what an endpoint gives up first is the end of a prefix. */
	while (count) {
		uint32_t n = (count - 1) % CHUNK_HASHES + 1;

		count -= n;
		if (ring_push(r, (uint64_t)slot << 32 | n, head1, hashes + count, n))
			continue;
		atomic_fetch_add_explicit(&r->dropped, n, memory_order_relaxed);
	}
	prefix_index_tick(ix);
}

void prefix_index_tick(struct prefix_index *ix)
{
	uint64_t refused;

	if (atomic_flag_test_and_set_explicit(&ix->writing, memory_order_acquire))
		return;
	refused = ix->refused;
	prefix_write_some(ix);
	metric_add(M_AFFINITY_REFUSED, ix->refused - refused);
	atomic_flag_clear_explicit(&ix->writing, memory_order_release);
}

void prefix_index_forget(struct prefix_index *ix, uint16_t slot)
{
	atomic_fetch_or(&ix->pending[slot / 64], 1ULL << (slot % 64));
	atomic_fetch_add(&ix->epochs[slot], 1);
}

void prefix_index_endpoint_lost(void *arg, uint32_t slot, uint32_t generation)
{
	struct prefix_index *ix = arg;

	if (slot < ENDPOINTS_MAX && atomic_load(&ix->owners[slot]) == (uint64_t)generation + 1)
		prefix_index_forget(ix, (uint16_t)slot);
}

uint64_t prefix_index_endpoint_pairs(const struct prefix_index *ix, uint16_t slot)
{
	return figure_read(&ix->slots[slot].count);
}

uint64_t prefix_index_endpoint_capacity(const struct prefix_index *ix, uint16_t slot)
{
	return figure_read(&ix->slots[slot].capacity);
}

void prefix_index_read_stats(const struct prefix_index *ix, struct prefix_index_stats *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->pairs = figure_read(&ix->pairs);
	ret->pairs_max = ix->pairs_max;
	ret->wide_used = figure_read(&ix->wide_used);
	ret->wide_max = ix->wide_max;
	ret->inserted = figure_read(&ix->inserted);
	ret->refreshed = figure_read(&ix->refreshed);
	ret->evicted = figure_read(&ix->evicted);
	ret->forgotten = figure_read(&ix->forgotten);
	ret->refused_blocks = figure_read(&ix->refused);
	ret->bytes = ix->bytes;
	for (uint32_t i = 0; i < ix->workers; i++)
		ret->dropped_blocks +=
			atomic_load_explicit(&ix->rings[i].dropped, memory_order_relaxed);
}
