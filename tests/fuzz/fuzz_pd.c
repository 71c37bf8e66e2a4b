/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of legs and collected answers: any valid request body, cut into blocks anywhere, becomes
 * what the same edits make of its tree; sampling_params too; an answer's parameters lie within it.
 */
#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/disagg/answer.h"
#include "dataplane/body.h"
#include "dataplane/disagg/connector.h"

#define BLOCKS_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct block blocks[BLOCKS_MAX];
static struct prompt_span spans[PROMPT_SPANS_MAX];

static const struct block *chained(char *text, size_t len, size_t step)
{
	size_t n = 0;

	for (size_t at = 0; at < len && n < BLOCKS_MAX; at += step, n++) {
		uint32_t take = (uint32_t)(len - at < step ? len - at : step);

		blocks[n] = (struct block){.data = text + at, .end = take, .size = take};
		if (n)
			blocks[n - 1].next = &blocks[n];
	}
	return n ? blocks : NULL;
}

static json_t *parsed(const char *text, size_t len)
{
	return json_loadb(text, len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
}

static const struct body_edit every[] = {
	{.kind = BODY_CUT, .member = OPENAI_KV_TRANSFER_PARAMS},
	{.kind = BODY_CUT, .member = OPENAI_STREAM_OPTIONS},
	{.kind = BODY_CUT, .member = OPENAI_MODEL},
	{.kind = BODY_SET,
	 .member = OPENAI_STREAM,
	 .name = "stream",
	 .value = {.span = {"false", 5}}},
	{.kind = BODY_REPLACE, .member = OPENAI_MAX_TOKENS, .value = {.span = {"1", 1}}},
	{.kind = BODY_CUT, .member = OPENAI_MESSAGES},
	{.kind = BODY_SET, .member = OPENAI_N, .name = "n", .value = {.span = {"[2]", 3}}},
	{.kind = BODY_ADD,
	 .member = OPENAI_NO_MEMBER,
	 .name = "kv_transfer_params",
	 .value = {.span = {"{}", 2}},
	 .marked = true},
};

/* The same edit of a tree. */
static void tree_edit(json_t *tree, const struct body_edit *e)
{
	const char *name = e->name ? e->name : openai_member_name(e->member);

	if (e->kind == BODY_CUT)
		json_object_del(tree, name);
	else if (e->kind != BODY_REPLACE || json_object_get(tree, name))
		json_object_set_new(tree, name,
				    json_loadb(e->value.span.ptr, e->value.span.len,
					       JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL));
}

/* jansson refuses some numbers and depths that the scanner takes, and keeps one of two equal keys.
 */
static void compare(const char *text, size_t len, const char *out, size_t out_len,
		    const struct body_edit *edits, uint32_t count)
{
	json_t *have = parsed(out, out_len), *want = parsed(text, len);

	assert(!want || have);
	for (uint32_t i = 0; want && i < count; i++)
		tree_edit(want, &edits[i]);
	if (want)
		assert(json_equal(have, want));
	json_decref(have);
	json_decref(want);
}

/* mask: which of the edits. One member is not added while it is there. */
static void leg(const struct block *chain, const char *text, size_t len,
		const struct openai_request *says, unsigned int mask)
{
	struct body_edit edits[8];
	struct body_view v;
	uint32_t count = 0;
	char *out;
	uint64_t at = 0;

	mask |= mask >> 7 & 1; /* kv_transfer_params: cut before it is added */
	for (unsigned int i = 0; i < 8; i++)
		if (mask >> i & 1)
			edits[count++] = every[i];
	assert(body_build(&v, chain, len, says, edits, count) == 0);
	out = malloc(v.bytes + 1);
	while (at < v.bytes) {
		struct iovec iov[3];
		unsigned int n = body_fill(&v, at, iov, 3);

		assert(n > 0);
		for (unsigned int i = 0; i < n; at += iov[i].iov_len, i++)
			memcpy(out + at, iov[i].iov_base, iov[i].iov_len);
	}
	assert(at == v.bytes);
	if (!count)
		assert(v.bytes == len && memcmp(out, text, len) == 0);
	compare(text, len, out, v.bytes, edits, count);
	free(out);
}

static void sampling(const struct block *chain, const struct openai_request *says)
{
	const struct openai_place *p = &says->members[OPENAI_SAMPLING_PARAMS];
	char out[4096], first;
	json_t *got;
	ssize_t n;

	if (!p->end || body_copy(chain, p->value, p->end, &first, 1) != 1 || first != '{')
		return;
	n = sampling_rewrite(chain, p->value, p->end, out, sizeof(out));
	if (n < 0)
		return;
	got = parsed(out, (size_t)n);
	if (got)
		assert(json_number_value(json_object_get(got, "max_tokens")) == 1);
	json_decref(got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct openai_scan scan;
	static struct openai_request says;
	const struct block *chain;
	struct answer a;
	char *text;

	if (size < 3 || size > 8192)
		return 0;
	text = malloc(size);
	memcpy(text, data + 1, size - 1);
	chain = chained(text, size - 1, 2 + data[0]);
	openai_scan_init(&scan, &says, spans);
	if (openai_scan_feed(&scan, text, size - 1) == 0 && openai_scan_finish(&scan) == 0) {
		leg(chain, text, size - 1, &says, data[0] ^ (unsigned int)size);
		sampling(chain, &says);
	}
	if (answer_read(chain, OPENAI_KV_TRANSFER_PARAMS, &a) == 0)
		assert(a.end <= size - 1 && a.start <= a.end);
	free(text);
	return 0;
}
