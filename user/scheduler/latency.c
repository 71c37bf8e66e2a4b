/* SPDX-License-Identifier: Apache-2.0 */
/* The fits, and how their errors are followed. */
#include "scheduler/latency.h"

#include <math.h>
#include <string.h>

#define FORGET	     0.995 /* 200 requests are remembered */
#define P_START	     1e3
#define P_MAX	     1e6
#define ERROR_SHARE  0.05 /* of a new error in the mean */
#define P90_STEP     0.02 /* of the quantile's walk */
#define MEASURED_MIN 0.1  /* ms: below, an error in percent says nothing */

static uint64_t bits_of(double x)
{
	uint64_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

static double double_of(uint64_t bits)
{
	double x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static void ttft_terms(const struct latency_features *f, double *x)
{
	x[0] = 1;
	x[1] = (double)f->uncached_ktokens;
	x[2] = (double)f->prefill_ktokens;
	x[3] = (double)f->waiting;
}

static void itl_terms(const struct latency_features *f, double *x)
{
	x[0] = 1;
	x[1] = (double)f->running;
	x[2] = (double)f->kv_used;
}

static double predict(const struct latency_fit *fit, const double *x, int terms)
{
	double sum = 0;

	for (int i = 0; i < terms; i++)
		sum += x[i] * double_of(atomic_load_explicit(&fit->seen[i], memory_order_relaxed));
	return sum > 0 ? sum : 0;
}

struct latency_estimate latency_predict(const struct latency_model *m, uint32_t generation,
					const struct latency_features *f)
{
	struct latency_estimate e = {0};
	double x[LATENCY_TERMS_MAX];

	if (atomic_load_explicit(&m->generation, memory_order_relaxed) != generation ||
	    atomic_load_explicit(&m->ttft.samples_seen, memory_order_relaxed) < LATENCY_SAMPLES_MIN)
		return e;
	e.valid = true;
	ttft_terms(f, x);
	e.ttft_ms = (float)predict(&m->ttft, x, LATENCY_TTFT_TERMS);
	itl_terms(f, x);
	e.itl_ms = (float)predict(&m->itl, x, LATENCY_ITL_TERMS);
	return e;
}

static void fit_reset(struct latency_fit *fit)
{
	memset(fit, 0, sizeof(*fit));
	for (int i = 0; i < LATENCY_TERMS_MAX; i++)
		fit->p[i][i] = P_START;
}

/* k = P x / (FORGET + x' P x); w += k (y - w' x); P = (P - k x' P) / FORGET */
static void fit_learn(struct latency_fit *fit, const double *x, int terms, double y)
{
	double px[LATENCY_TERMS_MAX], scale = FORGET, error = y, trace = 0;

	for (int i = 0; i < terms; i++) {
		px[i] = 0;
		for (int j = 0; j < terms; j++)
			px[i] += fit->p[i][j] * x[j];
		scale += x[i] * px[i];
		error -= fit->weights[i] * x[i];
	}
	for (int i = 0; i < terms; i++)
		fit->weights[i] += px[i] / scale * error;
	for (int i = 0; i < terms; i++)
		for (int j = 0; j < terms; j++)
			fit->p[i][j] = (fit->p[i][j] - px[i] * px[j] / scale) / FORGET;
	for (int i = 0; i < terms; i++)
		trace += fit->p[i][i];
	if (!(trace < P_MAX)) /* nothing new for long: what is known must not be forgotten */
		for (int i = 0; i < terms; i++)
			for (int j = 0; j < terms; j++)
				fit->p[i][j] = i == j ? P_START : 0;
	fit->samples++;
	for (int i = 0; i < terms; i++)
		atomic_store_explicit(&fit->seen[i], bits_of(fit->weights[i]),
				      memory_order_relaxed);
	atomic_store_explicit(&fit->samples_seen, fit->samples, memory_order_relaxed);
}

/* The mean moves by a share; the quantile walks up by 0.9 and down by 0.1 of a step. */
static void note_error(struct latency_fit *fit, double predicted, double measured)
{
	double e, step;

	if (measured < MEASURED_MIN)
		return;
	e = fmin(fabs(predicted - measured) / measured, 10);
	fit->mape = fit->mape > 0 ? fit->mape + ERROR_SHARE * (e - fit->mape) : e;
	step = P90_STEP * fmax(fit->p90, 0.05);
	fit->p90 += e > fit->p90 ? 9 * step : -step;
	if (fit->p90 < 0)
		fit->p90 = 0;
}

bool latency_learn(struct latency_model *m, uint32_t generation, const struct latency_features *f,
		   const struct latency_estimate *predicted, double ttft_ms, double itl_ms,
		   struct latency_errors *ret_errors)
{
	double x[LATENCY_TERMS_MAX];

	if (atomic_flag_test_and_set_explicit(&m->busy, memory_order_acquire))
		return false;
	if (atomic_load_explicit(&m->generation, memory_order_relaxed) != generation) {
		fit_reset(&m->ttft);
		fit_reset(&m->itl);
		atomic_store_explicit(&m->generation, generation, memory_order_relaxed);
	}
	if (ttft_ms > 0) {
		ttft_terms(f, x);
		if (predicted->valid)
			note_error(&m->ttft, (double)predicted->ttft_ms, ttft_ms);
		fit_learn(&m->ttft, x, LATENCY_TTFT_TERMS, ttft_ms);
	}
	if (itl_ms > 0) {
		itl_terms(f, x);
		if (predicted->valid && m->itl.samples >= LATENCY_SAMPLES_MIN)
			note_error(&m->itl, (double)predicted->itl_ms, itl_ms);
		fit_learn(&m->itl, x, LATENCY_ITL_TERMS, itl_ms);
	}
	*ret_errors = (struct latency_errors){m->ttft.mape, m->ttft.p90, m->itl.mape, m->itl.p90};
	atomic_flag_clear_explicit(&m->busy, memory_order_release);
	return true;
}
