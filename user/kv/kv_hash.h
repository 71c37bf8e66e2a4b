/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fingerprints of prompt prefixes: the bytes read as one long number, modulo a prime (Rabin and
 * Karp's idea; the prime is drawn at random at start, so that no prompt can be made to collide).
 *
 *   bytes   | 0 ......... 127 | 128 ....... 255 | 256 .. 300
 *   prefix  0                 1                 2
 *           seed              h(first 128)      h(first 256)      h(first 300) = prefix[2] + 44
 *
 * What a chained hash of blocks cannot do: a fingerprint goes on from any byte with nothing but
 * itself (58 bits) as state, so blocks may end anywhere, and one pass over a prompt, done as it
 * is received, gives the fingerprint of every prefix for at most 127 more bytes of work.
 * 16 products a step without a dependence among them, or 64 of half their size where the machine
 * has AVX2 (kv_hash_avx2.c): the same fingerprints.
 */
#ifndef SLUICE_KV_KV_HASH_H
#define SLUICE_KV_KV_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

#define KV_CELL_BYTES 128 /* between the prefixes that a prompt keeps */
#define KV_HASH_BITS  58

struct kv_hash {
	uint64_t prime;		       /* of 58 bits */
	uint64_t inverse;	       /* 2^121 / prime */
	uint64_t fold;		       /* 2^64 mod prime */
	uint64_t power[17];	       /* 2^(64 i) mod prime */
	uint64_t shift[KV_CELL_BYTES]; /* 2^(8 i) mod prime */
	bool avx2;		       /* the machine has it */
	/* 2^(32 i) mod prime, in two halves of 29 bits, as kv_hash_avx2.c loads them */
	uint64_t halves[4][4][4];
};

/* Draws the prime from seed: equal seeds, equal fingerprints. */
void kv_hash_init(struct kv_hash *k, uint64_t seed);

/* The fingerprint of what h stands for, followed by these bytes. */
uint64_t kv_hash_add(const struct kv_hash *k, uint64_t h, const void *bytes, size_t n);

/* Where a chain begins: adapter (len 0: the base model) and what else tells its blocks apart. */
uint64_t kv_hash_root(const struct kv_hash *k, struct span adapter, uint64_t extra);

/* A chain that goes on apart from here: a block with an image in it. */
uint64_t kv_hash_part(const struct kv_hash *k, uint64_t h, uint64_t extra);

/*
 * How the extra keys of a block (cache_salt, a picture's id) are folded into one number, in their
 * order: begin with 0, which stands for none.
 */
uint64_t kv_extra_fold(uint64_t before, struct span key);

/* A prompt's bytes with the fingerprints of its prefixes; all borrowed. */
struct kv_prompt {
	const char *bytes;
	uint32_t len;
	uint64_t root;
	uint64_t *prefix;	/* room for len / KV_CELL_BYTES + 1 */
	struct kv_hints *hints; /* of walks before (kv_index.h); may be NULL */
	uint32_t rest;		/* about so much more there is, of which nothing is known */
	bool cut;		/* there is more: what is expected is the least of it */
};

/* Fills prefix from bytes, len and root. */
void kv_prompt_read(const struct kv_hash *k, struct kv_prompt *p);

/* The fingerprint of the first `end` bytes, end <= len. */
uint64_t kv_prompt_at(const struct kv_hash *k, const struct kv_prompt *p, uint32_t end);

#endif
