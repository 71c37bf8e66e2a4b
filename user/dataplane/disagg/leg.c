/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exchange beside the answer that the client gets: connect or reuse, send, collect. Its own
 * callbacks on a struct upstream's operations; forward.c and relay.c are the other set.
 */
#include "dataplane/disagg/leg.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static int leg_open(struct leg *leg);

/* Lets go of the connection: kept for the next request, or cut. */
static void leg_release(struct leg *leg, bool keep)
{
	struct upstream *up = leg->up;

	leg->up = NULL;
	if (!up)
		return;
	up->leg = NULL;
	if (up->send_op.pending) { /* the kernel may still read it */
		up->head = leg->head;
		leg->head = NULL;
	}
	if (keep && !up->send_op.pending)
		upstream_keep(up);
	else
		upstream_close(up);
}

static void leg_end(struct leg *leg, enum leg_result result)
{
	leg_release(leg, result == LEG_ANSWERED && leg->keep_alive && leg->sent_all &&
				 !leg->addr_len && !leg->leaving);
	leg->result = result;
	leg->end_ns = leg->worker->ring.now_ns;
	leg->done(leg);
}

static void leg_fail(struct leg *leg, enum leg_result result)
{
	struct upstream *up = leg->up;

	if (up->reused && !leg->answer && !leg->leaving && result == LEG_RESET) {
		metric_inc(M_STALE_KEPT);
		leg_release(leg, false);
		if (leg_open(leg) == 0)
			return;
		result = LEG_NO_MEMORY;
	}
	leg_end(leg, leg->leaving && result != LEG_NO_MEMORY ? LEG_LEFT : result);
}

/* ---- the answer ---- */

static void leg_recv(struct leg *leg)
{
	struct upstream *up = leg->up;

	if (!up->recv_op.pending)
		ring_recv_multishot(&up->worker->ring, &up->recv_op, up->fd);
}

/* Small reads share a block, so that memory follows the answer's size. */
static void answer_add(struct leg *leg, struct block *b)
{
	if (leg->drop && leg->answer_bytes > LEG_KEPT) {
		block_free(&leg->worker->blocks, b);
		return;
	}
	if (leg->answer && block_room(leg->answer_last) >= block_used(b)) {
		memcpy(leg->answer_last->data + leg->answer_last->end, b->data + b->start,
		       block_used(b));
		leg->answer_last->end += block_used(b);
		block_free(&leg->worker->blocks, b);
		return;
	}
	if (leg->answer)
		leg->answer_last->next = b;
	else
		leg->answer = b;
	leg->answer_last = b;
}

/* Raw payload bytes are [start, end) of b: takes the framing out in place. Returns whether the
 * answer is whole, or -EBADMSG. */
static int payload_take(struct leg *leg, struct block *b)
{
	char *p = b->data + b->start, *end = b->data + b->end, *to = p;
	bool whole = false;

	if (leg->framing == HTTP1_CHUNKED) {
		while (p < end && !http1_chunks_done(&leg->chunks)) {
			struct span data;
			ssize_t took = http1_chunks_next(&leg->chunks, p, (size_t)(end - p), &data);

			if (took < 0)
				return -EBADMSG;
			memmove(to, data.ptr, data.len);
			to += data.len;
			p += took;
		}
		whole = http1_chunks_done(&leg->chunks);
		leg->keep_alive &= p == end;
		b->end = (uint32_t)(to - b->data);
	} else if (leg->framing == HTTP1_LENGTH_BODY) {
		uint64_t n = block_used(b);

		leg->keep_alive &= n <= leg->left;
		if (n > leg->left)
			b->end = b->start + (uint32_t)leg->left;
		leg->left -= block_used(b);
		whole = leg->left == 0;
	} else {
		whole = leg->framing == HTTP1_NO_BODY;
	}
	leg->answer_bytes += block_used(b);
	return whole;
}

static void answer_payload(struct leg *leg, struct block *b)
{
	int whole = payload_take(leg, b);

	if (b != leg->answer)
		answer_add(leg, b);
	if (whole < 0)
		leg_end(leg, LEG_MALFORMED);
	else if (leg->answer_bytes > PD_ANSWER_BYTES_MAX && !leg->drop)
		leg_end(leg, LEG_TOO_LARGE);
	else if (whole)
		leg_end(leg, LEG_ANSWERED);
	else
		leg_recv(leg);
}

/* The head's bytes must lie in one piece: a later block's bytes move to the first. */
static int head_join(struct leg *leg, struct block *b)
{
	struct blocks *blocks = &leg->worker->blocks;
	struct block *first = leg->answer;
	int err = 0;

	if (block_room(first) < block_used(b)) {
		err = block_grow(blocks, &leg->answer);
		first = leg->answer_last = leg->answer;
	}
	if (!err && block_room(first) < block_used(b))
		err = -EFBIG;
	if (!err) {
		memcpy(first->data + first->end, b->data + b->start, block_used(b));
		first->end += block_used(b);
	}
	block_free(blocks, b);
	return err;
}

static void answer_head(struct leg *leg)
{
	static _Thread_local struct http1_head head;
	struct block *b = leg->answer;
	ssize_t n;

	for (;;) {
		n = http1_response_parse(&head, b->data + b->start, block_used(b), 0, false);
		if (n <= 0 || head.status >= 200)
			break;
		b->start += (uint32_t)n; /* 1xx */
	}
	if (n == -EAGAIN) {
		leg_recv(leg);
		return;
	}
	if (n < 0) {
		leg_end(leg, LEG_MALFORMED);
		return;
	}
	b->start += (uint32_t)n;
	leg->head_done = true;
	leg->status = head.status;
	leg->framing = head.framing;
	leg->keep_alive = head.keep_alive;
	leg->left = head.content_length;
	if (head.framing == HTTP1_LENGTH_BODY && head.content_length > PD_ANSWER_BYTES_MAX &&
	    !leg->drop)
		leg_end(leg, LEG_TOO_LARGE);
	else
		answer_payload(leg, b);
}

static void leg_recv_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, recv_op);
	struct block *b = ring_offer_take(&up->worker->ring, flags, res);
	struct leg *leg = up->leg;

	if (up->closing || !leg) {
		block_free(&up->worker->blocks, b);
		if (up->closing)
			upstream_release_if_quiet(up);
		return;
	}
	if (res == -ENOBUFS || res == -EINTR) {
		leg_recv(leg);
	} else if (res > 0 && !b) {
		leg_end(leg, LEG_NO_MEMORY);
	} else if (res <= 0) {
		if (res == 0 && leg->head_done && leg->framing == HTTP1_UNTIL_CLOSE)
			leg_end(leg, LEG_ANSWERED);
		else
			leg_fail(leg, LEG_RESET);
	} else if (leg->head_done) {
		answer_payload(leg, b);
	} else if (!leg->answer) {
		answer_add(leg, b);
		answer_head(leg);
	} else if (head_join(leg, b)) {
		leg_end(leg, LEG_MALFORMED);
	} else {
		answer_head(leg);
	}
}

/* ---- sending ---- */

static void leg_send(struct leg *leg)
{
	struct upstream *up = leg->up;
	uint32_t head_left = block_used(leg->head) - up->head_sent;
	unsigned int n = 0;

	if (head_left)
		up->iov[n++] = (struct iovec){leg->head->data + up->head_sent, head_left};
	if (leg->fill)
		n += leg->fill(leg, up->body_sent, up->iov + n, UPSTREAM_IOV - n);
	up->msg = (struct msghdr){.msg_iov = up->iov, .msg_iovlen = n};
	ring_sendmsg(&up->worker->ring, &up->send_op, up->fd, &up->msg);
}

static void leg_send_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, send_op);
	struct leg *leg = up->leg;
	uint32_t head_left, n;

	(void)flags;
	if (up->closing) {
		upstream_release_if_quiet(up);
		return;
	}
	if (!leg)
		return;
	if (res <= 0) { /* an early answer may still be on its way: the receive decides */
		if (!up->recv_op.pending)
			leg_fail(leg, LEG_RESET);
		return;
	}
	head_left = block_used(leg->head) - up->head_sent;
	n = (uint32_t)res < head_left ? (uint32_t)res : head_left;
	up->head_sent += n;
	up->body_sent += (uint32_t)res - n;
	if (n < head_left || up->body_sent < leg->body_bytes) {
		leg_send(leg);
		return;
	}
	leg->sent_all = true;
	leg->sent_ns = leg->worker->ring.now_ns;
}

static void leg_send_begin(struct leg *leg)
{
	struct upstream *up = leg->up;

	up->recv_op.done = leg_recv_done;
	up->head_sent = 0;
	up->body_sent = 0;
	leg_send(leg);
	leg_recv(leg);
}

static uint64_t elapsed_ms(const struct leg *leg)
{
	return (leg->worker->ring.now_ns - leg->begin_ns) / NS_PER_MS;
}

/* The next deadline that counts, in ms from now, at least one. */
static uint64_t next_deadline(const struct leg *leg)
{
	uint64_t at = leg->head_done || leg->whole_ms < leg->head_ms ? leg->whole_ms : leg->head_ms;
	uint64_t now = elapsed_ms(leg);

	return at > now ? at - now : 1;
}

static void leg_deadline(struct timer *t)
{
	struct upstream *up = container(t, struct upstream, timer);
	struct leg *leg = up->leg;
	uint64_t now = elapsed_ms(leg);

	if (leg->leaving || up->connect_op.pending || now >= leg->whole_ms ||
	    (!leg->head_done && now >= leg->head_ms))
		leg_end(leg, leg->leaving ? LEG_LEFT : LEG_TIMEOUT);
	else
		timer_set(&up->worker->timers, t, next_deadline(leg));
}

static void leg_connect_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, connect_op);

	(void)flags;
	if (up->closing) {
		upstream_release_if_quiet(up);
		return;
	}
	if (res < 0) {
		leg_end(up->leg, LEG_REFUSED);
		return;
	}
	timer_set(&up->worker->timers, &up->timer, next_deadline(up->leg));
	leg_send_begin(up->leg);
}

static void leg_attach(struct leg *leg, struct upstream *up)
{
	leg->up = up;
	up->leg = leg;
	up->connect_op.done = leg_connect_done;
	up->send_op.done = leg_send_done;
	up->timer.fired = leg_deadline;
}

static int leg_open(struct leg *leg)
{
	struct worker *w = leg->worker;
	struct upstream *up = upstream_open(w, leg->endpoint);
	struct sockaddr *addr = (struct sockaddr *)&leg->endpoint->addr;
	socklen_t len = leg->endpoint->addr_len;

	if (!up)
		return -ENOMEM;
	if (leg->addr_len) {
		addr = (struct sockaddr *)&leg->addr;
		len = leg->addr_len;
	}
	leg_attach(leg, up);
	timer_set(&w->timers, &up->timer, w->cfg->connect_timeout_ms);
	ring_connect(&w->ring, &up->connect_op, up->fd, addr, len);
	return 0;
}

int leg_start(struct leg *leg)
{
	struct upstream *up = NULL;

	leg->begin_ns = leg->worker->ring.now_ns;
	leg->result = LEG_RUNNING;
	if (!leg->addr_len)
		up = upstream_take(leg->worker, leg->endpoint);
	if (!up)
		return leg_open(leg);
	leg_attach(leg, up);
	timer_set(&leg->worker->timers, &up->timer, next_deadline(leg));
	leg_send_begin(leg);
	return 0;
}

void leg_cut(struct leg *leg)
{
	leg_release(leg, false);
}

void leg_leave(struct leg *leg, uint64_t wait_ms)
{
	struct upstream *up = leg->up;

	leg->leaving = true;
	if (!up)
		return;
	if (!leg->sent_all) { /* it never had the request */
		leg_end(leg, LEG_LEFT);
		return;
	}
	shutdown(up->fd, SHUT_WR);
	timer_set(&up->worker->timers, &up->timer, wait_ms);
}

void leg_fini(struct leg *leg)
{
	if (!leg->worker) /* it never began */
		return;
	block_free_chain(&leg->worker->blocks, leg->answer);
	block_free(&leg->worker->blocks, leg->head);
	leg->answer = leg->answer_last = leg->head = NULL;
}
