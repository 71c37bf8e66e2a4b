/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-fleet: scheduling in virtual time. Replays a trace against simulated engines, once per
 * policy, with the gateway's own scheduler making the choices.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/flags.h"
#include "sluice-fleet/fleet.h"
#include "sluice-fleet/plot.h"
#include "sluice-fleet/policies.h"

#define POLICIES_MAX 32
#define NUMBERS_MAX  64 /* of --loads, --speeds */

#define KNEE_ROUNDS 12
#define KNEE_GOOD   0.5 /* share of requests within the TTFT bound that round robin must reach */

static struct command {
	struct fleet_options run;
	char *trace, *decider;
	struct flag_texts policy_texts;
	const char *policies[POLICIES_MAX];
	unsigned int half, policy_count;
	char *load_text, *speed_text, *plot;
	double loads[NUMBERS_MAX], speeds[NUMBERS_MAX], jitter_ms;
	uint32_t load_count;
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
		.transfer_ms = 5,
		.transfer_us_per_token = 5,
		.to = 1},
	.load = 1,
	.scrape_ms = 100,
	.ttft_ms = 2000,
	.itl_ms = 25,
};

static const struct flag rows[] = {
	{"trace", "FILE", FLAG_TEXT, &command.trace, "a Mooncake trace, JSON lines"},
	{"policy", "NAME", FLAG_TEXTS, &command.policy_texts,
	 "all, names by commas, or a profile of plugins (repeatable); names: round-robin, random, "
	 "power-of-two, least-requests, llm-d, llm-d-precise, sglang, dynamo, lmetric, preble, "
	 "sluice, sluice-precise, sluice-many"},
	{"endpoints", "N", FLAG_COUNT, &command.run.endpoints, "engines"},
	{"blocks", "N", FLAG_COUNT, &command.run.model.blocks, "KV blocks of an engine"},
	{"block-tokens", "N", FLAG_COUNT, &command.run.model.block_tokens,
	 "tokens of a block, as in the trace"},
	{"load", "N", FLAG_REAL, &command.load,
	 "1 is the knee of round robin: half of the requests within the TTFT bound, by bisection"},
	{"loads", "LIST", FLAG_TEXT, &command.load_text, "each of these loads, by commas"},
	{"plot", "FILE", FLAG_TEXT, &command.plot, "the curves over the loads, as SVG"},
	{"jitter-ms", "N", FLAG_REAL, &command.jitter_ms,
	 "arrivals up to so much later, by the seed: Mooncake's conversation comes in lots of 3 s"},
	{"speeds", "LIST", FLAG_TEXT, &command.speed_text,
	 "engines of unlike speed, in turn, by commas"},
	{"fail-at", "S", FLAG_REAL, &command.run.fail_at_s,
	 "the first engine dies then, in the trace's clock"},
	{"fail-for", "S", FLAG_REAL, &command.run.fail_for_s,
	 "and is back after so long; 0: never"},
	{"speed", "N", FLAG_REAL, &command.run.speed, "of the trace's clock, instead of a load"},
	{"gateways", "N", FLAG_COUNT, &command.run.gateways, "that share nothing"},
	{"delay-ms", "N", FLAG_REAL, &command.delay_ms, "metrics are known so late"},
	{"scrape-ms", "N", FLAG_REAL, &command.scrape_ms, "between two looks at an engine"},
	{"slo-ttft-ms", "N", FLAG_REAL, &command.ttft_ms, "bound of a good request"},
	{"slo-itl-ms", "N", FLAG_REAL, &command.itl_ms, "bound of a good request"},
	{"pd-decider", "NAME", FLAG_TEXT, &command.decider,
	 "prefill and decode apart, as it says: sluice, always, never, prefix"},
	{"prefill", "N", FLAG_COUNT, &command.run.prefill_engines,
	 "engines that only prefill, the others only decode; 0: all do both"},
	{"transfer-ms", "N", FLAG_REAL, &command.run.transfer_ms, "of a prompt's blocks"},
	{"transfer-us-per-token", "N", FLAG_REAL, &command.run.transfer_us_per_token,
	 "more for each token"},
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

static int read_numbers(const char *text, double *to, uint32_t *ret_count)
{
	char *end;

	for (*ret_count = 0; *ret_count < NUMBERS_MAX; text = end + 1) {
		double n = strtod(text, &end);

		if (end == text || !(n > 0) || (*end && *end != ','))
			break;
		to[(*ret_count)++] = n;
		if (!*end)
			return 0;
	}
	return -1;
}

static void add_policy(struct command *c, const char *name)
{
	if (c->policy_count < POLICIES_MAX)
		c->policies[c->policy_count++] = name;
}

/* "all", names by commas if each is of the table, else one profile of plugins. */
static void add_policies(struct command *c, const char *text)
{
	char *copy = strdup(text), *rest = copy, *name;
	bool names = copy != NULL;

	if (strcmp(text, "all") == 0) {
		for (const struct policy *p = policies; p->name; p++)
			if (strcmp(p->name, "sluice-many") != 0) /* made for many gateways */
				add_policy(c, p->name);
		free(copy);
		return;
	}
	while (names && (name = strsep(&rest, ",")))
		names = policy_find(name) != NULL;
	free(copy);
	if (!names) {
		add_policy(c, text);
		return;
	}
	for (const char *at = text; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
		char one[32];

		snprintf(one, sizeof(one), "%.*s", (int)strcspn(at, ","), at);
		add_policy(c, policy_find(one)->name);
	}
}

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
	if (c->load_text && read_numbers(c->load_text, c->loads, &c->load_count))
		return flags_refuse(&flags, "--loads", "numbers above 0, by commas");
	if (c->speed_text && read_numbers(c->speed_text, c->speeds, &c->run.speed_count))
		return flags_refuse(&flags, "--speeds", "numbers above 0, by commas");
	c->run.speeds = c->speeds;
	for (unsigned int i = 0; i < c->policy_texts.count; i++)
		add_policies(c, c->policy_texts.items[i]);
	if (c->decider && !pd_decider_find(c->decider))
		return flags_refuse(&flags, "--pd-decider", "unknown");
	if (c->run.prefill_engines >= c->run.endpoints || (c->run.prefill_engines && !c->decider))
		return flags_refuse(&flags, "--prefill",
				    "fewer than --endpoints, with --pd-decider");
	c->run.decider = c->decider;
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
	run.decider = NULL;
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
	       "\"e2e_p90_ms\":%.1f,\"apart_share\":%.3f,\"goodput_rps\":%.3f,\"offered_rps\":%.3f,"
	       "\"completed\":%u,\"retried\":%u,\"gateways\":%u,\"requests_per_wall_s\":%.0f,"
	       "\"requests_per_cpu_s\":%.0f}\n",
	       c->run.policy, c->load, c->run.speed, c->run.seed, r->hit_share, r->prefill_cv,
	       r->ttft_p50_ms, r->ttft_p90_ms, r->ttft_p99_ms, r->itl_p50_ms, r->itl_p90_ms,
	       r->e2e_p90_ms, r->apart_share, r->goodput_rps, r->offered_rps, r->completed,
	       r->retried, c->run.gateways, r->wall_s > 0 ? r->completed_all / r->wall_s : 0,
	       r->cpu_s > 0 ? r->completed_all / r->cpu_s : 0);
}

/* One load: every policy, each a row of results at [policy * loads + number]. */
static int run_load(struct command *c, struct trace *t, uint32_t number,
		    struct fleet_result *results)
{
	int err = 0;

	if (!c->json)
		printf("load %.3g, speed %.3f\n%-28s %8s %6s %9s %9s %9s %9s %9s %8s\n", c->load,
		       c->run.speed, "policy", "hit", "cv", "ttft50ms", "ttft90ms", "itl90ms",
		       "good/s", "offered/s", "done");
	for (unsigned int i = 0; !err && i < c->policy_count; i++) {
		struct fleet_result *r = &results[i * c->load_count + number];

		c->run.policy = c->policies[i];
		err = fleet_run(t, &c->run, r);
		if (!err)
			print(c, r);
		fflush(stdout);
	}
	return err;
}

static int run_all(struct command *c, struct trace *t)
{
	struct fleet_result *results;
	double knee = c->run.speed > 0 ? 0 : find_knee(t, &c->run);
	int err = 0;

	if (!c->load_count)
		c->loads[c->load_count++] = c->load;
	results = calloc(c->policy_count * c->load_count, sizeof(*results));
	if (!results)
		return -ENOMEM;
	for (uint32_t i = 0; !err && i < c->load_count; i++) {
		c->load = c->loads[i];
		if (knee > 0)
			c->run.speed = c->load * knee;
		err = run_load(c, t, i, results);
	}
	if (!err && c->plot)
		err = plot_write(c->plot, c->policies, c->policy_count, c->loads, c->load_count,
				 results);
	free(results);
	return err;
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
	trace_jitter(&trace, c->jitter_ms / 1e3, c->run.seed);
	if (!c->policy_count) {
		add_policy(c, "round-robin");
		add_policy(c, "llm-d");
		add_policy(c, "sluice");
	}
	err = run_all(c, &trace);
	if (err)
		fprintf(stderr, "sluice-fleet: %s\n", strerror(-err));
	trace_free(&trace);
	return err ? 1 : 0;
}
