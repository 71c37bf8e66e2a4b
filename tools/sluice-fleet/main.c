/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-fleet: scheduling in virtual time. Replays a trace against simulated engines, once per
 * policy, with the gateway's own scheduler making the choices.
 */
#include <stdio.h>
#include <string.h>

#include "common/flags.h"
#include "sluice-fleet/fleet.h"

#define KNEE_ROUNDS 12
#define KNEE_GOOD   0.5 /* share of requests within the TTFT bound that round robin must reach */

static struct command {
	struct fleet_options run;
	char *trace;
	struct flag_texts policies;
	unsigned int half;
	double load, delay_ms, scrape_ms, ttft_ms, itl_ms;
	bool json;
} command = {
	.run = {.model = {.blocks = 4096,
			  .block_tokens = 512,
			  .seqs_max = 256,
			  .chunk_tokens = 2048,
			  .prefill_tokens_per_s = 8000,
			  .step_base_ms = 6,
			  .step_decode_ms = 0.35},
		.endpoints = 8,
		.gateways = 1,
		.seed = 1,
		.to = 1},
	.load = 1,
	.scrape_ms = 100,
	.ttft_ms = 2000,
	.itl_ms = 25,
};

static const struct flag rows[] = {
	{"trace", "FILE", FLAG_TEXT, &command.trace, "a Mooncake trace, JSON lines"},
	{"policy", "NAME", FLAG_TEXTS, &command.policies,
	 "round-robin, random, llm-d, sluice or a profile (repeatable)"},
	{"endpoints", "N", FLAG_COUNT, &command.run.endpoints, "engines"},
	{"blocks", "N", FLAG_COUNT, &command.run.model.blocks, "KV blocks of an engine"},
	{"block-tokens", "N", FLAG_COUNT, &command.run.model.block_tokens,
	 "tokens of a block, as in the trace"},
	{"load", "N", FLAG_REAL, &command.load,
	 "1 is the knee of round robin: half of the requests within the TTFT bound, by bisection"},
	{"speed", "N", FLAG_REAL, &command.run.speed, "of the trace's clock, instead of a load"},
	{"gateways", "N", FLAG_COUNT, &command.run.gateways, "that share nothing"},
	{"delay-ms", "N", FLAG_REAL, &command.delay_ms, "metrics are known so late"},
	{"scrape-ms", "N", FLAG_REAL, &command.scrape_ms, "between two looks at an engine"},
	{"slo-ttft-ms", "N", FLAG_REAL, &command.ttft_ms, "bound of a good request"},
	{"slo-itl-ms", "N", FLAG_REAL, &command.itl_ms, "bound of a good request"},
	{"half", "N", FLAG_COUNT, &command.half, "report on half 1 or 2 of the trace only"},
	{"seed", "N", FLAG_COUNT, &command.run.seed, "of which gateway a request comes to"},
	{"json", NULL, FLAG_BOOL, &command.json, "one object per policy"},
};

static const struct flags flags = {
	.tool = "sluice-fleet",
	.synopsis = "--trace FILE [FLAG VALUE]…",
	.about = "Compares scheduling policies on a trace, in virtual time.",
	.rows = rows,
	.count = sizeof(rows) / sizeof(rows[0]),
};

static int parse(struct command *c, int argc, char **argv)
{
	int status = flags_parse(&flags, argc, argv);

	if (status != FLAGS_GO_ON)
		return status;
	if (!c->trace)
		return flags_refuse(&flags, "--trace", "is needed");
	if (!c->run.endpoints || c->run.endpoints > ENDPOINTS_MAX || !c->run.gateways ||
	    !c->run.model.blocks || !c->run.model.block_tokens || c->scrape_ms <= 0)
		return flags_refuse(
			&flags, "--endpoints, --gateways, --blocks, --block-tokens, --scrape-ms",
			"out of range");
	if (c->half > 2)
		return flags_refuse(&flags, "--half", "is 1 or 2");
	if (c->half == 2)
		c->run.from = 0.5;
	else if (c->half == 1)
		c->run.to = 0.5;
	c->run.delay_s = c->delay_ms / 1e3;
	c->run.scrape_s = c->scrape_ms / 1e3;
	c->run.slo_ttft_s = c->ttft_ms / 1e3;
	c->run.slo_itl_s = c->itl_ms / 1e3;
	return FLAGS_GO_ON;
}

/* The trace's speed at which round robin serves KNEE_GOOD of the requests within the TTFT bound. */
static double find_knee(struct trace *t, const struct fleet_options *o)
{
	struct fleet_options run = *o;
	struct fleet_result result;
	double low = 0, high = 64;

	run.policy = "round-robin";
	run.gateways = 1;
	run.slo_itl_s = 1e9;
	run.from = 0;
	run.to = 1;
	for (int i = 0; i < KNEE_ROUNDS; i++) {
		run.speed = low > 0 ? (low + high) / 2 : high / 2;
		if (fleet_run(t, &run, &result))
			return 1;
		if (result.goodput_share >= KNEE_GOOD)
			low = run.speed;
		else
			high = run.speed;
	}
	return low > 0 ? low : high;
}

static void print(const struct command *c, const struct fleet_result *r)
{
	if (!c->json) {
		printf("%-28.28s %8.3f %6.3f %9.0f %9.0f %9.1f %9.2f %9.2f %8u\n", c->run.policy,
		       r->hit_share, r->prefill_cv, r->ttft_p50_ms, r->ttft_p90_ms, r->itl_p90_ms,
		       r->goodput_rps, r->offered_rps, r->completed);
		return;
	}
	printf("{\"policy\":\"%s\",\"load\":%.3f,\"speed\":%.4f,\"seed\":%u,\"hit_share\":%.4f,"
	       "\"prefill_cv\":%.4f,\"ttft_p50_ms\":%.1f,\"ttft_p90_ms\":%.1f,"
	       "\"ttft_p99_ms\":%.1f,\"itl_p50_ms\":%.2f,\"itl_p90_ms\":%.2f,"
	       "\"e2e_p90_ms\":%.1f,\"goodput_rps\":%.3f,\"offered_rps\":%.3f,"
	       "\"completed\":%u}\n",
	       c->run.policy, c->load, c->run.speed, c->run.seed, r->hit_share, r->prefill_cv,
	       r->ttft_p50_ms, r->ttft_p90_ms, r->ttft_p99_ms, r->itl_p50_ms, r->itl_p90_ms,
	       r->e2e_p90_ms, r->goodput_rps, r->offered_rps, r->completed);
}

int main(int argc, char **argv)
{
	struct command *c = &command;
	struct trace trace;
	int err = parse(c, argc, argv);

	if (err != FLAGS_GO_ON)
		return err;
	err = trace_read(c->trace, &trace);
	if (err || trace.count == 0) {
		fprintf(stderr, "sluice-fleet: %s: row %u: %s\n", c->trace, trace.count + 1,
			err ? strerror(-err) : "empty");
		return 1;
	}
	if (c->run.speed <= 0)
		c->run.speed = c->load * find_knee(&trace, &c->run);
	if (!c->policies.count) {
		c->policies.items[c->policies.count++] = "round-robin";
		c->policies.items[c->policies.count++] = "llm-d";
		c->policies.items[c->policies.count++] = "sluice";
	}
	if (!c->json)
		printf("speed %.3f\n%-28s %8s %6s %9s %9s %9s %9s %9s %8s\n", c->run.speed,
		       "policy", "hit", "cv", "ttft50ms", "ttft90ms", "itl90ms", "good/s",
		       "offered/s", "done");
	for (unsigned int i = 0; !err && i < c->policies.count; i++) {
		struct fleet_result result;

		c->run.policy = c->policies.items[i];
		err = fleet_run(&trace, &c->run, &result);
		if (!err)
			print(c, &result);
	}
	trace_free(&trace);
	return err ? 1 : 0;
}
