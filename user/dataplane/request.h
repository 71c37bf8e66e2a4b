/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request, from its head to its account. The stages in order:
 *   client (head) -> client_body (scan as it arrives) -> request_route -> pick -> forward -> relay
 *   -> account. Only request.c knows this order.
 */
#ifndef SLUICE_DATAPLANE_REQUEST_H
#define SLUICE_DATAPLANE_REQUEST_H

#include "base/http1.h"
#include "base/sse.h"
#include "dataplane/body.h"
#include "dataplane/client.h"
#include "dataplane/flow_control.h"
#include "dataplane/openai.h"
#include "dataplane/path.h"
#include "dataplane/routes.h"
#include "dataplane/splice.h"

/* Page-aligned in the pool: what a plain request touches is three pages. */
struct request {
	struct client *client;
	struct worker *worker;
	struct upstream *up; /* the running attempt */
	const struct route *route;
	char id[REQUEST_ID_BYTES_MAX + 1];

	struct block *body, *body_last; /* the first one begins with the head */
	uint64_t body_bytes;
	struct http1_chunks chunks;
	uint32_t rest_at, rest_bytes; /* of a pipelined next request, in the last block */
	uint64_t forward_bytes;
	struct span
		rewritten; /* JSON text of the model that engines are asked for; empty: as it is */

	struct disagg *pd;	      /* disagg/: it has several legs */
	const struct body_view *view; /* disagg/: sent in place of own */

	struct sched_pick pick;
	bool picked, first_token_told, retrying, committed; /* committed: answer bytes queued */
	uint16_t tried[RETRIES_MAX + 2], tried_count, attempts;

	struct path_plan path; /* how the answer travels */
	struct splice_attempt splice;
	uint64_t kernel_packets;	   /* data packets that went past us */
	struct flow_item flow;		   /* flow_control.c: it waits, or may be evicted */
	uint32_t slo_ttft_ms, slo_tpot_ms; /* 0: none */

	struct live_row *row;	   /* what others see of it */
	struct model_row *figures; /* of its model; NULL: never sent to an endpoint */
	struct sse sse;
	bool is_sse;
	int status;	   /* sent to the client */
	int failed_status; /* what the last failed attempt would have been told as */
	const char *error;
	uint64_t begin_ns, body_ns, sent_ns, first_ns, last_ns, bytes_out, progress_ns, events;

	struct request *next_free;

	/* Large, and not zeroed with the rest: pages are touched on demand. */
	struct openai_scan scan;
	struct openai_request says;
	struct body_view own;			/* what is forwarded of the body, with its edits */
	char asked_model[MODEL_NAME_BYTES_MAX]; /* if it was rewritten */
	struct http1_head head;			/* spans point into the first block */
	struct prompt_span spans[PROMPT_SPANS_MAX];
} __attribute__((aligned(4096)));

/* The request is whole: route it, answer it here or forward it. */
void request_run(struct request *req);
/* Flow control lets it go: picks an endpoint and forwards. */
void request_dispatch(struct request *req);
/* Committed, and the endpoint has it all: nobody will send the body again. Gives its blocks back.
 */
void request_body_release(struct request *req);
/* The running attempt failed before anything was passed on: another endpoint, or this answer. */
struct failure {
	int status;	    /* for the client, if nobody else can help */
	const char *cause;  /* for the log: "connect refused", … */
	int health;	    /* enum health_outcome */
	bool retry;	    /* another endpoint may do better */
	bool same_endpoint; /* a stale kept connection: again, at no cost */
	int counter;	    /* of the retry; 0: by health */
};
/* Would another attempt be allowed? Takes a share of the retry budget if so. */
bool request_may_retry(struct request *req);
void request_attempt_failed(struct request *req, struct failure why);
/* Shows the request as it stands now to /state/requests. */
void request_show(struct request *req, const char *phase);
/* The answer is whole and queued, or cut: books it. */
void request_done(struct request *req);
/* The client left or the connection is cut: everything is given back within this loop turn. */
void request_drop(struct request *req);

/* What the scheduler is told of it; role: SLUICE_ROLE_* that a leg needs, 0 none. */
void request_sched_fill(struct request *req, uint8_t role, struct sched_request *sr);

/* respond.c: answers made here. type: "invalid_request_error" and so on. */
void respond_error(struct request *req, int status, const char *type, const char *message);
/* With x-llm-d-request-dropped-reason. */
void respond_dropped(struct request *req, int status, const char *reason, const char *message);
/* 400: what req->scan found wrong; a field by name. */
void respond_bad_body(struct request *req);
/* 404 in vLLM's words, with as many aliases as fit. */
void respond_unknown_model(struct request *req, const char *name);
void respond_refusal(struct client *c, struct request *req, enum http1_refusal why);
void respond_json(struct request *req, int status, struct span body);
void respond_models(struct request *req);
void respond_model(struct request *req);
void respond_options(struct request *req);

/* heads.c: heads written by us. Bytes written, or -ENOSPC. */
ssize_t head_write_request(const struct request *req, const struct endpoint *ep, char *to,
			   size_t size);
/* The same with another body's length; HEAD_NO_LENGTH: open, its last two lines are missing. */
#define HEAD_NO_LENGTH (~0ULL)
ssize_t head_write_leg(const struct request *req, const struct endpoint *ep, uint64_t body_bytes,
		       char *to, size_t size);
ssize_t head_write_response(const struct request *req, const struct http1_head *answer,
			    const struct endpoint *ep, bool chunked, bool keep, char *to,
			    size_t size);
const char *head_reason(int status);

/* segments.c: the body that is forwarded. */
void segments_build(struct request *req);
/* iov entries from position `from` of the forwarded body; returns how many. */
unsigned int segments_fill(const struct request *req, uint64_t from, struct iovec *iov,
			   unsigned int max);
/* Scheduler pieces of the prompt; returns how many. */
uint32_t segments_pieces(const struct request *req, struct sched_piece *pieces, uint32_t max);

/* account.c: the first pick, the first content and what came after, the end. */
void account_begin(struct request *req);
void account_progress(struct request *req, uint64_t now_ns);
void account_request(struct request *req);

/* forward.c: sends the request to req->pick.endpoint. */
void forward_start(struct request *req);
/* Closes (or keeps) the attempt's connection. */
void forward_end(struct request *req, bool keep);

#endif
