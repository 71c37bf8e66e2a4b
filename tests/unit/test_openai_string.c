/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wide path inside strings against the byte-wise machine: every text with every byte of it
 * replaced by what hurts, the end of the body against an unreadable page, at several splits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataplane/openai.h"

#define TEXT_BYTES 300

static const char *const pieces[] = {
	"ordinary text without anything in it, ",
	"\\n\\t\\\"a\\\\b\\/\\u00e9\\u4E2d\\r\\f\\b",
	"\\\\\\\\\\\\\\\"\\\\\\u0041\\\\",
	"\xd0\xb1\xd1\x8b\xd1\x81\xd1\x82\xd1\x80\xd0\xb0\xd1\x8f ",
	"\xe5\xbf\xab\xe9\x80\x9f\xe7\x9a\x84\xe6\xa3\x95",
	"\xf0\x9f\x98\x80z\xf4\x8f\xbf\xbf\xf0\x90\x80\x80\xee\x80\x80\xed\x9f\xbf",
	"mixed \xc3\xbc and \\u00fc and \\\\ and \xe2\x82\xac; ",
};

static const unsigned char hurts[] = {'"',  '\\', 'u',	'x',  '0',  0x00, 0x1f, 0x20, 0x7f,
				      0x80, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc3, 0xe0, 0xed,
				      0xef, 0xf0, 0xf4, 0xf5, 0xff, 0x8f, 0x90};

static struct prompt_span spans[2][PROMPT_SPANS_MAX];
static struct openai_request said[2];
static struct openai_scan scans[2];
static char *page_end;

static int setup(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *mem =
		mmap(NULL, page * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	if (mem == MAP_FAILED)
		return -1;
	page_end = mem + page;
	return mprotect(page_end, page, PROT_NONE);
}

static size_t body_make(const char *piece, size_t shift)
{
	static char text[TEXT_BYTES + 128];
	size_t n = (size_t)sprintf(text, "{\"messages\":[{\"content\":\"%.*s", (int)shift,
				   "0123456789012345678901234567890123456789");

	while (n < TEXT_BYTES)
		n += (size_t)sprintf(text + n, "%s", piece);
	n += (size_t)sprintf(text + n, "\"}]}");
	memcpy(page_end - n, text, n);
	return n;
}

static void scan(int which, const char *p, size_t n, size_t step)
{
	openai_scan_init(&scans[which], &said[which], spans[which]);
	for (size_t at = 0; at < n; at += step)
		openai_scan_feed(&scans[which], p + at, n - at < step ? n - at : step);
	openai_scan_finish(&scans[which]);
}

static void agree(const char *p, size_t n, size_t step)
{
	scan(0, p, n, step);
	scan(1, p, n, 1);
	if (scans[0].error != scans[1].error || scans[0].error_at != scans[1].error_at)
		fail_msg("step %zu: error %d at %llu, byte-wise %d at %llu", step, scans[0].error,
			 (unsigned long long)scans[0].error_at, scans[1].error,
			 (unsigned long long)scans[1].error_at);
	if (scans[0].error)
		return;
	assert_int_equal(said[0].span_count, said[1].span_count);
	assert_memory_equal(spans[0], spans[1], said[0].span_count * sizeof(spans[0][0]));
}

static void the_wide_path_says_what_the_byte_wise_says(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
		for (size_t shift = 0; shift < 40; shift += 3) {
			size_t n = body_make(pieces[i], shift);
			char *p = page_end - n;

			agree(p, n, n);
			assert_int_equal(scans[0].error, OPENAI_FINE);
			for (size_t at = 26; at < n; at++) {
				char was = p[at];

				for (size_t h = 0; h < sizeof(hurts); h++) {
					p[at] = (char)hurts[h];
					agree(p, n, n);
				}
				p[at] = was;
			}
		}
}

static void it_says_so_at_every_split(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		size_t n = body_make(pieces[i], i);

		for (size_t step = 2; step < n; step++)
			agree(page_end - n, n, step);
	}
}

/* What is skipped is whole characters: the rest can be read from there by itself. */
static void it_stops_between_characters(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		size_t n = body_make(pieces[i], 0);
		char *p = page_end - n;

		for (size_t cut = 64; cut < n - 25; cut++) {
			size_t k = openai_string_skip(p + 25, cut);

			assert_true(k <= cut);
			if (k == 0)
				continue;
			assert_true(((unsigned char)p[25 + k] & 0xc0) != 0x80);
			scan(0, p, 25 + k, 25 + k); /* a prefix: nothing wrong, nothing half */
			assert_true(scans[0].utf8_need == 0);
			assert_int_equal(scans[0].error_at, 25 + k);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_wide_path_says_what_the_byte_wise_says),
		cmocka_unit_test(it_says_so_at_every_split),
		cmocka_unit_test(it_stops_between_characters),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
