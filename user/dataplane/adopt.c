/* SPDX-License-Identifier: Apache-2.0 */
/*
 *   IDLE --receive cancelled--> LEAVING --poll cancelled--> sent to the successor, slot free
 *
 * Invariant: a connection leaves only while no byte of it is in this process: what the client sent
 * meanwhile is in the socket and moves along. Whom the successor does not take stays here.
 */
#include "dataplane/adopt.h"

#include <errno.h>
#include <poll.h>

#include "base/fd_pass.h"
#include "base/metrics.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define TRY_AGAIN_MS		     10 /* the successor's queue is full */
#define ADOPT_AT_ONCE		     32

static void adopt_some(struct op *op, int res, unsigned int flags)
{
	struct worker *w = container(op, struct worker, adopt_op);

	(void)res;
	(void)flags;
	for (int i = 0; i < ADOPT_AT_ONCE && w->clients_used < w->cfg->connections_max; i++) {
		struct fd_pass record;
		int fds[FD_PASS_MAX], err;
		unsigned int count;

		err = fd_pass_receive(w->adopt_fd, &record, fds, &count);
		if (err == -EPIPE)
			w->adopt_fd = -1; /* the predecessor has ended; main closes the channel */
		if (err)
			break;
		if (record.kind == FD_PASS_CLIENT && count == 1) {
			metric_inc(M_CLIENTS_ADOPTED);
			client_open(w, fds[0]);
			continue;
		}
		while (count)
			close(fds[--count]);
	}
	adopt_arm(w);
}

void adopt_arm(struct worker *w)
{
	if (w->adopt_fd < 0 || w->adopt_op.pending || w->clients_used >= w->cfg->connections_max)
		return;
	w->adopt_op.done = adopt_some;
	ring_poll(&w->ring, &w->adopt_op, w->adopt_fd, POLLIN);
}

void clients_hand_over(struct worker *w)
{
	for (uint32_t i = 0; i < w->clients_fresh; i++)
		if (w->clients[i].state == CLIENT_IDLE)
			ring_cancel(&w->ring, &w->clients[i].recv_op);
}

void client_leave(struct client *c)
{
	timer_clear(&c->timer);
	c->state = CLIENT_LEAVING;
	if (c->poll_op.pending)
		ring_cancel(&c->worker->ring, &c->poll_op);
	else
		client_depart(c);
}

void client_depart(struct client *c)
{
	struct worker *w = c->worker;
	struct fd_pass record = {.kind = FD_PASS_CLIENT};
	int err = fd_pass_send(w->successor_fd, &record, &c->fd, 1);

	if (err == -EAGAIN || err == -ENOBUFS || err == -ETOOMANYREFS) {
		timer_set(&w->timers, &c->timer, TRY_AGAIN_MS);
	} else if (err) {
		w->successor_lost = true;
		client_stay(c);
	} else {
		metric_inc(M_CLIENTS_HANDED_OVER);
		client_forget(c);
	}
}
