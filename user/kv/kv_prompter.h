/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's memory for turning a request into the bytes that its engine will see, fingerprinted.
 * One thread each; reserved at start, touched on demand.
 */
#ifndef SLUICE_KV_KV_PROMPTER_H
#define SLUICE_KV_KV_PROMPTER_H

#include "kv/kv_index.h"
#include "kv/kv_models.h"
#include "kv/kv_render.h"

struct kv_prompter {
	struct kv_losses_model *losses; /* of the last prompt's model */
	const struct kv_index *index;
	struct kv_models *models;
	char *raw, *bytes; /* raw: KV_RAW_BYTES_MAX, of members that span buffers */
	uint64_t *prefix;
	struct kv_hints *hints;
	uint32_t raw_len;
};

/* Of one request's members; JSON is longer than the text that it says. */
#define KV_RAW_BYTES_MAX (3 * KV_PROMPT_BYTES_MAX)

/* Both borrowed; NULL: every prompt is refused. -ENOMEM. */
int kv_prompter_init(struct kv_prompter *p, const struct kv_index *index, struct kv_models *models);
void kv_prompter_fini(struct kv_prompter *p);

struct kv_wanted {
	struct span model, adapter, cache_salt; /* model: the base model's name */
	struct span tools;			/* raw JSON, len 0: none */
	struct kv_request request;
};

/*
 * Renders and fingerprints; *ret borrows p's memory until the next call. False: not known for
 * sure, the approximate index serves.
 */
bool kv_prompter_read(struct kv_prompter *p, const struct kv_wanted *w, struct kv_prompt *ret);

/* What a cache_salt means to a chain's root. */
uint64_t kv_salt_extra(struct span salt);

#endif
