/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of legs and collected answers: any valid request body, cut into blocks anywhere, becomes a
 * valid leg body; sampling_params too; an answer's parameters lie within it.
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

static void leg(const struct block *chain, size_t len, const struct openai_request *says)
{
	static const struct body_edit edits[] = {
		{.kind = BODY_CUT, .member = OPENAI_KV_TRANSFER_PARAMS},
		{.kind = BODY_CUT, .member = OPENAI_STREAM_OPTIONS},
		{.kind = BODY_CUT, .member = OPENAI_MODEL},
		{.kind = BODY_SET,
		 .member = OPENAI_STREAM,
		 .name = "stream",
		 .value = {.span = {"false", 5}}},
		{.kind = BODY_REPLACE, .member = OPENAI_MAX_TOKENS, .value = {.span = {"1", 1}}},
		{.kind = BODY_ADD,
		 .member = OPENAI_NO_MEMBER,
		 .name = "kv_transfer_params",
		 .value = {.span = {"{}", 2}},
		 .marked = true},
	};
	struct body_view v;
	char *out;
	json_t *got;
	uint64_t at = 0;

	assert(body_build(&v, chain, len, says, edits, 6) == 0);
	out = malloc(v.bytes + 1);
	while (at < v.bytes) {
		struct iovec iov[3];
		unsigned int n = body_fill(&v, at, iov, 3);

		assert(n > 0);
		for (unsigned int i = 0; i < n; at += iov[i].iov_len, i++)
			memcpy(out + at, iov[i].iov_base, iov[i].iov_len);
	}
	assert(at == v.bytes);
	got = parsed(out, v.bytes);
	if (got) { /* jansson refuses some numbers and depths that the scanner takes */
		assert(json_is_false(json_object_get(got, "stream")));
		assert(!json_object_get(got, "model"));
		assert(json_object_size(json_object_get(got, "kv_transfer_params")) == 0);
	}
	json_decref(got);
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
		leg(chain, size - 1, &says);
		sampling(chain, &says);
	}
	if (answer_read(chain, OPENAI_KV_TRANSFER_PARAMS, &a) == 0)
		assert(a.end <= size - 1 && a.start <= a.end);
	free(text);
	return 0;
}
