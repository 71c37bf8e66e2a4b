/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a body says, and what is wrong with it, in the words that the client reads: each row at
 * every split into two, and byte by byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "dataplane/openai.h"

static struct prompt_span spans[PROMPT_SPANS_MAX];
static struct openai_request said;
static struct openai_scan scan;

/* In two parts, or byte by byte for cut 0. */
static void read_cut(const char *p, size_t n, size_t cut)
{
	openai_scan_init(&scan, &said, spans);
	for (size_t at = 0; !cut && at < n; at++)
		openai_scan_feed(&scan, p + at, 1);
	if (cut) {
		openai_scan_feed(&scan, p, cut);
		openai_scan_feed(&scan, p + cut, n - cut);
	}
	openai_scan_finish(&scan);
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *body, *text;
	} rows[] = {
		{"{\"model\":\"a\",\"model\":\"a\"}", "The field \"model\" appears twice."},
		{"{\"model\":\"a\",\"mod\\u0065l\":\"b\"}", "The field \"model\" appears twice."},
		{"{\"stream\":false,\"stream\":true}", "The field \"stream\" appears twice."},
		{"{\"messages\":[],\"messages\":[]}", "The field \"messages\" appears twice."},
		{"{\"model\":7}", "The field \"model\" has the wrong type."},
		{"{\"model\":[\"a\"]}", "The field \"model\" has the wrong type."},
		{"{\"model\":\"a\\u0000\"}", "The field \"model\" has the wrong type."},
		{"{\"model\":\"a\\ud83d\"}", "The field \"model\" has the wrong type."},
		{"{\"model\":\"\\ude00\\ud83d\"}", "The field \"model\" has the wrong type."},
		{"{\"model\":\"\\ud83d\\ud83d\\ude00\"}",
		 "The field \"model\" has the wrong type."},
		{"{\"cache_salt\":\"\\udfff\"}", "The field \"cache_salt\" has the wrong type."},
		{"{\"stream\":\"true\"}", "The field \"stream\" has the wrong type."},
		{"{\"stream\":1}", "The field \"stream\" has the wrong type."},
		{"{\"max_tokens\":1.5}", "The field \"max_tokens\" has the wrong type."},
		{"{\"max_tokens\":\"9\"}", "The field \"max_tokens\" has the wrong type."},
		{"{\"n\":99999999999999999999}", "The field \"n\" has the wrong type."},
		{"{\"priority\":true}", "The field \"priority\" has the wrong type."},
		{"{\"stream_options\":[]}", "The field \"stream_options\" has the wrong type."},
		{"{\"stream_options\":{\"include_usage\":1}}",
		 "The field \"stream_options\" has the wrong type."},
		{"", "The body is not valid JSON: error at byte 0."},
		{"{", "The body is not valid JSON: error at byte 1."},
		{"{\"a\":1,}", "The body is not valid JSON: error at byte 7."},
		{"{\"a\":01}", "The body is not valid JSON: error at byte 6."},
		{"{\"a\":1.}", "The body is not valid JSON: error at byte 7."},
		{"{\"a\":+1}", "The body is not valid JSON: error at byte 5."},
		{"{\"a\":\"\\x\"}", "The body is not valid JSON: error at byte 7."},
		{"{\"a\":\"\\u12g4\"}", "The body is not valid JSON: error at byte 10."},
		{"{\"a\":\"\t\"}", "The body is not valid JSON: error at byte 6."},
		{"{\"a\":tru}", "The body is not valid JSON: error at byte 8."},
		{"{\"a\":[1}", "The body is not valid JSON: error at byte 7."},
		{"{} {}", "The body is not valid JSON: error at byte 3."},
		{"{'a':1}", "The body is not valid JSON: error at byte 1."},
		{"[]", "The body must be a JSON object (byte 0)."},
		{"\"a\"", "The body must be a JSON object (byte 0)."},
		{"{\"a\":\"\xc0\xaf\"}", "The body is not valid UTF-8: error at byte 6."},
		{"{\"a\":\"\xed\xa0\x80\"}", "The body is not valid UTF-8: error at byte 7."},
		{"{\"a\":\"\xf4\x90\x80\x80\"}", "The body is not valid UTF-8: error at byte 7."},
		{"{\"a\":\"\xe4\xb8\"}", "The body is not valid UTF-8: error at byte 8."},
	};
	char text[128];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t n = strlen(rows[i].body), cut = 0; cut <= n; cut++) {
			read_cut(rows[i].body, n, cut);
			assert_true(scan.error != OPENAI_FINE);
			assert_string_equal(openai_error_text(&scan, text, sizeof(text)),
					    rows[i].text);
		}
}

static void strings_mean_what_json_says(void **state)
{
	static const struct {
		const char *body, *model, *user, *cache_salt;
	} rows[] = {
		{"{\"model\":\"a\"}", "a", "", ""},
		{"{\"mo\\u0064el\":\"\\u0061\\/\\n\"}", "a/\n", "", ""},
		{"{\"model\":\"\\u00e9\\u4e2d\xc3\xa9\"}", "\xc3\xa9\xe4\xb8\xad\xc3\xa9", "", ""},
		{"{\"model\":\"x\\ud83d\\ude00y\",\"user\":\"\\uD834\\uDD1E\"}",
		 "x\xf0\x9f\x98\x80y", "\xf0\x9d\x84\x9e", ""},
		{"{\"cache_salt\":\"\\uDBFF\\uDFFF\\ud800\\udc00\"}", "", "",
		 "\xf4\x8f\xbf\xbf\xf0\x90\x80\x80"},
		{"{\"user\":\"\\ud800\",\"model\":null}", "", "", ""},
		{"{\"user\":\"a\\u0000b\"}", "", "", ""},
		{"{\"x\":{\"model\":\"inner\"},\"model\":\"\xed\x9f\xbf\"}", "\xed\x9f\xbf", "",
		 ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t n = strlen(rows[i].body), cut = 0; cut <= n; cut++) {
			read_cut(rows[i].body, n, cut);
			assert_int_equal(scan.error, OPENAI_FINE);
			assert_string_equal(said.model, rows[i].model);
			assert_string_equal(said.user, rows[i].user);
			assert_string_equal(said.cache_salt, rows[i].cache_salt);
		}
}

static void prompts_are_told_from_the_rest(void **state)
{
	static const struct {
		const char *body;
		uint32_t spans, tokens;
		uint64_t bytes;
		bool media;
	} rows[] = {
		{"{\"prompt\":\"abc\"}", 1, 0, 3, false},
		{"{\"prompt\":[\"abc\",\"d\"]}", 2, 0, 4, false},
		{"{\"prompt\":[1,22]}", 1, 2, 6, false},
		{"{\"prompt\":[[1,2],[],[3]]}", 1, 3, 14, false},
		{"{\"prompt\":[[null],true]}", 0, 0, 0, false},
		{"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", 2, 0, 6, false},
		{"{\"messages\":[{\"content\":[{\"image_url\":{\"url\":\"u\"}}]}]}", 1, 0, 1, true},
		{"{\"tools\":[{\"properties\":{\"url\":{}}}]}", 1, 0, 27, false},
		{"{\"tools\":null,\"documents\":null}", 0, 0, 0, false},
		{"{\"x\":\"abc\",\"stop\":[\"d\"]}", 0, 0, 0, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t n = strlen(rows[i].body), cut = 0; cut <= n; cut++) {
			read_cut(rows[i].body, n, cut);
			assert_int_equal(scan.error, OPENAI_FINE);
			assert_int_equal(said.span_count, rows[i].spans);
			assert_int_equal(said.token_ids, rows[i].tokens);
			assert_int_equal(said.prompt_bytes, rows[i].bytes);
			assert_int_equal(said.has_media, rows[i].media);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(strings_mean_what_json_says),
		cmocka_unit_test(prompts_are_told_from_the_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
