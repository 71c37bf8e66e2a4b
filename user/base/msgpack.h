/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A msgpack reader that allocates nothing: a cursor over the bytes, one item at a time. Libraries
 * build a tree first, and a hostile array head of five bytes makes them ask for gigabytes.
 * Invariant: a count or length is believed only if the bytes that are left can hold it.
 */
#ifndef SLUICE_BASE_MSGPACK_H
#define SLUICE_BASE_MSGPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

#define MSGPACK_DEPTH_MAX 16

enum msgpack_type {
	MSGPACK_NIL,
	MSGPACK_BOOL,
	MSGPACK_INT, /* number holds it; negative ones as two's complement */
	MSGPACK_FLOAT,
	MSGPACK_STR,
	MSGPACK_BIN,
	MSGPACK_ARRAY, /* count items follow */
	MSGPACK_MAP,   /* count pairs follow */
	MSGPACK_EXT,
};

struct msgpack {
	const uint8_t *at, *end;
};

struct msgpack_item {
	enum msgpack_type type;
	bool negative;
	uint32_t count;	   /* ARRAY, MAP */
	uint64_t number;   /* INT, BOOL */
	double real;	   /* FLOAT */
	struct span bytes; /* STR, BIN, EXT: borrowed */
};

/* Reads one item's head (and bytes); an array's items come next. 0 or -EBADMSG. */
int msgpack_next(struct msgpack *m, struct msgpack_item *ret);

/* Moves past one whole item with all below it. 0 or -EBADMSG (also below MSGPACK_DEPTH_MAX). */
int msgpack_skip(struct msgpack *m);

static inline struct msgpack msgpack_of(const void *p, size_t n)
{
	return (struct msgpack){(const uint8_t *)p, (const uint8_t *)p + n};
}

static inline bool msgpack_is_str(const struct msgpack_item *i, const char *text)
{
	return i->type == MSGPACK_STR && span_eq(i->bytes, span_of_str(text));
}

#endif
