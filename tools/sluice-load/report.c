/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles and the closing table, or one JSON object. */
#include <math.h>
#include <stdio.h>

#include "sluice-load/load.h"

void hist_add(struct hist *h, double ms)
{
	int i = ms <= 0.001 ? 0 : (int)(log(ms / 0.001) / log(1.02));

	h->count[i < 0 ? 0 : i >= HIST_BUCKETS ? HIST_BUCKETS - 1 : i]++;
	h->total++;
	h->sum += ms;
	if (ms > h->max)
		h->max = ms;
}

double hist_percentile(const struct hist *h, double p)
{
	uint64_t want = (uint64_t)ceil(p / 100 * (double)h->total), seen = 0;

	if (!h->total)
		return 0;
	for (int i = 0; i < HIST_BUCKETS; i++) {
		seen += h->count[i];
		if (seen >= want && seen)
			return fmin(0.001 * pow(1.02, i + 0.5), h->max);
	}
	return h->max;
}

static double spread_cv(const struct result *r)
{
	double sum = 0, sq = 0, n = 0;

	for (int i = 0; i < SEEN_MAX && r->endpoint_count[i]; i++, n++)
		sum += (double)r->endpoint_count[i];
	for (int i = 0; i < (int)n; i++)
		sq += pow((double)r->endpoint_count[i] - sum / n, 2);
	return sum > 0 ? sqrt(sq / n) / (sum / n) : 0;
}

static void json_hist(const char *name, const struct hist *h)
{
	printf("\"%s_ms\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f,\"mean\":%.3f},",
	       name, hist_percentile(h, 50), hist_percentile(h, 90), hist_percentile(h, 99), h->max,
	       h->total ? h->sum / (double)h->total : 0);
}

static void json_print(const struct result *r)
{
	printf("{");
	json_hist("ttft", &r->ttft);
	json_hist("itl", &r->itl);
	json_hist("e2e", &r->e2e);
	if (r->delivery.total)
		json_hist("delivery", &r->delivery);
	printf("\"ok\":%llu,\"sent\":%llu,\"rps\":%.2f,\"elapsed_s\":%.3f,"
	       "\"errors\":{\"refused\":%llu,\"status\":%llu,\"cut\":%llu,\"timeout\":%llu,"
	       "\"wrong\":%llu},\"prompt_tokens\":%llu,\"cached_tokens\":%llu,"
	       "\"completion_tokens\":%llu,\"hit_share\":%.4f,\"spread_cv\":%.4f,\"endpoints\":{",
	       (unsigned long long)r->ok, (unsigned long long)r->sent, (double)r->ok / r->elapsed_s,
	       r->elapsed_s, (unsigned long long)r->refused, (unsigned long long)r->status,
	       (unsigned long long)r->cut, (unsigned long long)r->timeouts,
	       (unsigned long long)r->wrong, (unsigned long long)r->prompt_tokens,
	       (unsigned long long)r->cached_tokens, (unsigned long long)r->completion_tokens,
	       r->prompt_tokens ? (double)r->cached_tokens / (double)r->prompt_tokens : 0,
	       spread_cv(r));
	for (int i = 0; i < SEEN_MAX && r->endpoint_count[i]; i++)
		printf("%s\"%s\":%llu", i ? "," : "", r->endpoint[i],
		       (unsigned long long)r->endpoint_count[i]);
	printf("},\"statuses\":{");
	for (int i = 0, n = 0; i < 600; i++)
		if (r->status_count[i])
			printf("%s\"%d\":%llu", n++ ? "," : "", i,
			       (unsigned long long)r->status_count[i]);
	printf("},\"slowest_request_id\":\"%s\"}\n", r->slowest_id);
}

static void row(const char *name, const struct hist *h)
{
	printf("%-8s %10.2f %10.2f %10.2f %10.2f\n", name, hist_percentile(h, 50),
	       hist_percentile(h, 90), hist_percentile(h, 99), h->max);
}

void report_print(const struct load_options *opt, const struct result *r)
{
	if (opt->json) {
		json_print(r);
		return;
	}
	printf("%llu of %llu requests answered in %.1f s, %.1f a second\n",
	       (unsigned long long)r->ok, (unsigned long long)r->sent, r->elapsed_s,
	       (double)r->ok / r->elapsed_s);
	printf("errors: %llu refused, %llu status, %llu cut, %llu timeout, %llu wrong bytes\n",
	       (unsigned long long)r->refused, (unsigned long long)r->status,
	       (unsigned long long)r->cut, (unsigned long long)r->timeouts,
	       (unsigned long long)r->wrong);
	for (int i = 0; i < 600; i++)
		if (r->status_count[i] && i != 200)
			printf("status %d: %llu\n", i, (unsigned long long)r->status_count[i]);
	printf("%-8s %10s %10s %10s %10s\n", "ms", "p50", "p90", "p99", "max");
	row("TTFT", &r->ttft);
	row("ITL", &r->itl);
	row("e2e", &r->e2e);
	if (r->delivery.total)
		row("delivery", &r->delivery);
	printf("prompt tokens %llu, of them cached %.1f %%; spread over endpoints (CV) %.2f\n",
	       (unsigned long long)r->prompt_tokens,
	       r->prompt_tokens ? 100.0 * (double)r->cached_tokens / (double)r->prompt_tokens : 0,
	       spread_cv(r));
	for (int i = 0; i < SEEN_MAX && r->endpoint_count[i]; i++)
		printf("%s%s: %.1f %%%s", i % 4 ? "   " : "  ", r->endpoint[i],
		       100.0 * (double)r->endpoint_count[i] / (double)r->sent,
		       i % 4 == 3 ? "\n" : "");
	printf("\n");
	if (r->slowest_id[0])
		printf("slowest to begin, %.1f ms: sluicectl why %s\n", r->slowest_ms,
		       r->slowest_id);
}
