/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What passes by in an answer: server-sent events (first error, first content, usage, [DONE]) or
 * the end of a JSON body (usage). Reads only; keeps at most SSE_KEEP bytes of an unfinished event.
 */
#ifndef SLUICE_BASE_SSE_H
#define SLUICE_BASE_SSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

#define SSE_KEEP 1024

struct usage {
	uint32_t prompt_tokens, completion_tokens, cached_tokens;
	bool known;
	bool cached_known; /* cached_tokens was told */
};

struct sse {
	uint64_t events;     /* with data; comments are none */
	bool first_is_error; /* the first data event is an error */
	bool content;	     /* an event with content has passed */
	bool done;	     /* [DONE] has passed */
	struct usage usage;
	uint32_t kept; /* bytes in keep: the unfinished event, or the end of a JSON body */
	char keep[SSE_KEEP];
};

/*
 * Payload bytes of an event stream, at any split. Zero-initialise. Returns how many of them, at
 * their end, belong to an event that is not finished yet.
 */
size_t sse_feed(struct sse *s, const char *p, size_t n);
/* Payload bytes of a JSON answer, at any split; usage is read at its end. */
void sse_json_feed(struct sse *s, const char *p, size_t n);
void sse_json_end(struct sse *s);

/* Reads "usage" out of JSON text; leaves *ret as it is when there is none. */
void usage_read(struct span text, struct usage *ret);

#endif
