/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The precise index: which endpoint holds which blocks of KV cache, by the bytes that they cover.
 *
 * A block is named by the fingerprint of all bytes up to its end (kv_hash.h); where it ends varies,
 * because its tokens do. So each block says how many bytes the next one covers:
 *
 *   prompt  |S|- 131 bytes -|-- 118 bytes --|---- 140 bytes ----|
 *            |               \                \
 *   lengths[S] = {97, 131}    \                \
 *            |                 v                v
 *            '-> try 97, 131   word h(0..131)   word h(0..249)   word h(0..389)
 *                                 next = 118       next = 140       next = 0: nobody went on
 *
 *   line (64 bytes, one cache miss):  [word][word][word][word][word][word][word][passed]
 *   word:  tag 32 | d 4 | next 12 | tier 1 | group 7 | holders 8 bits
 *          one word says for 8 endpoints of a group whether they hold the block in that tier
 *   passed: 8 counters of 8 bits, chosen by tag: words that had to go past this line
 *
 * Where children differ in length (a conversation forks), next says MANY and the lengths stand in
 * a side table; where they are more than one record holds, it is asked again 4, 12, 32, 128
 * bytes further on, where those children have parted.
 * Events name blocks by the engine's hash: pair (endpoint, hash) -> fingerprint, how often stored.
 *   pairs: open addressing, 15 bytes each: fingerprint 58 | count 6 | hash tag 45 | owner 11
 *
 * One writer (the thread that hears events), any number of readers; nobody waits for anybody. A
 * reader sees each word whole; it may miss what is being written, and never sees what was not.
 * Invariants: no memory beyond what was mapped at start; a pair that finds no room is refused and
 * counted, and so are the blocks behind it (one block has at most 112 words, so beyond some 900
 * endpoints that hold the same one the next is refused); an endpoint that was forgotten matches
 * nothing from that moment on, and its pairs are swept out little by little.
 */
#ifndef SLUICE_KV_KV_INDEX_H
#define SLUICE_KV_KV_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv/kv_hash.h"
#include "sluice/limits.h"

#define KV_SLOT_WORDS (ENDPOINTS_MAX / 64)

enum kv_tier {
	KV_TIER_GPU,
	KV_TIER_CPU,
};

struct kv_index;

struct kv_index_stats {
	uint64_t pairs, pairs_max, bytes; /* held now; room; memory when all of it is used */
	uint64_t stored, removed, again;  /* totals; again: stored while known */
	uint64_t refused;		  /* no room */
	uint64_t unknown;		  /* removed or continued, but never seen */
	uint64_t lengths_refused, lengths_dropped; /* forks that cannot be walked any more */
	uint64_t doubles;   /* now: two hashes of one endpoint, the same bytes */
	uint64_t swept;	    /* pairs of forgotten endpoints */
	uint64_t conflicts; /* a hash came back with other bytes */
};

/*
 * bytes: all memory that it may ever use, >= 1 MB. seed: draws the fingerprints' prime. -ENOMEM.
 */
int kv_index_new(size_t bytes, uint64_t seed, struct kv_index **ret);
void kv_index_free(struct kv_index *ix);
const struct kv_hash *kv_index_hash(const struct kv_index *ix);

/* ---- the writer's, one thread ---- */

/* Events of this endpoint are heard from now on; what it held before is forgotten. */
void kv_index_bind(struct kv_index *ix, uint16_t slot, uint32_t generation);
/* Nothing is known of it any more. */
void kv_index_forget(struct kv_index *ix, uint16_t slot);
bool kv_index_bound(const struct kv_index *ix, uint16_t slot);

/* Where an event's blocks go on. */
struct kv_chain {
	uint64_t h;
	uint64_t *word; /* of the block before; NULL: the root, or not to be walked from */
	uint16_t owner;
	bool root;
};

/* Behind the endpoint's block `parent`. -ENOENT: it has none of that hash (counted). */
int kv_index_after(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t parent,
		   struct kv_chain *ret);
/* From the beginning: root by kv_hash_root(), the first block's extra keys in it. -ENOENT. */
int kv_index_begin(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t root,
		   struct kv_chain *ret);
/*
 * The next block of the chain: the engine's hash and the n bytes that its tokens stand for. extra:
 * of a block that is not the first. -ENOSPC: no room (counted); the chain must not go on. -EINVAL:
 * no bytes.
 */
int kv_index_add(struct kv_index *ix, struct kv_chain *c, uint64_t hash, uint64_t extra,
		 const void *bytes, size_t n);
/* A block that the endpoint holds in another tier too, named by hash alone. -ENOENT, -ENOSPC. */
int kv_index_copy(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t hash);
/* One of the stores of a block is undone; with the last one it is gone. -ENOENT: unknown. */
int kv_index_remove(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t hash);
/* That block will be asked for soon: its memory is fetched meanwhile. */
void kv_index_prefetch(const struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t hash);
/* The second half of it, a few blocks later: what the first half brought names the rest. */
void kv_index_prefetch_word(const struct kv_index *ix, uint16_t slot, enum kv_tier tier,
			    uint64_t hash);
/* Sweeps up to n places for pairs of forgotten endpoints. */
void kv_index_sweep(struct kv_index *ix, uint32_t n);

/* ---- any thread ---- */

/*
 * How walks went before, one thread's: which blocks came next behind a place. Blocks name only the
 * one that follows them, so that a walk waits for memory at each; with this it asks for many at a
 * time, after one comparison of fingerprints: equal ones at the last of them are equal prompts up
 * to there. Who holds them is looked up as ever. All zero at first.
 */
#define KV_HINT_BLOCKS 28

struct kv_hints {
	uint64_t key[KV_HINTS]; /* fingerprint of the place */
	struct kv_hint {
		uint16_t length[KV_HINT_BLOCKS]; /* 0: no more */
		uint64_t h[KV_HINT_BLOCKS];	 /* at the blocks' ends */
	} __attribute__((aligned(64))) hint[KV_HINTS];
	uint32_t turn; /* of four that could stand in one place, which goes next */
};

struct kv_match {
	bool known;	     /* its events are heard: the figures mean something */
	uint16_t blocks;     /* leading blocks of the prompt that it holds, in any tier */
	uint16_t cpu_blocks; /* of those: not in GPU memory */
	uint32_t bytes;	     /* of the prompt that they cover */
};

/*
 * ret[slot] for each slot set in slots, if its generation is still the one heard of; ret has
 * ENDPOINTS_MAX elements, others may change too. As engines
 * do, a block that ends with the prompt does not count: its last token is always computed.
 */
void kv_index_match(const struct kv_index *ix, const struct kv_prompt *prompt,
		    const uint64_t slots[KV_SLOT_WORDS], const uint32_t *generations,
		    struct kv_match *ret);

/* What the index knows behind the first `pos` bytes of a prompt, whoever holds it. */
struct kv_beyond {
	uint32_t lengths; /* of blocks that were ever stored behind it */
	uint32_t same;	  /* of those: have the prompt's bytes */
	bool holders;	  /* and somebody holds one now */
};
void kv_index_beyond(const struct kv_index *ix, const struct kv_prompt *prompt, uint32_t pos,
		     struct kv_beyond *ret);

uint64_t kv_index_endpoint_pairs(const struct kv_index *ix, uint16_t slot);
void kv_index_read_stats(const struct kv_index *ix, struct kv_index_stats *ret);

#endif
