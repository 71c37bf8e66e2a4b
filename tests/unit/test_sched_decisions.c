/* SPDX-License-Identifier: Apache-2.0 */
/* What a profile may say, how prompts are hashed, and the decisions kept. */
#include "sched_pool.h"

#include <jansson.h>

/* ---- profiles ---- */

static void wrong_profiles_say_what_is_wrong(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"queue-scorer=2,foo-scorer",
		 "unknown plugin type \"foo-scorer\"; known types: decode"},
		{"queue-scorer=x", "\"x\" is not a number"},
		{"queue-scorer=-1", "-1 is not in 0 to"},
		{"queue-scorer=nan", "not a number"},
		{"queue-scorer,,kv-cache-utilization-scorer", "an empty item"},
		{"", "an empty item"},
		{"max-score-picker,random-picker", "one picker"},
		{"decode-filter=2", "only scorers have a weight"},
		{"prefix-cache-scorer:foo=1", "has no parameter \"foo\""},
		{"prefix-cache-scorer:matchLengthWeight", "has no value"},
		{"prefix-cache-scorer:matchLengthWeight=2", "2 is not in 0 to 1"},
		{"label-selector-filter:=x", "a rule without a label"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct profile profile;
		char *error = NULL;

		assert_int_equal(profile_parse(&profile, cases[i].text, &error), -EINVAL);
		assert_non_null(error);
		if (!strstr(error, cases[i].says))
			fail_msg("\"%s\" says: %s", cases[i].text, error);
		free(error);
		profile_fini(&profile);
	}
}

static void profile_without_words_is_2_2_3(void **state)
{
	struct scheduler *sched = make(NULL, NULL);

	(void)state;
	assert_string_equal(scheduler_profile(sched),
			    "queue-scorer=2,kv-cache-utilization-scorer=2,prefix-cache-scorer=3");
	scheduler_free(sched);
}

/* ---- prompts ---- */

static uint32_t hash_of(const struct sched_piece *pieces, uint32_t count, const char *salt,
			uint64_t *ret)
{
	struct sched_request req = {.model_name = SPAN("m"),
				    .cache_salt = span_of_str(salt),
				    .pieces = pieces,
				    .piece_count = count};
	uint64_t bytes;

	return prefix_hash(&req, 64, ret, 64, &bytes);
}

static void prompt_hashes_alike_however_it_was_received(void **state)
{
	char text[200];
	uint64_t whole[64], split[64];
	struct sched_piece one = {.bytes = {text, 200}, .kind = SCHED_PIECE_TEXT};

	(void)state;
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 7);
	assert_int_equal(hash_of(&one, 1, "", whole), 4); /* 201 bytes in blocks of 64 */
	for (size_t cut = 0; cut <= 200; cut++) {
		struct sched_piece two[2] = {
			{.bytes = {text, cut}, .kind = SCHED_PIECE_TEXT},
			{.bytes = {text + cut, 200 - cut}, .continued = true},
		};

		assert_int_equal(hash_of(two, 2, "", split), 4);
		assert_memory_equal(whole, split, 4 * sizeof(whole[0]));
	}
}

static void salt_and_piece_borders_separate_prompts(void **state)
{
	uint64_t a[64], b[64], c[64];
	struct sched_piece x[2] = {{.bytes = SPAN("ab"), .kind = 1},
				   {.bytes = SPAN("c"), .kind = 1}};
	struct sched_piece y[2] = {{.bytes = SPAN("a"), .kind = 1},
				   {.bytes = SPAN("bc"), .kind = 1}};

	(void)state;
	hash_of(x, 2, "", a);
	hash_of(y, 2, "", b);
	hash_of(x, 2, "salt", c);
	assert_true(a[0] != b[0] && a[0] != c[0]);
}

static void longest_prompt_fills_no_more_than_the_room(void **state)
{
	static char text[100000];
	uint64_t hashes[65] = {0}, bytes;
	struct sched_piece one = {.bytes = {text, sizeof(text)}, .kind = 1};
	struct sched_request req = {.model_name = SPAN("m"), .pieces = &one, .piece_count = 1};

	(void)state;
	hashes[64] = 42;
	assert_int_equal(prefix_hash(&req, 64, hashes, 64, &bytes), 64);
	assert_int_equal(hashes[64], 42);
	assert_int_equal(bytes, sizeof(text));
}

/* ---- decisions ---- */

static char *json_of(struct scheduler *sched, const char *id)
{
	struct decision *d = decisions_find(scheduler_decisions(sched), span_of_str(id));
	char *text = NULL;
	size_t bytes;
	json_t *parsed;
	FILE *f;

	if (!d)
		return NULL;
	f = open_memstream(&text, &bytes);
	decision_write_json(f, scheduler_decisions(sched), d, &snap);
	fclose(f);
	free(d);
	parsed = json_loads(text, 0, NULL);
	assert_non_null(parsed); /* it is JSON, whatever the id was */
	json_decref(parsed);
	return text;
}

static void decision_tells_every_score_and_how_it_ended(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct sched_worker *w = scheduler_worker(sched, 0);
	struct sched_request req = request("x");
	struct sched_pick pick;
	char *json;

	(void)state;
	snap.view_count = 2;
	loads[0].waiting = 4;
	loads[1].kv_used_ppm = 500000;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), 0);
	assert_int_equal(pick.endpoint->slot, 1); /* 2*1 + 2*0.5 = 3 against 0 + 2 */
	json = json_of(sched, "req-1");
	assert_non_null(json);
	assert_non_null(strstr(json, "\"endpoint\":\"10.0.0.0:8000\",\"name\":\"pod-0\","
				     "\"chosen\":false,\"hit_blocks\":0,\"score\":2.0000,"
				     "\"scores\":{\"queue-scorer\":0.000,"
				     "\"kv-cache-utilization-scorer\":1.000,"
				     "\"prefix-cache-scorer\":0.000}"));
	assert_non_null(strstr(json, "\"done\":false"));
	free(json);
	scheduler_done(w, &pick,
		       &(struct sched_outcome){.usage_known = true,
					       .prompt_tokens = 40,
					       .cached_tokens = 32,
					       .ttft_us = 5});
	json = json_of(sched, "req-1");
	assert_non_null(
		strstr(json, "\"prompt_tokens_reported\":40,\"cached_tokens_reported\":32"));
	assert_non_null(strstr(json, "10.0.0.1:8000 had the best score of 2 candidates, most of it "
				     "from queue-scorer"));
	free(json);
	assert_null(json_of(sched, "req-2"));
	scheduler_free(sched);
}

static void hostile_request_id_stays_json(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct sched_request req = request("x");
	char *json;
	struct sched_pick pick;

	(void)state;
	req.request_id = SPAN("\"},\\\x01\xff\xc3\xa9");
	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick), 0);
	json = json_of(sched, "\"},\\\x01\xff\xc3\xa9");
	assert_non_null(json);
	free(json);
	scheduler_free(sched);
}

static void oldest_decision_is_overwritten(void **state)
{
	struct scheduler *sched = make(NULL, NULL); /* 64 decisions, 32 for each worker */
	struct sched_request req = request("x");
	struct decision *recent[100];
	unsigned int n;
	char *json;

	(void)state;
	for (uint32_t i = 0; i < 100; i++) {
		char id[16];
		struct sched_pick pick;

		req.now_ns = NOW + i;
		req.request_id = span_of(id, (size_t)snprintf(id, sizeof(id), "id-%u", i));
		assert_int_equal(scheduler_pick(scheduler_worker(sched, i % 2), &snap, &req, &pick),
				 0);
	}
	n = decisions_recent(scheduler_decisions(sched), recent, 100);
	assert_int_equal(n, 64);
	for (unsigned int i = 0; i < n; i++) {
		assert_int_equal(recent[i]->now_ns, NOW + 99 - i);
		free(recent[i]);
	}
	assert_null(json_of(sched, "id-35"));
	json = json_of(sched, "id-36");
	assert_non_null(json);
	free(json);
	scheduler_free(sched);
}

static void *pick_many(void *arg)
{
	struct sched_request req = {.now_ns = NOW, .model_name = SPAN("m")};

	for (uint32_t i = 0; i < 20000; i++) {
		char id[16];
		struct sched_pick pick;
		uint16_t tried[3] = {1, 2, 3};

		req.request_id = span_of(id, (size_t)snprintf(id, sizeof(id), "id-%u", i % 70));
		req.prompt_tokens = i % 70;
		req.excluded = tried; /* records of three lengths */
		req.excluded_count = i % 3;
		if (scheduler_pick(arg, &snap, &req, &pick))
			return "no pick";
		scheduler_done(arg, &pick, &(struct sched_outcome){.ttft_us = 1 + i % 70});
	}
	return NULL;
}

/* Every record read beside a busy writer is whole: its parts were written for one request. */
static void decisions_read_while_written_are_whole(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct decisions *set = scheduler_decisions(sched);
	struct decision *recent[16];
	pthread_t thread;
	void *said;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, pick_many, scheduler_worker(sched, 0)), 0);
	for (int round = 0; round < 2000; round++) {
		unsigned int n = decisions_recent(set, recent, 16);

		for (unsigned int i = 0; i < n; i++) {
			struct decision *d = recent[i];
			char id[16];

			snprintf(id, sizeof(id), "id-%u", d->prompt_tokens);
			assert_string_equal(d->request_id, id);
			assert_int_equal(d->candidate_count + d->excluded_count, PODS);
			assert_true(d->chosen < d->candidate_count);
			if (d->done)
				assert_int_equal(d->ttft_us, 1 + d->prompt_tokens);
			free(d);
		}
	}
	pthread_join(thread, &said);
	assert_null(said);
	scheduler_free(sched);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(wrong_profiles_say_what_is_wrong),
		T(profile_without_words_is_2_2_3),
		T(prompt_hashes_alike_however_it_was_received),
		T(salt_and_piece_borders_separate_prompts),
		T(longest_prompt_fills_no_more_than_the_room),
		T(decision_tells_every_score_and_how_it_ended),
		T(hostile_request_id_stays_json),
		T(oldest_decision_is_overwritten),
		T(decisions_read_while_written_are_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
