/* SPDX-License-Identifier: Apache-2.0 */
/* The table of heads, each whole, cut at every byte, and fed byte by byte; limits; answers; chunks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/http1.h"

#define ANY_400	      -1
#define HTTP1_ANY_400 ANY_400

static const struct {
	int why;
	struct span bytes;
} cases[] = {
#define CASE(reason, text) {HTTP1_##reason, SPAN(text)},
#include "http1_cases.h"
#undef CASE
};

#define CASES (sizeof(cases) / sizeof(*cases))

static struct http1_head head;

/* A copy of exactly n bytes on the heap, so that a sanitizer sees one byte too many. */
static ssize_t parse(struct span bytes, size_t n, size_t seen, enum http1_refusal *why)
{
	char *copy = malloc(n ? n : 1);
	ssize_t got;

	assert_non_null(copy);
	memcpy(copy, bytes.ptr, n);
	*why = HTTP1_FINE;
	got = http1_request_parse(&head, copy, n, seen, NULL, why);
	free(copy);
	return got;
}

static void fail_case(size_t i, const char *what, ssize_t got, enum http1_refusal why)
{
	fail_msg("case %zu %s: %zd, refusal %d instead of %d:\n%.*s", i, what, got, (int)why,
		 cases[i].why, SPAN_FMT(cases[i].bytes));
}

static void check_whole(size_t i, size_t seen)
{
	enum http1_refusal why;
	ssize_t got = parse(cases[i].bytes, cases[i].bytes.len, seen, &why);

	if (cases[i].why == HTTP1_FINE) {
		if (got != (ssize_t)cases[i].bytes.len)
			fail_case(i, "should be fine", got, why);
	} else if (got != -EBADMSG || why == HTTP1_FINE ||
		   (cases[i].why != ANY_400 && (int)why != cases[i].why)) {
		fail_case(i, "should be refused", got, why);
	} else if (cases[i].why == ANY_400 && http1_refusal_status(why) != 400) {
		fail_case(i, "should be 400", got, why);
	}
}

static void test_whole(void **state)
{
	(void)state;
	assert_true(CASES >= 200);
	for (size_t i = 0; i < CASES; i++)
		check_whole(i, 0);
}

/* A fine head is never refused early, a bad one never accepted early, and seen changes nothing. */
static void test_every_split(void **state)
{
	(void)state;
	for (size_t i = 0; i < CASES; i++) {
		for (size_t n = 1; n < cases[i].bytes.len; n++) {
			enum http1_refusal why;
			ssize_t got = parse(cases[i].bytes, n, 0, &why);

			if (got != -EAGAIN && (got != -EBADMSG || cases[i].why == HTTP1_FINE))
				fail_case(i, "cut", got, why);
			if (got == -EAGAIN)
				check_whole(i, n);
		}
	}
}

static void test_byte_by_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < CASES; i++) {
		enum http1_refusal why = HTTP1_FINE;
		ssize_t got = -EAGAIN;

		for (size_t n = 1; n <= cases[i].bytes.len && got == -EAGAIN; n++)
			got = parse(cases[i].bytes, n, n - 1, &why);
		if (cases[i].why == HTTP1_FINE ? got != (ssize_t)cases[i].bytes.len
					       : got != -EBADMSG)
			fail_case(i, "byte by byte", got, why);
	}
}

/* What follows a head is nobody's business yet. */
static void test_pipelined(void **state)
{
	static const char two[] =
		"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\nHost: b\r\n\r\n";
	enum http1_refusal why;

	(void)state;
	assert_int_equal(http1_request_parse(&head, two, sizeof(two) - 1, 0, NULL, &why), 28);
	assert_true(span_eq(head.path, SPAN("/a")));
}

static ssize_t parse_long(size_t target, size_t fields, size_t value)
{
	size_t size = target + fields * (value + 8) + 100, n;
	char *buf = malloc(size);
	enum http1_refusal why = HTTP1_FINE;
	ssize_t got;

	assert_non_null(buf);
	n = (size_t)sprintf(buf, "GET /");
	memset(buf + n, 'a', target), n += target;
	n += (size_t)sprintf(buf + n, " HTTP/1.1\r\nHost: a\r\n");
	for (size_t i = 0; i < fields; i++) {
		n += (size_t)sprintf(buf + n, "X: ");
		memset(buf + n, 'v', value), n += value;
		n += (size_t)sprintf(buf + n, "\r\n");
	}
	n += (size_t)sprintf(buf + n, "\r\n");
	got = http1_request_parse(&head, buf, n, 0, NULL, &why);
	free(buf);
	return got == -EBADMSG ? -(ssize_t)why : got;
}

static void test_limits(void **state)
{
	(void)state;
	assert_int_equal(parse_long(TARGET_BYTES_MAX, 0, 0), -HTTP1_TARGET_BYTES);
	assert_true(parse_long(TARGET_BYTES_MAX - 1, 0, 0) > 0);
	assert_int_equal(parse_long(1, HEAD_FIELDS_MAX, 1), -HTTP1_HEAD_FIELDS);
	assert_true(parse_long(1, HEAD_FIELDS_MAX - 1, 1) > 0);
	assert_int_equal(parse_long(1, 1, HEAD_BYTES_MAX), -HTTP1_HEAD_BYTES);
	assert_true(parse_long(1, 1, HEAD_BYTES_MAX - 200) > 0);
}

/* Every refusal has a status of an error, a sentence, and its own counter. */
static void test_refusals(void **state)
{
	(void)state;
	for (int i = HTTP1_FINE + 1; i <= HTTP1_NO_MEMORY; i++) {
		assert_in_range(http1_refusal_status((enum http1_refusal)i), 400, 505);
		assert_true(strlen(http1_refusal_text((enum http1_refusal)i)) > 5);
		for (int j = i + 1; j <= HTTP1_NO_MEMORY; j++)
			assert_int_not_equal(http1_refusal_counter((enum http1_refusal)i),
					     http1_refusal_counter((enum http1_refusal)j));
	}
}

static void test_framing(void **state)
{
	static const struct {
		struct span text;
		enum http1_framing framing;
		bool keep_alive;
	} rows[] = {
		{SPAN("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP1_NO_BODY, true},
		{SPAN("GET / HTTP/1.0\r\n\r\n"), HTTP1_NO_BODY, false},
		{SPAN("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), HTTP1_NO_BODY, true},
		{SPAN("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n"), HTTP1_NO_BODY,
		 false},
		{SPAN("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"), HTTP1_LENGTH_BODY,
		 true},
		{SPAN("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
		 HTTP1_CHUNKED, true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		enum http1_refusal why;

		assert_true(http1_request_parse(&head, rows[i].text.ptr, rows[i].text.len, 0, NULL,
						&why) > 0);
		assert_int_equal(head.framing, rows[i].framing);
		assert_int_equal(head.keep_alive, rows[i].keep_alive);
	}
}

static void test_answers(void **state)
{
	static const struct {
		struct span text;
		int status; /* 0: refused */
		enum http1_framing framing;
	} rows[] = {
		{SPAN("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), 200, HTTP1_LENGTH_BODY},
		{SPAN("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), 200, HTTP1_CHUNKED},
		{SPAN("HTTP/1.1 200 OK\r\n\r\n"), 200, HTTP1_UNTIL_CLOSE},
		{SPAN("HTTP/1.1 204 No Content\r\n\r\n"), 204, HTTP1_NO_BODY},
		{SPAN("HTTP/1.1 100 Continue\r\n\r\n"), 100, HTTP1_NO_BODY},
		{SPAN("HTTP/1.1 503\r\ncontent-length: 0\r\n\r\n"), 503, HTTP1_NO_BODY},
		{SPAN("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n"), 0, 0},
		{SPAN("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"),
		 0, 0},
		{SPAN("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"), 0, 0},
		{SPAN("HTTP/1.1 20 OK\r\n\r\n"), 0, 0},
		{SPAN("HTTP/1.1 2000 OK\r\n\r\n"), 0, 0},
		{SPAN("HTTP/2.0 200 OK\r\n\r\n"), 0, 0},
		{SPAN("garbage\r\n\r\n"), 0, 0},
		{SPAN("HTTP/1.1 200 OK\nX: 1\r\n\r\n"), 0, 0},
		{SPAN("HTTP/1.1 200 OK\r\nX : 1\r\n\r\n"), 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		ssize_t n =
			http1_response_parse(&head, rows[i].text.ptr, rows[i].text.len, 0, false);

		if (!rows[i].status) {
			assert_int_equal(n, -EBADMSG);
			continue;
		}
		assert_int_equal(n, rows[i].text.len);
		assert_int_equal(head.status, rows[i].status);
		assert_int_equal(head.framing, rows[i].framing);
		for (size_t cut = 1; cut < rows[i].text.len; cut++)
			assert_int_equal(
				http1_response_parse(&head, rows[i].text.ptr, cut, 0, false),
				-EAGAIN);
	}
}

static const struct {
	struct span bytes;
	const char *payload; /* NULL: malformed */
} chunked[] = {
	{SPAN("0\r\n\r\n"), ""},
	{SPAN("3\r\nabc\r\n0\r\n\r\n"), "abc"},
	{SPAN("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde"},
	{SPAN("A\r\n0123456789\r\n0\r\n\r\n"), "0123456789"},
	{SPAN("a\r\n0123456789\r\n0\r\n\r\n"), "0123456789"},
	{SPAN("0003\r\nabc\r\n000\r\n\r\n"), "abc"},
	{SPAN("3;x=1\r\nabc\r\n0;y\r\n\r\n"), "abc"},
	{SPAN("3;x=\"q\"\r\nabc\r\n0\r\n\r\n"), "abc"},
	{SPAN("3\r\nabc\r\n0\r\nX: 1\r\nY: 2\r\n\r\n"), "abc"},
	{SPAN("3\r\n\r\n\r\r\n0\r\n\r\n"), "\r\n\r"},
	{SPAN("3; x = \"a\\\"b\";y\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3; x= \"a\\\"b\";y\r\nabc\r\n0\r\n\r\n"), "abc"},
	{SPAN("3;\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3;a=\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3;[x]\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3;x=\"a\"b\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3;=a\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("+3\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("-3\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("0x3\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN(" 3\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3 \r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3\rabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3\r\nabcd\r\n0\r\n\r\n"), NULL},
	{SPAN("3\r\nabc0\r\n\r\n"), NULL},
	{SPAN("3\r\nabc\n0\r\n\r\n"), NULL},
	{SPAN("\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN(";x\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("g\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("10000000000000000\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("ffffffffffffffff3\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3;\001\r\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("3;x\nabc\r\n0\r\n\r\n"), NULL},
	{SPAN("0\r\n\n"), NULL},
	{SPAN("0\n\r\n"), NULL},
	{SPAN("0\r\n X: fold\r\n\r\n"), NULL},
	{SPAN("0\r\nX: 1\n\r\n"), NULL},
	{SPAN("3_0\r\nabc\r\n0\r\n\r\n"), NULL},
};

/* Decodes [0, cut) and then the rest; the payload, or -1. */
static int decode(struct span bytes, size_t cut, char *to, bool *ret_done)
{
	struct http1_chunks chunks = {0};
	size_t at = 0;
	int n = 0;

	while (at < bytes.len && !http1_chunks_done(&chunks)) {
		size_t limit = at < cut ? cut : bytes.len;
		struct span data;
		ssize_t took = http1_chunks_next(&chunks, bytes.ptr + at, limit - at, &data);

		if (took < 0)
			return -1;
		memcpy(to + n, data.ptr, data.len);
		n += (int)data.len;
		at += (size_t)took;
	}
	*ret_done = http1_chunks_done(&chunks) && at == bytes.len;
	return n;
}

static void test_chunks(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(chunked) / sizeof(*chunked); i++) {
		for (size_t cut = 0; cut < chunked[i].bytes.len; cut++) {
			char to[64];
			bool done = false;
			int n = decode(chunked[i].bytes, cut, to, &done);

			if (!chunked[i].payload) {
				if (n >= 0 && done)
					fail_msg("chunks %zu cut at %zu were accepted", i, cut);
				continue;
			}
			assert_true(done);
			assert_int_equal(n, strlen(chunked[i].payload));
			assert_memory_equal(to, chunked[i].payload, (size_t)n);
		}
	}
}

/* [0, cut) of a message, what brings it to an end of ours, then a chunk and the last one. */
static void check_finished(struct span bytes, size_t cut, size_t payload_bytes)
{
	static const char rest[] = "1\r\n!\r\n0\r\n\r\n";
	struct http1_chunks chunks = {0};
	char whole[256], to[256];
	bool inside, done = false;
	size_t at = 0;
	ssize_t n;
	int got;

	while (at < cut) {
		struct span data;

		at += (size_t)http1_chunks_next(&chunks, bytes.ptr + at, cut - at, &data);
	}
	memcpy(whole, bytes.ptr, cut);
	n = http1_chunks_finish(&chunks, whole + cut, sizeof(whole) - cut, &inside);
	if (n == -ENODATA) {
		assert_true(decode(span_of(whole, cut), cut, to, &done) == (int)payload_bytes);
		return;
	}
	assert_true(n >= 0 && !inside);
	memcpy(whole + cut + n, rest, sizeof(rest));
	got = decode(span_of(whole, cut + (size_t)n + sizeof(rest) - 1), 0, to, &done);
	assert_true(done);
	assert_true(got > 0 && to[got - 1] == '!');
}

static void test_broken_off_chunks_are_finished_anywhere(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(chunked) / sizeof(*chunked); i++)
		for (size_t cut = 0; chunked[i].payload && cut < chunked[i].bytes.len; cut++)
			check_finished(chunked[i].bytes, cut, strlen(chunked[i].payload));
}

static void test_a_huge_open_chunk_is_left_open(void **state)
{
	struct span open[] = {SPAN("fffff"), SPAN("fffff;a"), SPAN("fffff\r\n"),
			      SPAN("fffff\r\nabc")};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct http1_chunks chunks = {0};
		struct span data;
		char room[16];
		bool inside = false;
		size_t at = 0;
		ssize_t n;

		while (at < open[i].len)
			at += (size_t)http1_chunks_next(&chunks, open[i].ptr + at, open[i].len - at,
							&data);
		n = http1_chunks_finish(&chunks, room, sizeof(room), &inside);
		assert_true(inside);
		assert_int_equal(n, i < 2 ? 2 : 0);
		assert_int_equal(http1_chunks_next(&chunks, room, (size_t)n, &data), n);
		assert_int_equal(http1_chunks_next(&chunks, "!", 1, &data), 1);
		assert_int_equal(data.len, 1); /* payload */
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_every_split),
		cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_pipelined),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_framing),
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_chunks),
		cmocka_unit_test(test_broken_off_chunks_are_finished_anywhere),
		cmocka_unit_test(test_a_huge_open_chunk_is_left_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
