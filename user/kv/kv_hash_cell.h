/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of fingerprints: one cell of KV_CELL_BYTES, the plain way and with AVX2. */
#ifndef SLUICE_KV_KV_HASH_CELL_H
#define SLUICE_KV_KV_HASH_CELL_H

#include "kv/kv_hash.h"

#if defined(__x86_64__)
#define KV_HASH_AVX2 1
#else
#define KV_HASH_AVX2 0
#endif

typedef unsigned __int128 u128;

/*
 * x < 2^127. One fold leaves y < 2^121; then the quotient from 64 bits of y and of 2^121 / prime
 * is at most 2 too small (Barrett 1986).
 */
static inline uint64_t reduce(const struct kv_hash *k, u128 x)
{
	u128 y = (u128)(uint64_t)(x >> 64) * k->fold + (uint64_t)x;
	uint64_t q = (uint64_t)((u128)(uint64_t)(y >> 57) * k->inverse >> 64);
	uint64_t r = (uint64_t)y - q * k->prime;

	/* no branches: nobody could guess them */
	r -= k->prime & -(uint64_t)(r >= k->prime);
	r -= k->prime & -(uint64_t)(r >= k->prime);
	return r;
}

/*
 * h goes on over `cells` cells at p; prefix (may be NULL) gets the fingerprint behind each. Only
 * where k->avx2 says so; does nothing elsewhere.
 */
uint64_t kv_cells_avx2(const struct kv_hash *k, uint64_t h, const uint8_t *p, size_t cells,
		       uint64_t *prefix);

#endif
