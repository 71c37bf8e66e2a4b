/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of one answer: gathers the head, then hands the body on by its framing (base/http1). */
#include "controlplane/http_reply.h"

#include <errno.h>
#include <string.h>

void http_reply_reset(struct http_reply *r)
{
	memset(r, 0, offsetof(struct http_reply, head));
}

/* The head is whole: how the body comes. A 1xx head is forgotten, the answer is still to come. */
static int head_take(struct http_reply *r, const struct http1_head *head)
{
	if (head->status == 101)
		return -EBADMSG;
	r->head_len = 0;
	if (head->status < 200)
		return 0;
	r->status = (uint16_t)head->status;
	r->framing = (uint8_t)head->framing;
	r->keep_alive = head->keep_alive && head->framing != HTTP1_UNTIL_CLOSE;
	r->left = head->content_length;
	r->in_body = true;
	r->done = r->framing == HTTP1_NO_BODY || (r->framing == HTTP1_LENGTH_BODY && !r->left);
	return 0;
}

/* Adds bytes to the head. *ret_used: how many of them belonged to it. */
static int head_feed(struct http_reply *r, const char *bytes, size_t len, size_t *ret_used)
{
	uint32_t before = r->head_len;
	size_t room = sizeof(r->head) - before, n = len < room ? len : room;
	struct http1_head head;
	ssize_t whole;

	memcpy(r->head + before, bytes, n);
	r->head_len += (uint32_t)n;
	*ret_used = n;
	whole = http1_response_parse(&head, r->head, r->head_len, before, false);
	if (whole == -EAGAIN)
		return r->head_len == sizeof(r->head) ? -EBADMSG : 0;
	if (whole < 0)
		return -EBADMSG;
	*ret_used = (size_t)whole - before;
	return head_take(r, &head);
}

static ssize_t body_feed(struct http_reply *r, const char *bytes, size_t len, reply_body_fn body,
			 void *arg)
{
	struct span data = span_of(bytes, len);
	ssize_t used = (ssize_t)len;

	if (r->framing == HTTP1_CHUNKED) {
		used = http1_chunks_next(&r->chunks, bytes, len, &data);
		if (used < 0)
			return used;
		r->done = http1_chunks_done(&r->chunks);
	} else if (r->framing == HTTP1_LENGTH_BODY) {
		if (len > r->left)
			data.len = (size_t)r->left;
		used = (ssize_t)data.len;
		r->left -= data.len;
		r->done = r->left == 0;
	}
	r->body_bytes += data.len;
	if (data.len)
		body(arg, data.ptr, data.len);
	return used;
}

int http_reply_feed(struct http_reply *r, const char *bytes, size_t len, reply_body_fn body,
		    void *arg, bool *ret_done)
{
	size_t at = 0, n;
	ssize_t used;
	int err;

	while (at < len) {
		if (r->done)
			return -EBADMSG;
		if (!r->in_body) {
			err = head_feed(r, bytes + at, len - at, &n);
			if (err)
				return err;
			at += n;
			continue;
		}
		used = body_feed(r, bytes + at, len - at, body, arg);
		if (used < 0)
			return -EBADMSG;
		at += (size_t)used;
	}
	*ret_done = r->done;
	return 0;
}

bool http_reply_eof(const struct http_reply *r)
{
	return r->in_body && r->framing == HTTP1_UNTIL_CLOSE;
}
