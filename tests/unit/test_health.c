/* SPDX-License-Identifier: Apache-2.0 */
/* The circuit breaker: what opens it, who gets the trial, and that threads agree on it. */
#include "base/health.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"

static struct endpoint *endpoint_ready(void)
{
	struct endpoint *ep = calloc(1, sizeof(*ep));

	atomic_init(&ep->refs, 1);
	atomic_init(&ep->breaker.state, SLUICE_ENDPOINT_READY);
	return ep;
}

/* The backoff is over: no test waits for a clock. */
static void backoff_ends(struct endpoint *ep)
{
	atomic_store(&ep->breaker.reopen_at_ns, 1);
}

static uint64_t backoff_ms(struct endpoint *ep)
{
	uint64_t until = atomic_load(&ep->breaker.reopen_at_ns), now = clock_mono_ns();

	return until > now ? (until - now + NS_PER_S / 2) / NS_PER_S * 1000 : 0;
}

static void three_failures_in_a_row_open_and_a_success_between_does_not(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	health_report(ep, HEALTH_SERVER_ERROR);
	health_report(ep, HEALTH_RESET);
	health_report(ep, HEALTH_OK);
	health_report(ep, HEALTH_TIMEOUT);
	health_report(ep, HEALTH_SERVER_ERROR);
	assert_true(health_may_pick(ep));
	health_report(ep, HEALTH_SERVER_ERROR);
	assert_false(health_may_pick(ep));
	assert_false(health_trial_begin(ep));
	assert_int_equal(health_state(ep), SLUICE_ENDPOINT_OPEN);
	endpoint_put(ep);
}

static void a_refusal_opens_at_once_and_a_client_error_never(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	for (int i = 0; i < 100; i++)
		health_report(ep, HEALTH_CLIENT_ERROR);
	assert_true(health_may_pick(ep) && health_trial_begin(ep));
	health_report(ep, HEALTH_REFUSED);
	assert_false(health_may_pick(ep));
	endpoint_put(ep);
}

static void failures_of_requests_sent_before_the_opening_do_not_lengthen_it(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	for (int i = 0; i < 50; i++)
		health_report(ep, HEALTH_RESET);
	assert_int_equal(backoff_ms(ep), 1000);
	endpoint_put(ep);
}

static void one_trial_at_a_time_and_its_success_closes(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	health_report(ep, HEALTH_REFUSED);
	backoff_ends(ep);
	assert_true(health_may_pick(ep));
	assert_true(health_trial_begin(ep));
	assert_int_equal(health_state(ep), SLUICE_ENDPOINT_TRIAL);
	assert_false(health_may_pick(ep));
	assert_false(health_trial_begin(ep));
	health_report(ep, HEALTH_OK);
	assert_int_equal(health_state(ep), SLUICE_ENDPOINT_READY);
	assert_true(health_may_pick(ep) && health_trial_begin(ep) && health_trial_begin(ep));
	health_report(ep, HEALTH_RESET);
	assert_true(health_may_pick(ep)); /* the count began anew */
	endpoint_put(ep);
}

static void a_trial_whose_client_left_is_given_to_the_next(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	health_report(ep, HEALTH_REFUSED);
	backoff_ends(ep);
	assert_true(health_trial_begin(ep));
	health_report(ep, HEALTH_CLIENT_ERROR);
	assert_true(health_may_pick(ep));
	assert_true(health_trial_begin(ep));
	/* One that never reports loses it by the clock. */
	assert_false(health_trial_begin(ep));
	backoff_ends(ep);
	assert_true(health_trial_begin(ep));
	endpoint_put(ep);
}

static void failed_trials_double_the_backoff_up_to_thirty_seconds(void **state)
{
	static const uint64_t expected[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
	struct endpoint *ep = endpoint_ready();

	(void)state;
	health_report(ep, HEALTH_REFUSED);
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		assert_int_equal(backoff_ms(ep), expected[i]);
		backoff_ends(ep);
		assert_true(health_trial_begin(ep));
		health_report(ep, HEALTH_SERVER_ERROR);
		assert_false(health_may_pick(ep));
	}
	endpoint_put(ep);
}

static void a_probe_takes_out_and_brings_back_through_a_trial(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	health_probe_result(ep, HEALTH_REFUSED);
	assert_true(atomic_load(&ep->probe_failed));
	backoff_ends(ep);
	assert_false(health_may_pick(ep)); /* the breaker would, the probe would not */
	health_probe_result(ep, HEALTH_REFUSED);
	atomic_store(&ep->breaker.reopen_at_ns, clock_mono_ns() + 1000 * NS_PER_S);
	health_probe_result(ep, HEALTH_OK);
	assert_true(health_may_pick(ep)); /* recovery does not wait for the backoff */
	assert_true(health_trial_begin(ep));
	health_report(ep, HEALTH_OK);
	assert_int_equal(health_state(ep), SLUICE_ENDPOINT_READY);
	endpoint_put(ep);
}

static void a_good_probe_alone_does_not_shorten_the_backoff_of_failing_requests(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	for (int i = 0; i < 3; i++)
		health_report(ep, HEALTH_SERVER_ERROR);
	health_probe_result(ep, HEALTH_OK);
	assert_false(health_may_pick(ep));
	endpoint_put(ep);
}

static void draining_is_never_picked(void **state)
{
	struct endpoint *ep = endpoint_ready();

	(void)state;
	atomic_store(&ep->draining, true);
	assert_false(health_may_pick(ep));
	assert_int_equal(health_state(ep), SLUICE_ENDPOINT_DRAINING);
	endpoint_put(ep);
}

#define THREADS 4
static struct endpoint *shared;
static _Atomic int trials;
static pthread_barrier_t barrier;

static void *trial_seeker(void *arg)
{
	(void)arg;
	for (int round = 0; round < 500; round++) {
		pthread_barrier_wait(&barrier);
		if (health_may_pick(shared) && health_trial_begin(shared))
			atomic_fetch_add(&trials, 1);
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
			if (atomic_load(&trials) != 1)
				abort();
			atomic_store(&trials, 0);
			health_report(shared, HEALTH_RESET);
			backoff_ends(shared);
		}
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static void among_many_threads_exactly_one_gets_the_trial(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	shared = endpoint_ready();
	health_report(shared, HEALTH_REFUSED);
	backoff_ends(shared);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, trial_seeker, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&trials), 0);
	endpoint_put(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(three_failures_in_a_row_open_and_a_success_between_does_not),
		cmocka_unit_test(a_refusal_opens_at_once_and_a_client_error_never),
		cmocka_unit_test(failures_of_requests_sent_before_the_opening_do_not_lengthen_it),
		cmocka_unit_test(one_trial_at_a_time_and_its_success_closes),
		cmocka_unit_test(a_trial_whose_client_left_is_given_to_the_next),
		cmocka_unit_test(failed_trials_double_the_backoff_up_to_thirty_seconds),
		cmocka_unit_test(a_probe_takes_out_and_brings_back_through_a_trial),
		cmocka_unit_test(
			a_good_probe_alone_does_not_shorten_the_backoff_of_failing_requests),
		cmocka_unit_test(draining_is_never_picked),
		cmocka_unit_test(among_many_threads_exactly_one_gets_the_trial),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
