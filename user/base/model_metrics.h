/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures by model: a row per pair of names (as asked, as forwarded) in each thread's metric
 * shard, so that counting takes no lock and no shared cache line.
 * Invariant: at most LABEL_VALUES_MAX - 1 pairs have rows; all further ones share the row "other",
 * so that no client grows the page at /metrics (label_values_capped_total).
 */
#ifndef SLUICE_BASE_MODEL_METRICS_H
#define SLUICE_BASE_MODEL_METRICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "base/span.h"

enum model_counter {
	MODEL_STARTED,
	MODEL_ENDED,
	MODEL_PROMPT_TOKENS,
	MODEL_CACHED_TOKENS,
	MODEL_COMPLETION_TOKENS,
	MODEL_LOOKUPS,	   /* picks that looked for a prompt in the prefix index */
	MODEL_LOOKUP_HITS, /* and found some of it at the chosen endpoint */
	MODEL_ERROR_BAD_REQUEST,
	MODEL_ERROR_EXHAUSTED,
	MODEL_ERROR_UNAVAILABLE,
	MODEL_ERROR_ENGINE,
	MODEL_ERROR_INTERNAL,
	MODEL_ERROR_CLIENT_LEFT,
	MODEL_COUNTERS
};

enum model_histogram {
	MODEL_DURATION, /* microseconds */
	MODEL_TTFT,
	MODEL_TPOT,  /* streamed answers: per output token after the first */
	MODEL_ITL,   /* streamed answers: between two arrivals of events */
	MODEL_NTPOT, /* whole time by output token */
	MODEL_REQUEST_BYTES,
	MODEL_RESPONSE_BYTES,
	MODEL_INPUT_TOKENS,
	MODEL_OUTPUT_TOKENS,
	MODEL_REQUEST_CACHED_TOKENS,
	MODEL_HIT_PERCENT, /* of the prompt's blocks, expected at the chosen endpoint */
	MODEL_HIT_BYTES,
	MODEL_HISTOGRAMS
};

#define MODEL_BUCKETS 40 /* bucket i: values <= 2^i; the last is +Inf */

struct model_row {
	_Atomic uint64_t counters[MODEL_COUNTERS];
	struct {
		_Atomic uint64_t buckets[MODEL_BUCKETS];
		_Atomic uint64_t sum;
	} histograms[MODEL_HISTOGRAMS];
};

/*
 * The calling thread's row for a pair of names, known to be served (not whatever a client wrote).
 * Never NULL; valid until exit. target: the name that the engine is sent.
 */
struct model_row *model_row(struct span model, struct span target);

static inline void model_count(struct model_row *row, enum model_counter id, uint64_t n)
{
	_Atomic uint64_t *c = &row->counters[id];

	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* Only on the thread that got the row. */
static inline void model_observe(struct model_row *row, enum model_histogram id, uint64_t v)
{
	unsigned int i = v <= 1 ? 0 : 64 - (unsigned int)__builtin_clzll(v - 1);
	_Atomic uint64_t *b =
		&row->histograms[id].buckets[i < MODEL_BUCKETS ? i : MODEL_BUCKETS - 1];

	atomic_store_explicit(b, atomic_load_explicit(b, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	b = &row->histograms[id].sum;
	atomic_store_explicit(b, atomic_load_explicit(b, memory_order_relaxed) + v,
			      memory_order_relaxed);
}

/* Appends sluice_model_… to f, and with llm_d the names of llm-d's endpoint picker. */
void model_metrics_write(FILE *f, bool llm_d);

#endif
