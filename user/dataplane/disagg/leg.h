/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A leg: one exchange with an endpoint whose answer is collected, not relayed (a prefill, an
 * encode, a bootstrap query, the release of blocks). Sent from the request's own blocks, kept
 * connections and all; the answer is bounded and lies in blocks of the same budget.
 *
 *   leg_start -> connect -> send -> head -> body … -> done(leg), once, never from inside leg_start
 *                                            leg_leave -> half-closed: an answer may still cross
 *
 * Invariant: every leg ends within its deadlines. Left to others: what is sent and what the answer
 * means (disagg.c), health and counters.
 */
#ifndef SLUICE_DATAPLANE_DISAGG_LEG_H
#define SLUICE_DATAPLANE_DISAGG_LEG_H

#include "base/http1.h"
#include "dataplane/upstream.h"

enum leg_result {
	LEG_RUNNING,
	LEG_ANSWERED,  /* leg->status and leg->answer are whole */
	LEG_REFUSED,   /* no connection */
	LEG_RESET,     /* connection lost */
	LEG_TIMEOUT,   /* one of the deadlines passed */
	LEG_TOO_LARGE, /* the answer is beyond PD_ANSWER_BYTES_MAX */
	LEG_MALFORMED, /* no HTTP answer */
	LEG_NO_MEMORY, /* the bytes budget or the pools are used up */
	LEG_LEFT,      /* leg_leave() was called and no answer crossed it */
};

#define LEG_KEPT 4096

struct leg {
	struct worker *worker;
	struct upstream *up;	   /* NULL when over */
	struct endpoint *endpoint; /* borrowed */
	struct sockaddr_storage addr;
	socklen_t addr_len; /* 0: the endpoint's own address */
	struct block *head; /* our request head; the leg's */
	/* iov entries of the body from position `from` on; its bytes stay the owner's. */
	unsigned int (*fill)(const struct leg *leg, uint64_t from, struct iovec *iov,
			     unsigned int max);
	uint64_t body_bytes;

	struct block *answer, *answer_last; /* payload only; the leg's until leg_fini() */
	uint64_t answer_bytes;
	struct http1_chunks chunks;
	enum http1_framing framing;
	uint64_t left;
	int status;
	bool head_done, keep_alive, leaving, sent_all;
	bool drop; /* of the answer's payload little more than LEG_KEPT bytes is kept */
	enum leg_result result;

	uint64_t head_ms, whole_ms; /* deadlines from the start */
	uint64_t begin_ns, sent_ns, end_ns;
	void (*done)(struct leg *leg);
};

/*
 * Begins the exchange. Set beforehand: worker, endpoint, head, fill, body_bytes, head_ms, whole_ms,
 * done; all else zero. -ENOMEM when there is no connection to be had: then done is not called.
 */
int leg_start(struct leg *leg);
/* Gives up at once: the connection is cut, done is not called. Idempotent. */
void leg_cut(struct leg *leg);
/*
 * Tells the endpoint that nobody waits any more, by closing our side: an engine aborts at that. Its
 * answer may have been on its way already; done tells, within wait_ms.
 */
void leg_leave(struct leg *leg, uint64_t wait_ms);
/* Frees what the leg holds. It must be over. */
void leg_fini(struct leg *leg);

#endif
