/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a simulated engine, shaped like vLLM 0.32's: head order, chunk per event, errors. */
#ifndef SLUICE_SIM_REPLY_H
#define SLUICE_SIM_REPLY_H

#include <stdint.h>

#include "sluice-sim/sim.h"

enum sim_api {
	SIM_CHAT,
	SIM_COMPLETION,
	SIM_RESPONSES,
	SIM_MESSAGES,
	SIM_GENERATE, /* token ids in and out */
	SIM_EMBEDDINGS
};

struct reply {
	enum sim_api api;
	bool stream, usage, details; /* details: cached_tokens in usage */
	bool stamped;		     /* events of tokens say when they were sent */
	const char *id, *model;
	char *kv_params; /* of a prefill's answer; NULL: null */
	char *ec_params; /* of an encode leg's */
	uint64_t prompt_hash;
	char *echo; /* --mode echo: the text that is answered; NULL: words of the hash */
	size_t echo_len;
	uint32_t prompt_tokens, cached_tokens, max_tokens;
	uint32_t remote_cached; /* what a prefill engine had found cached */
	long long created;
	unsigned int port;
};

/* Each appends to buf (grown by realloc) and returns nothing: memory is assumed. */
#define OUT_CUTS 16
struct out {
	char *data;
	size_t len, size;
	size_t cuts[OUT_CUTS]; /* where a segment ends: the next bytes go in a send of their own */
	unsigned int cut_count;
	bool close;	      /* heads say "connection: close" */
	char request_id[128]; /* heads say it; "": none */
};

void out_cut(struct out *o);
void out_add(struct out *o, const void *p, size_t n);
__attribute__((format(printf, 2, 3))) void out_printf(struct out *o, const char *fmt, ...);

/* Bytes of an escaped word of an answer, and the NUL. */
#define REPLY_WORD_BYTES 64
/* How many tokens the whole echo has. */
uint32_t reply_echo_tokens(const struct reply *r);

void reply_json(struct out *o, int status, const char *body, unsigned int port, bool keep);
void reply_error(struct out *o, int status, const char *type, const char *message,
		 const char *param, unsigned int port);
void reply_stream_head(struct out *o, const struct reply *r);
/* Token i (0-based); last: with the finish, usage and end of the stream. */
void reply_stream_token(struct out *o, const struct reply *r, uint32_t i, bool last);
void reply_whole(struct out *o, const struct reply *r);
void reply_metrics(struct out *o, const struct engine *e, const char *model, unsigned int port);
/* A 200 of that type; body need not end in a NUL. */
void reply_page(struct out *o, const char *type, const struct out *body, unsigned int port);
void reply_models(struct out *o, const struct sim_options *opt, unsigned int port);

#endif
