/* SPDX-License-Identifier: Apache-2.0 */
/* Token ids back to bytes: a real engine's own answers, and the spellings that it did not have. */
#include "kv/vocab.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "../kv_fixtures.h"
#include "sluice/limits.h"

static char error[256];
static char text[1 << 16];

static struct vocab *load(const char *name)
{
	struct vocab *v = NULL;
	char path[128];

	snprintf(path, sizeof(path), "tests/data/tokenizer/%s.json", name);
	assert_int_equal(vocab_load(path, &v, error, sizeof(error)), 0);
	return v;
}

static struct vocab *parse(const char *json)
{
	struct vocab *v = NULL;
	int err = vocab_parse(json, strlen(json), &v, error, sizeof(error));

	if (err)
		print_message("%s\n", error);
	assert_int_equal(err, 0);
	return v;
}

/* The text that these ids stand for, as a string. */
static const char *decoded(const struct vocab *v, const json_t *ids)
{
	static uint32_t tokens[4096];
	size_t n = json_array_size(ids), len = 0;

	for (size_t i = 0; i < n; i++)
		tokens[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
	assert_int_equal(vocab_decode(v, tokens, n, text, sizeof(text) - 1, &len), 0);
	text[len] = '\0';
	return text;
}

static json_t *body_of(const json_t *row)
{
	json_t *body = json_loads(json_string_value(json_object_get(row, "body")), 0, NULL);

	assert_non_null(body);
	return body;
}

static void ids_of_real_prompts_are_the_prompts_bytes(void **state)
{
	static const char *const files[][2] = {{"match.jsonl", "tiny2000"},
					       {"http.jsonl", "tiny4000"}};
	unsigned int checked = 0;

	(void)state;
	for (unsigned int f = 0; f < 2; f++) {
		json_t *rows = fixture_rows(files[f][0]), *row;
		struct vocab *v = load(files[f][1]);
		size_t i;

		json_array_foreach(rows, i, row)
		{
			json_t *tokens = json_object_get(row, "tokens"), *body = body_of(row);
			const char *want = json_string_value(json_object_get(row, "rendered"));

			if (!want)
				want = json_string_value(json_object_get(body, "prompt"));
			if (json_array_size(tokens) && want) {
				assert_string_equal(decoded(v, tokens), want);
				checked++;
			}
			json_decref(body);
		}
		json_decref(rows);
		vocab_free(v);
	}
	assert_true(checked >= 9);
}

/* /tokenize over messages: the template's text is there, the tools' JSON, the multi-byte words. */
static void rendered_chats_are_readable(void **state)
{
	json_t *rows = fixture_rows("http.jsonl"), *row;
	struct vocab *v = load("tiny4000");
	unsigned int checked = 0;
	size_t i;

	(void)state;
	json_array_foreach(rows, i, row)
	{
		const char *name = json_string_value(json_object_get(row, "name"));
		json_t *tokens = json_object_get(row, "tokens");

		if (strcmp(name, "tokenize_chat") == 0) {
			const char *got = decoded(v, tokens);

			assert_non_null(strstr(got, "<|im_start|>assistant\nRivers are water."
						    "<|im_end|>\n<|im_start|>user\n"));
			assert_non_null(strstr(got, "日本語のテキスト 東京 Привет 🦀🚀"));
			checked++;
		} else if (strcmp(name, "tokenize_chat_tools") == 0) {
			assert_non_null(strstr(decoded(v, tokens), "\"name\": \"get_weather\""));
			checked++;
		}
	}
	assert_int_equal(checked, 2);
	json_decref(rows);
	vocab_free(v);
}

static void every_id_of_a_real_tokenizer_is_known(void **state)
{
	struct vocab *small = load("tiny2000"), *big = load("tiny4000");

	(void)state;
	assert_int_equal(small->count, 2000);
	assert_int_equal(small->known, 2000);
	assert_int_equal(big->count, 4000);
	assert_int_equal(big->known, 4000);
	for (uint32_t i = 0; i < 256; i++) { /* each byte can be said: no text is unsayable */
		bool found = false;

		for (uint32_t id = 0; id < big->count && !found; id++) {
			struct span b = vocab_bytes(big, id);

			found = b.len == 1 && (uint8_t)*b.ptr == i;
		}
		assert_true(found);
	}
	vocab_free(small);
	vocab_free(big);
}

static void sentencepiece_spells_spaces_and_bytes(void **state)
{
	struct vocab *v = parse(
		"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\"}],\"decoder\":{\"type\":"
		"\"Sequence\",\"decoders\":[{\"type\":\"Replace\"},{\"type\":\"ByteFallback\"}]},"
		"\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,"
		"\"<s>\":1,\"<0xE4>\":2,\"<0x0A>\":3,\"\\u2581Hello\":4,\"\\u2581\":5,\"w\":6,"
		"\"<0xZZ>\":7,\"\\u2581\\u2581x\\u2581\":8}}}");

	(void)state;
	assert_true(span_eq(vocab_bytes(v, 1), SPAN("<s>")));
	assert_true(span_eq(vocab_bytes(v, 2), SPAN("\xe4")));
	assert_true(span_eq(vocab_bytes(v, 3), SPAN("\n")));
	assert_true(span_eq(vocab_bytes(v, 4), SPAN(" Hello")));
	assert_true(span_eq(vocab_bytes(v, 5), SPAN(" ")));
	assert_true(span_eq(vocab_bytes(v, 7), SPAN("<0xZZ>")));
	assert_true(span_eq(vocab_bytes(v, 8), SPAN("  x ")));
	assert_int_equal(vocab_bytes(v, 9).len, 0);
	vocab_free(v);
}

static void unigram_lists_its_pieces(void **state)
{
	struct vocab *v = parse("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"<pad>\",0.0],"
				"[\"\\u2581the\",-3.2],[\"s\",-4]]},"
				"\"added_tokens\":[{\"id\":5,\"content\":\"<extra_id_0>\"}]}");

	(void)state;
	assert_true(span_eq(vocab_bytes(v, 1), SPAN(" the")));
	assert_int_equal(vocab_bytes(v, 3).len, 0);
	assert_true(span_eq(vocab_bytes(v, 5), SPAN("<extra_id_0>")));
	assert_int_equal(v->count, 6);
	assert_int_equal(v->known, 4);
	vocab_free(v);
}

static void what_is_no_tokenizer_is_refused_with_a_sentence(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{}",
		"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}",
		"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}",
		"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[3,1]]}}",
		"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":-1}}}",
		"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":1048576}}}",
		"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":\"b\"}}}",
		"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct vocab *v = NULL;

		*error = '\0';
		assert_int_equal(vocab_parse(bad[i], strlen(bad[i]), &v, error, sizeof(error)),
				 -EBADMSG);
		assert_null(v);
		assert_true(*error);
	}
}

static void decoding_stays_in_its_room(void **state)
{
	struct vocab *v = load("tiny2000");
	uint32_t ids[64];
	size_t len;

	(void)state;
	for (unsigned int i = 0; i < 64; i++)
		ids[i] = 300 + i;
	assert_int_equal(vocab_decode(v, ids, 64, text, sizeof(text), &len), 0);
	for (size_t room = 0; room < len; room++) {
		char *small = malloc(room ? room : 1);
		size_t got;

		assert_int_equal(vocab_decode(v, ids, 64, small, room, &got), -ENOSPC);
		free(small);
	}
	ids[63] = v->count;
	assert_int_equal(vocab_decode(v, ids, 64, text, sizeof(text), &len), -ENOENT);
	vocab_free(v);
}

static void a_learned_vocabulary_grows_by_what_is_wanted(void **state)
{
	struct vocab *v = vocab_learned_new();
	const uint32_t met[] = {7, 9, 7, VOCAB_TOKENS_MAX};
	uint32_t id;
	size_t len;

	(void)state;
	assert_int_equal(vocab_decode(v, met, 2, text, sizeof(text), &len), -ENOENT);
	assert_true(vocab_want(v, met, 4));
	assert_true(vocab_wanted(v, &id));
	assert_int_equal(id, 7);
	assert_int_equal(vocab_learn(v, 7, SPAN(" a")), 0);
	assert_int_equal(vocab_learn(v, 7, SPAN("b")), -EINVAL);
	assert_true(vocab_wanted(v, &id));
	assert_int_equal(id, 9);
	assert_int_equal(vocab_learn(v, 9, SPAN("")), 0); /* half a character */
	assert_false(vocab_want(v, met, 2));		  /* both are known as far as they can be */
	assert_int_equal(vocab_decode(v, met, 1, text, sizeof(text), &len), 0);
	assert_memory_equal(text, " a", 2);
	assert_int_equal(vocab_decode(v, met, 2, text, sizeof(text), &len), -ENOENT);
	for (uint32_t i = 0; i < 2 * VOCAB_WANTED_MAX; i++) /* more than there is room for */
		vocab_want(v, &(uint32_t){100 + i}, 1);
	for (len = 0; vocab_wanted(v, &id);)
		len++;
	assert_int_equal(len, VOCAB_WANTED_MAX);
	vocab_free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_of_real_prompts_are_the_prompts_bytes),
		cmocka_unit_test(rendered_chats_are_readable),
		cmocka_unit_test(every_id_of_a_real_tokenizer_is_known),
		cmocka_unit_test(sentencepiece_spells_spaces_and_bytes),
		cmocka_unit_test(unigram_lists_its_pieces),
		cmocka_unit_test(what_is_no_tokenizer_is_refused_with_a_sentence),
		cmocka_unit_test(decoding_stays_in_its_room),
		cmocka_unit_test(a_learned_vocabulary_grows_by_what_is_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
