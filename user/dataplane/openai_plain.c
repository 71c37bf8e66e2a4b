/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loop of the scanner: how far does ordinary text go? AVX2 where the CPU has it. */
#include "dataplane/openai.h"

#include <string.h>

/* Eight bytes a step: a byte is special if < 0x20, '"', '\\' or >= 0x80. */
static size_t plain_bytes_swar(const char *p, size_t n)
{
	const uint64_t ones = 0x0101010101010101ULL, high = ones * 0x80;
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t w, quote, slash;

		memcpy(&w, p + i, 8);
		quote = w ^ (ones * '"');
		slash = w ^ (ones * '\\');
		if ((w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) & high)
			break;
	}
	for (; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
			break;
	}
	return i;
}

#ifdef __x86_64__
#include <immintrin.h>

__attribute__((target("avx2"))) static inline uint32_t special_mask(__m256i v)
{
	__m256i quote = _mm256_cmpeq_epi8(v, _mm256_set1_epi8('"'));
	__m256i slash = _mm256_cmpeq_epi8(v, _mm256_set1_epi8('\\'));
	/* Signed: bytes >= 0x80 are negative, so one comparison finds them and the controls. */
	__m256i odd = _mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), v);

	return (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quote, slash), odd));
}

__attribute__((target("avx2"))) static size_t plain_bytes_avx2(const char *p, size_t n)
{
	size_t i = 0;

	for (; i + 32 <= n; i += 32) {
		uint32_t mask = special_mask(_mm256_loadu_si256((const __m256i *)(p + i)));

		if (mask)
			return i + (size_t)__builtin_ctz(mask);
	}
	return i + plain_bytes_swar(p + i, n - i);
}

size_t openai_plain_bytes(const char *p, size_t n)
{
	static int avx2 = -1;
	int have = __atomic_load_n(&avx2, __ATOMIC_RELAXED);

	if (have < 0) {
		have = __builtin_cpu_supports("avx2") != 0;
		__atomic_store_n(&avx2, have, __ATOMIC_RELAXED);
	}
	return have ? plain_bytes_avx2(p, n) : plain_bytes_swar(p, n);
}
#else
size_t openai_plain_bytes(const char *p, size_t n)
{
	return plain_bytes_swar(p, n);
}
#endif
