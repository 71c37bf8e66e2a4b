/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the precise index, shared by its reader, its writer and its lengths. */
#ifndef SLUICE_KV_KV_TABLE_H
#define SLUICE_KV_KV_TABLE_H

#include <stdatomic.h>

#include "kv/kv_index.h"

#define LINE_WORDS    7
#define PROBE_MAX     16 /* lines; d has 4 bits */
#define NEXT_MANY     4095u
#define OWNERS	      1024
#define GROUPS	      (OWNERS / 8)
#define OWNER_CPU     1024u /* bit of a pair's owner: the tier */
#define LENGTHS_EACH  28
#define LENGTHS_WAYS  4
#define LENGTH_LEVELS 5
#define DOUBLES_MAX   4096u
#define COUNT_MAX     63u

struct kv_line {
	uint64_t word[LINE_WORDS], passed;
} __attribute__((aligned(64)));

/* Writer's only. state: fingerprint | count << 58, 0: free. */
struct __attribute__((packed)) kv_pair {
	uint64_t state;
	uint32_t key_low;
	uint16_t key_mid;
	uint8_t key_high;
};

/* The lengths of the blocks behind one place. key: fingerprint | age << 58, 0: free. */
struct kv_lengths {
	uint64_t key;
	uint16_t length[LENGTHS_EACH]; /* 0: no more */
} __attribute__((aligned(64)));

/* Further pairs of one endpoint that cover the same bytes as another of its pairs. */
struct kv_double {
	uint64_t h;
	uint16_t owner, count;
};

enum owner_state {
	OWNER_FREE,
	OWNER_LIVE,
	OWNER_DYING,
};

struct kv_index {
	struct kv_hash hash;
	struct kv_line *lines;
	struct kv_lengths *lengths;
	uint64_t line_count, length_sets;
	/* read by matchers */
	_Atomic uint64_t owner_of[ENDPOINTS_MAX]; /* generation << 32 | owner + 1; 0 none */
	_Atomic uint16_t slot_of[OWNERS];
	/* the writer's */
	struct kv_pair *pairs;
	uint64_t pair_slots, sweep_at, writes;
	uint32_t dying;
	uint8_t owner_state[OWNERS];
	uint64_t owner_pairs[OWNERS];
	struct kv_double doubles[DOUBLES_MAX];
	size_t mapped_bytes;
	void *memory;
	struct kv_index_stats stats; /* written with figure_write */
};

#define word_read(p)	   __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define word_write(p, v)   __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define figure_read(p)	   __atomic_load_n((p), __ATOMIC_RELAXED)
#define figure_write(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define figure_add(p, n)   figure_write((p), figure_read(p) + (n))

#define word_tag(w)	((uint32_t)((w) >> 32))
#define word_d(w)	((uint32_t)((w) >> 28) & 15)
#define word_next(w)	((uint32_t)((w) >> 16) & 4095)
#define word_group(w)	((uint32_t)((w) >> 8) & 127)
#define word_is_cpu(w)	((w) >> 15 & 1)
#define word_holders(w) ((uint8_t)(w))
#define word_place(w)	((uint32_t)((w) >> 8) & 255) /* group and tier */

#define state_h(s)     ((s) & ((1ULL << KV_HASH_BITS) - 1))
#define state_count(s) ((uint32_t)((s) >> KV_HASH_BITS))

/* The 64-bit finalizer of MurmurHash3 (public domain): every bit of x moves every bit. */
static inline uint64_t kv_mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

static inline uint64_t kv_scale(uint64_t x, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)x * n) >> 64);
}

/* The lines where words of a block may be: home, far away, and on from there in steps. */
struct kv_walk {
	uint64_t line, offset, step;
	uint32_t tag, shift, d;
};

static inline struct kv_walk kv_walk_begin(const struct kv_index *ix, uint64_t h)
{
	uint64_t x = kv_mix(h);
	uint32_t tag = (uint32_t)x;

	return (struct kv_walk){.line = kv_scale(x, ix->line_count),
				.offset = kv_scale(tag * 0x9e3779b97f4a7c15ULL, ix->line_count),
				.step = (tag & 63) * 2 + 1,
				.tag = tag,
				.shift = (tag >> 6 & 7) * 8};
}

static inline void kv_walk_next(const struct kv_index *ix, struct kv_walk *w)
{
	w->line += w->d++ == 0 ? w->offset : w->step;
	if (w->line >= ix->line_count)
		w->line -= ix->line_count;
}

static inline bool kv_walk_goes_on(const struct kv_index *ix, const struct kv_walk *w)
{
	return (figure_read(&ix->lines[w->line].passed) >> w->shift & 255) && w->d + 1 < PROBE_MAX;
}

/* ---- lengths ---- */

/* bytes: of the block behind h, n of them; NULL: unknown (first level only). */
void kv_lengths_add(struct kv_index *ix, uint64_t h, uint32_t length, const void *bytes);
/* The lengths to try behind the first `pos` bytes; at most max. Any thread. */
#define KV_LENGTHS_MAX (LENGTHS_EACH * LENGTH_LEVELS)
uint32_t kv_lengths_get(const struct kv_index *ix, const struct kv_prompt *prompt, uint32_t pos,
			uint64_t h, uint16_t ret[KV_LENGTHS_MAX]);

#endif
