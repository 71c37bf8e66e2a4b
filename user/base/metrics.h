/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters and histograms, one shard per thread: the owner adds with plain relaxed stores, the
 * exporter sums the shards. base/metrics_table.h lists every one: a metric is one line there.
 */
#ifndef SLUICE_BASE_METRICS_H
#define SLUICE_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>

#include "base/model_metrics.h"
#include "sluice/limits.h"

/* COUNTER(id, "name_total", "label=\"value\"" or "", "help") and HISTOGRAM(id, "name_seconds", …).
 */
enum metric_counter {
#define COUNTER(id, name, label, help) M_##id,
#define HISTOGRAM(id, name, label, help)
#include "base/metrics_table.h"
#undef COUNTER
#undef HISTOGRAM
	METRIC_COUNTERS
};

enum metric_histogram {
#define COUNTER(id, name, label, help)
#define HISTOGRAM(id, name, label, help) H_##id,
#include "base/metrics_table.h"
#undef COUNTER
#undef HISTOGRAM
	METRIC_HISTOGRAMS
};

#define METRIC_BUCKETS 32 /* bucket i: values <= 2^i microseconds; the last is +Inf */

struct metric_shard {
	_Atomic uint64_t counters[METRIC_COUNTERS];
	struct {
		_Atomic uint64_t buckets[METRIC_BUCKETS];
		_Atomic uint64_t sum_us;
	} histograms[METRIC_HISTOGRAMS];
	struct metric_shard *next;
	struct model_row models[LABEL_VALUES_MAX]; /* pages are touched on demand */
};

/* The calling thread's shard; made and registered at its first use. Kept until exit. */
struct metric_shard *metric_shard(void);
/* The list of all shards, for sums. */
struct metric_shard *metric_shards(void);

static inline void metric_add(enum metric_counter id, uint64_t n)
{
	_Atomic uint64_t *c = &metric_shard()->counters[id];

	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

#define metric_inc(id) metric_add((id), 1)

/* Counts one duration, in microseconds. */
void metric_observe_us(enum metric_histogram id, uint64_t us);

/* Sum over all threads. */
uint64_t metric_total(enum metric_counter id);

/* Appends the Prometheus text of all tabled metrics to f, names prefixed by "sluice_". */
void metrics_write(FILE *f);
/* A label's value, escaped; bytes that are no printable ASCII as '?'. */
void metric_label_write(FILE *f, const char *value);
/* One histogram under another name: prefix and name together, with HELP and TYPE. */
void metric_histogram_write(FILE *f, enum metric_histogram id, const char *prefix, const char *name,
			    const char *help);

#endif
