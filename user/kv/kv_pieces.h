/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages that no glue covers (tool calls and their results, odd roles), as an engine rendered
 * them: asked for once per distinct content and neighbour, off the request path.
 *
 *   worker:  key known?  yes: copies its text        no: leaves a wish, the prompt ends there
 *   learner: takes a wish, asks an engine, adds the text
 *
 *   places  [key, at][key, at]…      4 that may stand for a key, the oldest goes
 *   ring    |key len text...|key len text...|        one writer; the newest overwrites the oldest
 *           '-- base                         '-- head
 *
 * Invariant: bounded memory; readers never wait. What a reader copies while it is overwritten is
 * noticed afterwards, because the head has moved, and thrown away.
 */
#ifndef SLUICE_KV_KV_PIECES_H
#define SLUICE_KV_KV_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "sluice/limits.h"

struct kv_pieces;

/* What stands before a message, as far as templates look. */
enum kv_before {
	KV_BEFORE_NOTHING,
	KV_BEFORE_SYSTEM,
	KV_BEFORE_USER,
	KV_BEFORE_ASSISTANT,
	KV_BEFORE_ODD, /* a message that is a piece itself */
};

#define KV_LEAD "qK7-lead-Zz" /* the content of a message of which only the lead is wanted */

/* A piece that is wanted; all raw JSON. */
struct kv_wish {
	enum kv_before before;
	bool lead;	 /* only what stands before its content */
	struct span odd; /* the message before, KV_BEFORE_ODD */
	struct span message, tools;
};

struct kv_pieces *kv_pieces_new(void);
void kv_pieces_free(struct kv_pieces *p);

/*
 * Copies the piece's text; any thread. The number of bytes, or -ENOENT: not known (a wish was left
 * if there was room for it); -ENOTSUP: no engine renders that; -ENOSPC: longer than size.
 */
int kv_pieces_get(struct kv_pieces *p, const struct kv_wish *w, char *to, size_t size);

/* ---- the learner's ---- */

/* The next wish, borrowed until kv_pieces_grant(); false: there is none. */
bool kv_pieces_wanted(struct kv_pieces *p, struct kv_wish *ret);
/* What the wish of the last kv_pieces_wanted() is; text NULL: it cannot be had. */
void kv_pieces_grant(struct kv_pieces *p, const char *text, size_t len);
/* It got no answer: whoever comes next wishes again. */
void kv_pieces_put_back(struct kv_pieces *p);

#endif
