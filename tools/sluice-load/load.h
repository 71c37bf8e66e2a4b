/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-load: requests like users', and what they saw.
 *   main.c (flags) -> plan.c (which request, when) -> client.c (sends, reads) -> report.c
 * Open loop: latency counts from the planned send time, so that a stall cannot hide.
 */
#ifndef SLUICE_LOAD_H
#define SLUICE_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARGETS_MAX 64
#define PORTS_MAX   64

struct load_options {
	char *target, *model, *trace, *path;
	unsigned int concurrency, requests, prompt_tokens, max_tokens, groups, group_tokens;
	unsigned int limit, seed;
	double rate, duration_s, speed, timeout_s;
	bool stream, verify, json, constant, quiet;
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
};

struct plan;
/* Reads the trace, if one is named. NULL after printing why not. */
struct plan *plan_new(const struct load_options *opt);
/* The next request, or false when there are no more. */
bool plan_next(struct plan *p, struct job *ret);

struct result {
	struct hist ttft, itl, e2e;
	uint64_t ok, sent, bytes, prompt_tokens, cached_tokens, completion_tokens;
	uint64_t refused, status, cut, timeouts, wrong; /* errors by kind */
	unsigned int port[PORTS_MAX];
	uint64_t port_count[PORTS_MAX];
	double elapsed_s;
};

/* Runs the plan. 0, or 1 when a target cannot be understood. */
int client_run(const struct load_options *opt, struct plan *plan, struct result *ret);
void report_print(const struct load_options *opt, const struct result *r);

#endif
