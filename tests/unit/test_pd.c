/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of legs, sampling_params, collected answers and deciders, without sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/disagg/answer.h"
#include "dataplane/body.h"
#include "dataplane/disagg/connector.h"
#include "scheduler/pd.h"

#define CHAIN_MAX 4096

static struct block chain[CHAIN_MAX];
static struct prompt_span spans[PROMPT_SPANS_MAX];
static struct openai_request says;

/* The text in blocks of `step` bytes. */
static struct block *chained(const char *text, size_t step)
{
	size_t len = strlen(text), n = 0;

	for (size_t at = 0; at < len; at += step, n++) {
		assert_true(n < CHAIN_MAX);
		chain[n] = (struct block){.data = (char *)text + at,
					  .end = (uint32_t)(len - at < step ? len - at : step)};
		chain[n].size = chain[n].end;
		if (n)
			chain[n - 1].next = &chain[n];
	}
	return chain;
}

static void scan(const char *text)
{
	struct openai_scan s;

	openai_scan_init(&s, &says, spans);
	assert_int_equal(openai_scan_feed(&s, text, strlen(text)), 0);
	assert_int_equal(openai_scan_finish(&s), 0);
}

/* What the view sends, read `piece` bytes at a time with `max` iov entries. */
static char *sent(const struct body_view *v, size_t piece, unsigned int max)
{
	char *out = calloc(1, v->bytes + 1);
	uint64_t at = 0;

	while (at < v->bytes) {
		struct iovec iov[64];
		unsigned int n = body_fill(v, at, iov, max);
		size_t left = piece;

		assert_true(n > 0 && n <= max);
		for (unsigned int i = 0; i < n && left; i++) {
			size_t take = iov[i].iov_len < left ? iov[i].iov_len : left;

			memcpy(out + at, iov[i].iov_base, take);
			at += take;
			left -= take;
		}
	}
	return out;
}

static void check(const char *body, const struct body_edit *edits, uint32_t count, const char *want)
{
	scan(body);
	for (size_t step = 1; step < 20; step += 6) {
		struct body_view v;
		struct block *b = chained(body, step);
		char *got;

		assert_int_equal(body_build(&v, b, strlen(body), &says, edits, count), 0);
		assert_int_equal(v.bytes, strlen(want));
		got = sent(&v, step * 2 + 1, 3);
		assert_string_equal(got, want);
		free(got);
	}
}

#define TEXT(s)	     {.span = {s, sizeof(s) - 1}}
#define CUT(m)	     {.kind = BODY_CUT, .member = OPENAI_##m}
#define SET(m, n, s) {.kind = BODY_SET, .member = OPENAI_##m, .name = n, .value = TEXT(s)}
#define ADD(n, s)    {.kind = BODY_ADD, .member = OPENAI_NO_MEMBER, .name = n, .value = TEXT(s)}

static void edits_stand_at_their_places(void **state)
{
	static const struct body_edit edits[] = {
		ADD("x", "{}"), SET(STREAM, "stream", "false"), CUT(STREAM_OPTIONS),
		CUT(MODEL),	CUT(KV_TRANSFER_PARAMS),	SET(MAX_TOKENS, "max_tokens", "1"),
	};

	(void)state;
	check("{}", edits, 6, "{\"x\":{},\"stream\":false,\"max_tokens\":1}");
	check("{ \"model\" : \"m\" }", edits, 6, "{  \"x\":{},\"stream\":false,\"max_tokens\":1}");
	check("{\"a\":1}", edits, 6, "{\"a\":1,\"x\":{},\"stream\":false,\"max_tokens\":1}");
	check("{\"model\":\"m\",\"stream_options\":{},\"a\":1}", edits, 6,
	      "{\"a\":1,\"x\":{},\"stream\":false,\"max_tokens\":1}");
	check("{\"model\":\"m\" ,  \"stream\":true ,\"a\":[\",\"] , \"stream_options\":{}}", edits,
	      6, "{\"stream\":false ,\"a\":[\",\"] ,\"x\":{},\"max_tokens\":1}");
	check("{\"a\":1,\"model\":\"m\",\"kv_transfer_params\":{},\"b\":2,\"max_tokens\":99}",
	      edits, 6, "{\"a\":1,\"b\":2,\"max_tokens\":1,\"x\":{},\"stream\":false}");
	check("{\"model\":\"m\",\"a\":1,\"kv_transfer_params\":{\"}\":\"\\\"\"}}\n", edits, 6,
	      "{\"a\":1,\"x\":{},\"stream\":false,\"max_tokens\":1}\n");
}

static void random_edits_agree_with_a_tree(void **state)
{
	static const char *const keys[] = {
		"model", "stream", "n", "max_tokens", "stream_options", "kv_transfer_params",
		"aa",	 "b b",	   "c"};
	static const char *const values[] = {"\"m\"",	  "true",	 "3",
					     "9",	  "{\"q\":[1]}", "{\"z\":{}}",
					     "[\"{,}\"]", "null",	 "-1e3"};
	static const struct body_edit edits[] = {
		SET(STREAM, "stream", "false"),
		CUT(STREAM_OPTIONS),
		CUT(KV_TRANSFER_PARAMS),
		CUT(MODEL),
		SET(MAX_TOKENS, "max_tokens", "1"),
		ADD("added", "[7]"),
	};

	(void)state;
	srand(7);
	for (int round = 0; round < 3000; round++) {
		char body[512] = "{";
		bool used[9] = {false};
		struct body_view v;
		json_t *want, *have;
		char *got;

		for (int i = rand() % 9, first = 1; i > 0; i--) {
			int k = rand() % 9;

			if (used[k])
				continue;
			used[k] = true;
			sprintf(body + strlen(body), "%s%s\"%s\"%s:%s%s", first ? "" : ",",
				rand() % 2 ? " " : "", keys[k], rand() % 2 ? " " : "", values[k],
				rand() % 3 ? "" : "\n");
			first = 0;
		}
		strcat(body, "}");
		scan(body);
		assert_int_equal(body_build(&v, chained(body, 1 + (size_t)rand() % 40),
					    strlen(body), &says, edits, 6),
				 0);
		got = sent(&v, 1 + (size_t)rand() % 50, 1 + (unsigned int)rand() % 8);
		have = json_loads(got, JSON_REJECT_DUPLICATES, NULL);
		want = json_loads(body, 0, NULL);
		json_object_set_new(want, "stream", json_false());
		json_object_set_new(want, "max_tokens", json_integer(1));
		json_object_set_new(want, "added", json_pack("[i]", 7));
		json_object_del(want, "stream_options");
		json_object_del(want, "kv_transfer_params");
		json_object_del(want, "model");
		assert_non_null(have);
		assert_true(json_equal(have, want));
		json_decref(have);
		json_decref(want);
		free(got);
	}
}

static void a_marked_value_is_exchanged(void **state)
{
	static const struct body_edit edits[] = {{.kind = BODY_ADD,
						  .member = OPENAI_NO_MEMBER,
						  .name = "kv",
						  .value = TEXT("{}"),
						  .marked = true},
						 ADD("z", "1")};
	static const char body[] = "{\"prompt\":\"p\"}";
	static struct block other = {.data = (char *)"xx{\"k\":[2]}yy", .end = 13, .size = 13};
	struct body_text value = {.chain = &other, .from = 2, .to = 11};
	struct body_view v, w;
	char *got;

	(void)state;
	scan(body);
	assert_int_equal(body_build(&v, chained(body, 5), strlen(body), &says, edits, 2), 0);
	assert_int_equal(body_remark(&w, &v, value), 0);
	got = sent(&w, 4, 2);
	assert_string_equal(got, "{\"prompt\":\"p\",\"kv\":{\"k\":[2]},\"z\":1}");
	free(got);
}

static void too_many_parts_are_refused(void **state)
{
	static char body[] = "{\"prompt\":\"p\"}";
	struct body_edit edits[EDITS_MAX];
	static struct block text = {.data = body, .end = sizeof(body) - 1};
	struct body_view v;
	uint32_t fit;

	(void)state;
	for (int i = 0; i < EDITS_MAX; i++)
		edits[i] = (struct body_edit){.kind = BODY_ADD,
					      .member = OPENAI_NO_MEMBER,
					      .name = "kv",
					      .value.span = SPAN("1")};
	scan(body);
	for (fit = 0; fit < EDITS_MAX; fit++)
		if (body_build(&v, &text, sizeof(body) - 1, &says, edits, fit + 1))
			break;
	assert_in_range(fit, 12, EDITS_MAX - 1);
	assert_int_equal(body_build(&v, &text, sizeof(body) - 1, &says, edits, fit + 1), -ENOSPC);
	assert_true(v.count <= BODY_PARTS_MAX);
}

static void sampling_params_make_one_token(void **state)
{
	static const struct {
		const char *is, *becomes;
	} rows[] = {
		{"{}", "{\"max_tokens\":1}"},
		{"{ }", "{ \"max_tokens\":1}"},
		{"{\"max_tokens\":128}", "{\"max_tokens\":1}"},
		{"{\"max_tokens\" : null , \"a\":{\"max_tokens\":5}}",
		 "{\"max_tokens\" : 1 , \"a\":{\"max_tokens\":5}}"},
		{"{\"s\":[\"\\\"max_tokens\\\":7\",\"}\"],\"min_tokens\":10,\"t\":0.5}",
		 "{\"s\":[\"\\\"max_tokens\\\":7\",\"}\"],\"min_tokens\":1,\"t\":0.5,\"max_"
		 "tokens\":1}"},
		{"{\"min_tokens\":[1],\"max_tokens\":\"x\"}",
		 "{\"min_tokens\":1,\"max_tokens\":1}"},
	};
	char text[512];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		for (size_t step = 1; step < 9; step += 3) {
			const struct block *b = chained(rows[i].is, step);
			ssize_t n = sampling_rewrite(b, 0, strlen(rows[i].is), text, sizeof(text));

			assert_int_equal(n, strlen(rows[i].becomes));
			assert_memory_equal(text, rows[i].becomes, (size_t)n);
			assert_int_equal(sampling_rewrite(b, 0, strlen(rows[i].is), text,
							  strlen(rows[i].is)),
					 -ENOSPC);
		}
}

static void an_answers_parameters_are_found(void **state)
{
	static const struct {
		const char *text;
		int err;
		const char *params;
	} rows[] = {
		{"{\"id\":\"x\",\"kv_transfer_params\":{\"a\":[\"}\"]},\"usage\":{\"prompt_"
		 "tokens\":9,"
		 "\"prompt_tokens_details\":{\"cached_tokens\":4}}}",
		 0, "{\"a\":[\"}\"]}"},
		{"{\"kv_transfer_params\":null}", 0, NULL},
		{"{\"choices\":[{\"kv_transfer_params\":{}}]}", 0, NULL},
		{"{\"kv_transfer_params\":{\"do_remote_", -EBADMSG, NULL},
		{"[]", -EBADMSG, NULL},
		{"{\"kv_transfer_params\":\"text\"}", -EBADMSG, NULL},
		{"", -EBADMSG, NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		for (size_t step = 1; step < 100; step += 9) {
			const struct block *b = *rows[i].text ? chained(rows[i].text, step) : NULL;
			struct answer a;
			char text[128] = "";

			assert_int_equal(answer_read(b, OPENAI_KV_TRANSFER_PARAMS, &a),
					 rows[i].err);
			if (!rows[i].params) {
				assert_int_equal(a.end, 0);
				continue;
			}
			body_copy(b, a.start, a.end, text, sizeof(text));
			assert_string_equal(text, rows[i].params);
			assert_int_equal(a.usage.prompt_tokens, 9);
			assert_int_equal(a.usage.cached_tokens, 4);
		}
}

/* ---- deciders ---- */

static struct sluice_endpoint_load loads[3];
static struct endpoint pods[3] = {{.load = &loads[0], .role = SLUICE_ROLE_DECODE, .slot = 0},
				  {.load = &loads[1], .role = SLUICE_ROLE_PREFILL, .slot = 1},
				  {.load = &loads[2], .role = SLUICE_ROLE_PREFILL, .slot = 2}};

static bool decided(const char *name, uint32_t tokens, uint32_t cached, double first, double second,
		    enum pd_reason *reason)
{
	struct endpoint *views[] = {&pods[0], &pods[1], &pods[2]};
	struct endpoint_snapshot snap = {.views = views, .view_count = 3};
	struct sched_pick pick = {
		.endpoint = &pods[0], .prompt_tokens = tokens, .cached_tokens_expected = cached};
	struct pd_question q = {.snapshot = &snap, .decode = &pick};
	struct pd_decider d;

	for (int i = 0; i < 3; i++)
		pods[i].breaker.state = SLUICE_ENDPOINT_READY;
	pd_decider_init(&d, pd_decider_find(name));
	if (first >= 0) {
		d.params[0] = first;
		d.params[1] = second;
	}
	return pd_decide(&d, &q, reason);
}

static void the_prefix_decider_is_the_references(void **state)
{
	enum pd_reason why;

	(void)state;
	assert_false(decided("prefix-based-pd-decider", 1000, 0, -1, 0, &why)); /* 0: never */
	assert_int_equal(why, PD_BECAUSE_NEVER);
	assert_true(decided("prefix", 1000, 0, 512, 0, &why));
	assert_int_equal(why, PD_BECAUSE_UNCACHED);
	assert_true(decided("prefix", 1000, 488, 512, 0, &why));
	assert_false(decided("prefix", 1000, 489, 512, 0, &why));
	assert_int_equal(why, PD_BECAUSE_CACHED);
	assert_false(decided("prefix", 1000, 0, 512, 1001, &why));
	assert_int_equal(why, PD_BECAUSE_SHORT);
	assert_true(decided("always", 1, 1, -1, 0, &why));
	assert_false(decided("never", 1000000, 0, -1, 0, &why));
	assert_false(decided("multimodal", 1000, 0, -1, 0, &why));
	assert_null(pd_decider_find("nobody"));
}

static void our_decider_weighs_lines_against_the_transfer(void **state)
{
	enum pd_reason why;

	(void)state;
	memset(loads, 0, sizeof(loads));
	assert_true(decided("sluice", 4000, 0, -1, 0, &why)); /* they have nothing else to do */
	assert_int_equal(why, PD_BECAUSE_GAIN);
	loads[1].inflight_tokens = loads[2].inflight_tokens = 40000; /* but a line at both */
	assert_false(decided("sluice", 4000, 0, -1, 0, &why));
	assert_int_equal(why, PD_BECAUSE_NO_GAIN);
	loads[0].inflight_tokens = 40000; /* and here */
	assert_true(decided("sluice", 4000, 0, -1, 0, &why));
	loads[0].inflight_tokens = 0;
	loads[2].inflight_tokens = 0; /* one of them is free */
	assert_true(decided("sluice", 4000, 0, -1, 0, &why));
	assert_false(decided("sluice", 4000, 3990, -1, 0, &why)); /* nothing left to prefill */
	pods[1].role = pods[2].role = SLUICE_ROLE_PREFILL | SLUICE_ROLE_DECODE;
	loads[1].inflight_tokens = 0;
	assert_false(decided("sluice", 4000, 0, -1, 0, &why)); /* pods that decode are disturbed */
	loads[0].inflight_tokens = 40000;
	assert_true(decided("sluice", 4000, 0, -1, 0, &why));
	loads[1].running = loads[2].running = 64; /* too many of them */
	assert_false(decided("sluice", 4000, 0, -1, 0, &why));
	pods[1].role = pods[2].role = SLUICE_ROLE_DECODE;
	assert_false(decided("sluice", 4000, 0, -1, 0, &why));
	assert_int_equal(why, PD_BECAUSE_NO_PREFILL);
	pods[1].role = pods[2].role = SLUICE_ROLE_PREFILL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(edits_stand_at_their_places),
		cmocka_unit_test(random_edits_agree_with_a_tree),
		cmocka_unit_test(a_marked_value_is_exchanged),
		cmocka_unit_test(too_many_parts_are_refused),
		cmocka_unit_test(sampling_params_make_one_token),
		cmocka_unit_test(an_answers_parameters_are_found),
		cmocka_unit_test(the_prefix_decider_is_the_references),
		cmocka_unit_test(our_decider_weighs_lines_against_the_transfer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
