/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-load: requests like users', and what they saw.
 *   main.c (flags) -> plan.c (which request, when) -> client.c (sends, reads) -> report.c
 *                     session.c (what was said before)
 * Open loop: latency counts from the planned send time, so that a stall cannot hide.
 */
#ifndef SLUICE_LOAD_H
#define SLUICE_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARGETS_MAX 64
#define SEEN_MAX    1024 /* endpoints that are told apart */

struct load_options {
	char *target, *model, *trace, *path, *api_key;
	unsigned int concurrency, requests, prompt_tokens, max_tokens, groups, group_tokens;
	unsigned int limit, seed, prompt_tokens_max, turns;
	double rate, duration_s, speed, timeout_s, think_ms;
	bool stream, verify, json, constant, quiet, ignore_eos;
};

/* Durations in logarithmic buckets, 2 % wide. */
#define HIST_BUCKETS 1200
struct hist {
	uint64_t count[HIST_BUCKETS], total;
	double sum, max;
};
void hist_add(struct hist *h, double ms);
double hist_percentile(const struct hist *h, double p);

/* One planned request. body is the JSON text, owned by whoever holds the job. */
struct job {
	double at_ms; /* from the start; < 0: as soon as a connection is free */
	char *body;
	size_t body_bytes;
	uint64_t prompt_hash; /* as the simulated engine computes it */
	uint32_t max_tokens;
	struct session *session; /* of --turns; owned with the job; NULL: a request of its own */
};

/* A conversation. */
struct session;
struct session *session_new(uint64_t id);
void session_free(struct session *s);
uint64_t session_id(const struct session *s);
bool session_goes_on(const struct session *s, const struct load_options *opt);
/* Adds what the user says next (no quotes or backslashes in it); returns which turn this is. */
unsigned int session_ask(struct session *s, const char *text, size_t n);
/* Adds the answer: every "content" string of the payload, as it is escaped there. */
void session_answered(struct session *s, const char *payload);
/* The messages so far, as the inside of a JSON array. */
const char *session_messages(const struct session *s, size_t *ret_len);
/* As a simulated engine hashes them. */
uint64_t session_hash(const struct session *s);

struct plan;
/* Reads the trace, if one is named. NULL after printing why not. */
struct plan *plan_new(const struct load_options *opt);
/* The next request, or false when there are no more. */
bool plan_next(struct plan *p, struct job *ret);
/* The next turn of a conversation; at_ms is the caller's. */
void plan_turn(struct plan *p, struct session *session, struct job *ret);

struct result {
	struct hist ttft, itl, e2e;
	struct hist
		delivery; /* of events that say when they were sent: sluice-sim --stamp-events */
	uint64_t ok, sent, bytes, prompt_tokens, cached_tokens, completion_tokens;
	uint64_t refused, status, cut, timeouts, wrong; /* errors by kind */
	uint64_t status_count[600];
	double slowest_ms; /* TTFT */
	char slowest_id[128];
	char endpoint[SEEN_MAX][64];
	uint64_t endpoint_count[SEEN_MAX];
	double elapsed_s;
};

/* Runs the plan. 0, or 1 when a target cannot be understood. */
int client_run(const struct load_options *opt, struct plan *plan, struct result *ret);
void report_print(const struct load_options *opt, const struct result *r);

#endif
