/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body scanner against jansson: the same verdict, the same fields, at any split.
 * The first byte says how the rest is cut. Where the two may differ by design (duplicates, types,
 * lengths, NUL, depth) the scanner must have named that reason.
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

static void compare_text(const json_t *root, const char *name, const char *ours)
{
	const json_t *v = json_object_get(root, name);

	if (json_is_string(v))
		CHECK(strcmp(json_string_value(v), ours) == 0);
	else
		CHECK(!*ours);
}

static void compare(const struct openai_request *r, const char *body, const json_t *root)
{
	compare_text(root, "model", r->model);
	compare_text(root, "cache_salt", r->cache_salt);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct openai_request whole, cut;
	static struct openai_scan a, b;
	const char *p = (const char *)data + 1;
	json_error_t error;
	json_t *root;
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
	root = json_loadb(p, n, JSON_ALLOW_NUL, &error);
	if (!a.error &&
	    !root) /* jansson refuses a few legal things: huge numbers, lone surrogates */
		CHECK(strstr(error.text, "too big") || strstr(error.text, "overflow") ||
		      strstr(error.text, "Unicode") || strstr(error.text, "surrogate") ||
		      strstr(error.text, "real number") || strstr(error.text, "depth"));
	if (!a.error && root)
		compare(&whole, p, root);
	/* What we refuse as no JSON, jansson refuses; but it leaves surrogates and NUL to its user.
	 */
	if (a.error == OPENAI_SYNTAX || a.error == OPENAI_UTF8)
		CHECK(!root || memmem(p, n, "\\u", 2) || memchr(p, 0, n));
	json_decref(root);
	return 0;
}
