/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to an endpoint: kept idle, or serving one request. forward.c and relay.c use it. */
#ifndef SLUICE_DATAPLANE_UPSTREAM_H
#define SLUICE_DATAPLANE_UPSTREAM_H

#include "base/http1.h"
#include "dataplane/worker.h"

#define UPSTREAM_IOV 32

struct upstream {
	struct op connect_op, send_op, recv_op;
	struct timer timer;
	struct worker *worker;
	struct endpoint *endpoint; /* a reference */
	struct request *req;	   /* NULL while kept or closing, or a leg's */
	struct leg *leg;	   /* disagg/: who collects its answer */
	int fd;
	bool malformed; /* the answer broke its framing */
	bool paused;	/* the client has enough unsent: reading waits */
	uint8_t calm;	/* receives in a row that left room, up to CALM */
	bool reused, closing, head_done, sse_checked, body_done, keep_alive;
	uint64_t idle_since_ms;
	struct upstream *next_kept;

	/* Towards the endpoint. */
	struct block *head; /* our request head */
	uint32_t head_sent;
	uint64_t body_sent;
	uint64_t read_bytes, written_bytes; /* of the connection so far */
	struct msghdr msg;
	struct iovec iov[UPSTREAM_IOV];

	/* From the endpoint. */
	struct block *in; /* head still partial, or the bytes of an unfinished event */
	uint32_t seen;
	enum http1_framing framing;
	uint64_t left;			   /* of a Content-Length body */
	struct http1_chunks chunks, shown; /* as received; as the client has seen it */
	uint32_t good;			   /* of the block just received: whole events */
	bool dechunk, rechunk;		   /* HTTP/1.0 client; endpoint that frames by closing */
	int status;
	uint64_t answer_bytes; /* head and body, of a Content-Length answer: position of its end */
	uint32_t ending;       /* steer: looks at whether all has arrived */
	struct upstream *next_free;
};

/* A new one with a socket, not connected yet; NULL when there is none left. */
struct upstream *upstream_open(struct worker *w, struct endpoint *ep);
/* Frees a closing one once the kernel has given its operations back. */
void upstream_release_if_quiet(struct upstream *up);
/* A kept connection to the endpoint, or NULL. */
struct upstream *upstream_take(struct worker *w, const struct endpoint *ep);
/* Puts a clean connection by for the next request. */
void upstream_keep(struct upstream *up);
/* Cuts it: RST where an answer was still due, so that the engine aborts at once. */
void upstream_close(struct upstream *up);
/* Closes kept connections that are old, or whose endpoint left. Now and then. */
void upstream_expire(struct worker *w, uint64_t now_ms);

/* relay.c */
void relay_start(struct upstream *up);
void relay_resume(struct upstream *up);
/* Sends what is held back of an unfinished event. */
void relay_flush(struct upstream *up);
/* The connection is the relay's again; late: bytes that were received meanwhile, or NULL. */
void relay_take_back(struct upstream *up, struct block *late);

#endif
