/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client connections: reading heads, sending answers, leaving. Stage 1 and 2 of a request's way.
 * Invariant: at most one receive and one send are with the kernel; a slot is freed only when it
 * has given all of them back. Bodies are client_body.c's.
 */
#include "dataplane/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>

#include "dataplane/adopt.h"
#include "dataplane/request.h"
#include "dataplane/upstream.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define LINGER_MS		     1000

static void client_next(struct client *c);

static void client_release_if_quiet(struct client *c)
{
	if (c->recv_op.pending || c->send_op.pending || c->poll_op.pending)
		return;
	block_free_chain(&c->worker->blocks, c->in);
	block_free_chain(&c->worker->blocks, c->hold);
	block_free_chain(&c->worker->blocks, c->out);
	if (c->fd >= 0)
		close(c->fd);
	worker_client_free(c);
}

void client_blocks_free(struct client *c, struct block *chain)
{
	struct block **end = &chain;

	if (!c->recv_op.pending) {
		block_free_chain(&c->worker->blocks, chain);
		return;
	}
	while (*end)
		end = &(*end)->next;
	*end = c->hold;
	c->hold = chain;
}

static void client_close(struct client *c)
{
	if (c->state == CLIENT_CLOSING)
		return;
	timer_clear(&c->timer);
	c->state = CLIENT_CLOSING;
	if (c->reset) {
		struct linger now = {.l_onoff = 1};

		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	}
	shutdown(c->fd,
		 c->reset ? SHUT_RD : SHUT_RDWR); /* the kernel gives the pending operations back */
	client_release_if_quiet(c);
}

/* A receive may still write into the body: its blocks stay until the slot is free. */
void client_park_body(struct client *c)
{
	struct request *req = c->req;

	if (!req || !req->body || !c->recv_op.pending || c->state != CLIENT_BODY)
		return;
	req->body_last->next = c->in;
	c->in = req->body;
	req->body = req->body_last = NULL;
}

void client_abort(struct client *c)
{
	struct request *req = c->req;

	client_park_body(c);
	c->req = NULL;
	if (req)
		request_drop(req);
	client_close(c);
}

/* Our side is shut; what still comes is read and dropped, so that no RST eats the answer. */
static void client_linger(struct client *c)
{
	c->state = CLIENT_LINGER;
	client_blocks_free(c, c->in);
	c->in = NULL;
	shutdown(c->fd, SHUT_WR);
	timer_set(&c->worker->timers, &c->timer, LINGER_MS);
	if (c->gone)
		client_close(c);
	else if (!c->recv_op.pending)
		ring_recv_offer(&c->worker->ring, &c->recv_op, c->fd, true);
}

static void client_read_head(struct client *c)
{
	struct ring *ring = &c->worker->ring;

	if (c->recv_op.pending)
		return;
	if (client_should_leave(c)) {
		client_leave(c);
		return;
	}
	if (!c->in) {
		ring_recv_offer(ring, &c->recv_op, c->fd, true);
		return;
	}
	if (!block_room(c->in) && block_grow(&c->worker->blocks, &c->in)) {
		respond_refusal(c, NULL, HTTP1_HEAD_BYTES);
		return;
	}
	ring_recv(ring, &c->recv_op, c->fd, c->in->data + c->in->end, block_room(c->in));
}

/* Bytes of a head are in c->in. */
static void client_head_bytes(struct client *c)
{
	static _Thread_local struct http1_head head;
	const struct config *cfg = c->worker->cfg;
	struct http1_limits limits = {(uint32_t)cfg->head_bytes_max, (uint32_t)cfg->head_fields_max,
				      (uint32_t)cfg->target_bytes_max};
	enum http1_refusal why = HTTP1_FINE;
	ssize_t n;

	if (c->state == CLIENT_IDLE) {
		c->state = CLIENT_HEAD;
		timer_set(&c->worker->timers, &c->timer, cfg->head_timeout_ms);
	}
	n = http1_request_parse(&head, c->in->data + c->in->start, block_used(c->in), c->seen,
				&limits, &why);
	c->seen = block_used(c->in);
	if (n == -EAGAIN) {
		client_read_head(c);
		return;
	}
	timer_clear(&c->timer);
	if (n < 0) {
		metric_inc(M_REQUESTS);
		respond_refusal(c, NULL, why);
		return;
	}
	c->seen = 0;
	client_request_begin(c, &head, n);
}

static void client_recv_idle(struct client *c, int res, unsigned int flags)
{
	if (res == -ENOBUFS || res == -EINTR || res == -ECANCELED) {
		/* A burst: offers are back by now. Or cancelled, to leave. */
		client_read_head(c);
		return;
	}
	if (!c->in)
		c->in = ring_offer_take(&c->worker->ring, flags, res);
	else if (res > 0)
		c->in->end += (uint32_t)res;
	if (res <= 0) {
		client_close(c);
		return;
	}
	if (!c->in) { /* no buffer free: the budget is used up */
		client_close(c);
		return;
	}
	client_head_bytes(c);
}

static void client_recv_done(struct op *op, int res, unsigned int flags)
{
	struct client *c = container(op, struct client, recv_op);
	struct block *late;

	c->read_bytes += res > 0 ? (uint32_t)res : 0;
	if (c->hold) {
		block_free_chain(&c->worker->blocks, c->hold);
		c->hold = NULL;
	}
	switch (c->state) {
	case CLIENT_IDLE:
	case CLIENT_HEAD:
		client_recv_idle(c, res, flags);
		return;
	case CLIENT_BODY:
		client_body_bytes(c, res);
		return;
	case CLIENT_LINGER:
		late = ring_offer_take(&c->worker->ring, flags, res);
		block_free(&c->worker->blocks, late);
		if (res <= 0 && res != -ENOBUFS)
			client_close(c);
		else
			ring_recv_offer(&c->worker->ring, &c->recv_op, c->fd, true);
		return;
	default:
		late = ring_offer_take(&c->worker->ring, flags, res);
		block_free(&c->worker->blocks, late);
		client_release_if_quiet(c);
	}
}

static void client_poll_done(struct op *op, int res, unsigned int flags)
{
	struct client *c = container(op, struct client, poll_op);

	(void)res, (void)flags;
	if (c->state == CLIENT_LEAVING) {
		client_depart(c);
		return;
	}
	c->gone = true;
	if (c->state == CLIENT_CLOSING)
		client_release_if_quiet(c);
	else if (c->state == CLIENT_BUSY)
		client_abort(c);
	/* Else the receive tells: bytes sent before the hang-up still count. */
}

static void client_send_more(struct client *c)
{
	unsigned int n = 0;

	if (!c->out->next) {
		ring_send(&c->worker->ring, &c->send_op, c->fd, c->out->data + c->out->start,
			  block_used(c->out));
		return;
	}
	for (struct block *b = c->out; b && n < CLIENT_SEND_BLOCKS; b = b->next)
		c->out_iov[n++] = (struct iovec){b->data + b->start, block_used(b)};
	c->out_msg = (struct msghdr){.msg_iov = c->out_iov, .msg_iovlen = n};
	ring_sendmsg(&c->worker->ring, &c->send_op, c->fd, &c->out_msg);
}

static void client_all_sent(struct client *c)
{
	if (c->req && c->req->up)
		relay_resume(c->req->up);
	if (!c->answered || c->out)
		return;
	c->answered = false;
	if (c->req) {
		request_done(c->req);
		c->req = NULL;
	}
	if (c->reset)
		client_close(c);
	else if (c->close || c->gone || c->worker->draining)
		client_linger(c);
	else
		client_next(c);
}

static void client_send_done(struct op *op, int res, unsigned int flags)
{
	struct client *c = container(op, struct client, send_op);
	uint32_t left = res > 0 ? (uint32_t)res : 0;

	(void)flags;
	if (c->state == CLIENT_CLOSING) {
		client_release_if_quiet(c);
		return;
	}
	if (res <= 0) {
		client_abort(c);
		return;
	}
	c->out_bytes -= left;
	c->written_bytes += left;
	while (left) {
		struct block *b = c->out;
		uint32_t n = block_used(b) < left ? block_used(b) : left;

		b->start += n;
		left -= n;
		if (block_used(b))
			break;
		c->out = b->next;
		block_free(&c->worker->blocks, b);
	}
	if (c->out)
		client_send_more(c);
	else
		client_all_sent(c);
}

void client_send(struct client *c, struct block *block)
{
	struct block *last = c->out ? c->out_last : NULL;

	block->next = NULL;
	if (!block_used(block) || c->state == CLIENT_CLOSING) {
		block_free(&c->worker->blocks, block);
		return;
	}
	if (last && block_room(last) >= block_used(block)) { /* what waits lies close together */
		memcpy(last->data + last->end, block->data + block->start, block_used(block));
		last->end += block_used(block);
		c->out_bytes += block_used(block);
		block_free(&c->worker->blocks, block);
		return;
	}
	if (c->out)
		c->out_last->next = block;
	else
		c->out = block;
	c->out_last = block;
	c->out_bytes += block_used(block);
	if (!c->send_op.pending)
		client_send_more(c);
}

void client_answer_end(struct client *c, bool keep)
{
	c->close |= !keep;
	c->answered = true;
	if (!c->out && c->state != CLIENT_CLOSING)
		client_all_sent(c);
}

/* Ready for another request, which may have come with the last one. */
static void client_next(struct client *c)
{
	c->state = CLIENT_IDLE;
	c->seen = 0;
	timer_set(&c->worker->timers, &c->timer, c->worker->cfg->idle_timeout_ms);
	if (c->in && block_used(c->in))
		client_head_bytes(c);
	else
		client_read_head(c);
}

static void client_timer_fired(struct timer *t)
{
	struct client *c = container(t, struct client, timer);

	switch (c->state) {
	case CLIENT_IDLE:
		metric_inc(M_CLIENT_IDLE_CLOSED);
		client_close(c);
		return;
	case CLIENT_HEAD:
		respond_refusal(c, NULL, HTTP1_HEAD_TIMEOUT);
		return;
	case CLIENT_BODY:
		client_body_bytes(c, -ETIME);
		return;
	case CLIENT_LEAVING:
		client_depart(c);
		return;
	default:
		client_close(c);
	}
}

static void peer_text(int fd, char *to, size_t size)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	to[0] = '\0';
	if (getpeername(fd, (struct sockaddr *)&ss, &len))
		return;
	if (ss.ss_family == AF_INET) {
		inet_ntop(AF_INET, &((struct sockaddr_in *)&ss)->sin_addr, to, (socklen_t)size);
	} else if (ss.ss_family == AF_INET6) {
		struct in6_addr *a = &((struct sockaddr_in6 *)&ss)->sin6_addr;

		if (IN6_IS_ADDR_V4MAPPED(a))
			inet_ntop(AF_INET, a->s6_addr + 12, to, (socklen_t)size);
		else
			inet_ntop(AF_INET6, a, to, (socklen_t)size);
	}
}

void client_forget(struct client *c)
{
	c->state = CLIENT_CLOSING;
	client_release_if_quiet(c);
}

void client_stay(struct client *c)
{
	client_watch(c);
	client_next(c);
}

void client_watch(struct client *c)
{
	c->poll_op.done = client_poll_done;
	ring_poll(&c->worker->ring, &c->poll_op, c->fd, POLLRDHUP);
}

void client_open(struct worker *w, int fd)
{
	struct client *c = worker_client_new(w);
	int one = 1;

	if (!c) {
		close(fd);
		return;
	}
	metric_inc(M_CONNECTIONS);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on unix: fine */
	peer_text(fd, c->peer, sizeof(c->peer));
	c->fd = fd;
	c->worker = w;
	c->recv_op.done = client_recv_done;
	c->send_op.done = client_send_done;
	c->timer.fired = client_timer_fired;
	client_watch(c);
	client_next(c);
}
