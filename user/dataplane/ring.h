/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_uring as the data plane sees it: an operation is a struct op inside its connection, and its
 * completion calls op->done. user_data is the op's address, nothing else.
 *
 * Receive buffers: idle connections hold none. A receive without a block of its own draws one from
 * a provided-buffer ring, and the connection then owns that block.
 */
#ifndef SLUICE_DATAPLANE_RING_H
#define SLUICE_DATAPLANE_RING_H

#include <liburing.h>
#include <stdbool.h>

#include "base/clock.h"
#include "dataplane/blocks.h"

struct op {
	/* res: as the kernel said it; flags: IORING_CQE_F_*. Runs on the ring's thread. */
	void (*done)(struct op *op, int res, unsigned int flags);
	bool pending;
};

#define RING_PROVIDED 256 /* buffers on offer: power of two */

struct ring {
	uint64_t now_ns; /* the clock as ring_clock() last saw it: a few completions ago at most */
	struct io_uring uring;
	struct io_uring_buf_ring *offers;
	struct block *offered[RING_PROVIDED];
	struct blocks *blocks;
	bool fixed_offers;
};

/* To be called on the thread that will use the ring. blocks: where offers come from. */
int ring_init(struct ring *r, unsigned int entries, struct blocks *blocks);
void ring_fini(struct ring *r);

/* Looks at the clock: returns it, in ns, and keeps it in now_ns, which is what handlers go by. */
static inline uint64_t ring_clock(struct ring *r)
{
	return r->now_ns = clock_mono_ns();
}

/* Submits what is queued, waits up to timeout_ms for one completion, runs all there are. */
int ring_turn(struct ring *r, unsigned int timeout_ms);

/* Each queues one operation; op must not be pending. */
void ring_accept_multishot(struct ring *r, struct op *op, int fd);
/* One receive into an offered block. quiet: nothing is expected yet, do not try at once. */
void ring_recv_offer(struct ring *r, struct op *op, int fd, bool quiet);
/* Receives into offered blocks until it is cancelled, fails or the peer closes: IORING_CQE_F_MORE.
 */
void ring_recv_multishot(struct ring *r, struct op *op, int fd);
void ring_recv(struct ring *r, struct op *op, int fd, void *buf, size_t len);
void ring_send(struct ring *r, struct op *op, int fd, const void *buf, size_t len);
void ring_sendmsg(struct ring *r, struct op *op, int fd, const struct msghdr *msg);
void ring_connect(struct ring *r, struct op *op, int fd, const struct sockaddr *addr,
		  socklen_t len);
void ring_poll(struct ring *r, struct op *op, int fd, unsigned int events);

/* Asks for a pending operation's end; its own completion still comes. */
void ring_cancel(struct ring *r, struct op *op);

/* The block a completed receive filled, now the caller's; NULL if flags name none. */
struct block *ring_offer_take(struct ring *r, unsigned int flags, int res);

#endif
