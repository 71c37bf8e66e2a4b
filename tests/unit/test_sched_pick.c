/* SPDX-License-Identifier: Apache-2.0 */
/* Scores worked out by hand from the plugins' rules, ties, bursts, exclusion, counting, decisions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "scheduler/decisions.h"
#include "scheduler/plugin.h"
#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"
#include "scheduler/profile.h"
#include "scheduler/scheduler.h"

#define NOW  (1000 * NS_PER_S)
#define PODS 8

static struct endpoint pods[PODS];
static struct sluice_endpoint_load loads[PODS];
static struct endpoint *views[PODS];
static struct endpoint_snapshot snap;

static int reset(void **state)
{
	(void)state;
	memset(pods, 0, sizeof(pods));
	memset(loads, 0, sizeof(loads));
	for (uint16_t i = 0; i < PODS; i++) {
		pods[i].slot = i;
		pods[i].generation = 1;
		pods[i].load = &loads[i];
		pods[i].breaker.state = SLUICE_ENDPOINT_READY;
		loads[i].scraped_at_ns = NOW;
		snprintf(pods[i].name, sizeof(pods[i].name), "pod-%u", i);
		snprintf(pods[i].address, sizeof(pods[i].address), "10.0.0.%u:8000", i);
		views[i] = &pods[i];
	}
	snap.views = views;
	snap.view_count = PODS;
	return 0;
}

static struct scheduler *make(const char *profile, struct prefix_index *ix)
{
	struct config cfg = {.scheduler_profile = (char *)profile,
			     .weight_queue = 2,
			     .weight_kv = 2,
			     .weight_prefix = 3,
			     .decisions_max = 64};
	struct scheduler *sched = NULL;
	char *error = NULL;
	int err = scheduler_new(&cfg, ix, 2, &sched, &error);

	if (err)
		print_message("%s\n", error ? error : "?");
	assert_int_equal(err, 0);
	return sched;
}

/* ---- scores ---- */

struct pod_row {
	uint32_t waiting, running, kv_ppm, own_requests;
	uint64_t own_tokens;
	uint16_t hit;
	bool unknown;
};

struct score_case {
	const char *what, *plugin; /* as in a profile */
	uint32_t count, total_blocks, prompt_tokens;
	struct pod_row pods[3];
	double scores[3];
};

static const struct score_case score_cases[] = {
	{"least waiting is best",
	 "queue-scorer",
	 3,
	 0,
	 0,
	 {{.waiting = 0}, {.waiting = 5}, {.waiting = 10}},
	 {1, 0.5, 0}},
	{"all equal is 1",
	 "queue-scorer",
	 3,
	 0,
	 0,
	 {{.waiting = 7}, {.waiting = 7}, {.waiting = 7}},
	 {1, 1, 1}},
	{"unknown is the worst known, not idle",
	 "queue-scorer",
	 3,
	 0,
	 0,
	 {{.waiting = 2}, {.waiting = 4}, {.unknown = true}},
	 {1, 0, 0}},
	{"unknown beside equals is one of them",
	 "queue-scorer",
	 3,
	 0,
	 0,
	 {{.waiting = 2}, {.waiting = 2}, {.unknown = true}},
	 {1, 1, 1}},
	{"nobody known is half for all",
	 "queue-scorer",
	 3,
	 0,
	 0,
	 {{.unknown = true}, {.unknown = true, .waiting = 9}, {.unknown = true}},
	 {0.5, 0.5, 0.5}},
	{"one candidate", "queue-scorer", 1, 0, 0, {{.waiting = 9}}, {1}},
	{"running by the same rule",
	 "running-requests-size-scorer",
	 3,
	 0,
	 0,
	 {{.running = 256}, {.running = 0}, {.running = 64}},
	 {0, 1, 0.75}},
	{"free share of the KV cache",
	 "kv-cache-utilization-scorer",
	 3,
	 0,
	 0,
	 {{.kv_ppm = 0}, {.kv_ppm = 250000}, {.kv_ppm = 1000000}},
	 {1, 0.75, 0}},
	{"KV of the unknown is the worst known",
	 "kv-cache-utilization-scorer",
	 3,
	 0,
	 0,
	 {{.kv_ppm = 100000}, {.kv_ppm = 400000}, {.unknown = true}},
	 {0.9, 0.6, 0.6}},
	{"share of the prompt held",
	 "prefix-cache-scorer",
	 3,
	 8,
	 0,
	 {{.hit = 8}, {.hit = 2}, {.hit = 0}},
	 {1, 0.25, 0}},
	{"no prompt, no score", "prefix-cache-scorer", 2, 0, 0, {{.hit = 0}, {.hit = 0}}, {0, 0}},
	{"prefix needs no engine figures",
	 "prefix-cache-scorer",
	 2,
	 4,
	 0,
	 {{.hit = 4, .unknown = true}, {.hit = 1}},
	 {1, 0.25}},
	/* block of 256 bytes = 64 tokens; 64 blocks = 4096 tokens = half of 8192: 0.5^2 */
	{"match length counts with its weight",
	 "prefix-cache-scorer:matchLengthWeight=0.5",
	 3,
	 256,
	 0,
	 {{.hit = 64}, {.hit = 128}, {.hit = 256}},
	 {0.5 * 0.25 + 0.5 * 0.25, 0.5 * 1 + 0.5 * 0.5, 1}},
	{"match length alone with its scale",
	 "prefix-cache-scorer:matchLengthWeight=1:matchLengthScaleTokens=640",
	 2,
	 10,
	 0,
	 {{.hit = 5}, {.hit = 10}},
	 {0.25, 1}},
	{"queue against the threshold",
	 "load-aware-scorer",
	 3,
	 0,
	 0,
	 {{.waiting = 0}, {.waiting = 64}, {.waiting = 128}},
	 {0.5, 0.25, 0}},
	{"beyond the threshold is 0",
	 "load-aware-scorer:threshold=10",
	 3,
	 0,
	 0,
	 {{.waiting = 11}, {.waiting = 5}, {.waiting = 1000}},
	 {0, 0.25, 0}},
	{"threshold 0 is the default",
	 "load-aware-scorer:threshold=0",
	 1,
	 0,
	 0,
	 {{.waiting = 64}},
	 {0.25}},
	{"own requests",
	 "active-request-scorer",
	 3,
	 0,
	 0,
	 {{.own_requests = 0}, {.own_requests = 3}, {.own_requests = 4}},
	 {1, 0.25, 0}},
	{"idle up to the threshold, busy at most",
	 "active-request-scorer:idleThreshold=2:maxBusyScore=0.5",
	 3,
	 0,
	 0,
	 {{.own_requests = 2}, {.own_requests = 3}, {.own_requests = 6}},
	 {1, 0.25, 0}},
	{"nobody busy", "active-request-scorer", 2, 0, 0, {{0}, {0}}, {1, 1}},
	{"own requests need no engine figures",
	 "active-request-scorer",
	 2,
	 0,
	 0,
	 {{.own_requests = 1, .unknown = true}, {.own_requests = 2}},
	 {0.5, 0}},
	{"tokens in flight and this prompt",
	 "token-load-scorer:queueThresholdTokens=1000",
	 3,
	 10,
	 200,
	 {{.hit = 10}, {.own_tokens = 300}, {.own_tokens = 900}},
	 {1, 0.5, 0}},
	/* costs: 1 + 0 + 2*100 + 0 = 201; 1 + 300 + 2*50 + 0 = 401; 1 + 0 + 200 + 10*20 = 401 */
	{"least work",
	 "sluice-scorer:requestTokens=10:uncachedWeight=2",
	 3,
	 10,
	 100,
	 {{0}, {.own_tokens = 300, .hit = 5}, {.running = 15, .waiting = 5}},
	 {1, 201.0 / 401, 201.0 / 401}},
	/* costs: 1 + 10*4 = 41; 1 + 10*2 = 21; unknown: as busy as the busiest */
	{"stale is as busy as the busiest",
	 "sluice-scorer:requestTokens=10",
	 3,
	 0,
	 0,
	 {{.running = 4}, {.waiting = 2}, {.unknown = true}},
	 {21.0 / 41, 1, 21.0 / 41}},
	{"tokens by default", "token-load-scorer", 1, 0, 2097152, {{0}}, {0.5}},
};

static void check_case(const struct score_case *t)
{
	struct sched_candidate candidates[3];
	struct sched_request req = {0};
	struct sched_view view = {.snapshot = &snap,
				  .request = &req,
				  .candidates = candidates,
				  .count = t->count,
				  .total_blocks = t->total_blocks,
				  .prompt_tokens = t->prompt_tokens,
				  .block_bytes = 256,
				  .session_view = -1};
	struct profile profile;
	float scores[3] = {-9, -9, -9};
	char *error = NULL;

	for (uint32_t i = 0; i < t->count; i++)
		candidates[i] = (struct sched_candidate){
			.endpoint = &pods[i],
			.view = i,
			.known = !t->pods[i].unknown,
			.waiting = t->pods[i].waiting,
			.running = t->pods[i].running,
			.kv_used = (float)t->pods[i].kv_ppm / 1e6f,
			.own_requests = t->pods[i].own_requests,
			.own_tokens = t->pods[i].own_tokens,
			.hit_blocks = t->pods[i].hit,
		};
	assert_int_equal(profile_parse(&profile, t->plugin, &error), 0);
	assert_int_equal(profile.scorer_count, 1);
	profile.scorers[0].type->score(&view, &profile.scorers[0], scores);
	for (uint32_t i = 0; i < t->count; i++) {
		if (scores[i] > t->scores[i] - 1e-5 && scores[i] < t->scores[i] + 1e-5)
			continue;
		fail_msg("%s: pod %u scored %g, not %g", t->what, i, (double)scores[i],
			 t->scores[i]);
	}
	profile_fini(&profile);
}

static void scores_are_those_of_the_rules(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(score_cases) / sizeof(score_cases[0]); i++)
		check_case(&score_cases[i]);
}

/* ---- picks ---- */

static struct sched_piece prompt_piece;

static struct sched_request request(const char *prompt)
{
	prompt_piece = (struct sched_piece){.bytes = span_of_str(prompt), .kind = SCHED_PIECE_TEXT};
	return (struct sched_request){.now_ns = NOW,
				      .model_name = SPAN("m"),
				      .pieces = &prompt_piece,
				      .piece_count = 1,
				      .request_id = SPAN("req-1")};
}

static uint16_t pick_slot(struct scheduler *sched, const struct sched_request *req)
{
	struct sched_pick pick;

	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, req, &pick), 0);
	return pick.endpoint->slot;
}

static void tie_goes_to_the_same_pod_at_every_gateway(void **state)
{
	unsigned int seen = 0;

	(void)state;
	for (unsigned int n = 0; n < 64; n++) {
		char prompt[32];
		struct scheduler *a = make(NULL, NULL), *b = make(NULL, NULL);
		struct sched_request req;
		struct endpoint *first = views[0];
		uint16_t slot;

		snprintf(prompt, sizeof(prompt), "prompt %u", n);
		req = request(prompt);
		slot = pick_slot(a, &req);
		reset(NULL);
		/* The other gateway lists its pods in another order. */
		views[0] = views[5];
		views[5] = first;
		assert_int_equal(pick_slot(b, &req), slot);
		seen |= 1u << slot;
		reset(NULL);
		scheduler_free(a);
		scheduler_free(b);
	}
	assert_int_equal(seen, 0xff); /* and different prompts go to all pods */
}

static void burst_spreads_although_no_metrics_arrive(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct sched_request req = request("the same prompt for everybody");

	(void)state;
	for (int i = 0; i < 4 * PODS; i++)
		pick_slot(sched, &req);
	for (int i = 0; i < PODS; i++)
		assert_int_equal(loads[i].inflight_requests, 4);
	scheduler_free(sched);
}

static void pick_is_counted_at_once_and_taken_back_once(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct sched_worker *w = scheduler_worker(sched, 0);
	struct sched_request req = request("12345678");
	struct sched_pick pick;
	struct sched_outcome outcome = {.now_ns = NOW,
					.ttft_us = 800,
					.prompt_tokens = 10,
					.cached_tokens = 4,
					.usage_known = true};
	struct sluice_endpoint_load *load;

	(void)state;
	req.prompt_tokens = 100;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), 0);
	load = pick.endpoint->load;
	assert_int_equal(load->inflight_requests, 1);
	assert_int_equal(load->inflight_tokens, 100);
	assert_int_equal(load->requests_total, 1);
	scheduler_first_token(&pick);
	assert_int_equal(load->inflight_tokens, 0);
	scheduler_done(w, &pick, &outcome);
	assert_int_equal(load->inflight_requests, 0);
	assert_int_equal(load->inflight_tokens, 0);
	assert_int_equal(load->requests_total, 1);
	assert_int_equal(load->cached_tokens_total, 4);
	assert_int_equal(load->prompt_tokens_total, 10);
	assert_int_equal(load->ttft_us, 800);
	scheduler_free(sched);
}

static void only_pods_that_can_serve_are_candidates(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct sched_worker *w = scheduler_worker(sched, 0);
	struct sched_request req = request("x");
	struct model model = {.name = "m", .views = {0x3}};
	uint16_t tried[] = {0};
	struct sched_pick pick;

	(void)state;
	req.model = &model;
	pods[1].draining = true;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), 0);
	assert_int_equal(pick.endpoint->slot, 0);
	assert_int_equal(pick.candidates, 1);
	req.excluded = tried;
	req.excluded_count = 1;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), -EAGAIN);
	pods[1].draining = false;
	pods[1].breaker.state = SLUICE_ENDPOINT_OPEN;
	pods[1].breaker.reopen_at_ns = UINT64_MAX;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), -EAGAIN);
	model.views[0] = 0;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), -ENOENT);
	snap.view_count = 0;
	req.model = NULL;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), -ENOENT);
	scheduler_free(sched);
}

static void half_open_circuit_is_a_candidate_until_somebody_tries(void **state)
{
	struct scheduler *sched = make(NULL, NULL);
	struct sched_worker *w = scheduler_worker(sched, 0);
	struct sched_request req = request("x");
	struct sched_pick pick;

	(void)state;
	snap.view_count = 1;
	pods[0].breaker.state = SLUICE_ENDPOINT_TRIAL;
	pods[0].breaker.reopen_at_ns = UINT64_MAX;
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), 0);
	assert_true(health_trial_begin(pick.endpoint));
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), -EAGAIN);
	health_report(&pods[0], HEALTH_OK);
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), 0);
	scheduler_free(sched);
}

static void stale_pod_is_never_taken_for_idle(void **state)
{
	struct scheduler *sched = make("queue-scorer", NULL);
	struct sched_request req = request("x");

	(void)state;
	for (int i = 0; i < PODS; i++)
		loads[i].waiting = 3;
	loads[2].waiting = 1;
	loads[4].waiting = 0; /* said long ago */
	loads[4].scraped_at_ns = NOW - 3 * NS_PER_S;
	assert_int_equal(pick_slot(sched, &req), 2);
	scheduler_free(sched);
}

static void filters_keep_pods_by_role(void **state)
{
	struct scheduler *decode = make("decode-filter,queue-scorer", NULL);
	struct scheduler *prefill = make("prefill-filter,queue-scorer", NULL);
	struct sched_request req = request("x");
	struct sched_pick pick;

	(void)state;
	for (int i = 0; i < PODS; i++)
		pods[i].role = SLUICE_ROLE_PREFILL;
	pods[3].role = SLUICE_ROLE_DECODE;
	pods[6].role = 0;
	pods[7].role = SLUICE_ROLE_ENCODE;
	assert_int_equal(scheduler_pick(scheduler_worker(decode, 0), &snap, &req, &pick), 0);
	assert_int_equal(pick.candidates, 2); /* decode, and the one without a role */
	assert_int_equal(scheduler_pick(scheduler_worker(prefill, 0), &snap, &req, &pick), 0);
	assert_int_equal(pick.candidates, 5);
	for (int i = 0; i < PODS; i++)
		pods[i].role = SLUICE_ROLE_ENCODE;
	assert_int_equal(scheduler_pick(scheduler_worker(decode, 0), &snap, &req, &pick), -EBUSY);
	scheduler_free(decode);
	scheduler_free(prefill);
}

static void label_rules_must_all_hold(void **state)
{
	static const struct {
		const char *profile;
		uint32_t candidates;
	} cases[] = {
		{"label-selector-filter", 8},
		{"label-selector-filter:gpu=a100", 2},
		{"label-selector-filter:gpu=a100|h100", 3},
		{"label-selector-filter:gpu!=a100", 6},
		{"label-selector-filter:gpu", 3},
		{"label-selector-filter:!gpu", 5},
		{"label-selector-filter:gpu=a100:zone=b", 1},
		{"label-selector-filter:gpu=a10", 0},
	};
	struct sched_request req = request("x");

	(void)state;
	pods[0].labels[0] = (struct label){"gpu", "a100"};
	pods[1].labels[0] = (struct label){"gpu", "a100"};
	pods[1].labels[1] = (struct label){"zone", "b"};
	pods[2].labels[0] = (struct label){"gpu", "h100"};
	pods[0].label_count = pods[2].label_count = 1;
	pods[1].label_count = 2;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct scheduler *sched = make(cases[i].profile, NULL);
		struct sched_pick pick = {0};
		int err = scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick);

		assert_int_equal(err, cases[i].candidates ? 0 : -EBUSY);
		assert_int_equal(pick.candidates, cases[i].candidates);
		scheduler_free(sched);
	}
}

static void learned_prompt_is_expected_where_it_went(void **state)
{
	static char prompt[2001];
	struct prefix_index *ix;
	struct scheduler *sched;
	struct sched_worker *w;
	struct sched_request req;
	struct sched_pick first, second;

	(void)state;
	memset(prompt, 'p', 2000);
	assert_int_equal(prefix_index_new(NULL, 1 << 20, 2, &ix), 0);
	sched = make(NULL, ix);
	w = scheduler_worker(sched, 0);
	req = request(prompt);
	assert_int_equal(scheduler_pick(w, &snap, &req, &first), 0);
	assert_int_equal(first.total_blocks, 8); /* 2001 bytes with the piece's kind, of 256 */
	assert_int_equal(first.hit_blocks, 0);
	scheduler_learn(w, &first);
	scheduler_done(w, &first, &(struct sched_outcome){0});
	prompt[1900] = 'q'; /* in the last block */
	assert_int_equal(scheduler_pick(w, &snap, &req, &second), 0);
	assert_ptr_equal(second.endpoint, first.endpoint);
	assert_int_equal(second.hit_blocks, 7);
	assert_int_equal(second.hit_bytes, 7 * 256);
	assert_int_equal(second.cached_tokens_expected, 500 * 7 * 256 / 2000);
	/* The engine restarted. */
	prefix_index_forget(ix, first.endpoint->slot);
	assert_int_equal(scheduler_pick(w, &snap, &req, &second), 0);
	assert_int_equal(second.hit_blocks, 0);
	scheduler_free(sched);
	prefix_index_free(ix);
}

static void session_stays_where_it_is_bound(void **state)
{
	struct scheduler *sched = make("session-affinity-scorer=5,active-request-scorer", NULL);
	struct sched_request req = request("x");
	uint16_t slot;

	(void)state;
	req.session = SPAN("session-77");
	slot = pick_slot(sched, &req);
	for (int i = 0; i < 5; i++)
		assert_int_equal(pick_slot(sched, &req), slot);
	req.now_ns += 301 * NS_PER_S; /* expired: the least busy again */
	assert_int_not_equal(pick_slot(sched, &req), slot);
	req.session = SPAN("bnMvcG9kLTY="); /* base64 of ns/pod-6 */
	assert_int_equal(pick_slot(sched, &req), 6);
	scheduler_free(sched);
}

static void adapter_is_preferred_where_it_is_loaded(void **state)
{
	struct profile profile;
	struct model adapter = {.name = "a", .parent = "m", .views = {0x2}};
	struct sched_request req = {.model = &adapter};
	struct sched_candidate c[2] = {{.view = 0}, {.view = 1}};
	struct sched_view view = {.request = &req, .candidates = c, .count = 2};
	float scores[2];
	char *error;

	(void)state;
	assert_int_equal(profile_parse(&profile, "lora-affinity-scorer", &error), 0);
	profile.scorers[0].type->score(&view, &profile.scorers[0], scores);
	assert_true(scores[0] == 0 && scores[1] == 1);
	profile_fini(&profile);
}

static void random_pickers_follow_their_weights(void **state)
{
	struct scheduler *any = make("random-picker", NULL);
	struct scheduler *weighted =
		make("kv-cache-utilization-scorer,weighted-random-picker", NULL);
	struct sched_request req = request("x");
	unsigned int counts[2][PODS] = {0};

	(void)state;
	snap.view_count = 3;
	loads[0].kv_used_ppm = 1000000; /* score 0: last */
	loads[1].kv_used_ppm = 750000;	/* score 0.25 */
	loads[2].kv_used_ppm = 0;	/* score 1 */
	for (int i = 0; i < 8000; i++) {
		counts[0][pick_slot(any, &req)]++;
		counts[1][pick_slot(weighted, &req)]++;
	}
	for (int i = 0; i < 3; i++)
		assert_in_range(counts[0][i], 2300, 3030);
	assert_int_equal(counts[1][0], 0);
	/* P(the one of 0.25 wins) = 0.25 / 1.25; unseen requests do not change KV without sizes */
	assert_in_range(counts[1][1], 1400, 1800);
	scheduler_free(any);
	scheduler_free(weighted);
}

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
	FILE *f;

	if (!d)
		return NULL;
	f = open_memstream(&text, &bytes);
	decision_write_json(f, scheduler_decisions(sched), d, &snap);
	fclose(f);
	free(d);
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

#define T(name) cmocka_unit_test_setup(name, reset)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(scores_are_those_of_the_rules),
		T(tie_goes_to_the_same_pod_at_every_gateway),
		T(burst_spreads_although_no_metrics_arrive),
		T(pick_is_counted_at_once_and_taken_back_once),
		T(only_pods_that_can_serve_are_candidates),
		T(half_open_circuit_is_a_candidate_until_somebody_tries),
		T(stale_pod_is_never_taken_for_idle),
		T(filters_keep_pods_by_role),
		T(label_rules_must_all_hold),
		T(learned_prompt_is_expected_where_it_went),
		T(session_stays_where_it_is_bound),
		T(adapter_is_preferred_where_it_is_loaded),
		T(random_pickers_follow_their_weights),
		T(wrong_profiles_say_what_is_wrong),
		T(profile_without_words_is_2_2_3),
		T(prompt_hashes_alike_however_it_was_received),
		T(salt_and_piece_borders_separate_prompts),
		T(longest_prompt_fills_no_more_than_the_room),
		T(decision_tells_every_score_and_how_it_ended),
		T(oldest_decision_is_overwritten),
		T(decisions_read_while_written_are_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
