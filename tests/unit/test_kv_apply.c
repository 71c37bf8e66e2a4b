/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a real engine's messages to what the index expects of its next prompt: for each captured
 * request, as many blocks as that engine then found in its cache.
 */
#include "controlplane/kv_apply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <math.h>

#include "../kv_fixtures.h"
#include "base/load.h"

#define BLOCK_TOKENS 32

static struct kv_decoder *decoder;
static struct kv_applier a;
static struct sluice_endpoint_load load;

static void start(const char *tokenizer)
{
	char path[128], error[256];
	struct vocab *v = NULL;

	snprintf(path, sizeof(path), "tests/data/tokenizer/%s.json", tokenizer);
	assert_int_equal(vocab_load(path, &v, error, sizeof(error)), 0);
	a = (struct kv_applier){.vocab = v, .slot = 5, .load = &load, .now_ns = 77};
	assert_int_equal(kv_index_new(4 << 20, 1, &a.index), 0);
	kv_index_bind(a.index, a.slot, 0);
}

static void stop(void)
{
	vocab_free(a.vocab);
	kv_index_free(a.index);
}

static void hear(const char *hex)
{
	uint8_t *bytes;
	size_t n = fixture_unhex(hex, &bytes);

	assert_int_equal(kv_events_decode(decoder, bytes, n, kv_apply, &a), 0);
	free(bytes);
}

static struct kv_match match(struct span prompt, struct span adapter, struct span salt)
{
	static struct kv_match got[ENDPOINTS_MAX];
	static uint32_t generations[ENDPOINTS_MAX];
	static uint64_t prefix[KV_PROMPT_BYTES_MAX / KV_CELL_BYTES + 1];
	uint64_t slots[KV_SLOT_WORDS] = {1u << 5};
	struct kv_prompt p = {
		.bytes = prompt.ptr, .len = (uint32_t)prompt.len, .root = 0, .prefix = prefix};

	p.root = kv_hash_root(kv_index_hash(a.index), adapter,
			      salt.len ? kv_extra_fold(0, salt) : 0);
	kv_prompt_read(kv_index_hash(a.index), &p);
	kv_index_match(a.index, &p, slots, generations, got);
	return got[5];
}

static struct span text_of(const json_t *row, const char *key)
{
	const json_t *v = json_object_get(row, key);

	return json_is_string(v) ? span_of(json_string_value(v), json_string_length(v))
				 : span_of(NULL, 0);
}

/* Prompt blocks that the engine did not have to store anew: it found them. */
static uint32_t found_by_engine(const json_t *row, uint32_t prompt_tokens)
{
	json_t *cached = json_object_get(row, "cached_tokens"), *batch, *event;
	uint32_t whole = (prompt_tokens - 1) / BLOCK_TOKENS, new = 0;
	size_t i, k;

	if (json_is_integer(cached))
		return (uint32_t)json_integer_value(cached) / BLOCK_TOKENS;
	json_array_foreach(json_object_get(row, "decoded"), i, batch)
	{
		json_array_foreach(
			json_array_get(batch, 1), k,
			event) if (strcmp(json_string_value(json_object_get(event, "type")),
					  "BlockStored") == 0) new +=
			(uint32_t)json_array_size(json_object_get(event, "block_hashes"));
	}
	return whole > new ? whole - new : 0;
}

/* A prompt in tokens, as bytes. */
static struct span ids_of(const json_t *ids)
{
	static char text[8192];
	uint32_t tokens[1024];
	size_t n = json_array_size(ids), len = 0;

	for (size_t i = 0; i < n; i++)
		tokens[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
	if (n)
		assert_int_equal(vocab_decode(a.vocab, tokens, n, text, sizeof(text), &len), 0);
	return span_of(text, len);
}

static unsigned int compare(const char *file, const char *tokenizer)
{
	json_t *rows = fixture_rows(file), *row, *hex;
	unsigned int compared = 0;
	size_t i, k;

	start(tokenizer);
	json_array_foreach(rows, i, row)
	{
		json_t *body = json_loads(json_string_value(json_object_get(row, "body")), 0, NULL);
		struct span prompt = text_of(row, "rendered"), adapter = text_of(body, "model");
		uint32_t tokens =
			(uint32_t)json_integer_value(json_object_get(row, "prompt_tokens"));
		bool generates_blocks = json_integer_value(json_object_get(body, "max_tokens")) > 8;

		if (span_eq(adapter, SPAN("tiny")))
			adapter.len = 0;
		if (!prompt.len)
			prompt = text_of(body, "prompt");
		if (!prompt.len)
			prompt = ids_of(json_object_get(body, "prompt"));
		if (!prompt.len &&
		    strcmp(text_of(row, "name").ptr, "messages_A_same_as_chat_A") == 0)
			prompt = text_of(json_array_get(rows, i - 4), "rendered");
		if (prompt.len && tokens) {
			struct kv_match got = match(prompt, adapter, text_of(body, "cache_salt"));
			uint32_t want = found_by_engine(row, tokens);

			assert_true(got.known);
			if (generates_blocks && !json_object_get(row, "cached_tokens"))
				want++; /* one of the stored blocks has generated tokens */
			if (got.blocks != want)
				print_message("%s: %u, the engine %u\n",
					      json_string_value(json_object_get(row, "name")),
					      got.blocks, want);
			assert_int_equal(got.blocks, want);
			compared++;
		}
		json_array_foreach(json_object_get(row, "events"), k, hex)
			hear(json_string_value(hex));
		json_decref(body);
	}
	json_decref(rows);
	return compared;
}

static void real_prompts_match_as_their_engine_found_them(void **state)
{
	(void)state;
	assert_int_equal(compare("match.jsonl", "tiny2000"), 9); /* all of them */
	assert_int_equal(a.applied.orphans + a.applied.unknown_tokens + a.applied.no_room, 0);
	stop();
	assert_true(compare("http.jsonl", "tiny4000") >= 1);
	stop();
}

/* This capture begins in the middle: what came before is unknown, and nothing is made up. */
static void adapters_and_salts_match_only_their_own(void **state)
{
	(void)state;
	assert_int_equal(compare("lora.jsonl", "tiny2000"), 10);
	assert_int_equal(a.applied.orphans, 0);
	stop();
}

/* 110 messages of an engine with few blocks: what is held is what its counts say. */
static void evictions_leave_what_the_engine_still_has(void **state)
{
	json_t *rows = fixture_rows("eviction.jsonl"), *row;
	struct kv_index_stats stats;
	size_t i;

	(void)state;
	start("tiny2000");
	json_array_foreach(rows, i, row) hear(json_string_value(json_object_get(row, "payload")));
	kv_index_read_stats(a.index, &stats);
	assert_true(stats.removed > 10 && stats.again > 0);
	assert_int_equal(stats.unknown, 0);
	assert_int_equal(stats.stored - stats.removed,
			 stats.pairs + stats.again -
				 (stats.removed - (stats.stored - stats.again - stats.pairs)));
	assert_true(stats.pairs > 0 && stats.pairs < stats.stored);
	json_decref(rows);
	stop();
}

/* ---- by hand ---- */

static const uint32_t tokens[8] = {300, 301, 302, 303, 304, 305, 306, 307};
static const uint64_t hashes[2] = {11, 12};
static const uint64_t no_extras[2];

static struct kv_event stored(void)
{
	return (struct kv_event){.kind = KV_STORED,
				 .reusable = true,
				 .block_count = 2,
				 .block_tokens = 4,
				 .token_count = 8,
				 .hashes = hashes,
				 .tokens = tokens,
				 .extras = no_extras};
}

static uint16_t blocks_now(uint16_t *ret_cpu)
{
	char text[512];
	size_t len;
	struct kv_match got;

	assert_int_equal(vocab_decode(a.vocab, tokens, 8, text, sizeof(text) - 1, &len), 0);
	text[len++] = '.';
	got = match(span_of(text, len), SPAN(""), SPAN(""));
	*ret_cpu = got.cpu_blocks;
	return got.blocks;
}

static void a_block_moves_to_the_other_tier(void **state)
{
	struct kv_event e = stored();
	uint16_t cpu;

	(void)state;
	start("tiny2000");
	kv_apply(&a, &e);
	assert_int_equal(blocks_now(&cpu), 2);
	assert_int_equal(cpu, 0);
	e.token_count = 0; /* the CPU tier names hashes only */
	e.medium = KV_CPU;
	kv_apply(&a, &e);
	e.kind = KV_REMOVED;
	e.medium = KV_GPU;
	kv_apply(&a, &e);
	assert_int_equal(blocks_now(&cpu), 2);
	assert_int_equal(cpu, 2);
	e.medium = KV_CPU;
	kv_apply(&a, &e);
	assert_int_equal(blocks_now(&cpu), 0);
	stop();
}

static void stores_are_counted(void **state)
{
	struct kv_event e = stored();
	uint16_t cpu;

	(void)state;
	start("tiny2000");
	kv_apply(&a, &e);
	kv_apply(&a, &e);
	e.kind = KV_REMOVED;
	kv_apply(&a, &e);
	assert_int_equal(blocks_now(&cpu), 2);
	kv_apply(&a, &e);
	assert_int_equal(blocks_now(&cpu), 0);
	e.kind = KV_STORED;
	kv_apply(&a, &e);
	e.kind = KV_CLEARED;
	kv_apply(&a, &e);
	assert_int_equal(blocks_now(&cpu), 0);
	stop();
}

static void what_is_no_prefix_or_no_text_is_left_out(void **state)
{
	struct kv_event e = stored();
	uint32_t strange[8] = {300, 301, 302, 303, 1 << 19, 0, 0, 0};
	uint16_t cpu;

	(void)state;
	start("tiny2000");
	e.reusable = false;
	kv_apply(&a, &e);
	assert_int_equal(a.applied.ignored, 2);
	e.reusable = true;
	e.tokens = strange;
	kv_apply(&a, &e);
	assert_int_equal(a.applied.stored, 1);
	assert_int_equal(a.applied.unknown_tokens, 1);
	assert_int_equal(blocks_now(&cpu), 1);
	e.has_parent = true;
	e.parent = 999;
	kv_apply(&a, &e);
	assert_int_equal(a.applied.orphans, 2);
	stop();
}

static void pushed_load_is_the_load(void **state)
{
	struct kv_event e = {.kind = KV_LOAD,
			     .running = 3,
			     .waiting = 4,
			     .used_tokens = 250,
			     .max_tokens = 1000};

	(void)state;
	start("tiny2000");
	kv_apply(&a, &e);
	assert_int_equal(load_read(load.running), 3);
	assert_int_equal(load_read(load.waiting), 4);
	assert_int_equal(load_read(load.kv_used_ppm), 250000);
	assert_int_equal(load_read(load.scraped_at_ns), 77);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_prompts_match_as_their_engine_found_them),
		cmocka_unit_test(adapters_and_salts_match_only_their_own),
		cmocka_unit_test(evictions_leave_what_the_engine_still_has),
		cmocka_unit_test(a_block_moves_to_the_other_tier),
		cmocka_unit_test(stores_are_counted),
		cmocka_unit_test(what_is_no_prefix_or_no_text_is_left_out),
		cmocka_unit_test(pushed_load_is_the_load),
	};
	int failed;

	decoder = calloc(1, sizeof(*decoder));
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	free(decoder);
	return failed;
}
