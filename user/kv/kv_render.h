/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes that an engine will tokenize for a request, from the request's own JSON and the glue
 * that was learned. One pass, no allocation. What it does not know for sure it refuses: then the
 * approximate index serves.
 */
#ifndef SLUICE_KV_KV_RENDER_H
#define SLUICE_KV_KV_RENDER_H

#include "kv/kv_glue.h"
#include "kv/kv_pieces.h"

/* Raw JSON of the members that make a prompt; len 0: absent. The body was found valid before. */
struct kv_request {
	struct span messages, system, instructions, input, prompt;
	bool strings_only; /* an API whose text parts are joined we know not how */
	struct span tools;
	struct kv_pieces *pieces; /* of messages that the glue does not cover; may be NULL */
};

/* Where rendered bytes go. */
struct kv_out {
	char *bytes;
	uint32_t len, size;
	bool full;     /* the prompt goes on: only its first bytes are here */
	uint32_t rest; /* bytes of JSON behind a piece that is not known, if that is why */
};

/*
 * 0, also when out is full, which it is from a piece on that is not known yet (wishes are left for
 * that and all further ones); -ENOTSUP: a shape, role or member that the glue does not cover.
 * Ids of a prompt in tokens are spelt by vocab.
 */
int kv_render(const struct kv_glue *g, const struct vocab *vocab, const struct kv_request *r,
	      struct kv_out *out);

/* The raw value of a member of a valid JSON object; false (and len 0): absent or null. */
bool kv_json_member(struct span object, const char *name, struct span *ret);

#endif
