/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage 8: the request goes to the chosen endpoint: our own head, then the body's segments from the
 * receive buffers. The answer may come before all of it is sent; relay.c listens from the start.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/request.h"
#include "dataplane/upstream.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static void fail(struct upstream *up, int err, bool connecting)
{
	struct failure why = {.status = 502,
			      .retry = true,
			      .health = HEALTH_RESET,
			      .cause = "the connection was lost"};

	if (connecting && err == -EADDRNOTAVAIL && up->req->path.prepared) {
		path_refuse(up->req, PATH_NO_NO_PORT); /* ours to mend, not the engine's fault */
		why.same_endpoint = true;
		request_attempt_failed(up->req, why);
		return;
	}
	if (connecting && err == -ETIMEDOUT) {
		why = (struct failure){504, "connecting timed out", HEALTH_TIMEOUT, true, false, 0};
	} else if (connecting) {
		why.health = HEALTH_REFUSED;
		why.cause = "the connection was refused";
	}
	why.same_endpoint = up->reused && !up->head_done && !up->in;
	request_attempt_failed(up->req, why);
}

/* A small body goes with its head: one buffer to send. The request keeps its own for a retry. */
static void body_join(struct upstream *up)
{
	struct request *req = up->req;
	unsigned int n;

	if (req->forward_bytes > block_room(up->head))
		return;
	n = segments_fill(req, 0, up->iov, UPSTREAM_IOV);
	for (unsigned int i = 0; i < n; i++) {
		if (up->iov[i].iov_len > block_room(up->head))
			break;
		memcpy(up->head->data + up->head->end, up->iov[i].iov_base, up->iov[i].iov_len);
		up->head->end += (uint32_t)up->iov[i].iov_len;
		up->body_sent += up->iov[i].iov_len;
	}
}

static void send_more(struct upstream *up)
{
	struct request *req = up->req;
	unsigned int n = 0;

	if (up->head && up->head_sent < block_used(up->head))
		up->iov[n++] = (struct iovec){up->head->data + up->head_sent,
					      block_used(up->head) - up->head_sent};
	n += segments_fill(req, up->body_sent, up->iov + n, UPSTREAM_IOV - n);
	if (n == 1) {
		ring_send(&up->worker->ring, &up->send_op, up->fd, up->iov[0].iov_base,
			  up->iov[0].iov_len);
		return;
	}
	up->msg = (struct msghdr){.msg_iov = up->iov, .msg_iovlen = n};
	ring_sendmsg(&up->worker->ring, &up->send_op, up->fd, &up->msg);
}

static void send_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, send_op);
	uint32_t head_left = up->head ? block_used(up->head) - up->head_sent : 0, n;

	(void)flags;
	if (up->closing) {
		upstream_release_if_quiet(up);
		return;
	}
	if (!up->req)
		return;
	if (res <= 0) { /* an early answer may still be on its way: the receive decides */
		if (!up->recv_op.pending)
			fail(up, res, false);
		return;
	}
	up->written_bytes += (uint32_t)res;
	n = (uint32_t)res < head_left ? (uint32_t)res : head_left;
	up->head_sent += n;
	up->body_sent += (uint32_t)res - n;
	if (up->body_sent < up->req->forward_bytes || n < head_left) {
		send_more(up);
		return;
	}
	block_free(&up->worker->blocks, up->head);
	up->head = NULL;
	up->req->sent_ns = up->worker->ring.now_ns;
	metric_observe_us(H_GATEWAY, (up->req->sent_ns - up->req->body_ns) / NS_PER_US);
}

static void send_begin(struct upstream *up)
{
	struct request *req = up->req;
	ssize_t n = -ENOSPC;

	up->head = block_new(&up->worker->blocks, BLOCK_SMALL);
	if (up->head)
		n = head_write_request(req, up->endpoint, up->head->data, up->head->size);
	if (n == -ENOSPC && up->head && block_grow(&up->worker->blocks, &up->head) == 0)
		n = head_write_request(req, up->endpoint, up->head->data, up->head->size);
	if (n < 0) {
		request_attempt_failed(req, (struct failure){503, "no memory for its head",
							     HEALTH_CLIENT_ERROR, false, false, 0});
		return;
	}
	up->head->end = (uint32_t)n;
	body_join(up);
	send_more(up);
	relay_start(up);
}

static void connect_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, connect_op);

	(void)flags;
	if (up->closing) {
		upstream_release_if_quiet(up);
		return;
	}
	timer_clear(&up->timer);
	if (res < 0)
		fail(up, res, true);
	else
		send_begin(up);
}

static void connect_timeout(struct timer *t)
{
	struct upstream *up = container(t, struct upstream, timer);

	fail(up, -ETIMEDOUT, true);
}

/* A connection that was kept may have served a leg: the callbacks are set each time. */
static void attempt_attach(struct request *req, struct upstream *up)
{
	req->up = up;
	up->req = req;
	up->connect_op.done = connect_done;
	up->send_op.done = send_done;
	up->timer.fired = connect_timeout;
}

void forward_start(struct request *req)
{
	struct worker *w = req->worker;
	struct endpoint *ep = req->pick.endpoint;
	struct upstream *up = path_is_planned(&req->path) ? NULL : upstream_take(w, ep);

	if (up) {
		attempt_attach(req, up);
		send_begin(up);
		return;
	}
	up = upstream_open(w, ep);
	if (!up) {
		request_attempt_failed(req, (struct failure){503, "the gateway has no socket left",
							     HEALTH_CLIENT_ERROR, false, false, 0});
		return;
	}
	attempt_attach(req, up);
	path_prepare(up);
	timer_set(&w->timers, &up->timer, w->cfg->connect_timeout_ms);
	ring_connect(&w->ring, &up->connect_op, up->fd, (struct sockaddr *)&ep->addr, ep->addr_len);
}

void forward_end(struct request *req, bool keep)
{
	struct upstream *up = req->up;

	if (!up)
		return;
	path_let_go(up);
	req->up = NULL;
	if (keep && !up->send_op.pending && !up->paused && up->body_sent == req->forward_bytes &&
	    !up->head)
		upstream_keep(up);
	else
		upstream_close(up);
}
