/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage 2 and 3: the body arrives, is unchunked in place and scanned while it is hot in the cache.
 * Invariant: no receive is queued while the bytes budget is used up; after buffered_wait_ms the
 * client gets 503. Bytes after the body belong to the next request and are kept.
 */
#include "dataplane/client.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "dataplane/request.h"

#define PROGRESS_MS 1000

static void request_id_set(struct request *req)
{
	static const char hex[] = "0123456789abcdef";
	struct span given = http1_field_get(&req->head, SPAN("x-request-id"));
	uint64_t *s = req->worker->random, x = s[0], y = s[1];

	if (given.len && given.len <= REQUEST_ID_BYTES_MAX) {
		memcpy(req->id, given.ptr, given.len);
		req->id[given.len] = '\0';
		return;
	}
	/* xorshift128+, Vigna 2014: unique, not secret. */
	s[0] = y;
	x ^= x << 23;
	s[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
	for (int i = 0; i < 16; i++) {
		req->id[i] = hex[(s[0] + s[1]) >> (i * 4) & 15];
		req->id[16 + i] = hex[s[1] >> (i * 4) & 15];
	}
	req->id[32] = '\0';
}

/* Decodes n raw bytes at the end of the last block in place. Returns 0 or -EBADMSG. */
static int body_unchunk(struct request *req, struct block *b, uint32_t n)
{
	char *from = b->data + b->end, *to = from, *end = from + n;

	while (from < end && !http1_chunks_done(&req->chunks)) {
		struct span data;
		ssize_t took = http1_chunks_next(&req->chunks, from, (size_t)(end - from), &data);

		if (took < 0)
			return -EBADMSG;
		memmove(to, data.ptr, data.len);
		if (openai_scan_feed(&req->scan, to, data.len) == 0)
			req->body_bytes += data.len;
		else
			req->body_bytes += data.len; /* an error is told when the body is whole */
		to += data.len;
		from += took;
	}
	b->end = (uint32_t)(to - b->data);
	req->rest_at = (uint32_t)(from - b->data);
	req->rest_bytes = (uint32_t)(end - from);
	return 0;
}

static void body_take(struct request *req, struct block *b, uint32_t n)
{
	uint64_t want = req->head.content_length - req->body_bytes;
	uint32_t mine = n < want ? n : (uint32_t)want;

	openai_scan_feed(&req->scan, b->data + b->end, mine); /* remembers its error */
	b->end += mine;
	req->body_bytes += mine;
	req->rest_at = b->end;
	req->rest_bytes = n - mine;
}

static bool body_whole(const struct request *req)
{
	switch (req->head.framing) {
	case HTTP1_CHUNKED:
		return http1_chunks_done(&req->chunks);
	case HTTP1_LENGTH_BODY:
		return req->body_bytes == req->head.content_length;
	default:
		return true;
	}
}

/* The next request's bytes go back to the connection. */
static void rest_keep(struct client *c, struct request *req)
{
	struct block *b;

	if (!req->rest_bytes)
		return;
	b = block_new(&c->worker->blocks, req->rest_bytes);
	if (!b) {
		c->close = true;
		return;
	}
	memcpy(b->data, req->body_last->data + req->rest_at, req->rest_bytes);
	b->end = req->rest_bytes;
	c->in = b;
}

/* n more raw bytes stand at the end of the last block. */
static void body_bytes(struct client *c, uint32_t n)
{
	struct request *req = c->req;
	enum http1_refusal why = HTTP1_FINE;

	if (req->head.framing == HTTP1_CHUNKED) {
		if (body_unchunk(req, req->body_last, n))
			why = req->chunks.trailers_too_large ? HTTP1_TRAILERS : HTTP1_CHUNK;
		else if (req->body_bytes > c->worker->cfg->body_bytes_max)
			why = HTTP1_BODY_BYTES;
	} else {
		body_take(req, req->body_last, n);
	}
	if (why != HTTP1_FINE) {
		respond_refusal(c, req, why);
		return;
	}
	if (!body_whole(req)) {
		client_read_body(c);
		return;
	}
	timer_clear(&c->timer);
	rest_keep(c, req);
	c->state = CLIENT_BUSY;
	req->body_ns = c->worker->ring.now_ns;
	if (c->gone && !c->in)
		client_abort(c);
	else
		request_run(req);
}

void client_read_body(struct client *c)
{
	struct request *req = c->req;
	struct block *b = req->body_last;
	uint64_t want = BLOCK_BIG;

	if (req->head.framing == HTTP1_LENGTH_BODY)
		want = req->head.content_length - req->body_bytes;
	if (!block_room(b)) {
		struct block *more =
			block_new(&c->worker->blocks, want > BLOCK_BIG ? BLOCK_BIG : want);

		if (!more) {
			if (!c->waiting)
				metric_inc(M_BODY_BUDGET_WAITS);
			c->waiting = true;
			timer_set(&c->worker->timers, &c->timer, TIMER_SLOT_MS);
			return;
		}
		b->next = more;
		req->body_last = b = more;
	}
	c->waiting = false;
	ring_recv(&c->worker->ring, &c->recv_op, c->fd, b->data + b->end, block_room(b));
}

/* The timer fired: is the body too slow, or did it wait too long for memory? */
static void body_time(struct client *c)
{
	struct request *req = c->req;
	const struct config *cfg = c->worker->cfg;
	uint64_t ms = (clock_mono_ns() - req->begin_ns) / NS_PER_MS;

	if (c->waiting) {
		if (ms - req->progress_ns / NS_PER_MS > cfg->buffered_wait_ms) {
			c->waiting = false;
			respond_refusal(c, req, HTTP1_NO_MEMORY);
		} else {
			client_read_body(c);
		}
		return;
	}
	if (ms > cfg->body_grace_ms && req->body_bytes * 1000 < cfg->body_rate_min * ms) {
		client_park_body(c);
		respond_refusal(c, req, HTTP1_BODY_SLOW);
	} else {
		timer_set(&c->worker->timers, &c->timer, PROGRESS_MS);
	}
}

void client_body_bytes(struct client *c, int res)
{
	if (res == -ETIME) {
		body_time(c);
		return;
	}
	if (res <= 0) {
		client_abort(c);
		return;
	}
	c->req->progress_ns = c->worker->ring.now_ns - c->req->begin_ns;
	body_bytes(c, (uint32_t)res);
}

static enum http1_refusal head_refusal(const struct client *c, const struct request *req)
{
	if (req->head.expect_unknown)
		return HTTP1_EXPECT;
	if (req->head.framing == HTTP1_LENGTH_BODY &&
	    req->head.content_length > c->worker->cfg->body_bytes_max)
		return HTTP1_BODY_BYTES;
	return HTTP1_FINE;
}

void client_request_begin(struct client *c, const struct http1_head *head, ssize_t head_bytes)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	struct request *req = worker_request_new(c->worker);
	struct block *b = c->in;
	uint32_t after = block_used(b) - (uint32_t)head_bytes;
	enum http1_refusal why;

	metric_inc(M_REQUESTS);
	if (!req) {
		respond_refusal(c, NULL, HTTP1_NO_MEMORY);
		return;
	}
	c->req = req;
	c->in = NULL;
	req->client = c;
	req->worker = c->worker;
	req->begin_ns = c->worker->ring.now_ns;
	req->body = req->body_last = b;
	http1_head_copy(&req->head, head);
	b->start += (uint32_t)head_bytes;
	b->end = b->start;
	request_id_set(req);
	openai_scan_init(&req->scan, &req->says, req->spans);
	c->close |= !req->head.keep_alive;
	why = head_refusal(c, req);
	if (why != HTTP1_FINE) {
		respond_refusal(c, req, why);
		return;
	}
	c->state = CLIENT_BODY;
	timer_set(&c->worker->timers, &c->timer, PROGRESS_MS);
	if (req->head.expect_continue && !after && req->head.framing != HTTP1_NO_BODY &&
	    send(c->fd, go_on, sizeof(go_on) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		client_abort(c);
		return;
	}
	body_bytes(c, after);
}
