/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP/1.1 answer to a GET of our own, read as it comes: status, framing, body handed on in
 * pieces. For the pages of engines that we poll.
 * Invariant: keeps at most REPLY_HEAD_MAX bytes of head, nothing of the body. No allocation.
 */
#ifndef SLUICE_CONTROLPLANE_HTTP_REPLY_H
#define SLUICE_CONTROLPLANE_HTTP_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/http1.h"

#define REPLY_HEAD_MAX 8192

typedef void (*reply_body_fn)(void *arg, const char *bytes, size_t len);

struct http_reply {
	bool in_body, done, keep_alive;
	uint8_t framing;   /* enum http1_framing */
	uint16_t status;   /* 0 until the head is whole */
	uint32_t head_len; /* bytes of head kept */
	uint64_t left;	   /* bytes of the body still to come, when its length is known */
	uint64_t body_bytes;
	struct http1_chunks chunks;
	char head[REPLY_HEAD_MAX];
};

void http_reply_reset(struct http_reply *r);

/*
 * The next bytes off the connection. *ret_done is set when the answer is whole. 0 or -EBADMSG, also
 * when bytes follow the answer: nobody asked for them.
 */
int http_reply_feed(struct http_reply *r, const char *bytes, size_t len, reply_body_fn body,
		    void *arg, bool *ret_done);

/* The connection ended. True if that makes the answer whole (a body that ends with it). */
bool http_reply_eof(const struct http_reply *r);

#endif
