/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over messages (or input): which objects are parts with media. Runs only when a request
 * has media and there are pods to encode it.
 */
#include "dataplane/disagg/media.h"

#include <string.h>

#include "base/span.h"
#include "sluice/limits.h"

#define TOKEN_BYTES 24 /* no type that counts is longer */

struct walk {
	uint64_t opened[JSON_DEPTH_MAX + 1];
	bool media[JSON_DEPTH_MAX + 1];
	uint32_t depth;
	bool in_string, escaped, is_type; /* is_type: the value that comes is of the key "type" */
	bool after_colon;
	char token[TOKEN_BYTES];
	uint32_t token_len;
	struct media_part *parts;
	uint32_t max, count;
};

static bool media_type(struct span type)
{
	static const char *const types[] = {"image_url",   "input_image", "image", "image_embeds",
					    "input_audio", "audio_url",	  "audio", "video_url",
					    "input_video", "video"};

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (span_eq(type, span_of_str(types[i])))
			return true;
	return false;
}

static void string_end(struct walk *w)
{
	struct span token = span_of(w->token, w->token_len);

	if (!w->after_colon)
		w->is_type = span_eq(token, SPAN("type"));
	else if (w->is_type && w->token_len <= TOKEN_BYTES && media_type(token))
		w->media[w->depth] = true;
}

static void close_object(struct walk *w, uint64_t at)
{
	if (w->media[w->depth]) {
		if (w->count < w->max)
			w->parts[w->count] = (struct media_part){w->opened[w->depth], at + 1};
		w->count++;
	}
	w->depth--;
}

static void string_byte(struct walk *w, char c)
{
	if (w->escaped) {
		w->escaped = false;
	} else if (c == '\\') {
		w->escaped = true;
	} else if (c == '"') {
		w->in_string = false;
		string_end(w);
		return;
	}
	if (w->token_len < TOKEN_BYTES)
		w->token[w->token_len] = c;
	w->token_len++;
	if (w->token_len > TOKEN_BYTES)
		w->token_len = TOKEN_BYTES + 1;
}

static void byte(struct walk *w, char c, uint64_t at)
{
	switch (c) {
	case '"':
		w->in_string = true;
		w->token_len = 0;
		return;
	case ':':
		w->after_colon = true;
		return;
	case ',':
		w->after_colon = false;
		return;
	case '{':
	case '[':
		w->depth++;
		w->opened[w->depth] = at;
		w->media[w->depth] = false;
		w->after_colon = false;
		w->is_type = false;
		return;
	case '}':
		close_object(w, at);
		return;
	case ']':
		w->depth--;
		return;
	}
}

/* The long strings between: data URLs. Bytes up to the next quote or backslash. */
static size_t string_run(const char *p, size_t n)
{
	const char *quote = memchr(p, '"', n), *back;

	if (quote)
		n = (size_t)(quote - p);
	back = memchr(p, '\\', n);
	return back ? (size_t)(back - p) : n;
}

uint32_t media_find(const struct block *chain, uint64_t start, uint64_t end,
		    struct media_part *parts, uint32_t max)
{
	struct walk w = {.parts = parts, .max = max};
	uint64_t at = 0;

	for (const struct block *b = chain; b && at < end; at += block_used(b), b = b->next) {
		const char *p = b->data + b->start;
		size_t n = block_used(b), i = start > at ? start - at : 0;

		if (at + n > end)
			n = end - at;
		while (i < n) {
			if (w.in_string && !w.escaped && w.token_len > TOKEN_BYTES) {
				i += string_run(p + i, n - i);
				if (i == n)
					break;
			}
			if (w.in_string)
				string_byte(&w, p[i]);
			else
				byte(&w, p[i], at + i);
			i++;
		}
	}
	return w.count;
}
