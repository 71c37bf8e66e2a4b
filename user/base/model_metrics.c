/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of models in one table for all threads (read without a lock, written under one, a few
 * times in a process's life), rows in each thread's shard, sums at /metrics.
 */
#include "base/model_metrics.h"

#include <pthread.h>
#include <string.h>
#include <xxhash.h>

#include "base/metrics.h"
#include "sluice/limits.h"

#define OTHER	    0 /* row 0 */
#define HOMES	    4096
#define LABEL_BYTES (MODEL_NAME_BYTES_MAX + 1)

static struct pair {
	char model[LABEL_BYTES], target[LABEL_BYTES];
} pairs[LABEL_VALUES_MAX] = {[OTHER] = {"other", "other"}};
static _Atomic uint32_t pair_count = 1;
static _Atomic uint16_t homes[HOMES]; /* 0: free */
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;

static bool pair_is(const struct pair *p, struct span model, struct span target)
{
	return span_eq(span_of_str(p->model), model) && span_eq(span_of_str(p->target), target);
}

/* The pair's number, or OTHER with *ret_home the place where it would be. */
static uint32_t pair_find(struct span model, struct span target, uint32_t *ret_home)
{
	uint64_t hash =
		XXH3_64bits_withSeed(target.ptr, target.len, XXH3_64bits(model.ptr, model.len));

	for (uint32_t i = (uint32_t)hash % HOMES;; i = (i + 1) % HOMES) {
		uint32_t n = atomic_load_explicit(&homes[i], memory_order_acquire);

		*ret_home = i;
		if (n == OTHER || pair_is(&pairs[n], model, target))
			return n;
	}
}

static uint32_t pair_add(struct span model, struct span target)
{
	uint32_t home, n;

	pthread_mutex_lock(&adding);
	n = pair_find(model, target, &home);
	if (n == OTHER && pair_count < LABEL_VALUES_MAX) {
		n = pair_count;
		memcpy(pairs[n].model, model.ptr, model.len);
		memcpy(pairs[n].target, target.ptr, target.len);
		atomic_store_explicit(&pair_count, n + 1, memory_order_release);
		atomic_store_explicit(&homes[home], (uint16_t)n, memory_order_release);
	}
	pthread_mutex_unlock(&adding);
	if (n == OTHER)
		metric_inc(M_LABEL_VALUES_CAPPED);
	return n;
}

struct model_row *model_row(struct span model, struct span target)
{
	uint32_t home, n = OTHER;

	if (model.len < LABEL_BYTES && target.len < LABEL_BYTES)
		n = pair_find(model, target, &home);
	if (n == OTHER && model.len < LABEL_BYTES && target.len < LABEL_BYTES)
		n = pair_add(model, target);
	return &metric_shard()->models[n];
}

/* ---- the page ----------------------------------------------------------------------------------
 */

static uint64_t counter_sum(uint32_t pair, enum model_counter id)
{
	uint64_t sum = 0;

	for (struct metric_shard *s = metric_shards(); s; s = s->next)
		sum += atomic_load_explicit(&s->models[pair].counters[id], memory_order_relaxed);
	return sum;
}

static uint64_t counter_total(enum model_counter id)
{
	uint32_t count = atomic_load_explicit(&pair_count, memory_order_acquire);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += counter_sum(i, id);
	return sum;
}

static bool pair_used(uint32_t pair)
{
	return pair != OTHER || counter_sum(pair, MODEL_ENDED) || counter_sum(pair, MODEL_STARTED);
}

static void label_write(FILE *f, const char *name, const char *value)
{
	fprintf(f, "%s=\"", name);
	metric_label_write(f, value);
	fputc('"', f);
}

static void labels_write(FILE *f, uint32_t pair, bool llm_d)
{
	label_write(f, llm_d ? "model_name" : "model", pairs[pair].model);
	fputc(',', f);
	label_write(f, llm_d ? "target_model_name" : "target_model", pairs[pair].target);
}

static void head_write(FILE *f, const char *prefix, const char *name, const char *type,
		       const char *help)
{
	fprintf(f, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

/* unit: what one counted step is in the metric's unit (1e-6 for microseconds in seconds). */
static const struct histogram_text {
	const char *name, *help;
	enum model_histogram id;
	unsigned int first, last; /* buckets shown: 2^first to 2^last */
	double unit;
	bool labelled;
} histograms[] = {
	{"request_duration_seconds", "Whole requests", MODEL_DURATION, 10, 29, 1e-6, true},
	{"request_ttft_seconds", "Time to the first event with content", MODEL_TTFT, 10, 27, 1e-6,
	 true},
	{"request_streaming_tpot_seconds",
	 "Streamed answers: time per output token after the first", MODEL_TPOT, 8, 22, 1e-6, true},
	{"request_streaming_itl_seconds", "Streamed answers: between two arrivals of events",
	 MODEL_ITL, 8, 24, 1e-6, true},
	{"request_ntpot_seconds", "Whole time of a request by its output tokens", MODEL_NTPOT, 8,
	 24, 1e-6, true},
	{"request_size_bytes", "Bodies of requests", MODEL_REQUEST_BYTES, 6, 28, 1, true},
	{"response_size_bytes", "Answers", MODEL_RESPONSE_BYTES, 6, 28, 1, true},
	{"request_input_tokens", "Prompt tokens as the engine reported", MODEL_INPUT_TOKENS, 0, 20,
	 1, true},
	{"request_output_tokens", "Output tokens as the engine reported", MODEL_OUTPUT_TOKENS, 0,
	 16, 1, true},
	{"request_cached_tokens", "Prompt tokens that the engine found cached",
	 MODEL_REQUEST_CACHED_TOKENS, 0, 20, 1, true},
	{"prefix_indexer_hit_ratio", "Share of a prompt expected at the chosen endpoint",
	 MODEL_HIT_PERCENT, 0, 7, 0.01, false},
	{"prefix_indexer_hit_bytes", "Prompt bytes expected at the chosen endpoint",
	 MODEL_HIT_BYTES, 8, 28, 1, false},
};

/* Rows [from, to) together as one series. */
static void histogram_write(FILE *f, const struct histogram_text *t, uint32_t from, uint32_t to)
{
	uint64_t buckets[MODEL_BUCKETS] = {0}, sum = 0, total = 0;
	const char *comma = t->labelled ? "," : "";

	for (uint32_t n = from; n < to; n++)
		for (struct metric_shard *s = metric_shards(); s; s = s->next) {
			struct model_row *row = &s->models[n];

			for (unsigned int i = 0; i < MODEL_BUCKETS; i++)
				buckets[i] += atomic_load_explicit(
					&row->histograms[t->id].buckets[i], memory_order_relaxed);
			sum += atomic_load_explicit(&row->histograms[t->id].sum,
						    memory_order_relaxed);
		}
	for (unsigned int i = 0; i < MODEL_BUCKETS; i++) {
		total += buckets[i];
		if (i < t->first || (i > t->last && i < MODEL_BUCKETS - 1))
			continue;
		fprintf(f, "llm_d_epp_%s_bucket{", t->name);
		if (t->labelled)
			labels_write(f, from, true);
		if (i == MODEL_BUCKETS - 1)
			fprintf(f, "%sle=\"+Inf\"} %llu\n", comma, (unsigned long long)total);
		else
			fprintf(f, "%sle=\"%.9g\"} %llu\n", comma, (double)(1ULL << i) * t->unit,
				(unsigned long long)total);
	}
	for (int i = 0; i < 2; i++) {
		fprintf(f, "llm_d_epp_%s_%s", t->name, i ? "count" : "sum");
		if (t->labelled) {
			fputc('{', f);
			labels_write(f, from, true);
			fputc('}', f);
		}
		fprintf(f, " %.12g\n", i ? (double)total : (double)sum * t->unit);
	}
}

static void histograms_write(FILE *f)
{
	uint32_t count = atomic_load_explicit(&pair_count, memory_order_acquire);

	for (unsigned int i = 0; i < sizeof(histograms) / sizeof(histograms[0]); i++) {
		const struct histogram_text *t = &histograms[i];

		head_write(f, "llm_d_epp_", t->name, "histogram", t->help);
		if (!t->labelled)
			histogram_write(f, t, 0, count);
		for (uint32_t n = 0; t->labelled && n < count; n++)
			if (pair_used(n))
				histogram_write(f, t, n, n + 1);
	}
}

/* One counter of every pair: minus NULL or what is subtracted, e.g. ended from started. */
static void counter_write(FILE *f, bool llm_d, const char *name, const char *type, const char *help,
			  enum model_counter id, const enum model_counter *minus)
{
	const char *prefix = llm_d ? "llm_d_epp_" : "sluice_";
	uint32_t count = atomic_load_explicit(&pair_count, memory_order_acquire);

	head_write(f, prefix, name, type, help);
	for (uint32_t n = 0; n < count; n++) {
		/* What is subtracted is read first: a request that ends now does not make it < 0.
		 */
		uint64_t less = minus ? counter_sum(n, *minus) : 0;

		if (!pair_used(n))
			continue;
		fprintf(f, "%s%s{", prefix, name);
		labels_write(f, n, llm_d);
		fprintf(f, "} %llu\n", (unsigned long long)(counter_sum(n, id) - less));
	}
}

static void errors_write(FILE *f)
{
	static const struct {
		enum model_counter id;
		const char *code;
	} codes[] = {{MODEL_ERROR_BAD_REQUEST, "BadRequest"},
		     {MODEL_ERROR_EXHAUSTED, "ResourceExhausted"},
		     {MODEL_ERROR_UNAVAILABLE, "ServiceUnavailable"},
		     {MODEL_ERROR_ENGINE, "ModelServerError"},
		     {MODEL_ERROR_INTERNAL, "Internal"},
		     {MODEL_ERROR_CLIENT_LEFT, "ClientClosedRequest"}};
	uint32_t count = atomic_load_explicit(&pair_count, memory_order_acquire);

	head_write(f, "llm_d_epp_", "request_error_total", "counter", "Failed requests by cause");
	for (uint32_t n = 0; n < count; n++)
		for (unsigned int i = 0; pair_used(n) && i < sizeof(codes) / sizeof(codes[0]);
		     i++) {
			fputs("llm_d_epp_request_error_total{", f);
			labels_write(f, n, true);
			fprintf(f, ",error_code=\"%s\"} %llu\n", codes[i].code,
				(unsigned long long)counter_sum(n, codes[i].id));
		}
}

static void total_write(FILE *f, const char *name, const char *help, enum model_counter id)
{
	head_write(f, "llm_d_epp_", name, "counter", help);
	fprintf(f, "llm_d_epp_%s %llu\n", name, (unsigned long long)counter_total(id));
}

void model_metrics_write(FILE *f, bool llm_d)
{
	static const enum model_counter ended = MODEL_ENDED;

	counter_write(f, false, "model_requests_total", "counter", "Requests sent to an endpoint",
		      MODEL_STARTED, NULL);
	counter_write(f, false, "model_requests_running", "gauge", "Of them, not finished",
		      MODEL_STARTED, &ended);
	counter_write(f, false, "model_prompt_tokens_total", "counter",
		      "Prompt tokens as the engines reported", MODEL_PROMPT_TOKENS, NULL);
	counter_write(f, false, "model_cached_tokens_total", "counter",
		      "Prompt tokens that the engines found cached", MODEL_CACHED_TOKENS, NULL);
	counter_write(f, false, "model_completion_tokens_total", "counter",
		      "Completion tokens as the engines reported", MODEL_COMPLETION_TOKENS, NULL);
	if (!llm_d)
		return;
	counter_write(f, true, "request_total", "counter", "Requests sent to an endpoint",
		      MODEL_STARTED, NULL);
	counter_write(f, true, "request_running", "gauge", "Requests not finished", MODEL_STARTED,
		      &ended);
	errors_write(f);
	histograms_write(f);
	total_write(f, "kv_cache_index_lookup_requests_total", "Prompts looked for in the index",
		    MODEL_LOOKUPS);
	total_write(f, "kv_cache_index_lookup_hits_total",
		    "Of them, those found in part at the chosen endpoint", MODEL_LOOKUP_HITS);
}
