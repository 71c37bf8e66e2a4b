/* SPDX-License-Identifier: Apache-2.0 */
/* Scores worked out by hand from the plugins' rules, ties, bursts, exclusion, counting. */
#include "sched_pool.h"

#include "scheduler/admission.h"

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
	 "sluice-scorer:requestTokens=10:uncachedWeight=2:backlogTokens=0",
	 3,
	 10,
	 100,
	 {{0}, {.own_tokens = 300, .hit = 5}, {.running = 15, .waiting = 5}},
	 {1, 201.0 / 401, 201.0 / 401}},
	/* w = 2 + (8000 + 0) / 2 / 4000 = 3; costs: 1 + 8000 + 3*100, 1 + 3*100 + 10 */
	{"the longer the lines, the more own work counts",
	 "sluice-scorer:requestTokens=10:uncachedWeight=2:backlogTokens=4000",
	 2,
	 0,
	 100,
	 {{.own_tokens = 8000}, {.running = 1}},
	 {311.0 / 8301, 1}},
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

/* A pod that learned the prompt, as if it had been picked there. */
static void teach(struct scheduler *sched, struct prefix_index *ix, uint16_t slot,
		  const struct sched_request *req)
{
	uint64_t hashes[16], bytes;
	uint32_t n = prefix_hash(req, PROMPT_BLOCK_BYTES, hashes, 16, &bytes);

	(void)sched;
	prefix_index_learn(ix, 0, slot, 1, 0, hashes, n);
}

static void shared_system_prompt_does_not_send_all_ties_to_one_pod(void **state)
{
	struct prefix_index *ix;
	struct scheduler *sched;
	char prompt[600];
	unsigned int seen = 0;
	struct sched_request req;

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 1 << 20, 2, &ix), 0);
	sched = make(NULL, ix);
	memset(prompt, 's', sizeof(prompt));
	prompt[sizeof(prompt) - 1] = 0;
	req = request(prompt);
	for (uint16_t i = 0; i < PODS; i++)
		teach(sched, ix, i, &req); /* all hold the system prompt */
	for (unsigned int n = 0; n < 64; n++) {
		snprintf(prompt + 560, 40, "question %u", n); /* in the third block */
		req = request(prompt);
		for (int i = 0; i < PODS; i++)
			loads[i].inflight_requests = 0;
		seen |= 1u << pick_slot(sched, &req);
	}
	assert_int_equal(seen, 0xff);
	scheduler_free(sched);
	prefix_index_free(ix);
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

static void half_open_circuit_gets_one_trial_at_a_time(void **state)
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
	assert_int_equal(pods[0].breaker.trial_taken, 1);
	assert_int_equal(scheduler_pick(w, &snap, &req, &pick), -EAGAIN);
	health_report(&pods[0], HEALTH_OK); /* closed again */
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

static void named_endpoint_is_the_same_whatever_the_order(void **state)
{
	struct sched_request req = {0};
	struct sched_candidate c[3] = {{0}};
	struct sched_view view = {
		.request = &req, .candidates = c, .count = 3, .prompt_tokens = 100, .own_hash = 77};
	struct profile profile;
	struct endpoint *named[2] = {NULL, NULL};
	float scores[3];
	char *error;

	(void)state;
	assert_int_equal(profile_parse(&profile,
				       "sluice-scorer:rendezvousShare=0.5:uncachedWeight=8",
				       &error),
			 0);
	for (int order = 0; order < 2; order++) {
		for (int i = 0; i < 3; i++)
			c[i].endpoint = &pods[order ? 2 - i : i];
		profile.scorers[0].type->score(&view, &profile.scorers[0], scores);
		for (int i = 0; i < 3; i++) { /* costs 1 + 8 * 50 and 1 + 8 * 100 */
			if (scores[i] == 1)
				named[order] = c[i].endpoint;
			else
				assert_true(scores[i] > 401.0 / 801 - 1e-5 &&
					    scores[i] < 401.0 / 801 + 1e-5);
		}
	}
	assert_non_null(named[0]);
	assert_ptr_equal(named[0], named[1]);
	profile_fini(&profile);
}

static void adapter_is_preferred_where_it_runs_then_where_there_is_room(void **state)
{
	/* max_lora, adapters known, what the engine does with ours; the score. */
	static const struct {
		uint32_t max, count;
		unsigned int does;
		float score;
	} cases[] = {
		{0, 0, 0, 1.0f},	       /* the engine does not say: listed is loaded */
		{2, 1, ADAPTER_RUNNING, 1.0f}, /* runs */
		{2, 1, 0, 0.8f},	       /* room for one more */
		{2, 2, ADAPTER_WAITING, 0.6f}, /* full, waits */
		{2, 2, 0, 0.0f},	       /* full of others */
		{2, 2, ADAPTER_RUNNING, 0.0f}, /* not in its list of models (view 5) */
	};
	struct model adapter = {.name = "a", .parent = "m", .views = {0x1f}, .hash = 7};
	struct sched_request req = {.model = &adapter};
	struct sched_candidate c[6] = {0};
	struct sched_view view = {.request = &req, .candidates = c, .count = 6};
	struct endpoint *eps = calloc(6, sizeof(*eps));
	struct profile profile;
	float scores[6];
	char *error;

	(void)state;
	for (uint32_t i = 0; i < 6; i++) {
		c[i].view = i;
		c[i].endpoint = &eps[i];
		atomic_init(&eps[i].adapters.max, cases[i].max);
		atomic_init(&eps[i].adapters.count, cases[i].count);
		atomic_init(&eps[i].adapters.known[0],
			    cases[i].does ? 7ULL << 2 | cases[i].does : 9ULL << 2);
	}
	assert_int_equal(profile_parse(&profile, "lora-affinity-scorer", &error), 0);
	profile.scorers[0].type->score(&view, &profile.scorers[0], scores);
	for (int i = 0; i < 6; i++)
		assert_true(scores[i] == cases[i].score);
	profile_fini(&profile);
	free(eps);
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

static void figures_of_a_moment_ago_follow_what_we_sent_and_what_ended(void **state)
{
	static const struct {
		uint32_t waiting, running, then, now, want_waiting, want_running;
	} cases[] = {
		{0, 1, 1, 0, 0, 0},  /* ours ended: nobody runs */
		{2, 5, 3, 1, 2, 3},  /* two ended: of those that ran */
		{2, 1, 4, 1, 1, 0},  /* three ended, one of ours is left */
		{0, 3, 1, 4, 3, 3},  /* three sent: they wait, as far as is known */
		{0, 2, 9, 9, 7, 2},  /* the engine has not shown seven of ours */
		{4, 4, 2, 2, 4, 4},  /* others' requests stay */
		{0, 0, 50, 0, 0, 0}, /* more ended than it showed */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sched_candidate c;

		loads[0].waiting = cases[i].waiting;
		loads[0].running = cases[i].running;
		loads[0].inflight_at_scrape = cases[i].then + 1;
		loads[0].inflight_requests = cases[i].now;
		candidate_read(&c, &pods[0], 0, NOW, NS_PER_S);
		if (c.waiting != cases[i].want_waiting || c.running != cases[i].want_running)
			fail_msg("case %zu: %u wait, %u run", i, c.waiting, c.running);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(scores_are_those_of_the_rules),
		T(tie_goes_to_the_same_pod_at_every_gateway),
		T(shared_system_prompt_does_not_send_all_ties_to_one_pod),
		T(burst_spreads_although_no_metrics_arrive),
		T(pick_is_counted_at_once_and_taken_back_once),
		T(only_pods_that_can_serve_are_candidates),
		T(half_open_circuit_gets_one_trial_at_a_time),
		T(stale_pod_is_never_taken_for_idle),
		T(filters_keep_pods_by_role),
		T(label_rules_must_all_hold),
		T(learned_prompt_is_expected_where_it_went),
		T(session_stays_where_it_is_bound),
		T(named_endpoint_is_the_same_whatever_the_order),
		T(adapter_is_preferred_where_it_runs_then_where_there_is_room),
		T(random_pickers_follow_their_weights),
		T(figures_of_a_moment_ago_follow_what_we_sent_and_what_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
