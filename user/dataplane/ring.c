/* SPDX-License-Identifier: Apache-2.0 */
/* Thin over liburing 2.3: queue an operation, run completions, keep receive buffers on offer. */
#include "dataplane/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OFFER_GROUP 1
#define CLOCK_EVERY 4 /* completions for one look at the clock */

static void offer_put(struct ring *r, unsigned int bid, struct block *block)
{
	r->offered[bid] = block;
	io_uring_buf_ring_add(r->offers, block->data, block->size, (unsigned short)bid,
			      io_uring_buf_ring_mask(RING_PROVIDED), 0);
	io_uring_buf_ring_advance(r->offers, 1);
}

static int offers_init(struct ring *r)
{
	struct io_uring_buf_reg reg = {.ring_entries = RING_PROVIDED, .bgid = OFFER_GROUP};
	size_t bytes = RING_PROVIDED * sizeof(struct io_uring_buf);
	int err;

	r->offers = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->offers == MAP_FAILED)
		return -ENOMEM;
	reg.ring_addr = (unsigned long)r->offers;
	err = io_uring_register_buf_ring(&r->uring, &reg, 0);
	if (err)
		return err;
	io_uring_buf_ring_init(r->offers);
	for (unsigned int i = 0; i < RING_PROVIDED; i++) {
		struct block *block = block_replace(r->blocks);

		if (!block)
			return -ENOMEM;
		/* The budget counts what connections own. */
		atomic_fetch_sub_explicit(&r->blocks->budget->used, BLOCK_SMALL,
					  memory_order_relaxed);
		offer_put(r, i, block);
	}
	return 0;
}

int ring_init(struct ring *r, unsigned int entries, struct blocks *blocks)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = entries * 8,
	};
	int err;

	memset(r, 0, sizeof(*r));
	r->blocks = blocks;
	err = io_uring_queue_init_params(entries, &r->uring, &params);
	if (err == -EINVAL) { /* kernels before 6.1 */
		params.flags = IORING_SETUP_CQSIZE;
		err = io_uring_queue_init_params(entries, &r->uring, &params);
	}
	if (err)
		return err;
	err = offers_init(r);
	if (err)
		io_uring_queue_exit(&r->uring);
	return err;
}

void ring_fini(struct ring *r)
{
	io_uring_queue_exit(&r->uring);
	munmap(r->offers, RING_PROVIDED * sizeof(struct io_uring_buf));
}

int ring_turn(struct ring *r, unsigned int timeout_ms)
{
	struct __kernel_timespec ts = {.tv_sec = timeout_ms / 1000,
				       .tv_nsec = timeout_ms % 1000 * 1000000L};
	struct io_uring_cqe *cqe;
	unsigned int head, n = 0;
	int err = io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, &ts, NULL);

	if (err < 0 && err != -ETIME && err != -EINTR && err != -EAGAIN && err != -EBUSY)
		return err;
	io_uring_for_each_cqe(&r->uring, head, cqe)
	{
		struct op *op = io_uring_cqe_get_data(cqe);

		if (n++ % CLOCK_EVERY == 0)
			ring_clock(r);
		if (!op)
			continue;
		op->pending = cqe->flags & IORING_CQE_F_MORE;
		op->done(op, cqe->res, cqe->flags);
	}
	io_uring_cq_advance(&r->uring, n);
	return 0;
}

static struct io_uring_sqe *sqe_get(struct ring *r, struct op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	while (!sqe) { /* the queue is full: hand it over and go on */
		io_uring_submit(&r->uring);
		sqe = io_uring_get_sqe(&r->uring);
	}
	op->pending = true;
	return sqe;
}

void ring_accept_multishot(struct ring *r, struct op *op, int fd)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
	io_uring_sqe_set_data(sqe, op);
}

void ring_recv_offer(struct ring *r, struct op *op, int fd, bool quiet)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_recv(sqe, fd, NULL, BLOCK_SMALL, 0);
	sqe->ioprio |= quiet ? IORING_RECVSEND_POLL_FIRST : 0;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = OFFER_GROUP;
	io_uring_sqe_set_data(sqe, op);
}

void ring_recv_multishot(struct ring *r, struct op *op, int fd)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = OFFER_GROUP;
	io_uring_sqe_set_data(sqe, op);
}

void ring_recv(struct ring *r, struct op *op, int fd, void *buf, size_t len)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_recv(sqe, fd, buf, len, 0);
	io_uring_sqe_set_data(sqe, op);
}

void ring_send(struct ring *r, struct op *op, int fd, const void *buf, size_t len)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_send(sqe, fd, buf, len, MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, op);
}

void ring_sendmsg(struct ring *r, struct op *op, int fd, const struct msghdr *msg)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_sendmsg(sqe, fd, msg, MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, op);
}

void ring_connect(struct ring *r, struct op *op, int fd, const struct sockaddr *addr, socklen_t len)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_connect(sqe, fd, addr, len);
	io_uring_sqe_set_data(sqe, op);
}

void ring_poll(struct ring *r, struct op *op, int fd, unsigned int events)
{
	struct io_uring_sqe *sqe = sqe_get(r, op);

	io_uring_prep_poll_add(sqe, fd, events);
	io_uring_sqe_set_data(sqe, op);
}

void ring_cancel(struct ring *r, struct op *op)
{
	struct io_uring_sqe *sqe;

	if (!op->pending)
		return;
	sqe = io_uring_get_sqe(&r->uring);
	while (!sqe) {
		io_uring_submit(&r->uring);
		sqe = io_uring_get_sqe(&r->uring);
	}
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, NULL); /* its own completion says nothing */
}

struct block *ring_offer_take(struct ring *r, unsigned int flags, int res)
{
	unsigned int bid = flags >> IORING_CQE_BUFFER_SHIFT;
	struct block *block, *fresh;

	if (!(flags & IORING_CQE_F_BUFFER))
		return NULL;
	block = r->offered[bid];
	fresh = res > 0 ? block_replace(r->blocks) : NULL;
	if (!fresh) { /* nothing came, or the reserve is used up too: back on offer */
		offer_put(r, bid, block);
		return NULL;
	}
	offer_put(r, bid, fresh);
	block->start = 0;
	block->end = (uint32_t)res;
	block->next = NULL;
	return block;
}
