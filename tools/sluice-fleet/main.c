/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-fleet: scheduling in virtual time. Replays a trace against simulated engines, once per
 * policy, with the gateway's own scheduler making the choices.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sluice-fleet/fleet.h"

#define POLICIES_MAX 16
#define KNEE_ROUNDS  12
#define KNEE_GOOD    0.5 /* share of requests within the TTFT bound that round robin must reach */

static const char usage[] =
	"usage: sluice-fleet --trace FILE [options]\n"
	"  --policy NAME      round-robin, random, llm-d, sluice or a profile; repeatable\n"
	"  --endpoints N      engines (8)\n"
	"  --blocks N         KV blocks of an engine (4096)\n"
	"  --block-tokens N   tokens of a block, as in the trace (512)\n"
	"  --load F           1 is the knee of round robin (found by bisection)\n"
	"  --speed F          of the trace's clock, instead of --load\n"
	"  --gateways N       that share nothing (1)\n"
	"  --delay-ms N       metrics come so late (0); --scrape-ms N between two (100)\n"
	"  --slo-ttft-ms N    (2000)  --slo-itl-ms N (25)\n"
	"  --half 1|2         report on the first or second half of the trace only\n"
	"  --seed N  --json  --help\n";

enum opt_id {
	O_TRACE = 1,
	O_POLICY,
	O_ENDPOINTS,
	O_BLOCKS,
	O_BLOCK_TOKENS,
	O_LOAD,
	O_SPEED,
	O_GATEWAYS,
	O_DELAY,
	O_SCRAPE,
	O_TTFT,
	O_ITL,
	O_HALF,
	O_SEED,
	O_JSON,
	O_HELP
};

static const struct option options[] = {
	{"trace", 1, NULL, O_TRACE},
	{"policy", 1, NULL, O_POLICY},
	{"endpoints", 1, NULL, O_ENDPOINTS},
	{"blocks", 1, NULL, O_BLOCKS},
	{"block-tokens", 1, NULL, O_BLOCK_TOKENS},
	{"load", 1, NULL, O_LOAD},
	{"speed", 1, NULL, O_SPEED},
	{"gateways", 1, NULL, O_GATEWAYS},
	{"delay-ms", 1, NULL, O_DELAY},
	{"scrape-ms", 1, NULL, O_SCRAPE},
	{"slo-ttft-ms", 1, NULL, O_TTFT},
	{"slo-itl-ms", 1, NULL, O_ITL},
	{"half", 1, NULL, O_HALF},
	{"seed", 1, NULL, O_SEED},
	{"json", 0, NULL, O_JSON},
	{"help", 0, NULL, O_HELP},
	{NULL, 0, NULL, 0},
};

struct command {
	struct fleet_options run;
	const char *trace, *policies[POLICIES_MAX];
	unsigned int policy_count;
	double load;
	bool json;
};

static void set_number(struct command *c, int opt, double n)
{
	switch (opt) {
	case O_ENDPOINTS:
		c->run.endpoints = (uint32_t)n;
		break;
	case O_BLOCKS:
		c->run.model.blocks = (uint32_t)n;
		break;
	case O_BLOCK_TOKENS:
		c->run.model.block_tokens = (uint32_t)n;
		break;
	case O_LOAD:
		c->load = n;
		break;
	case O_SPEED:
		c->run.speed = n;
		break;
	case O_GATEWAYS:
		c->run.gateways = (uint32_t)n;
		break;
	case O_DELAY:
		c->run.delay_s = n / 1e3;
		break;
	case O_SCRAPE:
		c->run.scrape_s = n / 1e3;
		break;
	case O_TTFT:
		c->run.slo_ttft_s = n / 1e3;
		break;
	case O_ITL:
		c->run.slo_itl_s = n / 1e3;
		break;
	case O_HALF:
		c->run.from = n == 2 ? 0.5 : 0;
		c->run.to = n == 2 ? 1 : 0.5;
		break;
	case O_SEED:
		c->run.seed = (uint32_t)n;
		break;
	}
}

/* 0, 1 for --help, or -1 after a word on stderr. */
static int parse(struct command *c, int argc, char **argv)
{
	int opt;
	char *end;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == O_HELP)
			return 1;
		if (opt == '?')
			return -1;
		if (opt == O_TRACE) {
			c->trace = optarg;
		} else if (opt == O_JSON) {
			c->json = true;
		} else if (opt == O_POLICY) {
			if (c->policy_count < POLICIES_MAX)
				c->policies[c->policy_count++] = optarg;
		} else {
			double n = strtod(optarg, &end);

			if (end == optarg || *end || !(n >= 0)) {
				fprintf(stderr, "sluice-fleet: \"%s\" is not a number\n", optarg);
				return -1;
			}
			set_number(c, opt, n);
		}
	}
	if (!c->trace || optind != argc || !c->run.endpoints || !c->run.gateways ||
	    c->run.endpoints > ENDPOINTS_MAX || !c->run.model.blocks ||
	    !c->run.model.block_tokens || c->run.scrape_s <= 0)
		return -1;
	return 0;
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
	struct command c = {
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
			.scrape_s = 0.1,
			.slo_ttft_s = 2,
			.slo_itl_s = 0.025,
			.to = 1},
		.load = 1,
	};
	struct trace trace;
	int err = parse(&c, argc, argv);

	if (err) {
		fputs(usage, err > 0 ? stdout : stderr);
		return err > 0 ? 0 : 2;
	}
	err = trace_read(c.trace, &trace);
	if (err || trace.count == 0) {
		fprintf(stderr, "sluice-fleet: %s: row %u: %s\n", c.trace, trace.count + 1,
			err ? strerror(-err) : "empty");
		return 1;
	}
	if (c.run.speed <= 0)
		c.run.speed = c.load * find_knee(&trace, &c.run);
	if (!c.policy_count) {
		c.policies[c.policy_count++] = "round-robin";
		c.policies[c.policy_count++] = "llm-d";
		c.policies[c.policy_count++] = "sluice";
	}
	if (!c.json)
		printf("speed %.3f\n%-28s %8s %6s %9s %9s %9s %9s %9s %8s\n", c.run.speed, "policy",
		       "hit", "cv", "ttft50ms", "ttft90ms", "itl90ms", "good/s", "offered/s",
		       "done");
	for (unsigned int i = 0; !err && i < c.policy_count; i++) {
		struct fleet_result result;

		c.run.policy = c.policies[i];
		err = fleet_run(&trace, &c.run, &result);
		if (!err)
			print(&c, &result);
	}
	trace_free(&trace);
	return err ? 1 : 0;
}
