/* SPDX-License-Identifier: Apache-2.0 */
/* Kept connections to endpoints: a stack per endpoint, the youngest first, none older than 4 s. */
#include "dataplane/upstream.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "base/clock.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

void upstream_release_if_quiet(struct upstream *up)
{
	if (up->connect_op.pending || up->send_op.pending || up->recv_op.pending)
		return;
	block_free(&up->worker->blocks, up->head);
	block_free(&up->worker->blocks, up->in);
	if (up->fd >= 0)
		close(up->fd);
	endpoint_put(up->endpoint);
	worker_upstream_free(up);
}

struct upstream *upstream_open(struct worker *w, struct endpoint *ep)
{
	struct upstream *up = worker_upstream_new(w);
	int one = 1;

	if (!up)
		return NULL;
	up->endpoint = endpoint_get(ep);
	up->fd = socket(ep->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (up->fd < 0) {
		upstream_release_if_quiet(up);
		return NULL;
	}
	setsockopt(up->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	metric_inc(M_UPSTREAM_CONNECTS);
	return up;
}

void upstream_close(struct upstream *up)
{
	bool due = up->req && !up->body_done;
	struct linger now = {.l_onoff = 1};

	up->closing = true;
	up->req = NULL;
	up->leg = NULL;
	timer_clear(&up->timer);
	ring_cancel(&up->worker->ring, &up->connect_op);
	/* A FIN alone would reach an engine whose sending is stuck only when its window opens. */
	if (due && up->fd >= 0)
		setsockopt(up->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	if (up->fd >= 0) /* a send that is under way must not read the body any more: EPIPE */
		shutdown(up->fd, SHUT_RDWR);
	upstream_release_if_quiet(up);
}

/* Has the engine closed it meanwhile, or sent what nobody asked for? */
static bool still_clean(const struct upstream *up)
{
	char byte;

	return recv(up->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* While it is kept nothing may come: an end, or bytes that nobody asked for. */
static void kept_recv_done(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, recv_op), **link;

	block_free(&up->worker->blocks, ring_offer_take(&up->worker->ring, flags, res));
	if (up->closing) {
		upstream_release_if_quiet(up);
		return;
	}
	if (res == -ENOBUFS)
		return; /* upstream_take() looks again */
	for (link = &up->worker->kept[up->endpoint->slot]; *link; link = &(*link)->next_kept)
		if (*link == up) {
			*link = up->next_kept;
			up->worker->kept_count[up->endpoint->slot]--;
			break;
		}
	upstream_close(up);
}

struct upstream *upstream_take(struct worker *w, const struct endpoint *ep)
{
	uint64_t now_ms = w->ring.now_ns / NS_PER_MS;
	struct upstream *up;

	while ((up = w->kept[ep->slot])) {
		w->kept[ep->slot] = up->next_kept;
		w->kept_count[ep->slot]--;
		if (up->endpoint == ep && now_ms - up->idle_since_ms < w->cfg->upstream_idle_ms &&
		    (up->recv_op.pending || still_clean(up))) {
			up->reused = true;
			return up;
		}
		upstream_close(up);
	}
	return NULL;
}

void upstream_keep(struct upstream *up)
{
	struct worker *w = up->worker;
	uint16_t slot = up->endpoint->slot;

	if (w->kept_count[slot] >= w->cfg->upstream_kept_max || w->draining) {
		upstream_close(up);
		return;
	}
	timer_clear(&up->timer);
	block_free(&w->blocks, up->head);
	block_free(&w->blocks, up->in);
	up->head = up->in = NULL;
	up->req = NULL;
	up->head_done = up->body_done = up->sse_checked = false;
	up->chunks = (struct http1_chunks){0};
	up->dechunk = up->rechunk = up->paused = false;
	up->recv_op.done = kept_recv_done;
	up->seen = up->head_sent = 0;
	up->body_sent = 0;
	up->idle_since_ms = w->ring.now_ns / NS_PER_MS;
	up->next_kept = w->kept[slot];
	w->kept[slot] = up;
	w->kept_count[slot]++;
}

void upstream_expire(struct worker *w, uint64_t now_ms)
{
	for (unsigned int slot = 0; slot < ENDPOINTS_MAX; slot++) {
		struct upstream **link = &w->kept[slot];

		while (*link) { /* young ones stand first */
			struct upstream *up = *link;

			if (now_ms - up->idle_since_ms < w->cfg->upstream_idle_ms &&
			    !up->endpoint->draining) {
				link = &up->next_kept;
				continue;
			}
			*link = up->next_kept;
			w->kept_count[slot]--;
			upstream_close(up);
		}
	}
}
