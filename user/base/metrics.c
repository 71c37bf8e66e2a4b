/* SPDX-License-Identifier: Apache-2.0 */
/* Shards of metrics: a list that only grows, one element per thread that ever counted. */
#include "base/metrics.h"

#include <stdlib.h>
#include <string.h>

static _Atomic(struct metric_shard *) shards;
static _Thread_local struct metric_shard *own_shard;

static const struct metric_text {
	const char *name, *label, *help;
} counter_text[] =
	{
#define COUNTER(id, name, label, help) {name, label, help},
#define HISTOGRAM(id, name, label, help)
#include "base/metrics_table.h"
#undef COUNTER
#undef HISTOGRAM
},
  histogram_text[] = {
#define COUNTER(id, name, label, help)
#define HISTOGRAM(id, name, label, help) {name, label, help},
#include "base/metrics_table.h"
#undef COUNTER
#undef HISTOGRAM
};

struct metric_shard *metric_shard(void)
{
	if (own_shard)
		return own_shard;
	own_shard = calloc(1, sizeof(*own_shard));
	if (!own_shard)
		abort();
	own_shard->next = atomic_load(&shards);
	while (!atomic_compare_exchange_weak(&shards, &own_shard->next, own_shard))
		;
	return own_shard;
}

struct metric_shard *metric_shards(void)
{
	return atomic_load(&shards);
}

void metric_observe_us(enum metric_histogram id, uint64_t us)
{
	unsigned int i = us <= 1 ? 0 : 64 - (unsigned int)__builtin_clzll(us - 1);
	struct metric_shard *s = metric_shard();
	_Atomic uint64_t *b;

	if (i > METRIC_BUCKETS - 1)
		i = METRIC_BUCKETS - 1;
	b = &s->histograms[id].buckets[i];
	atomic_store_explicit(b, atomic_load_explicit(b, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	b = &s->histograms[id].sum_us;
	atomic_store_explicit(b, atomic_load_explicit(b, memory_order_relaxed) + us,
			      memory_order_relaxed);
}

uint64_t metric_total(enum metric_counter id)
{
	uint64_t sum = 0;

	for (struct metric_shard *s = atomic_load(&shards); s; s = s->next)
		sum += atomic_load_explicit(&s->counters[id], memory_order_relaxed);
	return sum;
}

void metric_label_write(FILE *f, const char *value)
{
	for (; *value; value++) {
		unsigned char c = (unsigned char)*value;

		if (c == '"' || c == '\\')
			fputc('\\', f);
		if (c == '\n')
			fputs("\\n", f);
		else /* a name may be any bytes, the page must be UTF-8 */
			fputc(c < 0x20 || c >= 0x7f ? '?' : c, f);
	}
}

static void histogram_write(FILE *f, unsigned int id, const char *prefix, const char *name)
{
	const struct metric_text *t = &histogram_text[id];
	const char *comma = *t->label ? "," : "";
	uint64_t sum = 0, sum_us = 0;

	for (unsigned int i = 0; i < METRIC_BUCKETS; i++) {
		for (struct metric_shard *s = atomic_load(&shards); s; s = s->next)
			sum += atomic_load_explicit(&s->histograms[id].buckets[i],
						    memory_order_relaxed);
		if (i < METRIC_BUCKETS - 1)
			fprintf(f, "%s%s_bucket{%s%sle=\"%.9g\"} %llu\n", prefix, name, t->label,
				comma, (double)(1ULL << i) / 1e6, (unsigned long long)sum);
	}
	for (struct metric_shard *s = atomic_load(&shards); s; s = s->next)
		sum_us += atomic_load_explicit(&s->histograms[id].sum_us, memory_order_relaxed);
	fprintf(f, "%s%s_bucket{%s%sle=\"+Inf\"} %llu\n", prefix, name, t->label, comma,
		(unsigned long long)sum);
	fprintf(f, *t->label ? "%s%s_sum{%s} %.9g\n" : "%s%s_sum%s %.9g\n", prefix, name, t->label,
		(double)sum_us / 1e6);
	fprintf(f, *t->label ? "%s%s_count{%s} %llu\n" : "%s%s_count%s %llu\n", prefix, name,
		t->label, (unsigned long long)sum);
}

static void head_write(FILE *f, const struct metric_text *t, const struct metric_text *before,
		       const char *type)
{
	if (before && strcmp(t->name, before->name) == 0)
		return;
	fprintf(f, "# HELP sluice_%s %s\n# TYPE sluice_%s %s\n", t->name, t->help, t->name, type);
}

void metrics_write(FILE *f)
{
	for (unsigned int i = 0; i < METRIC_COUNTERS; i++) {
		const struct metric_text *t = &counter_text[i];

		head_write(f, t, i ? t - 1 : NULL, "counter");
		fprintf(f, *t->label ? "sluice_%s{%s} %llu\n" : "sluice_%s%s %llu\n", t->name,
			t->label, (unsigned long long)metric_total((enum metric_counter)i));
	}
	for (unsigned int i = 0; i < METRIC_HISTOGRAMS; i++) {
		head_write(f, &histogram_text[i], i ? &histogram_text[i - 1] : NULL, "histogram");
		histogram_write(f, i, "sluice_", histogram_text[i].name);
	}
}

void metric_histogram_write(FILE *f, enum metric_histogram id, const char *prefix, const char *name,
			    const char *help)
{
	fprintf(f, "# HELP %s%s %s\n# TYPE %s%s histogram\n", prefix, name, help, prefix, name);
	histogram_write(f, id, prefix, name);
}
