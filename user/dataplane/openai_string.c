/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a long string, 64 bytes a step: how far is it valid without a look at each byte?
 * UTF-8 by three table look-ups a byte (Keiser and Lemire, "Validating UTF-8 in less than one
 * instruction per byte", 2020); which characters are escaped by carry arithmetic (Langdale and
 * Lemire, "Parsing gigabytes of JSON per second", 2019).
 *
 * Whatever looks wrong stops it before the block in question: the machine in openai_scan.c goes on
 * from there byte by byte, and it alone says what is wrong and where.
 */
#include "dataplane/openai.h"

#ifdef __x86_64__
#include <immintrin.h>

#define STEP 64
#define AVX2 __attribute__((target("avx2")))

/* What can be wrong with two bytes that follow each other; a bit each. */
enum {
	TOO_SHORT = 1 << 0,	 /* a lead byte, and no continuation */
	TOO_LONG = 1 << 1,	 /* ASCII, and a continuation */
	OVERLONG_3 = 1 << 2,	 /* E0 80..9F */
	TOO_LARGE = 1 << 3,	 /* F4 90.., F5.. */
	SURROGATE = 1 << 4,	 /* ED A0..BF */
	OVERLONG_2 = 1 << 5,	 /* C0, C1 */
	TOO_LARGE_1000 = 1 << 6, /* F5.. 80..8F */
	OVERLONG_4 = 1 << 6,	 /* F0 80..8F */
	TWO_CONTS = 1 << 7,	 /* two continuations: right as a third or fourth byte only */
	CARRY = TOO_SHORT | TOO_LONG | TWO_CONTS,
};

struct state {
	__m256i last;	       /* the 32 bytes before */
	bool high;	       /* among them were some of UTF-8 sequences */
	uint64_t escaped;      /* bit 0: the first byte of the next block is escaped */
	uint64_t hex_due;      /* the first bytes of the next block that must be hex digits */
	const char *backslash; /* of the last \u */
};

AVX2 static inline __m256i table(char a, char b, char c, char d, char e, char f, char g, char h,
				 char i, char j, char k, char l, char m, char n, char o, char p)
{
	return _mm256_setr_epi8(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, a, b, c, d, e, f, g,
				h, i, j, k, l, m, n, o, p);
}

AVX2 static inline __m256i high_nibbles(__m256i v)
{
	return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

/* The bytes `n` places before those of v. */
#define before(last, v, n) _mm256_alignr_epi8(v, _mm256_permute2x128_si256(last, v, 0x21), 16 - (n))

/* Nonzero bytes where the sequence is wrong. */
AVX2 static inline __m256i utf8_errors(__m256i last, __m256i v)
{
	const char big = (char)(CARRY | TOO_LARGE | TOO_LARGE_1000);
	const char cont = (char)(TOO_LONG | OVERLONG_2 | TWO_CONTS);
	__m256i prev1 = before(last, v, 1);
	__m256i first_high = _mm256_shuffle_epi8(
		table(TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG,
		      TOO_LONG, (char)TWO_CONTS, (char)TWO_CONTS, (char)TWO_CONTS, (char)TWO_CONTS,
		      TOO_SHORT | OVERLONG_2, TOO_SHORT, TOO_SHORT | OVERLONG_3 | SURROGATE,
		      TOO_SHORT | TOO_LARGE | TOO_LARGE_1000 | OVERLONG_4),
		high_nibbles(prev1));
	__m256i first_low =
		_mm256_shuffle_epi8(table((char)(CARRY | OVERLONG_3 | OVERLONG_2 | OVERLONG_4),
					  (char)(CARRY | OVERLONG_2), (char)CARRY, (char)CARRY,
					  (char)(CARRY | TOO_LARGE), big, big, big, big, big, big,
					  big, big, (char)(big | SURROGATE), big, big),
				    _mm256_and_si256(prev1, _mm256_set1_epi8(15)));
	__m256i second_high = _mm256_shuffle_epi8(
		table(TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,
		      TOO_SHORT, (char)(cont | OVERLONG_3 | TOO_LARGE_1000 | OVERLONG_4),
		      (char)(cont | OVERLONG_3 | TOO_LARGE), (char)(cont | SURROGATE | TOO_LARGE),
		      (char)(cont | SURROGATE | TOO_LARGE), TOO_SHORT, TOO_SHORT, TOO_SHORT,
		      TOO_SHORT),
		high_nibbles(v));
	__m256i special = _mm256_and_si256(_mm256_and_si256(first_high, first_low), second_high);
	__m256i third = _mm256_subs_epu8(before(last, v, 2), _mm256_set1_epi8(0xe0 - 0x80));
	__m256i fourth = _mm256_subs_epu8(before(last, v, 3), _mm256_set1_epi8(0xf0 - 0x80));
	__m256i due =
		_mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8((char)0x80));

	return _mm256_xor_si256(due, special);
}

AVX2 static inline uint64_t bits(__m256i low, __m256i high)
{
	return (uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high)
							     << 32;
}

AVX2 static inline uint64_t bits_equal(__m256i low, __m256i high, char c)
{
	__m256i all = _mm256_set1_epi8(c);

	return bits(_mm256_cmpeq_epi8(low, all), _mm256_cmpeq_epi8(high, all));
}

AVX2 static inline uint64_t bits_control(__m256i low, __m256i high)
{
	__m256i most = _mm256_set1_epi8(0x1f);

	return bits(_mm256_cmpeq_epi8(_mm256_max_epu8(low, most), most),
		    _mm256_cmpeq_epi8(_mm256_max_epu8(high, most), most));
}

/* Bytes whose low nibble's row has the bit of their high nibble. */
AVX2 static inline uint64_t bits_of_class(__m256i low, __m256i high, __m256i rows, __m256i columns)
{
	__m256i zero = _mm256_setzero_si256();
	__m256i a = _mm256_and_si256(_mm256_shuffle_epi8(rows, low),
				     _mm256_shuffle_epi8(columns, high_nibbles(low)));
	__m256i b = _mm256_and_si256(_mm256_shuffle_epi8(rows, high),
				     _mm256_shuffle_epi8(columns, high_nibbles(high)));

	return ~bits(_mm256_cmpeq_epi8(a, zero), _mm256_cmpeq_epi8(b, zero));
}

/* " / of column 2, \ of 5, b f n of 6, r t u of 7 */
AVX2 static inline uint64_t bits_escape_letters(__m256i low, __m256i high)
{
	return bits_of_class(low, high,
			     table(0, 0, 1 | 4 | 8, 0, 8, 8, 4, 0, 0, 0, 0, 0, 2, 0, 4, 1),
			     table(0, 0, 1, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0));
}

/* 0-9 of column 3, A-F of 4, a-f of 6 */
AVX2 static inline uint64_t bits_hex_digits(__m256i low, __m256i high)
{
	return bits_of_class(low, high, table(1, 3, 3, 3, 3, 3, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0),
			     table(0, 0, 0, 1, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0));
}

/*
 * Which characters are escaped: every second one of a run of backslashes, and what follows an odd
 * run. Subtracting the escapes' starts from the odd places lets each run's parity ripple to its
 * end.
 */
static inline uint64_t bits_escaped(uint64_t backslashes, uint64_t *carry)
{
	const uint64_t odd = 0xaaaaaaaaaaaaaaaaULL;
	uint64_t starts = backslashes & ~*carry, follow = starts << 1;
	uint64_t parity = ((follow | odd) - starts) ^ odd;
	uint64_t escaped = parity ^ (backslashes | *carry);

	*carry = (parity & backslashes) >> 63;
	return escaped;
}

/*
 * The escapes up to the string's end are right: their letters, and four hex digits after each u.
 * within: the bits before the end, all of them if it is not in this block.
 */
AVX2 static inline bool escapes_fine(struct state *s, const char *p, __m256i low, __m256i high,
				     uint64_t escaped, uint64_t within)
{
	uint64_t letters = escaped & within, units = letters & bits_equal(low, high, 'u');
	uint64_t due = units << 1 | units << 2 | units << 3 | units << 4 | s->hex_due;

	if (letters & ~bits_escape_letters(low, high))
		return false;
	if (due && (due & ~(bits_hex_digits(low, high) & within)))
		return false;
	s->hex_due = 0;
	if (!(units >> 60))
		return true;
	/* One that stands so near the block's end wants digits of the next: 1 for bit 60, 4 for 63.
	 */
	s->hex_due = (2ULL << __builtin_ctzll(units >> 60)) - 1;
	s->backslash = p + 63 - __builtin_clzll(units) - 1;
	return within == ~0ULL;
}

/* A sequence that is cut by the end stays for the next call. */
static const char *utf8_whole(const char *from, const char *end)
{
	for (int back = 1; back <= 3 && end - back >= from; back++) {
		unsigned char c = (unsigned char)end[-back];

		if (c < 0x80)
			return end;
		if (c >= 0xc0) {
			int bytes = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

			return bytes > back ? end - back : end;
		}
	}
	return end;
}

AVX2 static size_t skip_avx2(const char *from, size_t n)
{
	struct state s = {.last = _mm256_setzero_si256()};
	const char *p = from, *end = from + n;

	for (; end - p >= STEP; p += STEP) {
		struct state before_block = s;
		__m256i low = _mm256_loadu_si256((const __m256i *)p);
		__m256i high = _mm256_loadu_si256((const __m256i *)(p + 32));
		uint64_t quotes = bits_equal(low, high, '"');
		uint64_t slashes = bits_equal(low, high, '\\');
		uint64_t highs = bits(low, high), escaped = 0, within, stop;
		bool fine = true;

		if (slashes | s.escaped)
			escaped = bits_escaped(slashes, &s.escaped);
		stop = quotes & ~escaped;
		within = stop ? (stop & -stop) - 1 : ~0ULL;
		if ((escaped & within) | s.hex_due)
			fine = escapes_fine(&s, p, low, high, escaped, within);
		if (highs || s.high) {
			__m256i wrong =
				_mm256_or_si256(utf8_errors(s.last, low), utf8_errors(low, high));

			fine &= _mm256_testz_si256(wrong, wrong);
		}
		if (!fine || (bits_control(low, high) & within)) {
			s = before_block;
			break;
		}
		if (stop)
			return (size_t)(p - from) + (size_t)__builtin_ctzll(stop);
		s.last = high;
		s.high = highs >> 32;
	}
	if (s.escaped)
		return (size_t)(p - from) - 1;
	if (s.hex_due)
		return (size_t)(s.backslash - from);
	return (size_t)(utf8_whole(from, p) - from);
}

size_t openai_string_skip(const char *p, size_t n)
{
	return n >= STEP && __builtin_cpu_supports("avx2") ? skip_avx2(p, n) : 0;
}
#else
size_t openai_string_skip(const char *p, size_t n)
{
	(void)p, (void)n;
	return 0;
}
#endif
