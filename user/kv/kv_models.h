/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The models whose prompts can be matched precisely: vocabulary, template glue, and whether the
 * glue is to be believed. Made at start; one thread (the learner) adds glue, workers read without
 * a lock and leave wishes for tools that they have not seen before.
 */
#ifndef SLUICE_KV_KV_MODELS_H
#define SLUICE_KV_KV_MODELS_H

#include <stdatomic.h>

#include "base/config.h"
#include "kv/kv_glue.h"
#include "kv/kv_losses.h"
#include "kv/kv_pieces.h"
#include "sluice/limits.h"

enum kv_model_state {
	KV_MODEL_LEARNING, /* nothing known yet: the approximate index serves */
	KV_MODEL_PRECISE,
	KV_MODEL_COMPLETIONS, /* precise without a chat template: chats are matched by memory */
	KV_MODEL_APPROXIMATE, /* answers contradict the glue, or its template is none that we learn
			       */
};

enum kv_wish_state {
	KV_WISH_NONE,
	KV_WISH_WRITING, /* a worker is at it */
	KV_WISH_THERE,	 /* for the learner */
};

struct kv_model {
	char name[MODEL_NAME_BYTES_MAX];
	struct vocab *vocab;
	_Atomic uint32_t state; /* enum kv_model_state */
	_Atomic uint32_t glue_count;
	struct kv_glue *glues[KV_GLUES_MAX]; /* those below glue_count never change again */
	struct kv_pieces *pieces;
	struct kv_losses_model losses;
	/* tools that a request came with and no glue knows */
	_Atomic uint32_t wish; /* enum kv_wish_state */
	uint32_t wish_len;
	char wish_tools[KV_TOOLS_BYTES_MAX];
};

struct kv_models {
	unsigned int count;
	struct kv_model items[KV_MODELS_MAX];
};

/* Loads each "MODEL=FILE" of list; "MODEL=learn": its engines will tell. -EINVAL, -ENOMEM or -errno
 * with a sentence in ret_error. */
int kv_models_new(const struct string_list *list, struct kv_models **ret, char *ret_error,
		  size_t error_bytes);
void kv_models_free(struct kv_models *m);

/* NULL: no tokenizer for that model. Any thread. */
struct kv_model *kv_models_find(struct kv_models *m, struct span name);

/* The glue for these tools (raw JSON; len 0: none), or NULL: leaves a wish then. Any thread. */
const struct kv_glue *kv_model_glue(struct kv_model *m, struct span tools);

/* The learner's: adds a glue, takes it over. -ENOSPC: counted, freed. */
int kv_model_learned(struct kv_model *m, struct kv_glue *g);
/* "learning", "precise", "completions", "approximate" */
const char *kv_model_state_name(const struct kv_model *m);

#endif
