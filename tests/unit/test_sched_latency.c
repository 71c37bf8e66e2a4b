/* SPDX-License-Identifier: Apache-2.0 */
/* The latency model learns an engine's law from noisy samples, follows a change, says its error. */
#include "sched_pool.h"

#include <math.h>

#include "scheduler/latency.h"

static struct latency_model model;
static struct latency_errors errors;
static uint64_t rng = 0x1234567;

static double chance(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (double)(rng >> 11) / 9007199254740992.0;
}

static struct latency_features some(void)
{
	return (struct latency_features){.uncached_ktokens = (float)(chance() * 20),
					 .prefill_ktokens = (float)(chance() * 40),
					 .waiting = (float)floor(chance() * 10),
					 .running = (float)floor(chance() * 60),
					 .kv_used = (float)chance()};
}

/* An engine: 8,000 tokens a second (scaled by slow), 6 ms a step and 0.35 ms for each running one.
 */
static double ttft_of(const struct latency_features *f, double slow)
{
	return (20 + 125 * (double)f->uncached_ktokens + 125 * (double)f->prefill_ktokens +
		4 * (double)f->waiting) *
	       slow;
}

static double itl_of(const struct latency_features *f, double slow)
{
	return (6 + 0.35 * (double)f->running + 3 * (double)f->kv_used) * slow;
}

static void teach_model(uint32_t generation, int samples, double noise, double slow)
{
	for (int i = 0; i < samples; i++) {
		struct latency_features f = some();
		struct latency_estimate e = latency_predict(&model, generation, &f);
		double a = 1 + noise * (2 * chance() - 1), b = 1 + noise * (2 * chance() - 1);

		assert_true(latency_learn(&model, generation, &f, &e, ttft_of(&f, slow) * a,
					  itl_of(&f, slow) * b, &errors));
	}
}

static double worst_ttft(double slow)
{
	double worst = 0;

	for (int i = 0; i < 200; i++) {
		struct latency_features f = some();
		struct latency_estimate e = latency_predict(&model, 1, &f);
		double truth = ttft_of(&f, slow);

		assert_true(e.valid);
		worst = fmax(worst, fabs((double)e.ttft_ms - truth) / truth);
	}
	return worst;
}

static void nothing_is_predicted_of_an_unknown_engine(void **state)
{
	struct latency_features f = some();

	(void)state;
	memset(&model, 0, sizeof(model));
	assert_false(latency_predict(&model, 1, &f).valid);
	teach_model(1, LATENCY_SAMPLES_MIN - 1, 0, 1);
	assert_false(latency_predict(&model, 1, &f).valid);
	teach_model(1, 1, 0, 1);
	assert_true(latency_predict(&model, 1, &f).valid);
	assert_false(latency_predict(&model, 2, &f).valid); /* restarted: another engine */
}

static void the_law_is_learned_without_noise_and_with(void **state)
{
	(void)state;
	memset(&model, 0, sizeof(model));
	teach_model(1, 100, 0, 1);
	assert_true(worst_ttft(1) < 0.01);
	teach_model(1, 2000, 0.2, 1);
	assert_true(worst_ttft(1) < 0.25);
	/* Uniform noise of 20 %: a mean error of about 10 %, 90 % of them below about 18 %. */
	assert_true(errors.ttft_mean > 0.05 && errors.ttft_mean < 0.2);
	assert_true(errors.ttft_p90 > errors.ttft_mean && errors.ttft_p90 < 0.4);
	assert_true(errors.itl_mean > 0.05 && errors.itl_mean < 0.2);
}

static void an_engine_that_becomes_slower_is_followed(void **state)
{
	(void)state;
	memset(&model, 0, sizeof(model));
	teach_model(1, 1000, 0.05, 1);
	teach_model(1, 1500, 0.05, 3);
	assert_true(worst_ttft(3) < 0.1);
}

static void the_same_request_again_and_again_breaks_nothing(void **state)
{
	struct latency_features f = {.uncached_ktokens = 1, .running = 1};

	(void)state;
	memset(&model, 0, sizeof(model));
	for (int i = 0; i < 200000; i++) {
		struct latency_estimate e = latency_predict(&model, 1, &f);

		latency_learn(&model, 1, &f, &e, 150, 7, &errors);
	}
	assert_float_equal(latency_predict(&model, 1, &f).ttft_ms, 150, 1);
	assert_float_equal(latency_predict(&model, 1, &f).itl_ms, 7, 0.1);
	teach_model(1, 300, 0, 1); /* and then it learns the rest */
	assert_true(worst_ttft(1) < 0.05);
}

static void a_meeting_of_two_learners_loses_a_sample(void **state)
{
	struct latency_features f = some();
	struct latency_estimate e = {0};

	(void)state;
	memset(&model, 0, sizeof(model));
	atomic_flag_test_and_set(&model.busy);
	assert_false(latency_learn(&model, 1, &f, &e, 1, 1, &errors));
	atomic_flag_clear(&model.busy);
	assert_true(latency_learn(&model, 1, &f, &e, 1, 1, &errors));
}

/* The scheduler with an SLO: 8 pods, of which one is slow. */
static void requests_with_an_slo_go_to_those_who_meet_it(void **state)
{
	struct scheduler *sched =
		make("slo-headroom-tier-filter:epsilonExploreNeg=0,latency-scorer", NULL);
	struct sched_worker *w = scheduler_worker(sched, 0);
	struct sched_request req = request("x");
	unsigned int picked[PODS] = {0};

	(void)state;
	req.prompt_tokens = 4000;
	req.slo_ttft_ms = 1000;
	for (int i = 0; i < 400; i++) {
		struct sched_outcome out = {.now_ns = NOW};
		struct sched_pick pick;

		assert_int_equal(scheduler_pick(w, &snap, &req, &pick), 0);
		if (i >= 200)
			picked[pick.endpoint->slot]++;
		/* Pods 0 to 3 take 500 ms, the others 2 s. */
		out.ttft_us = pick.endpoint->slot < 4 ? 500000 : 2000000;
		out.itl_us = 7000;
		scheduler_done(w, &pick, &out);
	}
	for (int i = 4; i < PODS; i++)
		assert_int_equal(picked[i], 0);
	assert_true(loads[0].ttft_error_mean_ppm < 200000);
	scheduler_free(sched);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(nothing_is_predicted_of_an_unknown_engine),
		T(the_law_is_learned_without_noise_and_with),
		T(an_engine_that_becomes_slower_is_followed),
		T(the_same_request_again_and_again_breaks_nothing),
		T(a_meeting_of_two_learners_loses_a_sample),
		T(requests_with_an_slo_go_to_those_who_meet_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
