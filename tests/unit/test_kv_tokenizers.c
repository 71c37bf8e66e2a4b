/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SentencePiece-style BPE with byte fallback and Unigram, as the library of Hugging Face made and
 * applied them: templates are learned from its tokens, prompts rendered as it tokenized them, and
 * of each as many blocks expected as an engine with these tokens has cached.
 */
#include "kv/kv_glue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "controlplane/kv_apply.h"
#include "kv/kv_render.h"

#define BLOCK	    16
#define TOKENS_MAX  2048
#define PROMPTS_MAX 32

struct tokenizer {
	const char *name;
	struct vocab *vocab;
	json_t *rows; /* what was asked, what the library said */
};

static int load(struct tokenizer *t, const char *name)
{
	FILE *f = fopen("tests/data/tokenizer/asked.jsonl", "r");
	char path[128], error[256], *line = NULL;
	size_t size = 0;

	*t = (struct tokenizer){.name = name, .rows = json_array()};
	snprintf(path, sizeof(path), "tests/data/tokenizer/%s.json", name);
	assert_int_equal(vocab_load(path, &t->vocab, error, sizeof(error)), 0);
	assert_non_null(f);
	while (getline(&line, &size, f) > 0) {
		json_t *row = json_loads(line, 0, NULL);

		if (strcmp(json_string_value(json_object_get(row, "tokenizer")), name) == 0)
			json_array_append(t->rows, row);
		json_decref(row);
	}
	free(line);
	fclose(f);
	return (int)json_array_size(t->rows);
}

static void unload(struct tokenizer *t)
{
	json_decref(t->rows);
	vocab_free(t->vocab);
}

static int tokens_of(const json_t *row, uint32_t *tokens)
{
	json_t *ids = json_object_get(row, "tokens");

	for (size_t i = 0; i < json_array_size(ids); i++)
		tokens[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
	return (int)json_array_size(ids);
}

/* A kv_ask: the engine says what the library said then. */
static int answer(void *arg, const char *body, uint32_t *tokens, uint32_t max)
{
	const struct tokenizer *t = arg;
	json_t *asked = json_loads(body, 0, NULL), *row;
	int n = -ENOTSUP;
	size_t i;

	(void)max;
	json_array_foreach(t->rows, i, row) if (json_equal(asked, json_object_get(row, "body"))) n =
		tokens_of(row, tokens);
	if (n < 0)
		print_message("%s was never asked: %s\n", t->name, body);
	json_decref(asked);
	return n;
}

/* An engine's cache: the blocks of each prompt that it was given. */
struct engine {
	uint32_t tokens[PROMPTS_MAX][TOKENS_MAX];
	int lens[PROMPTS_MAX], count;
};

static uint16_t cached(const struct engine *e, const uint32_t *tokens, int n)
{
	int best = 0;

	for (int p = 0; p < e->count; p++) {
		int same = 0;

		while (same < n && same < e->lens[p] && e->tokens[p][same] == tokens[same])
			same++;
		best = same > best ? same : best;
	}
	best = best < n - 1 ? best : n - 1; /* the last token is always computed */
	return (uint16_t)(best / BLOCK);
}

/* The prompt's blocks, told as events would, those that are cached left out. */
static void store(struct kv_applier *a, const uint32_t *tokens, int n, uint32_t from)
{
	static uint64_t hashes[TOKENS_MAX], extras[TOKENS_MAX];
	static uint64_t before[TOKENS_MAX]; /* of the blocks that lead to `from` */
	uint32_t blocks = (uint32_t)n / BLOCK;
	struct kv_event e = {.kind = KV_STORED,
			     .reusable = true,
			     .has_parent = from > 0,
			     .block_count = blocks - from,
			     .block_tokens = BLOCK,
			     .token_count = (blocks - from) * BLOCK,
			     .hashes = hashes,
			     .extras = extras,
			     .tokens = tokens + (size_t)from * BLOCK};
	uint64_t h = 0;

	for (uint32_t b = 0; b < blocks; b++) { /* names as an engine makes them: by all tokens */
		for (uint32_t i = 0; i < BLOCK; i++)
			h = (h ^ tokens[b * BLOCK + i]) * 0x9e3779b97f4a7c15ULL + 1;
		before[b] = h;
		if (b >= from)
			hashes[b - from] = h;
	}
	if (from)
		e.parent = before[from - 1];
	if (blocks > from)
		kv_apply(a, &e);
}

static uint16_t expected(struct kv_applier *a, struct kv_out *out)
{
	static struct kv_match got[ENDPOINTS_MAX];
	static uint32_t generations[ENDPOINTS_MAX];
	static uint64_t prefix[65536 / KV_CELL_BYTES + 1];
	uint64_t slots[KV_SLOT_WORDS] = {1};
	struct kv_prompt p = {.bytes = out->bytes, .len = out->len, .prefix = prefix};

	p.root = kv_hash_root(kv_index_hash(a->index), SPAN(""), 0);
	kv_prompt_read(kv_index_hash(a->index), &p);
	kv_index_match(a->index, &p, slots, generations, got);
	return got[0].blocks;
}

static void render(const struct kv_glue *g, const struct tokenizer *t, const json_t *body,
		   struct kv_out *out)
{
	char *messages = json_dumps(json_object_get(body, "messages"), JSON_ENCODE_ANY),
	     *prompt = json_dumps(json_object_get(body, "prompt"), JSON_ENCODE_ANY);
	struct kv_request r = {.messages = span_of_str(messages ? messages : ""),
			       .prompt = span_of_str(prompt ? prompt : "")};

	assert_int_equal(kv_render(g, t->vocab, &r, out), 0);
	free(messages);
	free(prompt);
}

static void follow(const char *name)
{
	static char bytes[65536], want[65536];
	static uint32_t tokens[TOKENS_MAX];
	static struct engine engine;
	struct tokenizer t;
	struct kv_applier a = {0};
	struct kv_glue *g = NULL;
	unsigned int hits = 0, rows = 0;
	json_t *row;
	size_t i, len;

	engine.count = 0;
	assert_true(load(&t, name) > 20);
	assert_int_equal(kv_glue_learn(t.vocab, answer, &t, SPAN(""), &g), 0);
	assert_true(g->trims);
	a.vocab = t.vocab;
	assert_int_equal(kv_index_new(4 << 20, 3, &a.index), 0);
	kv_index_bind(a.index, 0, 0);
	json_array_foreach(t.rows, i, row)
	{
		json_t *body = json_object_get(row, "body");
		struct kv_out out = {.bytes = bytes, .size = sizeof(bytes)};
		int n = tokens_of(row, tokens);
		uint16_t found;

		if (json_object_get(body, "add_generation_prompt") || n < BLOCK)
			continue; /* of the template's lesson */
		render(g, &t, body, &out);
		assert_int_equal(vocab_decode(t.vocab, tokens, (size_t)n, want, sizeof(want), &len),
				 0);
		assert_int_equal(len, out.len);
		assert_memory_equal(bytes, want, len);
		found = cached(&engine, tokens, n);
		assert_int_equal(expected(&a, &out), found);
		store(&a, tokens, n, found);
		memcpy(engine.tokens[engine.count], tokens, (size_t)n * sizeof(*tokens));
		engine.lens[engine.count++] = n;
		hits += found > 1;
		rows++;
	}
	assert_true(rows >= 14 && hits >= 8);
	assert_int_equal(a.applied.orphans + a.applied.unknown_tokens + a.applied.no_room, 0);
	kv_glue_free(g);
	kv_index_free(a.index);
	unload(&t);
}

static void sentencepiece_bpe_is_followed(void **state)
{
	(void)state;
	follow("spbpe1400");
}

static void unigram_is_followed(void **state)
{
	(void)state;
	follow("unigram1100");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sentencepiece_bpe_is_followed),
		cmocka_unit_test(unigram_is_followed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
