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

static enum openai_error scan(const char *p, size_t n, size_t step, struct openai_request *ret,
			      struct prompt_span *to)
{
	struct openai_scan s;

	openai_scan_init(&s, ret, to);
	for (size_t at = 0; at < n; at += step) {
		size_t len = n - at < step ? n - at : step;
		char *copy = malloc(len); /* exact, so that reading past it is seen */

		memcpy(copy, p + at, len);
		(void)openai_scan_feed(&s, copy, len);
		free(copy);
	}
	(void)openai_scan_finish(&s);
	if (s.error) {
		char text[256];

		CHECK(strlen(openai_error_text(&s, text, sizeof(text))) > 0);
	}
	return s.error;
}

static void compare(const struct openai_request *r, const json_t *root)
{
	const json_t *v = json_object_get(root, "model");

	if (json_is_string(v))
		CHECK(strcmp(json_string_value(v), r->model) == 0);
	else
		CHECK(!*r->model);
	v = json_object_get(root, "stream");
	CHECK(r->stream == json_is_true(v));
	v = json_object_get(root, "max_tokens");
	if (json_is_integer(v))
		CHECK(r->numbers[OPENAI_MAX_TOKENS] == json_integer_value(v));
	v = json_object_get(root, "cache_salt");
	if (json_is_string(v))
		CHECK(strcmp(json_string_value(v), r->cache_salt) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct openai_request whole, cut;
	const char *p = (const char *)data + 1;
	enum openai_error a, b;
	json_error_t error;
	json_t *root;
	size_t n;

	if (size < 2)
		return 0;
	n = size - 1;
	a = scan(p, n, n, &whole, spans[0]);
	b = scan(p, n, (size_t)(data[0] % 16) + 1, &cut, spans[1]);
	CHECK(a == b);
	if (!a) {
		CHECK(memcmp(&whole, &cut, sizeof(whole)) == 0);
		CHECK(memcmp(spans[0], spans[1], whole.span_count * sizeof(**spans)) == 0);
		for (uint32_t i = 0; i < whole.span_count; i++)
			CHECK(spans[0][i].start <= spans[0][i].end && spans[0][i].end <= n);
	}
	root = json_loadb(p, n, JSON_ALLOW_NUL, &error);
	if (!a && !root) /* jansson refuses a few legal things: huge numbers, lone surrogates */
		CHECK(strstr(error.text, "too big") || strstr(error.text, "overflow") ||
		      strstr(error.text, "Unicode") || strstr(error.text, "surrogate") ||
		      strstr(error.text, "real number") || strstr(error.text, "depth"));
	if (!a && root)
		compare(&whole, root);
	if (a == OPENAI_SYNTAX || a == OPENAI_UTF8)
		CHECK(!root || strstr(p, "\\u") || memchr(p, 0, n));
	json_decref(root);
	return 0;
}
