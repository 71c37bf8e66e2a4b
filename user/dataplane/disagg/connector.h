/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connector: how one engine's two halves are told of each other. One row in connectors.c, one
 * small file that reads like its row of the contract. Rows only write members; when legs run and
 * what happens when they fail is disagg.c's.
 */
#ifndef SLUICE_DATAPLANE_DISAGG_CONNECTOR_H
#define SLUICE_DATAPLANE_DISAGG_CONNECTOR_H

#include <sys/types.h>

#include "dataplane/body.h"

struct disagg;

enum pd_order {
	PD_PREFILL_FIRST, /* the decode leg waits for the prefill's answer */
	PD_AT_ONCE,	  /* both start together and meet by a number */
	PD_HEADER_ONLY,	  /* the decode pod's own sidecar runs the prefill leg: it is told where */
	PD_DECODE_FIRST,  /* the decode pod is asked first, a prefill follows if it says so */
};

/* The edits of one leg's body, and the text that they insert. */
struct edits {
	struct body_edit list[BODY_EDITS_MAX];
	uint32_t count;
	char *text; /* room for made text; what is written stays until the request ends */
	size_t room;
	int err; /* -ENOSPC: text did not fit */
};

struct pd_connector {
	const char *name;
	enum pd_order order;
	bool queries;	     /* asks the prefill pod's bootstrap port for its engine's id first */
	bool answer_params;  /* the decode leg takes kv_transfer_params from the prefill's answer */
	bool params_survive; /* they serve another decode pod when the first was not reached */
	bool releases;	     /* a decode of one token makes the prefill pod let go of its blocks */
	/* PD_DECODE_FIRST: the decode leg that asks. */
	void (*probe)(const struct disagg *pd, struct edits *e);
	/* New numbers for a new pair of legs: rooms, transfer ids. May be NULL. */
	void (*pair)(struct disagg *pd);
	void (*prefill)(const struct disagg *pd, struct edits *e);
	/* Also for a release, when the request is gone: of pd alone, then. */
	void (*decode)(const struct disagg *pd, struct edits *e);
};

extern const struct pd_connector pd_nixlv2, pd_sglang, pd_mooncake, pd_offloading,
	pd_shared_storage, pd_moriio, pd_sidecar;

/* By the name --pd takes, or NULL. */
const struct pd_connector *pd_connector_find(const char *name);

/* edits.c: what connectors have in common. */
void edit_cut(struct edits *e, enum openai_member member);
void edit_replace(struct edits *e, enum openai_member member, const char *value);
void edit_value(struct edits *e, enum openai_member member, struct span value);
void edit_set(struct edits *e, enum openai_member member, const char *value);
__attribute__((format(printf, 3, 4))) void edit_add(struct edits *e, const char *name,
						    const char *fmt, ...);
/* The marked member kv_transfer_params, with made text. */
__attribute__((format(printf, 2, 3))) void edit_params(struct edits *e, const char *fmt, ...);
/* Members that a client may not send and that a leg sets itself are cut. */
void edit_strip(struct edits *e);
/*
 * One token, not streamed: stream, stream_options, max_tokens and its kin, where the API of the
 * request has them.
 */
void edit_one_token(const struct disagg *pd, struct edits *e);
/* ec_transfer_params, as the encode stage merged them. */
void edit_encoded(const struct disagg *pd, struct edits *e);
/* The marked member kv_transfer_params as the prefill answered it, byte for byte. more: members to
 * stand before the others, each with its comma, or "". */
void edit_params_answered(const struct disagg *pd, struct edits *e, const char *more);

/*
 * sampling.c: the object at body offsets [start, end) with max_tokens (and min_tokens, if there)
 * 1, written to `to`. Returns its bytes, or -ENOSPC.
 */
ssize_t sampling_rewrite(const struct block *chain, uint64_t start, uint64_t end, char *to,
			 size_t room);

#endif
