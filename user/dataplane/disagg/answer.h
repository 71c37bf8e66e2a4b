/* SPDX-License-Identifier: Apache-2.0 */
/* What a collected prefill answer says: where its transfer parameters lie, and its usage. */
#ifndef SLUICE_DATAPLANE_DISAGG_ANSWER_H
#define SLUICE_DATAPLANE_DISAGG_ANSWER_H

#include "base/sse.h"
#include "dataplane/blocks.h"
#include "dataplane/openai.h"

struct answer {
	uint64_t start, end; /* the member's value in the payload; end 0: absent or null */
	struct usage usage;
};

/* Looks for one top-level member. 0, or -EBADMSG: not one JSON object. */
int answer_read(const struct block *chain, enum openai_member member, struct answer *ret);

#endif
