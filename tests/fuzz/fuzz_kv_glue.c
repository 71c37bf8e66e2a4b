/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine that answers anything to the sentinel conversations, and prompts of any bytes: what is
 * learned, chats or only completions, renders within its buffer, and the same at every size of it.
 * Messages that the glue does not cover are wished for, asked of the same engine, and then rendered
 * too.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kv/kv_glue.h"
#include "kv/kv_render.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vocab *vocab;

struct engine {
	const uint8_t *at, *end;
	unsigned int asked;
};

/* Every byte is a token; the input says what stands around and between the contents. */
static int answer(void *arg, const char *body, uint32_t *tokens, uint32_t max)
{
	struct engine *e = arg;
	uint32_t n = 0;
	bool in_content = false;

	e->asked++;
	for (const char *p = body; *p && n < max; p++) {
		if (strncmp(p, "\"content\":\"", 11) == 0 || strncmp(p, "\"prompt\":\"", 10) == 0) {
			for (unsigned int i = 0; e->at < e->end && i < (*e->at & 7u); i++)
				tokens[n++] = (uint32_t)(uint8_t)"<|>\n s"[i % 6] + 0u;
			e->at += e->at < e->end;
			in_content = true;
			p += p[1] == 'c' ? 10 : 9;
		} else if (in_content && *p == '"') {
			in_content = false;
		} else if (in_content && *p == '\\' && p[1] == 'n') {
			tokens[n++] = '\n';
			p++;
		} else if (in_content) {
			tokens[n++] = (uint8_t)*p;
		}
	}
	if (e->at < e->end && *e->at == 0xff)
		return -ENOTSUP;
	return (int)n;
}

static struct kv_pieces *pieces;

/* False: nobody wished for anything. */
static bool wishes_grant(struct kv_pieces *p, struct engine *e)
{
	struct kv_wish w;
	bool any = false;

	while (kv_pieces_wanted(p, &w)) {
		struct kv_text text = {0};
		int err = kv_piece_learn(vocab, answer, e, &w, &text);

		if (err == -ENOMEM)
			kv_pieces_put_back(p);
		else
			kv_pieces_grant(p, text.ptr, text.len);
		free(text.ptr);
		any = true;
	}
	return any;
}

static void vocab_make(void)
{
	static char json[16384];
	char error[128];
	size_t n = (size_t)sprintf(json, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[");

	for (unsigned int i = 0; i < 256; i++)
		n += (size_t)sprintf(json + n, "%s[\"<0x%02X>\",0]", i ? "," : "", i);
	n += (size_t)sprintf(json + n, "]}}");
	if (vocab_parse(json, n, &vocab, error, sizeof(error)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t half = size < 24 ? size : 24;
	struct engine e = {data, data + half, 0};
	struct kv_glue *g = NULL;
	char *whole = malloc(4096), *part;
	struct kv_out out = {whole, 0, 4096, false, 0}, cut;
	struct kv_request r = {0};
	int err;

	if (!vocab)
		vocab_make();
	if (!pieces)
		pieces = kv_pieces_new();
	if (kv_glue_learn(vocab, answer, &e, span_of(NULL, 0), &g) == 0 ||
	    kv_glue_learn_plain(vocab, answer, &e, &g) == 0) {
		struct span *member[] = {&r.messages, &r.prompt, &r.input, &r.system};

		r.messages = span_of((const char *)data + half, size - half);
		if (size > half)
			*member[data[half] & 3] = r.messages;
		r.pieces = pieces;
		err = kv_render(g, vocab, &r, &out);
		assert(out.len <= out.size);
		if (wishes_grant(pieces, &e)) {
			out = (struct kv_out){whole, 0, 4096, false, 0};
			err = kv_render(g, vocab, &r, &out);
			assert(out.len <= out.size);
			wishes_grant(pieces, &e);
		}
		if (!err && out.len && !g->trims) {
			part = malloc(out.len - 1 ? out.len - 1 : 1);
			cut = (struct kv_out){part, 0, out.len - 1, false, 0};
			err = kv_render(g, vocab, &r, &cut);
			assert(err == 0 ? cut.full : cut.rest);
			assert(err || memcmp(part, whole, cut.len) == 0);
			free(part);
		}
		kv_glue_free(g);
	}
	free(whole);
	return 0;
}
