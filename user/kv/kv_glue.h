/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model's chat template puts around the parts of a conversation. Learned from an engine's
 * answers to sentinel conversations, never interpreted:
 *
 *   <|im_start|>system\n  S1  <|im_end|>\n<|im_start|>user\n  S2
 * <|im_end|>\n<|im_start|>assistant\n
 *   '---- begin[sys] --'      '------ between[sys][user] --'      '------------ end[user] --------'
 *
 * A template that is no such row of texts (it trims, reorders, counts) is found out, because a
 * second, longer conversation must come out as the glue says.
 * Immutable once learned; any thread may read it.
 */
#ifndef SLUICE_KV_KV_GLUE_H
#define SLUICE_KV_KV_GLUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "kv/vocab.h"

enum kv_role {
	KV_ROLE_SYSTEM,
	KV_ROLE_USER,
	KV_ROLE_ASSISTANT,
	KV_ROLES
};

/* A learned text; ptr NULL: unknown. */
struct kv_text {
	char *ptr;
	uint32_t len;
};

struct kv_glue {
	uint64_t tools_hash; /* of the tools that it was learned with; 0: none */
	struct kv_text begin[KV_ROLES], between[KV_ROLES][KV_ROLES], end[KV_ROLES];
	struct kv_text after[KV_ROLES]; /* a message, where no other follows */
	struct kv_text generation;	/* what asks for an answer, behind that */
	struct kv_text parts;		/* between two text parts of one message */
	struct kv_text plain_begin;	/* around the prompt of a completion */
	struct kv_text plain_end;
	bool trims; /* white space around a content is dropped */
};

/*
 * Asks an engine to tokenize: body is a JSON object without "model". Returns the number of ids
 * put into tokens (at most max), -ENOTSUP if the engine refuses that conversation, or another
 * -errno (no answer: ask again later).
 */
typedef int (*kv_ask)(void *arg, const char *body, uint32_t *tokens, uint32_t max);

/*
 * Learns from one engine. tools: JSON of the tools, or len 0. -ENOTSUP: the template is no such
 * row; -ENOENT: tokens that the vocabulary has not; another -errno of ask. kv_glue_free() it.
 */
int kv_glue_learn(const struct vocab *vocab, kv_ask ask, void *arg, struct span tools,
		  struct kv_glue **ret);
void kv_glue_free(struct kv_glue *g);

/*
 * The same for an engine that renders no chats at /tokenize (a model without template, an older
 * SGLang): only what stands around a completion's prompt; chats are refused with it. Errors as
 * above.
 */
int kv_glue_learn_plain(const struct vocab *vocab, kv_ask ask, void *arg, struct kv_glue **ret);
/* Does another engine put the same around it? 0, -ENOTSUP (contradicted), or as above. */
int kv_glue_verify_plain(const struct kv_glue *g, const struct vocab *vocab, kv_ask ask, void *arg);

struct kv_wish;

/*
 * The text that a message becomes behind the one before it: what an engine's rendering of both has
 * more than that of the first. 0 and *ret (free() it), -ENOTSUP: it renders neither, or not as a
 * row; -ENOENT or another -errno of ask.
 */
int kv_piece_learn(const struct vocab *vocab, kv_ask ask, void *arg, const struct kv_wish *w,
		   struct kv_text *ret);

/* Names tools (raw JSON); 0 for none. */
uint64_t kv_tools_hash(struct span tools);

/* Does an engine still answer as the glue says? 0, -ENOTSUP (contradicted), or -errno of ask. */
int kv_glue_verify(const struct kv_glue *g, const struct vocab *vocab, kv_ask ask, void *arg,
		   struct span tools);

#endif
