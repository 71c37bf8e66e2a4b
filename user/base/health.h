/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Circuit breaker of an endpoint, lock-free, any thread.
 *
 *   READY --3 failures in a row, or one refusal--> OPEN --backoff over, one picks it--> TRIAL
 *     ^------------------- the trial went well ------------------------------------------'|
 *                          OPEN <---- the trial failed: twice the backoff (1 s .. 30 s) --'
 *
 * Use: the scheduler filters by health_may_pick; the picked endpoint must pass health_trial_begin
 * (false: somebody else has the trial, pick another); each exchange ends in one health_report.
 */
#ifndef SLUICE_BASE_HEALTH_H
#define SLUICE_BASE_HEALTH_H

#include "base/endpoint.h"

#define BREAKER_FAILURES_OPEN  3
#define BREAKER_BACKOFF_MIN_MS 1000
#define BREAKER_BACKOFF_MAX_MS 30000
#define BREAKER_TRIAL_MS       30000 /* a trial that never reports is given to another after it */

enum health_outcome {
	HEALTH_OK,	     /* a good head came; also 4xx that the engine itself decided */
	HEALTH_REFUSED,	     /* connect refused or unreachable: opens at once */
	HEALTH_RESET,	     /* connection lost before the answer was whole */
	HEALTH_TIMEOUT,	     /* no connection or no head in time */
	HEALTH_SERVER_ERROR, /* 5xx */
	HEALTH_CLIENT_ERROR, /* the client's own fault or departure: no sign either way */
};

/* What an exchange with ep said of its health. CLIENT_ERROR only gives a trial back. */
void health_report(struct endpoint *ep, enum health_outcome outcome);

/* May a new request go there? Neither draining, nor failing its probe, nor open. Cheap. */
bool health_may_pick(const struct endpoint *ep);

/* Called once for the picked endpoint, before connecting. True at once while the breaker is closed.
 */
bool health_trial_begin(struct endpoint *ep);

/* For the prober: sets probe_failed, and a recovery lets the trial begin at once. */
void health_probe_result(struct endpoint *ep, enum health_outcome outcome);

/* enum sluice_endpoint_state as people and the map see it; READY or OPEN also by the probe. */
uint8_t health_state(const struct endpoint *ep);

#endif
