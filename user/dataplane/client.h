/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's connection.
 *
 *   IDLE --bytes--> HEAD --whole--> BODY --whole--> BUSY --answer sent--> IDLE (or LINGER)
 *   LINGER: our side is shut, late bytes are read and dropped so that the answer is not reset
 *   LEAVING: idle, on its way to the successor of this process (adopt.c)
 *   AWAY: spliced: the kernel carries the answer, the slot has no socket any more
 *   CLOSING: waits for the kernel to give its operations back, then the slot is free
 */
#ifndef SLUICE_DATAPLANE_CLIENT_H
#define SLUICE_DATAPLANE_CLIENT_H

#include "base/http1.h"
#include "dataplane/worker.h"

enum client_state {
	CLIENT_IDLE,
	CLIENT_HEAD,
	CLIENT_BODY,
	CLIENT_BUSY,
	CLIENT_LINGER,
	CLIENT_LEAVING,
	CLIENT_CLOSING,
	CLIENT_AWAY,
};

#define CLIENT_SEND_BLOCKS 8

struct client {
	struct op recv_op, send_op, poll_op;
	struct timer timer;
	struct worker *worker;
	struct request *req; /* NULL while IDLE */
	struct block *in;    /* received, not yet part of a request (IDLE, HEAD) */
	struct block *hold;  /* the kernel may still write there: freed with the receive */
	struct block *out, *out_last;
	struct msghdr out_msg;
	struct iovec out_iov[CLIENT_SEND_BLOCKS];
	uint32_t out_bytes;
	uint64_t read_bytes, written_bytes; /* of the connection so far */
	uint32_t seen;			    /* bytes of `in` that the head parser has looked at */
	int fd;
	uint8_t state;
	bool gone;     /* the peer hung up */
	bool close;    /* no further request on this connection */
	bool reset;    /* end with RST */
	bool answered; /* everything of the answer is queued */
	bool waiting;  /* for the bytes budget */
	bool send_failed;
	char peer[48]; /* address for x-forwarded-for; "" for unix sockets */
	struct client *next_free;
};

/* Takes over an accepted socket. */
void client_open(struct worker *w, int fd);
/* Tells of a hang-up from now on; c->poll_op is not pending. */
void client_watch(struct client *c);
/* Queues a block for sending; it is the client's then. */
void client_send(struct client *c, struct block *block);
/* Frees blocks of a request, now or when a pending receive has let go of them. */
void client_blocks_free(struct client *c, struct block *chain);
/* The answer's last byte is queued. keep: the connection may serve another request. */
void client_answer_end(struct client *c, bool keep);
/* Cuts the connection at once; a running request is dropped. */
void client_abort(struct client *c);
/* From CLIENT_LEAVING: serve it here after all / it is another process's now, the slot is free. */
void client_stay(struct client *c);
void client_forget(struct client *c);
/* In CLIENT_BODY: keeps the body's blocks while a receive is pending; its spans stay valid. */
void client_park_body(struct client *c);
/* Reads on for the body (client_body.c starts it; the budget may hold it back). */
void client_read_body(struct client *c);
/* In CLIENT_BODY: res more bytes are in the last block. */
void client_body_bytes(struct client *c, int res);
/* The head in c->in is whole (its spans point there): makes the request, goes on to its body. */
void client_request_begin(struct client *c, const struct http1_head *head, ssize_t head_bytes);

#endif
