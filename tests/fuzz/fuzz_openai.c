/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body scanner against jansson: the same verdict, the same fields, the same prompt, at any
 * split and by the wide path as by the byte-wise one. The first byte says how the rest is cut.
 *
 * Where the two differ by design:
 *   the scanner refuses a routing field that is double, of another type, too long, or no text
 *   (NUL, half of a surrogate pair), and says which; it goes 256 levels deep, jansson 2,048;
 *   jansson refuses numbers beyond its types, NUL in keys and halves of surrogate pairs, all of
 *   them JSON; of a key that stands twice it keeps the last value, so places and prompts are
 *   compared only where there is none.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/openai.h"

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			abort();                                                                   \
	} while (0)

static struct prompt_span spans[2][PROMPT_SPANS_MAX];

/* Whole slices take the wide path, short ones go byte by byte: the two must agree to the byte. */
static void scan(const char *p, size_t n, size_t step, struct openai_request *ret,
		 struct prompt_span *to, struct openai_scan *s)
{
	openai_scan_init(s, ret, to);
	for (size_t at = 0; at < n; at += step) {
		size_t len = n - at < step ? n - at : step;
		char *copy = malloc(len); /* exact, so that reading past it is seen */

		memcpy(copy, p + at, len);
		(void)openai_scan_feed(s, copy, len);
		free(copy);
	}
	(void)openai_scan_finish(s);
	if (s->error) {
		char text[256];

		CHECK(strlen(openai_error_text(s, text, sizeof(text))) > 0);
	}
}

static const struct {
	const char *name;
	bool is_int;
} fields[] = {
#define INT		  true
#define STRING		  false
#define BOOL		  false
#define OBJECT		  false
#define ANY		  false
#define X(id, name, type) [OPENAI_##id] = {name, type},
	OPENAI_MEMBERS(X)
#undef X
};

static void compare_text(const json_t *root, const char *name, const char *ours, size_t max)
{
	const json_t *v = json_object_get(root, name);

	if (json_is_string(v) && json_string_length(v) < max &&
	    !memchr(json_string_value(v), 0, json_string_length(v)))
		CHECK(strcmp(json_string_value(v), ours) == 0);
	else
		CHECK(!*ours);
}

static void compare(const struct openai_request *r, const char *body, const json_t *root)
{
	compare_text(root, "model", r->model, sizeof(r->model));
	compare_text(root, "cache_salt", r->cache_salt, sizeof(r->cache_salt));
	compare_text(root, "user", r->user, sizeof(r->user));
	CHECK(r->stream == json_is_true(json_object_get(root, "stream")));
	CHECK(r->include_usage ==
	      json_is_true(
		      json_object_get(json_object_get(root, "stream_options"), "include_usage")));
	for (int m = 0; m < OPENAI_MEMBER_COUNT; m++) {
		const struct openai_place *place = &r->members[m];
		const json_t *v = json_object_get(root, fields[m].name);
		json_t *again;

		CHECK(!v == !place->end);
		if (!v)
			continue;
		CHECK(json_is_null(v) == place->null);
		if (fields[m].is_int && json_is_integer(v))
			CHECK(r->numbers[m] == json_integer_value(v));
		again = json_loadb(body + place->value, place->end - place->value,
				   JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		CHECK(again && json_equal(again, v)); /* the place is the value, whole and alone */
		json_decref(again);
	}
}

/* A walk over the tree beside the spans that the scanner found. */
struct walk {
	const struct openai_request *r;
	const char *body;
	uint32_t at, tokens;
	uint8_t kind;
	bool is_prompt, media;
};

static void span_is(struct walk *w, uint64_t start, uint64_t end, uint8_t kind)
{
	const struct prompt_span *s = &spans[0][w->at++];

	CHECK(w->at <= w->r->span_count);
	CHECK(s->start == start && s->end == end && s->kind == kind);
}

static void span_says(struct walk *w, json_t *text)
{
	const struct prompt_span *s = &spans[0][w->at];
	json_t *said;

	CHECK(w->at < w->r->span_count);
	said = json_loadb(w->body + s->start - 1, s->end - s->start + 2,
			  JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	CHECK(said && json_equal(said, text));
	json_decref(said);
	span_is(w, s->start, s->end, w->kind);
}

static uint8_t kind_of(const char *key)
{
	static const char *const media[] = {"url", "data", "image_url", "file_data"};

	for (size_t i = 0; i < sizeof(media) / sizeof(media[0]); i++)
		if (strcmp(key, media[i]) == 0)
			return PROMPT_MEDIA;
	return strcmp(key, "role") == 0 ? PROMPT_ROLE : PROMPT_TEXT;
}

static void walk_value(struct walk *w, json_t *v, unsigned int depth)
{
	const char *key;
	json_t *inner;
	size_t i;

	if (json_is_string(v))
		span_says(w, v);
	if (json_is_number(v) && w->is_prompt && depth > 1)
		w->tokens++;
	json_array_foreach(v, i, inner) walk_value(w, inner, depth + 1);
	json_object_foreach(v, key, inner)
	{
		w->kind = kind_of(key);
		w->media |= w->kind == PROMPT_MEDIA;
		walk_value(w, inner, depth + 1);
	}
}

/* What is prompt, in the order in which it stands; root has no key twice. */
static void compare_prompt(const struct openai_request *r, const char *body, json_t *root)
{
	struct walk w = {.r = r, .body = body};
	const char *key;
	json_t *v;

	json_object_foreach(root, key, v)
	{
		int m = OPENAI_MESSAGES;

		while (m < OPENAI_MEMBER_COUNT && strcmp(key, fields[m].name) != 0)
			m++;
		if (m == OPENAI_MEMBER_COUNT)
			continue;
		if (m == OPENAI_TOOLS || m == OPENAI_DOCUMENTS) {
			if (!json_is_null(v))
				span_is(&w, r->members[m].value, r->members[m].end, PROMPT_TOOLS);
			continue;
		}
		w.kind = PROMPT_TEXT;
		w.is_prompt = m == OPENAI_PROMPT;
		walk_value(&w, v, 1);
		if (w.is_prompt && w.tokens)
			span_is(&w, r->members[m].value, r->members[m].end, PROMPT_TOKENS);
	}
	CHECK(w.at == r->span_count && w.tokens == r->token_ids && w.media == r->has_media);
}

/* jansson refuses a few legal things. */
static bool jansson_is_narrower(const char *text)
{
	static const char *const reasons[] = {"too big",     "overflow",    "Unicode", "surrogate",
					      "real number", "NUL byte in", "depth"};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (strstr(text, reasons[i]))
			return true;
	return false;
}

static void against_jansson(const char *p, size_t n, const struct openai_scan *s,
			    const struct openai_request *r)
{
	json_error_t error;
	json_t *root = json_loadb(p, n, JSON_ALLOW_NUL, &error), *once;

	if (!s->error && !root)
		CHECK(jansson_is_narrower(error.text));
	if (!s->error && root) {
		once = json_loadb(p, n, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
		compare(r, p, root);
		if (once && !r->spans_merged)
			compare_prompt(r, p, once);
		json_decref(once);
	}
	/* What we refuse as no JSON, jansson refuses too, but for a bare NUL after a number. */
	if (s->error == OPENAI_SYNTAX || s->error == OPENAI_UTF8)
		CHECK(!root || memchr(p, 0, n));
	json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct openai_request whole, cut;
	static struct openai_scan a, b;
	const char *p = (const char *)data + 1;
	size_t n;

	if (size < 2)
		return 0;
	n = size - 1;
	scan(p, n, n, &whole, spans[0], &a);
	scan(p, n, data[0] < 128 ? data[0] % 16 + 1 : data[0], &cut, spans[1], &b);
	CHECK(a.error == b.error && a.error_at == b.error_at && a.error_field == b.error_field);
	if (!a.error) {
		CHECK(memcmp(&whole, &cut, sizeof(whole)) == 0);
		CHECK(memcmp(spans[0], spans[1], whole.span_count * sizeof(**spans)) == 0);
		for (uint32_t i = 0; i < whole.span_count; i++)
			CHECK(spans[0][i].start <= spans[0][i].end && spans[0][i].end <= n);
	}
	against_jansson(p, n, &a, &whole);
	return 0;
}
