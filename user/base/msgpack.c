/* SPDX-License-Identifier: Apache-2.0 */
/* The format's own table, https://github.com/msgpack/msgpack/blob/master/spec.md. */
#include "base/msgpack.h"

#include <errno.h>
#include <string.h>

static uint64_t big_endian(const uint8_t *p, unsigned int bytes)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < bytes; i++)
		n = n << 8 | p[i];
	return n;
}

static size_t left(const struct msgpack *m)
{
	return (size_t)(m->end - m->at);
}

static int take_number(struct msgpack *m, unsigned int bytes, uint64_t *ret)
{
	if (left(m) < bytes)
		return -EBADMSG;
	*ret = big_endian(m->at, bytes);
	m->at += bytes;
	return 0;
}

static int take_bytes(struct msgpack *m, enum msgpack_type type, uint64_t n,
		      struct msgpack_item *ret)
{
	if (left(m) < n)
		return -EBADMSG;
	ret->type = type;
	ret->bytes = span_of((const char *)m->at, n);
	m->at += n;
	return 0;
}

static int take_count(struct msgpack *m, enum msgpack_type type, uint64_t n,
		      struct msgpack_item *ret)
{
	if (n * (type == MSGPACK_MAP ? 2 : 1) > left(m))
		return -EBADMSG;
	ret->type = type;
	ret->count = (uint32_t)n;
	return 0;
}

static int take_signed(struct msgpack *m, unsigned int bytes, struct msgpack_item *ret)
{
	unsigned int shift = 64 - 8 * bytes;
	uint64_t n = 0;
	int err = take_number(m, bytes, &n);

	ret->type = MSGPACK_INT;
	ret->number = (uint64_t)((int64_t)(n << shift) >> shift);
	ret->negative = ret->number >> 63;
	return err;
}

static int take_real(struct msgpack *m, bool wide, struct msgpack_item *ret)
{
	uint64_t n = 0;
	int err = take_number(m, wide ? 8 : 4, &n);
	uint32_t narrow = (uint32_t)n;
	float f;

	ret->type = MSGPACK_FLOAT;
	memcpy(&f, &narrow, sizeof(f));
	if (wide)
		memcpy(&ret->real, &n, sizeof(n));
	else
		ret->real = (double)f;
	return err;
}

/* Bytes of fixed kinds with a length field of 1, 2 or 4 bytes. */
static int take_sized(struct msgpack *m, enum msgpack_type type, unsigned int width,
		      unsigned int extra, struct msgpack_item *ret)
{
	uint64_t n = 0;
	int err = take_number(m, width, &n);

	return err ? err : take_bytes(m, type, n + extra, ret);
}

static int take_counted(struct msgpack *m, enum msgpack_type type, unsigned int width,
			struct msgpack_item *ret)
{
	uint64_t n = 0;
	int err = take_number(m, width, &n);

	return err ? err : take_count(m, type, n, ret);
}

/* Heads 0xc0 to 0xdf. */
static int take_tabled(struct msgpack *m, uint8_t head, struct msgpack_item *ret)
{
	switch (head) {
	case 0xc0:
		ret->type = MSGPACK_NIL;
		return 0;
	case 0xc2:
	case 0xc3:
		ret->type = MSGPACK_BOOL;
		ret->number = head & 1;
		return 0;
	case 0xc4 ... 0xc6:
		return take_sized(m, MSGPACK_BIN, 1u << (head - 0xc4), 0, ret);
	case 0xc7 ... 0xc9: /* the type byte counts among the bytes */
		return take_sized(m, MSGPACK_EXT, 1u << (head - 0xc7), 1, ret);
	case 0xca:
	case 0xcb:
		return take_real(m, head == 0xcb, ret);
	case 0xcc ... 0xcf:
		ret->type = MSGPACK_INT;
		return take_number(m, 1u << (head - 0xcc), &ret->number);
	case 0xd0 ... 0xd3:
		return take_signed(m, 1u << (head - 0xd0), ret);
	case 0xd4 ... 0xd8:
		return take_bytes(m, MSGPACK_EXT, 1 + (1ULL << (head - 0xd4)), ret);
	case 0xd9 ... 0xdb:
		return take_sized(m, MSGPACK_STR, 1u << (head - 0xd9), 0, ret);
	case 0xdc:
	case 0xdd:
		return take_counted(m, MSGPACK_ARRAY, head == 0xdc ? 2 : 4, ret);
	case 0xde:
	case 0xdf:
		return take_counted(m, MSGPACK_MAP, head == 0xde ? 2 : 4, ret);
	default: /* 0xc1 is never used */
		return -EBADMSG;
	}
}

int msgpack_next(struct msgpack *m, struct msgpack_item *ret)
{
	uint8_t head;

	if (m->at >= m->end)
		return -EBADMSG;
	head = *m->at++;
	ret->negative = false;
	if (head < 0x80 || head >= 0xe0) {
		ret->type = MSGPACK_INT;
		ret->number = (uint64_t)(int64_t)(int8_t)head;
		ret->negative = head >= 0xe0;
		return 0;
	}
	if (head < 0x90)
		return take_count(m, MSGPACK_MAP, head & 15, ret);
	if (head < 0xa0)
		return take_count(m, MSGPACK_ARRAY, head & 15, ret);
	if (head < 0xc0)
		return take_bytes(m, MSGPACK_STR, head & 31, ret);
	return take_tabled(m, head, ret);
}

int msgpack_skip(struct msgpack *m)
{
	uint64_t open[MSGPACK_DEPTH_MAX]; /* items still to come at each level */
	unsigned int depth = 0;

	open[0] = 1;
	for (;;) {
		struct msgpack_item item;

		while (open[depth] == 0)
			if (depth-- == 0)
				return 0;
		open[depth]--;
		if (msgpack_next(m, &item))
			return -EBADMSG;
		if (item.type != MSGPACK_ARRAY && item.type != MSGPACK_MAP)
			continue;
		if (++depth == MSGPACK_DEPTH_MAX)
			return -EBADMSG;
		open[depth] = (uint64_t)item.count * (item.type == MSGPACK_MAP ? 2 : 1);
	}
}
