/* SPDX-License-Identifier: Apache-2.0 */
/* One run: a trace at one speed, through gateways of one policy, onto simulated engines. */
#ifndef SLUICE_FLEET_FLEET_H
#define SLUICE_FLEET_FLEET_H

#include "sluice-fleet/trace.h"

struct fleet_options {
	struct engine_model model;
	const char *policy; /* of policies.c, or a scheduling profile */
	uint32_t endpoints, gateways, seed;
	double speed;	 /* of the trace's clock */
	double scrape_s, /* between two looks at an engine */
		delay_s; /* until a look is known */
	double slo_ttft_s, slo_itl_s;
	const double *speeds; /* of engines, 1: the model's; speed_count of them in turn */
	uint32_t speed_count;
	double fail_at_s, fail_for_s; /* engine 0 is down, in the trace's clock; for 0: never */
	/* Prefill and decode apart: engines of role, a decider of pd_deciders.c or NULL. */
	uint32_t prefill_engines; /* the first ones prefill only; 0 with a decider: all do both */
	const char *decider;
	double transfer_ms, transfer_us_per_token;
	double from, to; /* share of the trace that is reported, e.g. 0.5 to 1 */
};

struct fleet_result {
	double hit_share, prefill_cv, offered_rps, goodput_rps, goodput_share;
	double ttft_p50_ms, ttft_p90_ms, ttft_p99_ms, itl_p50_ms, itl_p90_ms, e2e_p90_ms;
	double wall_s, cpu_s;			    /* that the run took */
	double apart_share;			    /* of the requests */
	uint32_t completed, completed_all, retried; /* reported, and of the whole run */
};

/* 0, or -EINVAL with one sentence on stderr. */
int fleet_run(struct trace *t, const struct fleet_options *o, struct fleet_result *ret);

#endif
