/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Circuit breaker: three counters and a clock per endpoint, changed by compare-and-swap.
 * Invariant: reopen_at_ns is set before the state that reads it. What races here (two last failures
 * at once) ends in one of the two right states; no request depends on which.
 */
#include "base/health.h"

#include "base/clock.h"
#include "base/metrics.h"

#define relaxed memory_order_relaxed

static uint64_t backoff_ns(uint32_t failures)
{
	uint32_t doublings =
		failures > BREAKER_FAILURES_OPEN ? failures - BREAKER_FAILURES_OPEN : 0;
	uint64_t ms;

	if (doublings > 5)
		doublings = 5;
	ms = (uint64_t)BREAKER_BACKOFF_MIN_MS << doublings;
	return (ms > BREAKER_BACKOFF_MAX_MS ? BREAKER_BACKOFF_MAX_MS : ms) * NS_PER_MS;
}

/* One more failure in a row; a refusal counts for as many as open the breaker. */
static uint32_t failures_grow(struct breaker *b, bool refused)
{
	uint32_t old = atomic_load_explicit(&b->failures, relaxed), next;

	do {
		next = old < 1000 ? old + 1 : old;
		if (refused && next < BREAKER_FAILURES_OPEN)
			next = BREAKER_FAILURES_OPEN;
	} while (
		!atomic_compare_exchange_weak_explicit(&b->failures, &old, next, relaxed, relaxed));
	return next;
}

static void breaker_failed(struct breaker *b, bool refused)
{
	uint32_t state = atomic_load_explicit(&b->state, memory_order_acquire);
	uint32_t failures;

	/* Requests from before the opening end badly too; they are old news. */
	if (state == SLUICE_ENDPOINT_OPEN)
		return;
	failures = failures_grow(b, refused);
	if (failures < BREAKER_FAILURES_OPEN)
		return;
	atomic_store_explicit(&b->reopen_at_ns, clock_mono_ns() + backoff_ns(failures), relaxed);
	if (atomic_compare_exchange_strong(&b->state, &state, SLUICE_ENDPOINT_OPEN)) {
		atomic_store_explicit(&b->trial_taken, 0, memory_order_release);
		metric_inc(M_BREAKER_OPENED);
	}
}

static void breaker_succeeded(struct breaker *b)
{
	uint32_t state = atomic_load_explicit(&b->state, memory_order_acquire);

	if (state == SLUICE_ENDPOINT_OPEN)
		return;
	if (atomic_load_explicit(&b->failures, relaxed))
		atomic_store_explicit(&b->failures, 0, relaxed);
	if (state == SLUICE_ENDPOINT_TRIAL &&
	    atomic_compare_exchange_strong(&b->state, &state, SLUICE_ENDPOINT_READY))
		atomic_store_explicit(&b->trial_taken, 0, memory_order_release);
}

void health_report(struct endpoint *ep, enum health_outcome outcome)
{
	switch (outcome) {
	case HEALTH_OK:
		breaker_succeeded(&ep->breaker);
		return;
	case HEALTH_CLIENT_ERROR:
		if (atomic_load_explicit(&ep->breaker.state, relaxed) == SLUICE_ENDPOINT_TRIAL)
			atomic_store_explicit(&ep->breaker.trial_taken, 0, memory_order_release);
		return;
	case HEALTH_REFUSED:
	case HEALTH_RESET:
	case HEALTH_TIMEOUT:
	case HEALTH_SERVER_ERROR:
		breaker_failed(&ep->breaker, outcome == HEALTH_REFUSED);
		return;
	}
}

/* Is a trial free: the backoff is over and nobody has it, or who had it never came back. */
static bool trial_free(const struct breaker *b, uint32_t state)
{
	if (state == SLUICE_ENDPOINT_TRIAL &&
	    !atomic_load_explicit(&b->trial_taken, memory_order_acquire))
		return true;
	return clock_mono_ns() >= atomic_load_explicit(&b->reopen_at_ns, relaxed);
}

static bool breaker_closed(uint32_t state)
{
	return state != SLUICE_ENDPOINT_OPEN && state != SLUICE_ENDPOINT_TRIAL;
}

bool health_may_pick(const struct endpoint *ep)
{
	uint32_t state = atomic_load_explicit(&ep->breaker.state, memory_order_acquire);

	if (atomic_load_explicit(&ep->draining, relaxed) ||
	    atomic_load_explicit(&ep->probe_failed, relaxed))
		return false;
	return breaker_closed(state) || trial_free(&ep->breaker, state);
}

bool health_trial_begin(struct endpoint *ep)
{
	struct breaker *b = &ep->breaker;
	uint32_t state = atomic_load_explicit(&b->state, memory_order_acquire);
	uint32_t untaken = 0;
	uint64_t until, next;

	if (breaker_closed(state))
		return true;
	if (state == SLUICE_ENDPOINT_TRIAL &&
	    atomic_compare_exchange_strong(&b->trial_taken, &untaken, 1)) {
		atomic_store_explicit(&b->reopen_at_ns,
				      clock_mono_ns() + BREAKER_TRIAL_MS * NS_PER_MS, relaxed);
		return true;
	}
	/* Whoever moves the deadline has the trial: one winner among many. */
	until = atomic_load_explicit(&b->reopen_at_ns, relaxed);
	next = clock_mono_ns();
	if (next < until)
		return false;
	next += BREAKER_TRIAL_MS * NS_PER_MS;
	if (!atomic_compare_exchange_strong(&b->reopen_at_ns, &until, next))
		return false;
	atomic_store_explicit(&b->trial_taken, 1, memory_order_release);
	atomic_compare_exchange_strong(&b->state, &state, SLUICE_ENDPOINT_TRIAL);
	return true;
}

void health_probe_result(struct endpoint *ep, enum health_outcome outcome)
{
	bool failed = outcome != HEALTH_OK && outcome != HEALTH_CLIENT_ERROR;
	bool before = atomic_exchange_explicit(&ep->probe_failed, failed, relaxed);

	if (failed)
		health_report(ep, outcome);
	else if (before &&
		 atomic_load_explicit(&ep->breaker.state, relaxed) == SLUICE_ENDPOINT_OPEN)
		atomic_store_explicit(&ep->breaker.reopen_at_ns, clock_mono_ns(), relaxed);
}

uint8_t health_state(const struct endpoint *ep)
{
	uint32_t state = atomic_load_explicit(&ep->breaker.state, relaxed);

	if (atomic_load_explicit(&ep->draining, relaxed))
		return SLUICE_ENDPOINT_DRAINING;
	if (!breaker_closed(state))
		return (uint8_t)state;
	return atomic_load_explicit(&ep->probe_failed, relaxed) ? SLUICE_ENDPOINT_OPEN
								: SLUICE_ENDPOINT_READY;
}
