/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of one leg: stretches of the request's own body, which is held once, and inserted text.
 * Members are cut, replaced and added at their places; every other byte is the client's.
 */
#ifndef SLUICE_DATAPLANE_BODY_H
#define SLUICE_DATAPLANE_BODY_H

#include <sys/uio.h>

#include "base/span.h"
#include "dataplane/blocks.h"
#include "dataplane/openai.h"

#define BODY_EDITS_MAX EDITS_MAX
#define BODY_PARTS_MAX 64 /* two for an edit, and up to five for an added member */

struct body_part {
	const char *text;	   /* inserted; NULL: bytes of a chain */
	uint64_t start, end;	   /* offsets in the chain, or 0 and the text's length */
	const struct block *chain; /* NULL: the request's body */
};

struct body_view {
	const struct block *chain; /* the request's body */
	uint64_t bytes;
	uint32_t count;
	uint32_t mark_first, mark_count;	/* parts of the marked value */
	struct body_part parts[BODY_PARTS_MAX]; /* last: most views use a few */
};

/* Text to insert: a span, and after it bytes [from, to) of a chain of blocks. */
struct body_text {
	struct span span;
	const struct block *chain; /* NULL: the span alone */
	uint64_t from, to;
};

enum body_edit_kind {
	BODY_CUT,
	BODY_REPLACE, /* the value; if the member is absent: nothing */
	BODY_SET,     /* replaces the value or adds the member */
	BODY_ADD,     /* the member is absent or cut by another edit */
};

struct body_edit {
	enum body_edit_kind kind;
	enum openai_member member; /* its place; OPENAI_NO_MEMBER with BODY_ADD */
	const char *name;	   /* of an added member, without quotes */
	struct body_text value;
	bool marked; /* body_mark() may change the value later */
};

/*
 * Builds the view. Edits of absent members that only cut or replace do nothing; added members stand
 * at the object's end, in the order of the edits. -ENOSPC: too many parts.
 */
int body_build(struct body_view *view, const struct block *chain, uint64_t body_bytes,
	       const struct openai_request *says, const struct body_edit *edits, uint32_t count);
/* The same body with another value where the marked one stood. -ENOSPC. */
int body_remark(struct body_view *view, const struct body_view *from, struct body_text value);

/* iov entries from position `from` of the leg's body; returns how many. */
unsigned int body_fill(const struct body_view *view, uint64_t from, struct iovec *iov,
		       unsigned int max);
/* Copies the chain's bytes [from, to); at most size. Returns how many. */
size_t body_copy(const struct block *chain, uint64_t from, uint64_t to, char *buf, size_t size);

#endif
