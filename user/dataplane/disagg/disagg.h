/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request of several legs: a prefill pod computes the prompt's KV cache, the chosen decode pod
 * generates. Stands between the pick of the decode pod (request.c) and its leg (forward.c, which
 * relays as ever).
 *
 *   decode pod picked -> decider -> no: forwarded as ever
 *     `-> prefill pod picked -> PREFILL --answer--> DECODE --first byte--> relayed
 *              ^                   | failed            | failed before its first byte
 *              `-- another pod ----'                   |-- not reached: another decode pod, same KV
 *              `------------------------------------- -|-- KV not moved: prefill again
 *                  no pod left -> ALONE: the decode pod does it all
 *   the client leaves -> LEAVING -> (the answer crossed) RELEASE -> gone
 *
 * Invariant: a client that could be served by a decode pod alone is, whatever a prefill pod does
 * (--pd-fallback); and every block that a prefill holds for us is pulled, or given up by us.
 */
#ifndef SLUICE_DATAPLANE_DISAGG_H
#define SLUICE_DATAPLANE_DISAGG_H

#include "dataplane/disagg/answer.h"
#include "dataplane/disagg/connector.h"
#include "dataplane/disagg/leg.h"
#include "dataplane/request.h"
#include "scheduler/pd.h"

#define PD_TEXT_BYTES 4096 /* made members of all legs */

enum pd_phase {
	PD_ENCODE, /* media parts are with encode pods */
	PD_QUERY,
	PD_PREFILL,
	PD_PROBE, /* the decode pod is asked first, with a threshold */
	PD_DECODE,
	PD_TOLD,    /* the decode pod's sidecar does the rest */
	PD_ALONE,   /* the decode pod does it all */
	PD_AGAIN,   /* the decode leg failed: another pair is due */
	PD_LEAVING, /* no client any more: the prefill was told */
	PD_RELEASE, /* no client any more: a decode of one token frees the prefill's blocks */
};

/* Why a leg failed or was not begun: the label of counters. */
enum pd_cause {
	PD_CAUSE_NONE,
	PD_CAUSE_REFUSED,
	PD_CAUSE_RESET,
	PD_CAUSE_TIMEOUT,
	PD_CAUSE_STATUS,
	PD_CAUSE_NO_PARAMS,
	PD_CAUSE_TOO_LARGE,
	PD_CAUSE_MALFORMED,
	PD_CAUSE_NO_MEMORY,
	PD_CAUSE_TRANSFER, /* the decode engine did not get the KV cache */
	PD_CAUSE_NO_POD,
	PD_CAUSES,
};

struct disagg {
	struct request *req; /* NULL when the client has left */
	struct worker *worker;
	const struct pd_connector *connector;
	enum pd_phase phase;
	struct leg leg; /* the one that is not relayed */
	struct body_view prefill_body, decode_body;

	struct sched_pick prefill;
	bool prefill_picked, alone_counted;
	bool transfer_failed;	      /* another decode pod tries the same parameters */
	const struct endpoint *asked; /* by x-prefiller-host-port; only to be compared */
	uint16_t tried[PD_PREFILL_TRIES + 1], tried_count;
	uint8_t tries;
	uint16_t prefill_slot;
	enum pd_cause cause; /* the last failure's */

	struct block *answer; /* of the prefill, while its parameters are of use */
	struct answer params;
	uint64_t room;	      /* sglang: both legs meet in it */
	char transfer_id[48]; /* mooncake, moriio, offloading */
	char engine_id[80];   /* mooncake: of the prefill engine */
	char prefill_host[64], prefill_url_host[64], decode_host[64]; /* without port */
	unsigned int prefill_rank, decode_rank; /* data-parallel ranks, from labels */
	uint16_t bootstrap_port;

	struct encode *encode; /* while PD_ENCODE */
	struct block *ec;      /* merged ec_transfer_params of the next leg; NULL: none */
	uint64_t ec_bytes;
	bool apart; /* a prefill leg follows */

	/* After the client has left. */
	struct block *body;	    /* taken over from the request */
	struct block *release_head; /* without content-length */
	struct endpoint *decode;    /* a reference */

	char text[PD_TEXT_BYTES];
	uint32_t text_used;
	struct disagg *next_free;
};

struct disagg_pool;

#define PD_RANK_LABEL	   "data-parallel-rank"
#define PD_BOOTSTRAP_LABEL "bootstrap-port"

/* query.c, for connectors. pd_names() fills hosts, ranks and ports of a new pair. */
uint64_t pd_random(struct worker *w);
void pd_transfer_id(struct disagg *pd, const char *prefix);
void pd_names(struct disagg *pd);
unsigned int pd_bootstrap_port(const struct disagg *pd);
/* Does that text (a quoted member name) stand in the answered parameters? */
bool pd_params_have(const struct disagg *pd, const char *name);
/* The prefill engine's own id: into pd->engine_id, or false. answered: out of pd->leg's answer. */
bool query_known(struct disagg *pd);
bool query_answered(struct disagg *pd);
void query_forget(struct disagg *pd);

/* Checks the options. -EINVAL with a sentence in error. */
int disagg_check(const struct config *cfg, char *error, size_t size);
/* The worker's pool and settings, in w->disagg. -ENOMEM. */
int disagg_init(struct worker *w);
void disagg_fini(struct worker *w);

/* The decode pod is picked: true if the request goes on here (also to its end). */
bool disagg_picked(struct request *req);
/* The decode attempt failed and its connection is gone: true if the request goes on here. */
bool disagg_decode_failed(struct request *req, struct failure *why);
/* No other decode pod is there: true if those that failed may be picked once more. */
bool disagg_unpicked(struct request *req);
/* May a 5xx or an error as first event be answered by something better than passing it on? */
bool disagg_may_fall_back(const struct request *req);
/* Is this decode leg one whose answer may say that a prefill is due? Then its bytes are held. */
bool disagg_probing(const struct request *req);
/* It said so; its connection is gone. */
void disagg_prefill_due(struct request *req);
/* Is the decode leg beyond its deadline? (whole: after its first byte went to the client) */
bool disagg_decode_late(const struct request *req, uint64_t now_ns);
/* The prefill pod that the decode pod's sidecar is told, or NULL. */
const struct endpoint *disagg_prefiller(const struct request *req);
/* The request ends or is dropped: its legs are cut, blocks held for it are released. */
void disagg_end(struct request *req);

#endif
