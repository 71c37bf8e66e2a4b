/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every scorer and filter against its published rule: inputs and results worked out by hand, at the
 * edges (all equal, nothing there, stale, no label). One row is one sentence.
 */
#include "sched_pool.h"

#include "scheduler/config/setup.h"
#include "scheduler/facts.h"
#include "scheduler/saturation.h"

#define N 4

struct pod {
	uint32_t waiting, running, own_requests, own_tokens;
	double kv;
	uint16_t hit, media;
	bool stale, predicted;
	double ttft, tpot; /* predicted, ms */
	double ttft_headroom, tpot_headroom;
	uint8_t role;
	const char *label, *value;
	uint64_t cold_at;
};

struct row {
	const char *what, *plugin;
	uint32_t count, blocks, tokens;
	struct pod pods[N];
	double want[N]; /* scores, or kept (1) and dropped (0) */
	uint32_t media;
	const char *header;
	bool peer; /* the last pod is the peer, and no candidate */
};

#define STALE	   .stale = true
#define HEAD(a, b) .predicted = true, .ttft_headroom = a, .tpot_headroom = b
#define HOST	   "kubernetes.io/hostname"
#define ZONE	   "topology.kubernetes.io/zone"
#define CTX	   "llm-d.ai/context-length-range"

/* clang-format off */
static const struct row rows[] = {
	/* queue-scorer, running-requests-size-scorer: (max - x) / (max - min) */
	{ "queue: linear between least and most", "queue-scorer", 3, 0, 0,
	  {{.waiting = 4}, {.waiting = 8}, {.waiting = 5}}, .want = {1, 0, 0.75} },
	{ "queue: all equal is 1", "queue-scorer", 2, 0, 0, {{.waiting = 3}, {.waiting = 3}}, .want = {1, 1} },
	{ "queue: one candidate is 1", "queue-scorer", 1, 0, 0, {{.waiting = 9}}, .want = {1} },
	{ "queue: stale is as bad as the worst known", "queue-scorer", 3, 0, 0,
	  {{.waiting = 0}, {.waiting = 2}, {STALE}}, .want = {1, 0, 0} },
	{ "running: linear", "running-requests-size-scorer", 3, 0, 0,
	  {{.running = 0}, {.running = 100}, {.running = 25}}, .want = {1, 0, 0.75} },
	{ "running: all idle is 1", "running-requests-size-scorer", 2, 0, 0, {{0}, {0}}, .want = {1, 1} },

	{ "kv: what is free", "kv-cache-utilization-scorer", 3, 0, 0,
	  {{.kv = 0}, {.kv = 0.6}, {.kv = 1}}, .want = {1, 0.4, 0} },
	{ "kv: all stale is half", "kv-cache-utilization-scorer", 2, 0, 0, {{STALE}, {STALE}},
	  .want = {0.5, 0.5} },

	/* load-aware-scorer: 0.5 (1 - min(q, T) / T) */
	{ "load-aware: empty is a half", "load-aware-scorer", 3, 0, 0,
	  {{.waiting = 0}, {.waiting = 32}, {.waiting = 129}}, .want = {0.5, 0.375, 0} },
	{ "load-aware: T <= 0 is 128", "load-aware-scorer:threshold=-4", 1, 0, 0, {{.waiting = 32}},
	  .want = {0.375} },

	/* active-request-scorer: n <= idle: 1, else (max - n) / max x maxBusyScore */
	{ "active: idle is 1, the busiest 0", "active-request-scorer", 3, 0, 0,
	  {{0}, {.own_requests = 1}, {.own_requests = 4}}, .want = {1, 0.75, 0} },
	{ "active: up to idleThreshold is idle", "active-request-scorer:idleThreshold=1", 3, 0, 0,
	  {{0}, {.own_requests = 1}, {.own_requests = 4}}, .want = {1, 1, 0} },
	{ "active: maxBusyScore outside 0 to 1 is 1", "active-request-scorer:maxBusyScore=7", 2, 0, 0,
	  {{.own_requests = 1}, {.own_requests = 2}}, .want = {0.5, 0} },

	/* token-load-scorer: 1 - min(1, (in flight + own uncached) / T) */
	{ "tokens: cached ones are not counted", "token-load-scorer:queueThresholdTokens=1000", 3, 4,
	  400, {{.hit = 4}, {.hit = 1}, {.own_tokens = 600}}, .want = {1, 0.7, 0} },
	{ "tokens: T <= 0 is the default", "token-load-scorer:queueThresholdTokens=0", 1, 0, 0,
	  {{.own_tokens = 1048576}}, .want = {0.75} },

	/* prefix-cache-scorer: w min(1, match x block / L)^2 + (1 - w) match / total */
	{ "prefix: the share", "prefix-cache-scorer", 3, 4, 0, {{.hit = 4}, {.hit = 1}, {0}},
	  .want = {1, 0.25, 0} },
	{ "prefix: no blocks is 0", "prefix-cache-scorer", 2, 0, 0, {{0}, {0}}, .want = {0, 0} },
	{ "prefix: w = 0.5, L = 128 tokens, blocks of 64",
	  "prefix-cache-scorer:matchLengthWeight=0.5:matchLengthScaleTokens=128", 3, 4, 0,
	  {{.hit = 1}, {.hit = 2}, {.hit = 4}}, .want = {0.25, 0.75, 1} },
	{ "precise: by the index that is there", "precise-prefix-cache-scorer", 2, 2, 0,
	  {{.hit = 1}, {.hit = 2}}, .want = {0.5, 1} },

	/* no-hit-lru-scorer */
	{ "no-hit-lru: any hit is a half for all", "no-hit-lru-scorer", 3, 4, 0,
	  {{.hit = 1}, {0}, {.cold_at = 9}}, .want = {0.5, 0.5, 0.5} },
	{ "no-hit-lru: never used first, then the oldest", "no-hit-lru-scorer", 3, 4, 0,
	  {{.cold_at = 9}, {0}, {.cold_at = 3}}, .want = {0, 1, 0.5} },
	{ "no-hit-lru: never used keep their order", "no-hit-lru-scorer", 3, 0, 0, {{0}, {0}, {0}},
	  .want = {1, 0.5, 0} },
	{ "no-hit-lru: one candidate is 1", "no-hit-lru-scorer", 1, 0, 0, {{.cold_at = 1}}, .want = {1} },
	{ "no-hit-lru: beyond lruSize it was never used", "no-hit-lru-scorer:lruSize=4", 2, 0, 0,
	  {{.cold_at = 9}, {.cold_at = 3}}, .want = {0, 1} },

	/* context-length-aware: inside 0.3 + 0.7 (0.7 / (1 + w / 10000) + 0.3 (max - t) / w) */
	{ "context: inside, no label, malformed", "context-length-aware", 3, 0, 5000,
	  {{.label = CTX, .value = "0-10000"}, {0}, {.label = CTX, .value = "big"}},
	  .want = {0.3 + 0.7 * (0.35 + 0.15), 0.5, 0} },
	{ "context: outside by 1000 is halved", "context-length-aware", 2, 0, 5000,
	  {{.label = CTX, .value = "0-4000"}, {.label = CTX, .value = "6000-9000"}}, .want = {0.15, 0.15} },
	{ "context: a range of one length", "context-length-aware", 2, 0, 5000,
	  {{.label = CTX, .value = "5000-5000"}, {.label = CTX, .value = "9-5"}}, .want = {1, 0} },
	{ "context filter: inside or unlabelled", "context-length-aware:enableFiltering=true", 4, 0,
	  5000, {{.label = CTX, .value = "0-5000"}, {0}, {.label = CTX, .value = "5001-6000"},
		 {.label = CTX, .value = "x"}}, .want = {1, 1, 0, 0} },

	/* latency-scorer */
	{ "latency: no prediction: kv, queue, prefix in equal parts", "latency-scorer", 2, 4, 0,
	  {{.kv = 0.4, .waiting = 2, .hit = 4}, {.kv = 0.1, .waiting = 4}},
	  .want = {(0.6 + 0.5 + 1) / 3, (0.9 + 0 + 0) / 3} },
	{ "latency: nothing waits anywhere: the queue is 1", "latency-scorer", 1, 0, 0, {{.kv = 0.1}},
	  .want = {1.9 / 3} },
	{ "latency: least: the one nearest its SLO", "latency-scorer", 3, 0, 0,
	  {{HEAD(100, 10)}, {HEAD(600, 10)}, {HEAD(1100, 10)}}, .want = {1.01, 0.51, 0.01} },
	{ "latency: most: the one farthest from it",
	  "latency-scorer:headroomSelectionStrategy=most", 2, 0, 0, {{HEAD(100, 1)}, {HEAD(600, 1)}},
	  .want = {0.01, 1.01} },
	{ "latency: both headrooms count by their weights", "latency-scorer", 2, 0, 0,
	  {{HEAD(0, 10)}, {HEAD(100, 0)}}, .want = {0.81, 0.21} },
	{ "latency: equal headrooms are a half", "latency-scorer", 2, 0, 0,
	  {{HEAD(5, 5)}, {HEAD(5, 5)}}, .want = {0.51, 0.51} },
	{ "latency: those that miss have 0 beside one that meets", "latency-scorer", 3, 0, 0,
	  {{HEAD(-1, 5), .own_requests = 1}, {HEAD(5, 5)}, {HEAD(-5, -5)}}, .want = {0, 0.51, 0} },
	{ "latency: nobody meets: the idle one", "latency-scorer", 2, 0, 0,
	  {{HEAD(-1, -1), .own_requests = 1}, {HEAD(-9, -9)}}, .want = {0, 0.51} },
	{ "latency: then those that miss TPOT only, least whatever the strategy",
	  "latency-scorer:headroomSelectionStrategy=most", 3, 0, 0,
	  {{HEAD(1, -2), .own_requests = 1}, {HEAD(1, -4), .own_requests = 1},
	   {HEAD(-1, 4), .own_requests = 1}}, .want = {1.01, 0.01, 0} },

	/* others */
	{ "media: the share of the items", "mm-embeddings-cache-scorer", 3, 0, 0,
	  {{.media = 4}, {.media = 1}, {0}}, {1, 0.25, 0}, .media = 4 },
	{ "media: none is 0", "mm-embeddings-cache-scorer", 1, 0, 0, {{0}}, .want = {0} },
	{ "header-label: equal is 1",
	  "header-label-affinity-scorer:headerName=x-zone:labelKey=zone", 3, 0, 0,
	  {{.label = "zone", .value = "a"}, {.label = "zone", .value = "b"}, {0}}, {1, 0, 0},
	  .header = "a" },
	{ "header-label: no header is 0",
	  "header-label-affinity-scorer:headerName=x-zone:labelKey=zone", 2, 0, 0,
	  {{.label = "zone", .value = ""}, {0}}, .want = {0, 0} },
	{ "topology: the same host 1", "topology-affinity-scorer", 3, 0, 0,
	  {{.label = HOST, .value = "h1"}, {.label = HOST, .value = "h2"}, {0},
	   {.label = HOST, .value = "h1"}}, {1, 0, 0}, .peer = true },
	{ "topology: the same zone 0.05", "topology-affinity-scorer", 2, 0, 0,
	  {{.label = ZONE, .value = "z"}, {0}, {0}, {.label = ZONE, .value = "z"}}, {0.05, 0},
	  .peer = true },
	{ "topology: an empty label is nobody's", "topology-affinity-scorer", 1, 0, 0,
	  {{.label = HOST, .value = ""}, {0}, {0}, {.label = HOST, .value = ""}}, {0}, .peer = true },
	{ "topology: no peer is 0", "topology-affinity-scorer", 1, 0, 0,
	  {{.label = HOST, .value = "h1"}}, .want = {0} },
	{ "topology filter: host or nothing", "topology-affinity-filter:minAffinity=host", 3, 0, 0,
	  {{.label = HOST, .value = "h1"}, {.label = HOST, .value = "h2"}, {0},
	   {.label = HOST, .value = "h1"}}, {1, 0, 0}, .peer = true },
	{ "topology filter: none near enough: all", "topology-affinity-filter:minAffinity=host", 2, 0,
	  0, {{.label = ZONE, .value = "z"}, {0}, {0}, {.label = ZONE, .value = "z"}}, {1, 1},
	  .peer = true },
	{ "attribute: adaptive, lower is better",
	  "endpoint-attribute-scorer:attributeKey=WaitingQueueSize"
	  ":algorithm.type=linear_lower_is_better", 3, 0, 0,
	  {{.waiting = 10}, {.waiting = 30}, {.waiting = 25}}, .want = {1, 0, 0.25} },
	{ "attribute: fixed range, higher is better, clamped, missing 0",
	  "endpoint-attribute-scorer:attributeKey=KVCacheUsagePercent"
	  ":algorithm.type=linear_higher_is_better:algorithm.normalization.fixedRange.min=0.2"
	  ":algorithm.normalization.fixedRange.max=0.6", 4, 0, 0,
	  {{.kv = 0.4}, {.kv = 0.1}, {.kv = 0.9}, {STALE}}, .want = {0.5, 0, 1, 0} },
	{ "attribute: adaptive, all equal is 1",
	  "endpoint-attribute-scorer:attributeKey=WaitingQueueSize"
	  ":algorithm.type=linear_lower_is_better", 2, 0, 0, {{.waiting = 3}, {.waiting = 3}}, .want = {1, 1} },
	{ "attribute filter: missing passes",
	  "endpoint-attribute-filter:attribute=KVCacheUsagePercent"
	  ":algorithm.threshold.operator=LessThan:algorithm.threshold.value=0.5", 3, 0, 0,
	  {{.kv = 0.4}, {.kv = 0.5}, {STALE}}, .want = {1, 0, 1} },
	{ "attribute filter: missing fails, none left falls back",
	  "endpoint-attribute-filter:attribute=GPUUtilization:onMissing=Fail:fallbackOnEmpty=true"
	  ":algorithm.threshold.operator=LessThan:algorithm.threshold.value=0.5", 2, 0, 0,
	  {{0}, {0}}, .want = {1, 1} },

	/* role filters */
	{ "decode-filter: decode, both, unlabelled", "decode-filter", 4, 0, 0,
	  {{.role = 2}, {.role = 3}, {0}, {.role = 1}}, .want = {1, 1, 1, 0} },
	{ "prefill-filter: never the unlabelled", "prefill-filter", 4, 0, 0,
	  {{.role = 1}, {.role = 3}, {0}, {.role = 5}}, .want = {1, 1, 0, 1} },
	{ "encode-filter", "encode-filter", 4, 0, 0, {{.role = 4}, {.role = 7}, {0}, {.role = 3}},
	  .want = {1, 1, 0, 0} },

	/* prefix-cache-affinity-filter: TTFT ms = 1000 tokens in flight / 15928 */
	{ "affinity: the sticky ones", "prefix-cache-affinity-filter", 3, 10, 0,
	  {{.hit = 8}, {.hit = 7}, {.hit = 10}}, .want = {1, 0, 1} },
	{ "affinity: none is sticky: all", "prefix-cache-affinity-filter", 2, 10, 0,
	  {{.hit = 7}, {0}}, .want = {1, 1} },
	{ "affinity: 18 s longer is not too long", "prefix-cache-affinity-filter", 2, 1, 0,
	  {{.hit = 1, .own_tokens = 286704}, {0}}, .want = {1, 0} },
	{ "affinity: beyond 18 s all may", "prefix-cache-affinity-filter", 2, 1, 0,
	  {{.hit = 1, .own_tokens = 286720}, {0}}, .want = {1, 1} },
	{ "affinity: penalty 0 always sticks", "prefix-cache-affinity-filter:maxTTFTPenaltyMs=0", 2,
	  1, 0, {{.hit = 1, .own_tokens = 900000}, {0}}, .want = {1, 0} },
	{ "affinity: predicted TTFT; unknown is endless",
	  "prefix-cache-affinity-filter:ttftSource=latencyPredictor", 2, 1, 0,
	  {{.hit = 1}, {.predicted = true, .ttft = 50}}, .want = {1, 1} },
	{ "affinity: threshold 0 is off", "prefix-cache-affinity-filter:affinityThreshold=0", 2, 1, 0,
	  {{.hit = 1}, {0}}, .want = {1, 1} },
	{ "affinity: exploring takes all", "prefix-cache-affinity-filter:explorationProbability=1", 2,
	  1, 0, {{.hit = 1}, {0}}, .want = {1, 1} },

	/* slo-headroom-tier-filter */
	{ "slo tier: those that meet both", "slo-headroom-tier-filter:epsilonExploreNeg=0", 4, 0, 0,
	  {{HEAD(0, 0)}, {HEAD(-1, 5)}, {HEAD(5, -1)}, {0}}, .want = {1, 0, 0, 0} },
	{ "slo tier: epsilon 1: the others", "slo-headroom-tier-filter:epsilonExploreNeg=1", 3, 0, 0,
	  {{HEAD(0, 0)}, {HEAD(-1, 5)}, {0}}, .want = {0, 1, 1} },
	{ "slo tier: nobody meets: all", "slo-headroom-tier-filter", 2, 0, 0,
	  {{HEAD(-1, 0)}, {HEAD(0, -1)}}, .want = {1, 1} },
	{ "slo tier: no prediction: all", "slo-headroom-tier-filter", 2, 0, 0, {{0}, {0}}, .want = {1, 1} },

	/* the detectors as filters */
	{ "utilization: fresh, short queue, free KV", "utilization-detector", 4, 0, 0,
	  {{.waiting = 4, .kv = 0.79}, {.waiting = 5}, {.kv = 0.8}, {STALE}}, .want = {1, 0, 0, 0} },
	{ "utilization: none: all", "utilization-detector", 2, 0, 0, {{.waiting = 5}, {STALE}},
	  .want = {1, 1} },
	{ "utilization: headroom widens", "utilization-detector:headroom=1", 2, 0, 0,
	  {{.waiting = 9}, {.waiting = 10}}, .want = {1, 0} },
	{ "concurrency: below the cap", "concurrency-detector:maxConcurrency=2", 2, 0, 0,
	  {{.own_requests = 1}, {.own_requests = 2}}, .want = {1, 0} },
	{ "concurrency: may leave none", "concurrency-detector:maxConcurrency=1", 1, 0, 0,
	  {{.own_requests = 1}}, .want = {0} },
	{ "concurrency: by tokens",
	  "concurrency-detector:concurrencyMode=tokens:maxTokenConcurrency=100", 2, 0, 0,
	  {{.own_requests = 900, .own_tokens = 99}, {.own_tokens = 100}}, .want = {1, 0} },
	{ "concurrency: hybrid needs both",
	  "concurrency-detector:concurrencyMode=hybrid:maxConcurrency=2:maxTokenConcurrency=100", 3, 0,
	  0, {{.own_requests = 1, .own_tokens = 99}, {.own_requests = 2}, {.own_tokens = 100}},
	  .want = {1, 0, 0} },
};
/* clang-format on */

static struct shared_facts facts;

static struct span one_header(const void *arg, const char *name)
{
	(void)name;
	return arg ? span_of_str(arg) : (struct span){"", 0};
}

static void lay_out(const struct row *r, struct sched_candidate *c)
{
	reset(NULL);
	memset(&facts, 0, sizeof(facts));
	facts.cold_clock = 9;
	for (uint32_t i = 0; i < N; i++) {
		const struct pod *p = &r->pods[i];

		pods[i].role = p->role;
		if (p->label) {
			pods[i].labels[0] = (struct label){(char *)p->label, (char *)p->value};
			pods[i].label_count = 1;
		}
		facts.cold_at[i] = p->cold_at;
		c[i] = (struct sched_candidate){.endpoint = &pods[i],
						.view = i,
						.known = !p->stale,
						.waiting = p->waiting,
						.running = p->running,
						.kv_used = (float)p->kv,
						.own_requests = p->own_requests,
						.own_tokens = p->own_tokens,
						.hit_blocks = p->hit,
						.media_held = p->media,
						.predicted = p->predicted,
						.ttft_ms = (float)p->ttft,
						.ttft_headroom = (float)p->ttft_headroom,
						.tpot_headroom = (float)p->tpot_headroom};
	}
}

static void run(const struct row *r, const struct plugin *p, bool filter, double *ret)
{
	struct sched_candidate c[N];
	struct sched_request req = {.header = one_header, .header_arg = r->header};
	uint64_t rng = 88172645463325252ULL;
	struct sched_view view = {.snapshot = &snap,
				  .request = &req,
				  .candidates = c,
				  .count = r->count,
				  .total_blocks = r->blocks,
				  .block_bytes = 256,
				  .prompt_tokens = r->tokens,
				  .media_count = r->media,
				  .facts = &facts,
				  .rng = &rng,
				  .peer = r->peer ? &pods[N - 1] : NULL,
				  .session_view = -1};
	float scores[N];
	bool keep[N];

	lay_out(r, c);
	for (uint32_t i = 0; i < r->count; i++)
		view.any_predicted |= c[i].predicted;
	if (filter && p->type->narrow)
		p->type->narrow(&view, p, keep);
	else if (!filter)
		p->type->score(&view, p, scores);
	for (uint32_t i = 0; i < r->count; i++)
		ret[i] = !filter	   ? (double)scores[i]
			 : p->type->narrow ? keep[i]
					   : p->type->keep(&view, p, &c[i]);
}

static void plugins_do_as_their_rules_say(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i];
		struct profile profile;
		char *error = NULL;
		double got[N];
		/* What is both scores, unless the row is about its filter. */
		bool filter;

		if (profile_parse(&profile, r->plugin, &error))
			fail_msg("%s: %s", r->what, error);
		filter = !profile.scorer_count || strstr(r->what, "filter");
		run(r, filter ? &profile.filters[0] : &profile.scorers[0], filter, got);
		for (uint32_t k = 0; k < r->count; k++)
			if (!(got[k] > r->want[k] - 1e-5 && got[k] < r->want[k] + 1e-5))
				fail_msg("%s: pod %u has %g, not %g", r->what, k, got[k],
					 r->want[k]);
		profile_fini(&profile);
	}
}

static void every_filter_and_scorer_has_a_row(void **state)
{
	/* Tested by picks: labels, sessions, adapters, our own; by-label and conditions read lists.
	 */
	static const char *const elsewhere[] = {
		"label-selector-filter",   "by-label-selector",	      "by-label",
		"session-affinity-filter", "session-affinity-scorer", "utilization-filter",
		"lora-affinity-scorer",	   "sluice-scorer",	      NULL};

	(void)state;
	for (const struct plugin_type *t = plugin_types; t->name; t++) {
		bool found = t->pick;

		for (int i = 0; elsewhere[i]; i++)
			found |= strcmp(elsewhere[i], t->name) == 0;
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
			found |= strncmp(rows[i].plugin, t->name, strlen(t->name)) == 0;
		if (!found)
			fail_msg("no row for %s", t->name);
	}
}

static void a_pod_is_full_by_the_rule_of_the_detector(void **state)
{
	struct plugin util, conc;
	struct sched_candidate c = {.known = true, .waiting = 2, .kv_used = 0.6f};

	(void)state;
	plugin_init(&util, plugin_find("utilization-detector", 20));
	plugin_init(&conc, plugin_find("concurrency-detector", 20));
	assert_float_equal(saturation_utilization(&util, &c), 0.75, 1e-5); /* 0.6 / 0.8 */
	c.waiting = 10;
	assert_float_equal(saturation_utilization(&util, &c), 2, 1e-5); /* not clamped */
	c.known = false; /* old figures never halt dispatch: our own count */
	c.own_requests = 25;
	assert_float_equal(saturation_utilization(&util, &c), 0.25, 1e-5);
	assert_float_equal(saturation_concurrency(&conc, &c), 0.25, 1e-5);
	conc.params[1] = 2; /* hybrid: the larger */
	c.own_tokens = 500000;
	assert_float_equal(saturation_concurrency(&conc, &c), 0.5, 1e-5);
}

static void media_items_are_told_apart_however_they_arrive(void **state)
{
	struct sched_piece whole[] = {{SPAN("data:AAAA"), SCHED_PIECE_MEDIA, false},
				      {SPAN("text"), SCHED_PIECE_TEXT, false},
				      {SPAN("data:BBBB"), SCHED_PIECE_MEDIA, false},
				      {SPAN("data:AAAA"), SCHED_PIECE_MEDIA, false}};
	struct sched_piece cut[] = {{SPAN("data:"), SCHED_PIECE_MEDIA, false},
				    {SPAN("AAAA"), SCHED_PIECE_MEDIA, true}};
	struct sched_request a = {.pieces = whole, .piece_count = 4};
	struct sched_request b = {.pieces = cut, .piece_count = 2};
	uint64_t x[MEDIA_ITEMS_MAX], y[MEDIA_ITEMS_MAX];

	(void)state;
	memset(&facts, 0, sizeof(facts));
	assert_int_equal(facts_media_items(&a, x), 2); /* the third is the first again */
	assert_int_equal(facts_media_items(&b, y), 1);
	assert_true(x[0] == y[0] && x[0] != x[1]);
	assert_false(facts_media_held(&facts, &pods[0], x[0]));
	facts_media_sent(&facts, &pods[0], x[0]);
	assert_true(facts_media_held(&facts, &pods[0], x[0]));
	assert_false(facts_media_held(&facts, &pods[1], x[0]));
	pods[0].generation++; /* restarted: nothing is left */
	assert_false(facts_media_held(&facts, &pods[0], x[0]));
}

static void lists_of_conditions_and_values_hold(void **state)
{
	static const char text[] =
		"apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
		"- {type: utilization-filter, parameters: {conditions: [{metric: waiting-queue, "
		"maxValue: 3}, {metric: kv-cache-utilization, maxValue: 0.5}]}}\n"
		"- {type: by-label, parameters: {label: gpu, validValues: [a, b], allowsNoLabel: "
		"true}}\n";
	static const struct row util = {
		.count = 3, .pods = {{.waiting = 3, .kv = 0.5}, {.waiting = 4}, {.kv = 0.6}}};
	static const struct row label = {.count = 4,
					 .pods = {{.label = "gpu", .value = "b"},
						  {.label = "gpu", .value = "c"},
						  {0},
						  {.label = "gpu", .value = ""}}};
	struct setup *s = NULL;
	char *error = NULL;
	double got[N];

	(void)state;
	assert_int_equal(setup_from_text("t", span_of_str(text), &s, &error), 0);
	run(&util, &s->profiles[0]->profile.filters[0], true, got);
	assert_true(got[0] == 1 && got[1] == 0 && got[2] == 0);
	run(&label, &s->profiles[0]->profile.filters[1], true, got);
	assert_true(got[0] == 1 && got[1] == 0 && got[2] == 1 && got[3] == 0);
	setup_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(plugins_do_as_their_rules_say),
		T(every_filter_and_scorer_has_a_row),
		T(a_pod_is_full_by_the_rule_of_the_detector),
		T(media_items_are_told_apart_however_they_arrive),
		T(lists_of_conditions_and_values_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
