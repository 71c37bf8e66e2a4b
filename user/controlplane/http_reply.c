/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reader of one answer: head, then a body by length, by chunks or until the end of the connection.
 * Strict where two readings are possible (lengths, chunk sizes), indifferent to the rest.
 */
#include "controlplane/http_reply.h"

#include <errno.h>
#include <string.h>

#include "base/span.h"

enum {
	HEAD,
	BODY,
	CHUNK_SIZE,
	CHUNK_DATA,
	CHUNK_END,
	TRAILER,
	DONE
};

void http_reply_reset(struct http_reply *r)
{
	memset(r, 0, offsetof(struct http_reply, head));
}

static struct span trim(struct span s)
{
	while (s.len && (*s.ptr == ' ' || *s.ptr == '\t'))
		s.ptr++, s.len--;
	while (s.len &&
	       (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t' || s.ptr[s.len - 1] == '\r'))
		s.len--;
	return s;
}

/* Digits only, at most 15 of them: no length that we accept is longer. */
static int length_parse(struct span s, uint64_t *ret_length)
{
	uint64_t n = 0;

	if (!s.len || s.len > 15)
		return -EBADMSG;
	for (size_t i = 0; i < s.len; i++) {
		if (s.ptr[i] < '0' || s.ptr[i] > '9')
			return -EBADMSG;
		n = n * 10 + (uint64_t)(s.ptr[i] - '0');
	}
	*ret_length = n;
	return 0;
}

static int field_take(struct http_reply *r, struct span name, struct span value, bool *has_length)
{
	uint64_t length;

	if (span_eq_nocase(name, SPAN("content-length"))) {
		if (length_parse(value, &length) || (*has_length && length != r->left))
			return -EBADMSG;
		*has_length = true;
		r->left = length;
	} else if (span_eq_nocase(name, SPAN("transfer-encoding"))) {
		if (!span_eq_nocase(value, SPAN("chunked")) || r->chunked)
			return -EBADMSG;
		r->chunked = true;
	} else if (span_eq_nocase(name, SPAN("connection"))) {
		if (span_eq_nocase(value, SPAN("close")))
			r->keep_alive = false;
		else if (span_eq_nocase(value, SPAN("keep-alive")))
			r->keep_alive = true;
	}
	return 0;
}

static int status_line(struct http_reply *r, struct span line)
{
	const char *p = line.ptr;

	if (line.len < 12 || memcmp(p, "HTTP/1.", 7) || (p[7] != '0' && p[7] != '1') || p[8] != ' ')
		return -EBADMSG;
	for (int i = 9; i < 12; i++)
		if (p[i] < '0' || p[i] > '9')
			return -EBADMSG;
	r->keep_alive = p[7] == '1';
	r->status = (uint16_t)((p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0'));
	return r->status < 100 ? -EBADMSG : 0;
}

/* The whole head is in r->head. Decides how the body is framed. */
static int head_parse(struct http_reply *r)
{
	const char *p = r->head, *end = p + r->head_len, *newline, *colon;
	bool has_length = false, first = true;
	int err;

	for (; p < end; p = newline + 1) {
		struct span line;

		newline = memchr(p, '\n', (size_t)(end - p));
		line = trim(span_of(p, (size_t)(newline - p)));
		if (first) {
			err = status_line(r, line);
			first = false;
		} else if (!line.len) {
			break;
		} else {
			colon = memchr(line.ptr, ':', line.len);
			if (!colon)
				return -EBADMSG;
			err = field_take(
				r, span_of(line.ptr, (size_t)(colon - line.ptr)),
				trim(span_of(colon + 1, line.len - (size_t)(colon + 1 - line.ptr))),
				&has_length);
		}
		if (err)
			return err;
	}
	if (r->status < 200) { /* 100 Continue and its like: the answer is still to come */
		if (r->status == 101)
			return -EBADMSG;
		http_reply_reset(r);
		return 0;
	}
	if (r->chunked && has_length)
		return -EBADMSG;
	r->until_close = !r->chunked && !has_length && r->status != 204 && r->status != 304;
	if (r->until_close)
		r->keep_alive = false;
	r->state = r->chunked ? CHUNK_SIZE : BODY;
	r->head_len = 0;
	if (r->state == BODY && !r->until_close && r->left == 0)
		r->state = DONE;
	return 0;
}

/* Takes bytes up to and with the newline into r->head. *ret_line: a line is whole there. */
static int line_gather(struct http_reply *r, const char **at, const char *end, bool *ret_line)
{
	const char *newline = memchr(*at, '\n', (size_t)(end - *at));
	size_t n = newline ? (size_t)(newline + 1 - *at) : (size_t)(end - *at);

	if (n > sizeof(r->head) - r->head_len)
		return -EBADMSG;
	memcpy(r->head + r->head_len, *at, n);
	r->head_len += (uint32_t)n;
	*at += n;
	*ret_line = newline != NULL;
	return 0;
}

static bool head_is_whole(const struct http_reply *r)
{
	const char *h = r->head;
	uint32_t n = r->head_len;

	return (n >= 2 && h[n - 2] == '\n') || (n >= 3 && h[n - 2] == '\r' && h[n - 3] == '\n');
}

static int chunk_size(struct http_reply *r)
{
	struct span line = trim(span_of(r->head, r->head_len - 1));
	const char *semicolon = memchr(line.ptr, ';', line.len);
	uint64_t size = 0;

	if (semicolon)
		line = trim(span_of(line.ptr, (size_t)(semicolon - line.ptr)));
	if (!line.len || line.len > 8)
		return -EBADMSG;
	for (size_t i = 0; i < line.len; i++) {
		char c = line.ptr[i], lower = (char)(c | 0x20);

		if (c >= '0' && c <= '9')
			size = size * 16 + (uint64_t)(c - '0');
		else if (lower >= 'a' && lower <= 'f')
			size = size * 16 + (uint64_t)(lower - 'a' + 10);
		else
			return -EBADMSG;
	}
	r->left = size;
	r->head_len = 0;
	r->state = size ? CHUNK_DATA : TRAILER;
	return 0;
}

/* A line is whole in r->head: what it means in this state. */
static int line_take(struct http_reply *r)
{
	switch (r->state) {
	case HEAD:
		return head_is_whole(r) ? head_parse(r) : 0;
	case CHUNK_SIZE:
		return chunk_size(r);
	case CHUNK_END:
		if (trim(span_of(r->head, r->head_len - 1)).len)
			return -EBADMSG;
		r->state = CHUNK_SIZE;
		break;
	default: /* TRAILER */
		if (!trim(span_of(r->head, r->head_len - 1)).len)
			r->state = DONE;
		break;
	}
	r->head_len = 0;
	return 0;
}

int http_reply_feed(struct http_reply *r, const char *bytes, size_t len, reply_body_fn body,
		    void *arg, bool *ret_done)
{
	const char *at = bytes, *end = bytes + len;
	bool line;
	size_t n;
	int err;

	while (at < end) {
		if (r->state == DONE)
			return -EBADMSG;
		if (r->state == BODY || r->state == CHUNK_DATA) {
			n = (size_t)(end - at);
			if (!r->until_close && n > r->left)
				n = (size_t)r->left;
			body(arg, at, n);
			at += n;
			r->body_bytes += n;
			if (r->until_close)
				continue;
			r->left -= n;
			if (r->left == 0)
				r->state = r->state == BODY ? DONE : CHUNK_END;
			continue;
		}
		line = false;
		err = line_gather(r, &at, end, &line);
		if (!err && line)
			err = line_take(r);
		if (err)
			return err;
	}
	*ret_done = r->state == DONE;
	return 0;
}

bool http_reply_eof(const struct http_reply *r)
{
	return r->state == BODY && r->until_close;
}
