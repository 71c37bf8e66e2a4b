/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prefill and decode apart, as a simulated engine plays it: strictly. pd.c keeps the books (blocks
 * held for others, transfers, failures on order); one small file per connector says what a leg must
 * look like. All engines of one process can reach each other, none of another process.
 *
 *   api.c: pd_begin(leg) -> plain | refused (answered) | prefill runs | decode waits for its blocks
 */
#ifndef SLUICE_SIM_PD_H
#define SLUICE_SIM_PD_H

#include <jansson.h>

#include "sluice-sim/server.h"

enum pd_verdict {
	PD_PLAIN,      /* an ordinary request */
	PD_ON_ITS_WAY, /* parked until its blocks come, or until its pair does */
	PD_ANSWERED,   /* refused; the answer is in c->out */
};

enum pd_role {
	PD_NO_ROLE,
	PD_PREFILLS,
	PD_DECODES,
};

/* Blocks that a prefill engine keeps for somebody else. */
struct pd_hold {
	struct pd_hold *next;
	struct instance *inst; /* whose blocks */
	char key[96];	       /* request id, room, transfer id */
	json_t *params;	       /* as they were answered; NULL: none */
	uint32_t blocks, tokens;
	bool ready;	     /* the prefill has computed them */
	struct conn *reader; /* the decode leg that pulls or waits for them */
	struct conn *writer; /* the prefill leg, while it is connected */
	double since_ms;
};

/* One leg, in its connection. */
struct pd_leg {
	enum pd_role role;
	char key[96];
	double due_ms; /* PD_DECODES: when its transfer is over; 0: it waits for its pair */
	double since_ms;
	uint32_t prompt_tokens, blocks;
	struct seq *parked; /* not submitted yet */
};

struct pd_connector {
	const char *name;
	bool meets;  /* both legs come at once and meet by key; the prefill's answer comes last */
	bool stores; /* what is not fetched is evicted: nothing is held for anybody */
	/* Looks at a leg's kv_transfer_params or other members. */
	enum pd_verdict (*begin)(struct conn *c, json_t *body, struct seq *s);
	/* A leg's last token is made; c->seq is still there. May be NULL. */
	void (*finished)(struct conn *c);
	/* The parameters that a prefill's answer carries; NULL: none. */
	json_t *(*params)(const struct conn *c, const struct pd_hold *h);
};

extern const struct pd_connector pd_nixlv2, pd_sglang, pd_mooncake, pd_offloading, pd_moriio,
	pd_shared_storage;

/* By name, or NULL. */
const struct pd_connector *pd_find(const char *name);
void pd_init(const struct sim_options *opt, struct instance *insts);

/* A generation request, before it is queued. */
enum pd_verdict pd_begin(struct conn *c, const struct http1_head *head, json_t *body,
			 struct seq *s);
/* The last token of a leg is made: its reply may carry parameters (c->reply.kv_params, malloc()ed).
 * False: the answer is not to be sent now (a failure on order). */
bool pd_finish(struct conn *c);
/* The connection is gone: an engine aborts what it ran. */
void pd_gone(struct conn *c);
/* Ends transfers that are over; returns ms until the next, or -1. */
double pd_run(double now_ms);
/* GET /sim/kv: the books; POST /sim/fail: {"leg","what","count"}. */
void pd_report(struct conn *c);
/* GET /query: the bootstrap server names its engines. */
void pd_query(struct conn *c);
void pd_order_failure(struct conn *c, json_t *body);

/* pd_encode.c: an encode leg, or one that uses what those made. */
enum pd_verdict pd_encode_begin(struct conn *c, json_t *body, struct seq *s);
/* PD_PLAIN, or what an encode leg meets on order. */
enum pd_verdict pd_loads_nothing(struct conn *c);

/* For connectors. */
/* 500, or 200 and an error as the first event: what an engine does once a request is admitted. */
enum pd_verdict pd_fail(struct conn *c, const char *why);
/* 400: the leg is not what the contract says. */
enum pd_verdict pd_refuse(struct conn *c, const char *why);
struct pd_hold *pd_hold_find(const struct instance *inst, const char *key);
/* This leg prefills for somebody: its blocks are held from its end on. */
enum pd_verdict pd_prefills(struct conn *c, struct seq *s, const char *key);
/* This leg takes the blocks of h: it waits for them, then for their transfer. */
enum pd_verdict pd_pulls(struct conn *c, struct seq *s, struct pd_hold *h);
/* This leg waits for the prefill of that key, or takes it if it is there. */
enum pd_verdict pd_meets(struct conn *c, struct seq *s, const struct instance *prefiller,
			 const char *key);
/* This leg finds its blocks in a store (hit), or computes them. */
enum pd_verdict pd_loads(struct conn *c, struct seq *s, bool hit);
/* A stream of that one event. */
void pd_stream_one(struct conn *c, const char *json);
/* One token, not streamed: "" or what is wrong. */
const char *pd_one_token(json_t *body);
struct instance *pd_instance(unsigned int port);
unsigned int pd_block_tokens(void);

#endif
