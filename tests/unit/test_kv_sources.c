/* SPDX-License-Identifier: Apache-2.0 */
/* Where events are heard, in what order they count, and whom to believe. */
#include "controlplane/kv_sources.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "controlplane/kv_stream.h"
#include "kv/kv_trust.h"

static struct kv_source got[KV_RANKS_MAX];

static struct endpoint endpoint_of(const char *address)
{
	struct endpoint ep = {0};

	strcpy(ep.address, address);
	strcpy(ep.name, "pod");
	return ep;
}

/* The real engine's answer, and one of two ranks. */
static void an_engines_own_word_is_read(void **state)
{
	static const char real[] =
		"{\"0\":{\"enable_kv_cache_events\":true,\"publisher\":\"zmq\",\"endpoint\":"
		"\"tcp://*:5557\",\"replay_endpoint\":\"tcp://*:5558\",\"buffer_steps\":10000,"
		"\"hwm\":100000,\"max_queue_size\":100000,\"topic\":\"kv@127.0.0.1:8000@tiny\"}}";
	static const char two[] =
		"{\"0\":{\"endpoint\":\"tcp://0.0.0.0:1\",\"replay_endpoint\":null},"
		"\"1\":{\"endpoint\":\"tcp://10.9.9.9:65535\",\"topic\":null}}";
	struct endpoint ep = endpoint_of("10.0.0.7:8000"), v6 = endpoint_of("[fd00::1]:8000");

	(void)state;
	assert_int_equal(kv_sources_parse(&ep, real, strlen(real), got), 1);
	assert_string_equal(got[0].events, "tcp://10.0.0.7:5557");
	assert_string_equal(got[0].replay, "tcp://10.0.0.7:5558");
	assert_string_equal(got[0].topic, "kv@127.0.0.1:8000@tiny");
	assert_int_equal(kv_sources_parse(&v6, two, strlen(two), got), 2);
	assert_string_equal(got[0].events, "tcp://[fd00::1]:1");
	assert_string_equal(got[0].replay, "");
	assert_string_equal(got[1].events, "tcp://10.9.9.9:65535");
	assert_int_equal(got[1].rank, 1);
}

static void what_is_no_source_is_left_out(void **state)
{
	static const struct {
		const char *json;
		int want;
	} rows[] = {
		{"", -EBADMSG},
		{"[]", -EBADMSG},
		{"{}", 0},
		{"{\"0\":7}", 0},
		{"{\"0\":{\"endpoint\":\"ipc:///tmp/x\"}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://*\"}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://\"}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://:5\"}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://*:0\"}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://*:65536\"}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://*:5\",\"enable_kv_cache_events\":false}}", 0},
		{"{\"0\":{\"endpoint\":\"tcp://*:5\",\"replay_endpoint\":\"junk\"}}", 1},
	};
	struct endpoint ep = endpoint_of("10.0.0.7:8000");

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		assert_int_equal(kv_sources_parse(&ep, rows[i].json, strlen(rows[i].json), got),
				 rows[i].want);
}

static void labels_go_before_conventions(void **state)
{
	struct endpoint ep = endpoint_of("10.0.0.7:8000");

	(void)state;
	assert_int_equal(kv_sources_of_labels(&ep, 0, got), -ENOENT);
	assert_int_equal(kv_sources_of_labels(&ep, 5557, got), 1);
	assert_string_equal(got[0].events, "tcp://10.0.0.7:5557");
	ep.labels[0] = (struct label){"data-parallel-rank", "3"};
	ep.label_count = 1;
	assert_int_equal(kv_sources_of_labels(&ep, 5557, got), 1);
	assert_string_equal(got[0].events, "tcp://10.0.0.7:5560");
	ep.labels[1] = (struct label){"kv-events", "tcp://10.1.1.1:99"};
	ep.labels[2] = (struct label){"kv-replay", "77"};
	ep.label_count = 3;
	assert_int_equal(kv_sources_of_labels(&ep, 0, got), 1);
	assert_string_equal(got[0].events, "tcp://10.1.1.1:99");
	assert_string_equal(got[0].replay, "tcp://10.0.0.7:77");
	ep.labels[1].value = "off";
	assert_int_equal(kv_sources_of_labels(&ep, 5557, got), 0);
	ep.labels[1].value = "nonsense";
	assert_int_equal(kv_sources_of_labels(&ep, 5557, got), 0);
}

static void a_topic_names_its_pod(void **state)
{
	(void)state;
	assert_true(span_eq(kv_topic_address(SPAN("kv@10.0.0.1:8000@m/x")), SPAN("10.0.0.1:8000")));
	assert_true(span_eq(kv_topic_address(SPAN("kv@10.0.0.1:8000")), SPAN("10.0.0.1:8000")));
	assert_int_equal(kv_topic_address(SPAN("")).len, 0);
	assert_int_equal(kv_topic_address(SPAN("kv")).len, 0);
}

/* Rows of: number, time, what it means after those before. */
static void sequence_numbers_mean_what_they_should(void **state)
{
	static const struct {
		uint64_t seq;
		double ts;
		enum kv_verdict want;
	} rows[] = {
		{5, 10, KV_APPLY},			/* the first may have any number */
		{6, 11, KV_APPLY},   {6, 11, KV_LATE},	/* twice */
		{9, 14, KV_GAP},     {7, 12, KV_APPLY}, /* the replay */
		{8, 13, KV_APPLY},   {9, 14, KV_APPLY}, {8, 13, KV_LATE}, /* overtaken */
		{0, 20, KV_RESTART}, {1, 21, KV_APPLY}, {1, 21, KV_LATE},
		{0, 20, KV_LATE},    {2, 0, KV_APPLY}, /* a load: no time */
		{2, 0, KV_LATE},     {1, 21, KV_LATE},	{~0ULL - 1, 30, KV_GAP},
	};
	struct kv_stream s = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		enum kv_verdict v = kv_stream_judge(&s, rows[i].seq, rows[i].ts);

		assert_int_equal(v, rows[i].want);
		if (v == KV_RESTART)
			kv_stream_reset(&s);
		if (v == KV_APPLY || v == KV_RESTART)
			kv_stream_applied(&s, rows[i].seq, rows[i].ts);
	}
}

static void an_endpoint_whose_index_lies_is_found_out(void **state)
{
	struct kv_trust *t = calloc(1, sizeof(*t));

	(void)state;
	for (unsigned int i = 0; i < KV_TRUST_WINDOW; i++) {
		assert_true(kv_trusted(t, 3, 7));
		kv_trust_note(t, 3, 7, 1000, i % 10 < 7 ? 1000 : 0); /* 30 % off: borne */
	}
	assert_true(kv_trusted(t, 3, 7));
	for (unsigned int i = 0; i < KV_TRUST_WINDOW; i++)
		kv_trust_note(t, 3, 7, 1000, 690);
	assert_false(kv_trusted(t, 3, 7));
	assert_true(kv_trusted(t, 3, 8)); /* another process */
	assert_true(kv_trusted(t, 4, 7));
	for (unsigned int i = 0; i < KV_TRUST_WINDOW; i++)
		kv_trust_note(t, 3, 7, 0, 0); /* nothing expected, nothing there: right */
	assert_true(kv_trusted(t, 3, 7));
	for (unsigned int i = 0; i < KV_TRUST_WINDOW; i++)
		kv_trust_note(t, 3, 7, 0, 50); /* too little is a lie as well */
	assert_false(kv_trusted(t, 3, 7));
	free(t);
}

/* Without a word in the answers the page tells, unless others ask that engine too. */
static void a_page_is_weighed_where_answers_do_not_tell(void **state)
{
	static const struct {
		uint32_t hits_each, queries_each;
		bool trusted;
	} rows[] = {
		{800, 1000, true}, {100, 1000, false}, {100, 1500, false}, /* others': stays */
		{600, 1000, true}, {0, 700, true},			   /* others': stays */
	};
	struct kv_trust *t = calloc(1, sizeof(*t));
	uint64_t hits = 500, queries = 900;

	(void)state;
	for (size_t r = 0; r < sizeof(rows) / sizeof(*rows); r++) {
		for (unsigned int i = 0; i <= KV_TRUST_WINDOW; i++) {
			kv_trust_note_page(t, 3, 7, 800, 1000, queries, hits);
			hits += rows[r].hits_each;
			queries += rows[r].queries_each;
		}
		assert_int_equal(kv_trusted(t, 3, 7), rows[r].trusted);
	}
	kv_trust_note_page(t, 3, 8, 800, 1000, 0, 0);
	assert_true(kv_trusted(t, 3, 8)); /* another process */
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_engines_own_word_is_read),
		cmocka_unit_test(what_is_no_source_is_left_out),
		cmocka_unit_test(labels_go_before_conventions),
		cmocka_unit_test(a_topic_names_its_pod),
		cmocka_unit_test(sequence_numbers_mean_what_they_should),
		cmocka_unit_test(an_endpoint_whose_index_lies_is_found_out),
		cmocka_unit_test(a_page_is_weighed_where_answers_do_not_tell),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
