/* SPDX-License-Identifier: Apache-2.0 */
/* Big-endian words times powers of 2^64, one Barrett reduction for up to 16 words. */
#include "kv/kv_hash.h"

#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

typedef unsigned __int128 u128;

static uint64_t mul_mod(uint64_t a, uint64_t b, uint64_t m)
{
	return (uint64_t)((u128)a * b % m);
}

static uint64_t pow_mod(uint64_t base, uint64_t exponent, uint64_t m)
{
	uint64_t result = 1;

	for (; exponent; exponent >>= 1) {
		if (exponent & 1)
			result = mul_mod(result, base, m);
		base = mul_mod(base, base, m);
	}
	return result;
}

/* Miller and Rabin's test; these bases decide every number of 64 bits (Sorenson, Webster 2015). */
static bool is_prime(uint64_t n)
{
	static const uint8_t bases[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
	unsigned int twos = (unsigned int)__builtin_ctzll(n - 1);

	for (unsigned int i = 0; i < sizeof(bases); i++) {
		uint64_t x = pow_mod(bases[i], (n - 1) >> twos, n);
		bool composite = x != 1 && x != n - 1;

		for (unsigned int k = 1; composite && k < twos; k++) {
			x = mul_mod(x, x, n);
			composite = x != n - 1;
		}
		if (composite)
			return false;
	}
	return true;
}

void kv_hash_init(struct kv_hash *k, uint64_t seed)
{
	uint64_t n = XXH64(&seed, sizeof(seed), 0x6b76);

	n = (n & ((1ULL << (KV_HASH_BITS - 1)) - 1)) | 1ULL << (KV_HASH_BITS - 1) | 1;
	while (n % 3 == 0 || n % 5 == 0 || n % 7 == 0 || !is_prime(n))
		n = n + 2 < 1ULL << KV_HASH_BITS ? n + 2 : (1ULL << (KV_HASH_BITS - 1)) + 1;
	k->prime = n;
	k->inverse = (uint64_t)(((u128)1 << 121) / n);
	k->fold = (uint64_t)(((u128)1 << 64) % n);
	k->power[0] = 1;
	for (unsigned int i = 1; i < 17; i++)
		k->power[i] = mul_mod(k->power[i - 1], k->fold, n);
}

/*
 * x < 2^127. One fold leaves y < 2^121; then the quotient from 64 bits of y and of 2^121 / prime
 * is at most 2 too small (Barrett 1986).
 */
static inline uint64_t reduce(const struct kv_hash *k, u128 x)
{
	u128 y = (u128)(uint64_t)(x >> 64) * k->fold + (uint64_t)x;
	uint64_t q = (uint64_t)((u128)(uint64_t)(y >> 57) * k->inverse >> 64);
	uint64_t r = (uint64_t)y - q * k->prime;

	r -= r >= k->prime ? k->prime : 0;
	r -= r >= k->prime ? k->prime : 0;
	return r;
}

static inline uint64_t word_at(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, sizeof(w));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	w = __builtin_bswap64(w);
#endif
	return w;
}

static inline uint64_t add_words(const struct kv_hash *k, uint64_t h, const uint8_t *p,
				 unsigned int words)
{
	u128 x = (u128)h * k->power[words];

	for (unsigned int i = 0; i < words; i++)
		x += (u128)word_at(p + 8 * i) * k->power[words - 1 - i];
	return reduce(k, x);
}

/* 16 words, spelt out: four sums, so that carries do not wait for each other. */
static inline uint64_t add_cell(const struct kv_hash *k, uint64_t h, const uint8_t *p)
{
	u128 a = (u128)h * k->power[16], b = 0, c = 0, d = 0;

#pragma GCC unroll 4
	for (unsigned int i = 0; i < 16; i += 4) {
		a += (u128)word_at(p + 8 * i) * k->power[15 - i];
		b += (u128)word_at(p + 8 * i + 8) * k->power[14 - i];
		c += (u128)word_at(p + 8 * i + 16) * k->power[13 - i];
		d += (u128)word_at(p + 8 * i + 24) * k->power[12 - i];
	}
	return reduce(k, a + b + (c + d));
}

uint64_t kv_hash_add(const struct kv_hash *k, uint64_t h, const void *bytes, size_t n)
{
	const uint8_t *p = bytes;
	uint64_t tail = 0;

	for (; n >= 128; n -= 128, p += 128)
		h = add_cell(k, h, p);
	if (n >= 8)
		h = add_words(k, h, p, (unsigned int)n / 8);
	p += n & ~7ULL;
	n &= 7;
	if (!n)
		return h;
	for (size_t i = 0; i < n; i++)
		tail = tail << 8 | p[i];
	return reduce(k, ((u128)h << (8 * n)) + tail);
}

uint64_t kv_hash_root(const struct kv_hash *k, struct span adapter, uint64_t extra)
{
	uint64_t h = XXH3_64bits_withSeed(adapter.ptr, adapter.len, extra) % k->prime;

	return h ? h : 1; /* else leading NULs would not count */
}

uint64_t kv_extra_fold(uint64_t before, struct span key)
{
	uint64_t folded = XXH3_64bits_withSeed(key.ptr, key.len, before + 1);

	return folded ? folded : 1;
}

uint64_t kv_hash_part(const struct kv_hash *k, uint64_t h, uint64_t extra)
{
	h = XXH64(&h, sizeof(h), extra) % k->prime;
	return h ? h : 1;
}

void kv_prompt_read(const struct kv_hash *k, struct kv_prompt *p)
{
	uint64_t h = p->root;
	uint32_t cells = p->len / KV_CELL_BYTES;

	p->prefix[0] = h;
	for (uint32_t i = 0; i < cells; i++) {
		h = add_cell(k, h, (const uint8_t *)p->bytes + (size_t)i * KV_CELL_BYTES);
		p->prefix[i + 1] = h;
	}
}

uint64_t kv_prompt_at(const struct kv_hash *k, const struct kv_prompt *p, uint32_t end)
{
	uint32_t cell = end / KV_CELL_BYTES;

	return kv_hash_add(k, p->prefix[cell], p->bytes + (size_t)cell * KV_CELL_BYTES,
			   end % KV_CELL_BYTES);
}
