/* SPDX-License-Identifier: Apache-2.0 */
/* The table of sessions: two words a place; a torn pair is a wrong key and matches nothing. */
#include "scheduler/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"

#define WAYS	    4
#define TOKEN_BYTES 320 /* base64 of namespace/name: longer ones are no token of ours */

struct place {
	_Atomic uint64_t key;	/* session hash ^ value, so that halves of two writes never match */
	_Atomic uint64_t value; /* slot 16, generation 16, expiry in seconds 32 */
};

struct sessions {
	struct place places[SESSIONS_MAX];
};

struct sessions *sessions_new(void)
{
	return calloc(1, sizeof(struct sessions));
}

static int base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

/* Decoded bytes, or 0 if it is no base64 or too long. */
static size_t base64_decode(struct span in, char *out, size_t max)
{
	uint32_t acc = 0, bits = 0;
	size_t n = 0;

	while (in.len && in.ptr[in.len - 1] == '=')
		in.len--;
	for (size_t i = 0; i < in.len; i++) {
		int digit = base64_digit(in.ptr[i]);

		if (digit < 0 || n == max)
			return 0;
		acc = (acc << 6 | (uint32_t)digit) & 0xffffff;
		bits += 6;
		if (bits < 8)
			continue;
		bits -= 8;
		out[n++] = (char)(acc >> bits);
	}
	return n;
}

static int32_t find_by_token(const struct endpoint_snapshot *snap, struct span session)
{
	char text[TOKEN_BYTES];
	size_t len = base64_decode(session, text, sizeof(text));
	const char *slash = len ? memchr(text, '/', len) : NULL;
	struct span name;

	if (!slash)
		return -1;
	name = span_of(slash + 1, len - (size_t)(slash + 1 - text));
	for (uint32_t i = 0; i < snap->view_count; i++)
		if (span_eq(span_of_str(snap->views[i]->name), name))
			return (int32_t)i;
	return -1;
}

static uint64_t session_hash(struct span session)
{
	return XXH3_64bits(session.ptr, session.len);
}

int32_t sessions_find(const struct sessions *set, const struct endpoint_snapshot *snap,
		      struct span session, uint64_t now_ns)
{
	uint64_t hash = session_hash(session);
	int32_t view = find_by_token(snap, session);

	if (view >= 0)
		return view;
	for (unsigned int i = 0; i < WAYS; i++) {
		const struct place *p = &set->places[(hash + i) % SESSIONS_MAX];
		uint64_t value = atomic_load_explicit(&p->value, memory_order_relaxed);

		if ((atomic_load_explicit(&p->key, memory_order_relaxed) ^ value) != hash ||
		    (uint32_t)value < now_ns / NS_PER_S)
			continue;
		for (uint32_t v = 0; v < snap->view_count; v++)
			if (snap->views[v]->slot == value >> 48 &&
			    (uint16_t)snap->views[v]->generation == (uint16_t)(value >> 32))
				return (int32_t)v;
	}
	return -1;
}

void sessions_bind(struct sessions *set, const struct endpoint *ep, struct span session,
		   uint64_t now_ns)
{
	uint64_t hash = session_hash(session);
	uint64_t value = (uint64_t)ep->slot << 48 | (uint64_t)(uint16_t)ep->generation << 32 |
			 (uint32_t)(now_ns / NS_PER_S + SESSION_TTL_S);
	struct place *best = NULL;
	uint32_t best_expiry = UINT32_MAX;

	for (unsigned int i = 0; i < WAYS; i++) {
		struct place *p = &set->places[(hash + i) % SESSIONS_MAX];
		uint64_t old = atomic_load_explicit(&p->value, memory_order_relaxed);

		if ((atomic_load_explicit(&p->key, memory_order_relaxed) ^ old) == hash) {
			best = p;
			break;
		}
		if ((uint32_t)old < best_expiry) {
			best = p;
			best_expiry = (uint32_t)old;
		}
	}
	if (!best)
		return;
	atomic_store_explicit(&best->key, hash ^ value, memory_order_relaxed);
	atomic_store_explicit(&best->value, value, memory_order_relaxed);
}

size_t sessions_token(const struct endpoint *ep, char to[SESSION_TOKEN_MAX])
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char text[ENDPOINT_NAME_MAX + 16];
	size_t len = (size_t)snprintf(text, sizeof(text), "default/%s", ep->name), n = 0;

	for (size_t i = 0; i < len; i += 3) {
		uint32_t word = (uint32_t)(unsigned char)text[i] << 16;

		word |= i + 1 < len ? (uint32_t)(unsigned char)text[i + 1] << 8 : 0;
		word |= i + 2 < len ? (uint32_t)(unsigned char)text[i + 2] : 0;
		to[n++] = digits[word >> 18];
		to[n++] = digits[word >> 12 & 63];
		to[n++] = i + 1 < len ? digits[word >> 6 & 63] : '=';
		to[n++] = i + 2 < len ? digits[word & 63] : '=';
	}
	return n;
}
