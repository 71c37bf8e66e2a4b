/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Relay: the endpoint's answer goes to the client, copied by user space, framing and all.
 * The reference path: splice and steer may take over only when nothing read here is still unsent.
 *
 *   head partial -> head whole -> (SSE: first event held back) -> committed -> body … -> done
 *
 * Invariant: what a client has not taken is at most relay_bytes_max, then we stop reading. Nothing
 * reaches the client before the answer's first event is known to be no error.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/disagg/disagg.h"
#include "dataplane/request.h"
#include "dataplane/upstream.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define WATCH_MS		     1000
#define CUT_EVENT_ROOM		     512	 /* of a small block */
#define CALM			     4		 /* receives with room left */
#define HELD_MAX		     (64 * 1024) /* of an unfinished event */

/*
 * Reading goes on by itself once it is armed, from one answer to the next. Not where bytes come in
 * bulk: a receive that goes on by itself takes half a megabyte before anyone can stop it.
 */
static void relay_recv(struct upstream *up)
{
	if (up->recv_op.pending || up->paused || up->closing || !up->req)
		return;
	if (up->calm == CALM)
		ring_recv_multishot(&up->worker->ring, &up->recv_op, up->fd);
	else
		ring_recv_offer(&up->worker->ring, &up->recv_op, up->fd, false);
}

static void calm_count(struct upstream *up, const struct block *b)
{
	if (block_room(b)) {
		up->calm += up->calm < CALM;
		return;
	}
	if (up->calm == CALM)
		ring_cancel(&up->worker->ring, &up->recv_op);
	up->calm = 0;
}

/* The client has enough unsent: what is on its way already still comes. */
static void relay_pause(struct upstream *up)
{
	if (up->paused)
		return;
	up->paused = true;
	metric_inc(M_RELAY_PAUSED);
	ring_cancel(&up->worker->ring, &up->recv_op);
}

/* All that was queued for the client is with its socket. */
void relay_resume(struct upstream *up)
{
	up->paused = false;
	if (!up->head_done || up->body_done)
		return;
	if (up->req->committed && up->req->path.prepared)
		path_moment(up);
	relay_recv(up);
}

/*
 * The event that tells a stream's client of the cut, wherever the engine died: an open chunk is
 * filled with newlines, which end an SSE line; a huge one takes the event as its payload. NULL
 * where none can follow.
 */
static struct block *cut_event(struct upstream *up)
{
	static const char openai[] =
		"\n\ndata: {\"error\":{\"message\":\"The engine failed in the middle "
		"of this answer.\",\"type\":\"server_error\",\"param\":null,"
		"\"code\":502}}\n\n";
	static const char anthropic[] =
		"\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"
		"\"api_error\",\"message\":\"The engine failed in the middle of this "
		"answer.\"}}\n\n";
	const char *event = up->req->route->api == API_ANTHROPIC ? anthropic : openai;
	const char *line_end = up->rechunk && up->left ? "\r\n" : "";
	bool chunked = up->framing == HTTP1_CHUNKED && !up->dechunk, inside = false;
	struct block *b;
	ssize_t n = 0;

	if (!up->req->is_sse || up->framing == HTTP1_LENGTH_BODY)
		return NULL;
	b = block_replace(&up->worker->blocks); /* it must be told, budget or not */
	if (b && chunked)
		n = http1_chunks_finish(&up->shown, b->data, b->size - CUT_EVENT_ROOM, &inside);
	if (!b || n < 0) {
		block_free(&up->worker->blocks, b);
		return NULL;
	}
	if ((chunked && !inside) || up->rechunk)
		n += snprintf(b->data + n, CUT_EVENT_ROOM, "%s%zx\r\n%s\r\n", line_end,
			      strlen(event), event);
	else
		n += snprintf(b->data + n, CUT_EVENT_ROOM, "%s", event);
	b->end = (uint32_t)n;
	return b;
}

/* The answer cannot be finished: the client must see that it is cut. */
static void relay_cut(struct upstream *up, const char *cause)
{
	struct request *req = up->req;
	struct client *c = req->client;
	bool until_close = up->dechunk || (up->framing == HTTP1_UNTIL_CLOSE && !up->rechunk);
	struct block *b = cut_event(up);

	metric_inc(M_STREAM_CUT);
	req->error = cause;
	health_report(up->endpoint, HEALTH_RESET);
	forward_end(req, false);
	if (b)
		client_send(c, b);
	else if (until_close)
		c->reset = true; /* a plain close would look like its end */
	client_answer_end(c, false);
}

static void relay_failed(struct upstream *up, const char *cause)
{
	if (up->req->committed) {
		relay_cut(up, cause);
		return;
	}
	request_attempt_failed(up->req, (struct failure){.status = 502,
							 .cause = cause,
							 .health = HEALTH_RESET,
							 .retry = true,
							 .same_endpoint = up->reused && !up->in});
}

/* Returns how many of the bytes belong to an event that is not finished yet. */
static size_t payload_seen(struct request *req, struct span data)
{
	uint64_t before = req->sse.events;
	size_t open = 0;

	if (req->is_sse)
		open = sse_feed(&req->sse, data.ptr, data.len);
	else
		sse_json_feed(&req->sse, data.ptr, data.len);
	if (!req->is_sse || req->sse.events != before)
		account_progress(req, req->worker->ring.now_ns);
	return open;
}

/* [from, end) of a body that is not chunked. Returns the end of what belongs to the answer. */
static uint32_t plain_observe(struct upstream *up, struct block *b, uint32_t from)
{
	uint64_t n = b->end - from;

	if (up->framing == HTTP1_NO_BODY) { /* nothing may follow such a head */
		up->keep_alive &= n == 0;
		return from;
	}
	if (up->framing == HTTP1_LENGTH_BODY && n >= up->left) {
		up->keep_alive &= n == up->left;
		n = up->left;
		up->body_done = true;
	}
	up->left -= up->framing == HTTP1_LENGTH_BODY ? n : 0;
	payload_seen(up->req, span_of(b->data + from, n));
	return from + (uint32_t)n;
}

/* A stretch of payload that ends at `end`: do events end in it? The client may see that far. */
static void good_mark(struct upstream *up, uint32_t end, struct span data)
{
	size_t open = payload_seen(up->req, data);

	if (open == data.len)
		return;
	up->good = end - (uint32_t)open;
	up->shown = up->chunks;
	http1_chunks_back(&up->shown, open);
}

/*
 * Observes body bytes [from, end) of b: with dechunking the payload is moved together from `from`
 * on; b->end becomes the end of what belongs to the answer, up->good that of its whole events.
 * up->malformed: that far it was good.
 */
static void body_observe(struct upstream *up, struct block *b, uint32_t from)
{
	char *p = b->data + from, *end = b->data + b->end, *to = p;

	up->good = from;
	if (up->framing != HTTP1_CHUNKED) {
		up->good = b->end = plain_observe(up, b, from);
		return;
	}
	while (p < end && !http1_chunks_done(&up->chunks)) {
		struct http1_chunks before = up->chunks;
		struct span data;
		ssize_t took = http1_chunks_next(&up->chunks, p, (size_t)(end - p), &data);

		if (took < 0) { /* what came before is good */
			up->malformed = true;
			up->chunks = before;
			break;
		}
		p += took;
		if (up->dechunk)
			memmove(to, data.ptr, data.len);
		to += up->dechunk ? (ssize_t)data.len : took;
		if (data.len)
			good_mark(up, (uint32_t)(to - b->data), data);
	}
	up->body_done = http1_chunks_done(&up->chunks);
	up->keep_alive &= p == end;
	b->end = (uint32_t)(to - b->data);
	if (up->req->is_sse && up->req->sse.kept && !up->body_done)
		return;
	up->good = b->end; /* no event stands open */
	up->shown = up->chunks;
}

/*
 * Sends b but for the beginning of an unfinished event, which waits in up->in: should the engine
 * die, nobody has seen half an event. One that is longer than HELD_MAX is passed on as it comes.
 */
static void events_pass(struct upstream *up, struct block *b)
{
	struct blocks *blocks = &up->worker->blocks;
	uint32_t tail = b->end - up->good;
	struct block *rest = NULL;

	if (up->malformed && tail) { /* never to be finished */
		b->end = up->good;
		tail = 0;
	} else if (tail && up->good == b->start && up->in && block_room(up->in) >= tail) {
		memcpy(up->in->data + up->in->end, b->data + up->good, tail);
		up->in->end += tail;
		block_free(blocks, b);
		return;
	} else if (tail && up->good == b->start && !up->in) {
		up->in = b;
		return;
	}
	if (tail && up->good > b->start && tail <= HELD_MAX)
		rest = block_new(blocks, tail);
	if (rest) {
		memcpy(rest->data, b->data + up->good, tail);
		rest->end = tail;
		b->end = up->good;
	} else if (tail) {
		up->shown = up->chunks;
	}
	if (up->in && block_used(b))
		client_send(up->req->client, up->in);
	else
		block_free(blocks, up->in);
	up->in = rest;
	client_send(up->req->client, b);
}

/* An endpoint that frames by closing: its bytes become our chunks. */
static void rechunk(struct upstream *up, struct block *b)
{
	struct client *c = up->req->client;
	struct block *line = block_new(&up->worker->blocks, BLOCK_SMALL);

	if (!line || !block_used(b)) {
		block_free(&up->worker->blocks, line);
		block_free(&up->worker->blocks, b);
		return;
	}
	line->end = (uint32_t)snprintf(line->data, line->size, "%s%x\r\n", up->left ? "\r\n" : "",
				       block_used(b));
	up->left = 1; /* a chunk stands open */
	client_send(c, line);
	client_send(c, b);
}

static void body_end(struct upstream *up)
{
	struct request *req = up->req;
	struct client *c = req->client;
	bool keep = req->head.keep_alive && !up->dechunk && !c->close &&
		    (up->framing != HTTP1_UNTIL_CLOSE || up->rechunk);

	if (!req->is_sse)
		sse_json_end(&req->sse);
	if (!req->first_ns)
		req->first_ns = req->worker->ring.now_ns;
	if (up->rechunk) {
		struct block *last = block_new(&up->worker->blocks, BLOCK_SMALL);

		if (last) {
			last->end = (uint32_t)snprintf(last->data, last->size, "%s0\r\n\r\n",
						       up->left ? "\r\n" : "");
			client_send(c, last);
		}
	}
	health_report(up->endpoint, up->status >= 500 ? HEALTH_SERVER_ERROR : HEALTH_OK);
	req->last_ns = req->worker->ring.now_ns;
	forward_end(req, up->keep_alive);
	client_answer_end(c, keep);
}

/* What has come of the body is in b from `from` on; before it, perhaps, our head. */
static void body_pass(struct upstream *up, struct block *b, uint32_t from)
{
	struct request *req = up->req;

	body_observe(up, b, from);
	req->bytes_out += b->end - from;
	if (up->rechunk)
		rechunk(up, b);
	else if (req->path.choice.taken) /* the kernel sends on behind these bytes: none is held */
		client_send(req->client, b);
	else
		events_pass(up, b);
	if (up->malformed)
		relay_cut(up, "malformed chunk from the engine");
	else if (up->body_done || up->framing == HTTP1_NO_BODY)
		body_end(up);
	else if (req->client->out_bytes < up->worker->cfg->relay_bytes_max)
		relay_recv(up);
	else
		relay_pause(up);
}

/* The answer is good: our head, then what has come of the body. */
static void relay_commit(struct upstream *up, const struct http1_head *head, uint32_t head_bytes)
{
	struct request *req = up->req;
	struct client *c = req->client;
	struct block *ours = block_new(&up->worker->blocks, BLOCK_SMALL), *b = up->in;
	uint64_t body_at = up->read_bytes - (b->end - head_bytes);
	bool chunked = (up->framing == HTTP1_CHUNKED && !up->dechunk) || up->rechunk;
	bool keep = req->head.keep_alive && !up->dechunk && !c->close && !up->worker->draining &&
		    !(req->path.ops && req->path.ops->closes_client) &&
		    (up->framing != HTTP1_UNTIL_CLOSE || up->rechunk);
	ssize_t n = ours ? head_write_response(req, head, up->endpoint, chunked, keep, ours->data,
					       ours->size)
			 : -ENOMEM;

	if (n == -ENOSPC && block_grow(&up->worker->blocks, &ours) == 0)
		n = head_write_response(req, head, up->endpoint, chunked, keep, ours->data,
					ours->size);
	if (n < 0) {
		block_free(&up->worker->blocks, ours);
		request_attempt_failed(req, (struct failure){502, "its head is too large",
							     HEALTH_SERVER_ERROR, false, false, 0});
		return;
	}
	c->close |= !keep;
	req->committed = true;
	req->status = head->status;
	request_show(req, "answering");
	ours->end = (uint32_t)n;
	if (b->end - head_bytes <= block_room(ours) && !up->rechunk) { /* one send, one block */
		memcpy(ours->data + n, b->data + head_bytes, b->end - head_bytes);
		ours->end += b->end - head_bytes;
		block_free(&up->worker->blocks, b);
		up->in = NULL;
		req->sse.kept = 0;
		b = ours;
	} else {
		client_send(c, ours);
		up->in = NULL;
		b->start = head_bytes;
		n = head_bytes;
	}
	if (!up->head && up->body_sent == req->forward_bytes)
		request_body_release(req);
	/* The held bytes were observed once already: begin the observation anew. */
	up->chunks = up->shown = (struct http1_chunks){0};
	up->left = up->framing == HTTP1_LENGTH_BODY ? head->content_length : 0;
	up->answer_bytes = body_at + up->left;
	req->sse = (struct sse){0};
	body_pass(up, b, (uint32_t)n);
}

static void answer_framing(struct upstream *up, const struct http1_head *head)
{
	struct request *req = up->req;
	struct span type = http1_field_get(head, SPAN("content-type"));

	up->head_done = true;
	up->status = head->status;
	up->framing = head->framing;
	up->keep_alive = head->keep_alive;
	up->left = head->content_length;
	up->dechunk = head->framing == HTTP1_CHUNKED && req->head.minor == 0;
	up->rechunk = head->framing == HTTP1_UNTIL_CLOSE && req->head.minor == 1;
	up->body_done = head->framing == HTTP1_NO_BODY;
	req->is_sse =
		type.len >= 17 && span_eq_nocase(span_of(type.ptr, 17), SPAN("text/event-stream"));
}

static bool status_fails(const struct upstream *up)
{
	return (up->status >= 502 && up->status <= 504) ||
	       (up->status == 500 && up->worker->cfg->retry_500);
}

/* Looks at a stream's first event in the held block. True: wait for more. */
static bool first_event_awaited(struct upstream *up, uint32_t head_bytes)
{
	struct request *req = up->req;
	struct http1_chunks chunks = {0};
	const char *p = up->in->data + head_bytes, *end = up->in->data + up->in->end;

	req->sse = (struct sse){0};
	while (p < end && !http1_chunks_done(&chunks)) {
		struct span data = {p, (size_t)(end - p)};
		ssize_t took = end - p;

		if (up->framing == HTTP1_CHUNKED)
			took = http1_chunks_next(&chunks, p, (size_t)(end - p), &data);
		if (took < 0)
			return false;
		sse_feed(&req->sse, data.ptr, data.len);
		p += took;
	}
	return req->sse.events == 0 && !http1_chunks_done(&chunks) &&
	       block_used(up->in) < BLOCK_SMALL;
}

/*
 * Did the engine stop because too little of the prompt is cached? 1 yes, 0 no, -EAGAIN: too few
 * bytes are here to tell. A plain answer is held whole for this, as far as a block goes.
 */
static int threshold_said(const struct upstream *up, uint32_t head_bytes)
{
	static const char said[] = "_reason\":\"cache_threshold\"";
	const char *p = up->in->data + head_bytes;
	size_t n = up->in->end - head_bytes;

	if (memmem(p, n, said, sizeof(said) - 1))
		return 1;
	if (up->in->size == BLOCK_BIG && !block_room(up->in))
		return 0;
	if (up->req->is_sse)
		return up->req->sse.content || up->req->sse.done ? 0 : -EAGAIN;
	return up->framing == HTTP1_LENGTH_BODY && n < up->left ? -EAGAIN : 0;
}

/* Bytes of an answer that is not committed yet are in up->in. */
static void answer_bytes(struct upstream *up)
{
	static _Thread_local struct http1_head head;
	struct request *req = up->req;
	ssize_t n;

	for (;;) {
		n = http1_response_parse(&head, up->in->data + up->in->start, block_used(up->in), 0,
					 req->head.method == HTTP1_HEAD);
		if (n <= 0 || head.status >= 200)
			break;
		up->in->start += (uint32_t)n; /* 1xx: not for the client */
	}
	if (n == -EAGAIN) {
		relay_recv(up);
		return;
	}
	if (n < 0) {
		request_attempt_failed(req, (struct failure){502, "its answer is malformed",
							     HEALTH_SERVER_ERROR, true, false,
							     M_RETRY_BAD_HEAD});
		return;
	}
	n += up->in->start;
	answer_framing(up, &head);
	if ((up->status >= 500 && disagg_may_fall_back(req)) ||
	    (status_fails(up) && request_may_retry(req))) {
		request_attempt_failed(req, (struct failure){up->status, "it answered 5xx",
							     HEALTH_SERVER_ERROR, true, false, 0});
		return;
	}
	if (req->is_sse && first_event_awaited(up, (uint32_t)n)) {
		relay_recv(up);
		return;
	}
	if (req->is_sse && req->sse.first_is_error &&
	    (disagg_may_fall_back(req) || request_may_retry(req))) {
		request_attempt_failed(req, (struct failure){502, "its first event is an error",
							     HEALTH_SERVER_ERROR, true, false,
							     M_RETRY_FIRST_EVENT});
		return;
	}
	if (disagg_probing(req) && up->status == 200) {
		switch (threshold_said(up, (uint32_t)n)) {
		case 1:
			disagg_prefill_due(req);
			return;
		case -EAGAIN:
			relay_recv(up);
			return;
		}
	}
	relay_commit(up, &head, (uint32_t)n);
}

/* An answer that is not committed yet lies in one block. -ENOMEM, -EFBIG. */
static int answer_join(struct upstream *up, struct block *b)
{
	struct blocks *blocks = &up->worker->blocks;
	int err = 0;

	if (!up->in) {
		up->in = b;
		return 0;
	}
	if (block_room(up->in) < block_used(b))
		err = block_grow(blocks, &up->in);
	if (!err && block_room(up->in) < block_used(b))
		err = -EFBIG;
	if (!err) {
		memcpy(up->in->data + up->in->end, b->data + b->start, block_used(b));
		up->in->end += block_used(b);
	}
	block_free(blocks, b);
	return err;
}

static void recv_ended(struct upstream *up, int res)
{
	if (res == -ENOBUFS || res == -EINTR || res == -ECANCELED) { /* a burst, or a pause */
		relay_recv(up);
	} else if (res > 0) {
		relay_failed(up, "the gateway is out of memory");
	} else if (up->req->committed && up->framing == HTTP1_UNTIL_CLOSE && res == 0) {
		up->body_done = true;
		body_end(up);
	} else {
		relay_failed(up, "the engine closed the connection");
	}
}

static void recv_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, recv_op);
	struct block *b = ring_offer_take(&up->worker->ring, flags, res);

	up->read_bytes += res > 0 ? (uint32_t)res : 0;
	if (b)
		calm_count(up, b);
	if (up->closing || !up->req) {
		block_free(&up->worker->blocks, b);
		if (up->closing)
			upstream_release_if_quiet(up);
	} else if (!b) {
		recv_ended(up, res);
	} else if (up->req->committed) {
		body_pass(up, b, b->start);
	} else if (answer_join(up, b)) {
		request_attempt_failed(up->req, (struct failure){502, "its head is too large",
								 HEALTH_SERVER_ERROR, true, false,
								 M_RETRY_BAD_HEAD});
	} else {
		answer_bytes(up);
	}
}

void relay_flush(struct upstream *up)
{
	struct block *held = up->in;

	up->in = NULL;
	up->shown = up->chunks;
	client_send(up->req->client, held);
}

void relay_take_back(struct upstream *up, struct block *late)
{
	up->recv_op.done = recv_done;
	if (late)
		body_pass(up, late, late->start);
	else
		relay_recv(up);
}

/* The deadline of a leg passed. */
static void relay_late(struct upstream *up)
{
	if (up->req->committed)
		relay_cut(up, "the decode leg took too long");
	else
		request_attempt_failed(up->req, (struct failure){504, "no answer in time",
								 HEALTH_TIMEOUT, true, false, 0});
}

/* Once a second: real engines hang their streams on SIGTERM, so the probe's word counts. */
static void watch(struct timer *t)
{
	struct upstream *up = container(t, struct upstream, timer);
	const struct config *cfg = up->worker->cfg;
	struct request *req = up->req;
	uint64_t now = clock_mono_ns();
	uint64_t quiet_ms =
		(now - (req->progress_ns > req->sent_ns ? req->progress_ns : req->sent_ns)) /
		NS_PER_MS;

	if (up->endpoint->probe_failed && req->sent_ns && quiet_ms >= cfg->stall_timeout_ms) {
		metric_inc(M_STREAM_STALLED);
		relay_failed(up, "the stream stalled and the engine fails its probe");
		return;
	}
	if (!up->head_done && req->sent_ns && cfg->response_timeout_ms &&
	    (now - req->sent_ns) / NS_PER_MS >= cfg->response_timeout_ms) {
		request_attempt_failed(req, (struct failure){504, "no answer in time",
							     HEALTH_TIMEOUT, true, false, 0});
		return;
	}
	if (disagg_decode_late(req, now)) {
		relay_late(up);
		return;
	}
	timer_set(&up->worker->timers, t, WATCH_MS);
	relay_recv(up);
}

void relay_start(struct upstream *up)
{
	up->recv_op.done = recv_done;
	up->timer.fired = watch;
	up->req->progress_ns = 0;
	timer_set(&up->worker->timers, &up->timer, WATCH_MS);
	relay_recv(up);
}
