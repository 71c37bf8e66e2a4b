/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cells of 32 digits of 32 bits, four lanes at a time: digit times each half (29 bits) of its
 * power. A lane sums 8 products below 2^61 and cannot overflow. Compiled for AVX2, called only
 * where kv_hash_init() found it.
 */
#include "kv/kv_hash_cell.h"

#if KV_HASH_AVX2

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi2")))

AVX2 static inline __m256i half(const struct kv_hash *k, unsigned int row, unsigned int which)
{
	return _mm256_loadu_si256((const __m256i *)k->halves[row][which]);
}

/* The sum of the lanes, all 66 bits of it. */
AVX2 static inline u128 lanes_sum(__m256i v)
{
	uint64_t lane[4] __attribute__((aligned(32)));

	_mm256_store_si256((__m256i *)lane, v);
	return (u128)lane[0] + lane[1] + ((u128)lane[2] + lane[3]);
}

struct sums {
	__m256i low, high;
};

/* A row's 8 digits, each times both halves of its power. */
AVX2 static inline struct sums row_add(const struct kv_hash *k, struct sums s, unsigned int row,
				       __m256i bytes)
{
	const __m256i swap = _mm256_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3,
					     12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
	__m256i even = _mm256_shuffle_epi8(bytes, swap), odd = _mm256_srli_epi64(even, 32);

	s.low = _mm256_add_epi64(s.low, _mm256_mul_epu32(even, half(k, row, 0)));
	s.low = _mm256_add_epi64(s.low, _mm256_mul_epu32(odd, half(k, row, 1)));
	s.high = _mm256_add_epi64(s.high, _mm256_mul_epu32(even, half(k, row, 2)));
	s.high = _mm256_add_epi64(s.high, _mm256_mul_epu32(odd, half(k, row, 3)));
	return s;
}

AVX2 static inline uint64_t cell_end(const struct kv_hash *k, uint64_t h, struct sums s)
{
	return reduce(k, (u128)h * k->power[16] + lanes_sum(s.low) + (lanes_sum(s.high) << 29));
}

AVX2 uint64_t kv_cells_avx2(const struct kv_hash *k, uint64_t h, const uint8_t *p, size_t cells,
			    uint64_t *prefix)
{
	for (size_t i = 0; i < cells; i++, p += KV_CELL_BYTES) {
		struct sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};

#pragma GCC unroll 4
		for (unsigned int row = 0; row < 4; row++)
			s = row_add(k, s, row, _mm256_loadu_si256((const __m256i *)(p + 32 * row)));
		h = cell_end(k, h, s);
		if (prefix)
			prefix[i] = h;
	}
	return h;
}

#else

uint64_t kv_cells_avx2(const struct kv_hash *k, uint64_t h, const uint8_t *p, size_t cells,
		       uint64_t *prefix)
{
	(void)k, (void)p, (void)cells, (void)prefix;
	return h;
}

#endif
