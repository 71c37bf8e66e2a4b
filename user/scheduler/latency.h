/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request will take at an endpoint, learned from what earlier ones took there:
 *
 *   TTFT ms = a + b uncached tokens + c tokens already in prefill + d requests waiting
 *   ITL ms  = a + b requests running + c KV cache used
 *
 * Recursive least squares with forgetting (Haykin, Adaptive Filter Theory, ch. 9), one fit per
 * endpoint and figure; no sidecar, no history kept. The features are those known at the pick, the
 * truth is what this gateway measured. A learner never waits: where two meet, one sample is lost.
 */
#ifndef SLUICE_SCHEDULER_LATENCY_H
#define SLUICE_SCHEDULER_LATENCY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LATENCY_TTFT_TERMS  4
#define LATENCY_ITL_TERMS   3
#define LATENCY_TERMS_MAX   4
#define LATENCY_SAMPLES_MIN 8 /* fewer: nothing is predicted */

struct latency_features {
	float uncached_ktokens, prefill_ktokens, waiting; /* of TTFT */
	float running, kv_used;				  /* of ITL */
};

struct latency_estimate {
	bool valid;
	float ttft_ms, itl_ms;
};

/* One fit: weights and the inverse correlation matrix, and how wrong it was. */
struct latency_fit {
	double weights[LATENCY_TERMS_MAX], p[LATENCY_TERMS_MAX][LATENCY_TERMS_MAX];
	double mape, p90; /* of |predicted - measured| / measured; moving */
	uint32_t samples;
	_Atomic uint32_t samples_seen; /* published, as the weights below */
	_Atomic uint64_t seen[LATENCY_TERMS_MAX];
};

struct latency_model {
	atomic_flag busy;
	_Atomic uint32_t generation; /* of the endpoint it was fitted for */
	struct latency_fit ttft, itl;
};

/* How wrong the predictions were, of what was measured. */
struct latency_errors {
	double ttft_mean, ttft_p90, itl_mean, itl_p90;
};

/* models[slot]. Any thread; never blocks. */
struct latency_estimate latency_predict(const struct latency_model *m, uint32_t generation,
					const struct latency_features *f);

/*
 * What was measured; 0: unknown. predicted: as of the pick, for the error. False: another thread
 * was at it and this sample is lost. *ret_errors: as of now, on true only.
 */
bool latency_learn(struct latency_model *m, uint32_t generation, const struct latency_features *f,
		   const struct latency_estimate *predicted, double ttft_ms, double itl_ms,
		   struct latency_errors *ret_errors);

#endif
