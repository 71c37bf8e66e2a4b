/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads and chunks: a verdict may not depend on how the bytes were cut, spans lie inside the
 * buffer, and what is accepted has one framing. The first byte says where the cut is.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/http1.h"

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

static void inside(struct span s, const char *buf, size_t n)
{
	CHECK(!s.ptr || (s.ptr >= buf && s.ptr + s.len <= buf + n));
}

static void requests(const char *buf, size_t n, size_t cut)
{
	static struct http1_head head;
	enum http1_refusal why = HTTP1_FINE, early = HTTP1_FINE;
	ssize_t whole = http1_request_parse(&head, buf, n, 0, NULL, &why);
	ssize_t part;

	if (whole > 0) {
		CHECK((size_t)whole <= n);
		if (!span_eq(head.path, SPAN("/"))) /* a literal for http://host */
			inside(head.path, buf, (size_t)whole);
		inside(head.query, buf, (size_t)whole);
		for (uint32_t i = 0; i < head.field_count; i++) {
			inside(head.fields[i].name, buf, (size_t)whole);
			inside(head.fields[i].value, buf, (size_t)whole);
			(void)http1_field_is_hop(&head, head.fields[i].name);
		}
		CHECK(!memchr(buf, 0, (size_t)whole));
	}
	if (whole == -EBADMSG)
		CHECK(why != HTTP1_FINE);
	part = http1_request_parse(&head, buf, cut, 0, NULL, &early);
	if (part > 0)
		CHECK(part == whole);
	if (part == -EBADMSG)
		CHECK(whole == -EBADMSG);
	if (part == -EAGAIN)
		CHECK(http1_request_parse(&head, buf, n, cut, NULL, &early) == whole);
}

static void answers(const char *buf, size_t n, size_t cut)
{
	static struct http1_head head;
	ssize_t whole = http1_response_parse(&head, buf, n, 0, false);
	ssize_t part = http1_response_parse(&head, buf, cut, 0, false);

	if (whole > 0)
		CHECK((size_t)whole <= n && head.status >= 100 && head.status < 600);
	if (part > 0)
		CHECK(part == whole);
	if (part == -EBADMSG)
		CHECK(whole == -EBADMSG);
}

/* Payload bytes and end of the chunks in buf, fed in steps; -1 malformed. */
static ssize_t chunks(const char *buf, size_t n, size_t step, size_t *ret_end)
{
	struct http1_chunks c = {0};
	ssize_t payload = 0;
	size_t at = 0;

	while (at < n && !http1_chunks_done(&c)) {
		size_t limit = (at / step + 1) * step;
		struct span data;
		ssize_t took;

		limit = limit > n ? n : limit;
		took = http1_chunks_next(&c, buf + at, limit - at, &data);
		if (took < 0)
			return -1;
		CHECK(took > 0 && (size_t)took <= limit - at);
		inside(data, buf + at, limit - at);
		payload += (ssize_t)data.len;
		at += (size_t)took;
	}
	*ret_end = http1_chunks_done(&c) ? at : SIZE_MAX;
	return payload;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n, cut, end_a = 0, end_b = 0;
	ssize_t a, b;
	char *buf;

	if (size < 3)
		return 0;
	n = size - 2;
	buf = malloc(n);
	memcpy(buf, data + 2, n);
	cut = (size_t)(data[0] << 8 | data[1]) % n + 1;
	requests(buf, n, cut);
	answers(buf, n, cut);
	a = chunks(buf, n, n, &end_a);
	b = chunks(buf, n, cut, &end_b);
	CHECK(a == b && (a < 0 || end_a == end_b));
	free(buf);
	return 0;
}
