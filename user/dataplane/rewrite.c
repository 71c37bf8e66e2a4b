/* SPDX-License-Identifier: Apache-2.0 */
/* "FROM=TO:90,CANARY:10" into a small table; a request costs one comparison a row. */
#include "dataplane/rewrite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sluice/limits.h"

struct target {
	char json[MODEL_NAME_BYTES_MAX + 2];
	uint32_t weight;
};

struct rewrite {
	char from[MODEL_NAME_BYTES_MAX];
	struct target targets[REWRITE_TARGETS_MAX];
	uint32_t count;
	uint64_t sum;
};

struct rewrites {
	size_t count;
	struct rewrite rows[];
};

/* A name that stands in JSON and in a log as it is. */
static bool name_is_plain(struct span name)
{
	for (size_t i = 0; i < name.len; i++)
		if (name.ptr[i] < 0x21 || name.ptr[i] > 0x7e || strchr("\"\\,=", name.ptr[i]))
			return false;
	return name.len && name.len < MODEL_NAME_BYTES_MAX;
}

/* "TO" or "TO:WEIGHT": a weight is what follows the last colon, if that is a number. */
static bool target_read(struct span text, struct target *ret)
{
	const char *colon = memrchr(text.ptr, ':', text.len);
	char digits[12];
	size_t len;

	ret->weight = 1;
	if (colon) {
		len = (size_t)(text.ptr + text.len - colon - 1);
		if (!len || len > 9)
			return false;
		memcpy(digits, colon + 1, len);
		digits[len] = '\0';
		if (strspn(digits, "0123456789") != len)
			return false;
		ret->weight = (uint32_t)strtoul(digits, NULL, 10);
		text.len = (size_t)(colon - text.ptr);
	}
	if (!name_is_plain(text))
		return false;
	snprintf(ret->json, sizeof(ret->json), "\"%.*s\"", SPAN_FMT(text));
	return true;
}

static bool rewrite_read(const char *text, struct rewrite *ret)
{
	const char *equals = strchr(text, '='), *at, *comma;
	struct span from = span_of(text, equals ? (size_t)(equals - text) : 0);

	if (!equals || !name_is_plain(from))
		return false;
	memcpy(ret->from, from.ptr, from.len);
	for (at = equals + 1;; at = comma + 1) {
		comma = strchrnul(at, ',');
		if (ret->count == REWRITE_TARGETS_MAX ||
		    !target_read(span_of(at, (size_t)(comma - at)), &ret->targets[ret->count]))
			return false;
		ret->sum += ret->targets[ret->count++].weight;
		if (!*comma)
			return ret->sum > 0;
	}
}

static int refused(char *error, size_t size, const char *text, const char *why)
{
	snprintf(error, size, "model-rewrite %s: %s", text, why);
	return -EINVAL;
}

int rewrites_new(const struct config *cfg, char *error, size_t size, struct rewrites **ret)
{
	size_t n = cfg->model_rewrites.count;
	struct rewrites *r;

	*ret = NULL;
	if (!n)
		return 0;
	r = calloc(1, sizeof(*r) + n * sizeof(r->rows[0]));
	if (!r)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const char *text = cfg->model_rewrites.items[i], *why = NULL;

		if (!rewrite_read(text, &r->rows[i]))
			why = "wanted is FROM=TO[:WEIGHT][,TO[:WEIGHT]]…";
		for (size_t k = 0; !why && k < i; k++)
			if (strcmp(r->rows[k].from, r->rows[i].from) == 0)
				why = "this name is rewritten already";
		if (why) {
			free(r);
			return refused(error, size, text, why);
		}
	}
	r->count = n;
	*ret = r;
	return 0;
}

void rewrites_free(struct rewrites *r)
{
	free(r);
}

struct span rewrites_find(const struct rewrites *r, struct span model, uint64_t draw)
{
	for (size_t i = 0; r && i < r->count; i++) {
		const struct rewrite *row = &r->rows[i];
		uint64_t left;

		if (!span_eq(model, span_of_str(row->from)))
			continue;
		left = (uint64_t)(((unsigned __int128)draw * row->sum) >> 64);
		for (uint32_t t = 0; t < row->count; t++) {
			if (left < row->targets[t].weight)
				return span_of_str(row->targets[t].json);
			left -= row->targets[t].weight;
		}
	}
	return span_of(NULL, 0);
}
