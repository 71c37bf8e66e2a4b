/* SPDX-License-Identifier: Apache-2.0 */
/* Big-endian words times powers of 2^64, one Barrett reduction for up to 16 words. */
#include "kv/kv_hash_cell.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

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

/* Digit i of a cell's 32, counted from its first byte, stands in row i / 8, even or odd, i % 8 / 2.
 */
static void halves_fill(struct kv_hash *k)
{
	uint64_t power = 1;

	for (int i = 31; i >= 0; i--) {
		k->halves[i / 8][i % 2][i % 8 / 2] = power & ((1u << 29) - 1);
		k->halves[i / 8][i % 2 + 2][i % 8 / 2] = power >> 29;
		power = mul_mod(power, 1ULL << 32, k->prime);
	}
#if KV_HASH_AVX2
	k->avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#else
	k->avx2 = false;
#endif
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
	k->shift[0] = 1;
	for (unsigned int i = 1; i < KV_CELL_BYTES; i++)
		k->shift[i] = mul_mod(k->shift[i - 1], 256, n);
	halves_fill(k);
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

/* The cells of a row, one after the other; prefix may be NULL. */
static uint64_t add_cells(const struct kv_hash *k, uint64_t h, const uint8_t *p, size_t cells,
			  uint64_t *prefix)
{
	if (KV_HASH_AVX2 && k->avx2)
		return kv_cells_avx2(k, h, p, cells, prefix);
	for (size_t i = 0; i < cells; i++) {
		h = add_cell(k, h, p + i * KV_CELL_BYTES);
		if (prefix)
			prefix[i] = h;
	}
	return h;
}

uint64_t kv_hash_add(const struct kv_hash *k, uint64_t h, const void *bytes, size_t n)
{
	const uint8_t *p = bytes;
	size_t cells = n / KV_CELL_BYTES;
	unsigned int words, rest;
	uint64_t first = 0;
	u128 x;

	if (cells)
		h = add_cells(k, h, p, cells, NULL);
	p += cells * KV_CELL_BYTES;
	n %= KV_CELL_BYTES;
	if (!n)
		return h;
	/* The odd bytes go first, so that the words stand at whole powers. */
	words = (unsigned int)n / 8;
	rest = n & 7;
	if (words && rest)
		first = word_at(p) >> (64 - 8 * rest);
	else
		for (unsigned int i = 0; i < rest; i++)
			first = first << 8 | p[i];
	p += rest;
	x = (u128)h * k->shift[n] + (u128)first * k->power[words];
	for (; words; words--, p += 8)
		x += (u128)word_at(p) * k->power[words - 1];
	return reduce(k, x);
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
	p->prefix[0] = p->root;
	add_cells(k, p->root, (const uint8_t *)p->bytes, p->len / KV_CELL_BYTES, p->prefix + 1);
}

uint64_t kv_prompt_at(const struct kv_hash *k, const struct kv_prompt *p, uint32_t end)
{
	uint32_t cell = end / KV_CELL_BYTES;

	return kv_hash_add(k, p->prefix[cell], p->bytes + (size_t)cell * KV_CELL_BYTES,
			   end % KV_CELL_BYTES);
}
