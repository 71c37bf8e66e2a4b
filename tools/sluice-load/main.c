/* SPDX-License-Identifier: Apache-2.0 */
/* Flags of sluice-load. Exit status: 0 all answered, 1 some failed, 2 a usage error. */
#include <string.h>
#include <sys/resource.h>

#include "common/flags.h"
#include "sluice-load/load.h"

static struct load_options opt = {
	.model = "tiny",
	.path = "/v1/chat/completions",
	.prompt_tokens = 128,
	.max_tokens = 16,
	.speed = 1,
	.turns = 1,
	.timeout_s = 120,
	.stream = true,
};
static char *pattern = "poisson";

static const struct flag rows[] = {
	{"target", "LIST", FLAG_TEXT, &opt.target,
	 "IPV4:PORT; several, by commas, are used in turn"},
	{"model", "NAME", FLAG_TEXT, &opt.model, "model name"},
	{"path", "PATH", FLAG_TEXT, &opt.path, "chat, or /v1/completions"},
	{"api-key", "KEY", FLAG_TEXT, &opt.api_key, "sent as Authorization: Bearer"},
	{"concurrency", "N", FLAG_COUNT, &opt.concurrency, "closed loop: requests at a time"},
	{"rate", "N", FLAG_REAL, &opt.rate, "open loop: requests a second"},
	{"arrival", "KIND", FLAG_TEXT, &pattern, "of the open loop: poisson or constant"},
	{"requests", "N", FLAG_COUNT, &opt.requests, "how many"},
	{"duration", "SECONDS", FLAG_REAL, &opt.duration_s, "for so long"},
	{"prompt-tokens", "N", FLAG_COUNT, &opt.prompt_tokens, "of 4 bytes each"},
	{"prompt-tokens-max", "N", FLAG_COUNT, &opt.prompt_tokens_max,
	 "lengths are spread evenly up to it"},
	{"max-tokens", "N", FLAG_COUNT, &opt.max_tokens, "answer length"},
	{"prefix-groups", "N", FLAG_COUNT, &opt.groups, "prompts share a prefix by group"},
	{"prefix-tokens", "N", FLAG_COUNT, &opt.group_tokens, "length of it, in steps of 512"},
	{"ignore-eos", NULL, FLAG_BOOL, &opt.ignore_eos, "ask for answers of exactly that length"},
	{"turns", "N", FLAG_COUNT, &opt.turns,
	 "of a conversation, each with all that was said before"},
	{"think-time", "TIME", FLAG_MILLIS, &opt.think_ms, "between an answer and the next turn"},
	{"trace", "FILE", FLAG_TEXT, &opt.trace, "replay Mooncake JSON lines or Azure CSV"},
	{"speed", "N", FLAG_REAL, &opt.speed, "replay so many times faster"},
	{"limit", "N", FLAG_COUNT, &opt.limit, "first rows of the trace only"},
	{"timeout", "SECONDS", FLAG_REAL, &opt.timeout_s, "for one request"},
	{"seed", "N", FLAG_COUNT, &opt.seed, "of arrivals"},
	{"stream", NULL, FLAG_BOOL, &opt.stream, "streamed answers"},
	{"verify", NULL, FLAG_BOOL, &opt.verify, "check every byte of simulated answers"},
	{"json", NULL, FLAG_BOOL, &opt.json, "print one JSON object"},
	{"quiet", NULL, FLAG_BOOL, &opt.quiet, "no progress on the terminal"},
};

static const struct flags flags = {
	.tool = "sluice-load",
	.synopsis = "--target IPV4:PORT [FLAG VALUE]…",
	.about = "Requests like users', and what they saw.",
	.rows = rows,
	.count = sizeof(rows) / sizeof(rows[0]),
};

int main(int argc, char **argv)
{
	static struct result result;
	struct plan *plan;
	struct rlimit rl;
	int status = flags_parse(&flags, argc, argv);

	if (status != FLAGS_GO_ON)
		return status;
	if (!opt.target)
		return flags_refuse(&flags, "--target", "is needed");
	if (opt.speed <= 0 || opt.prompt_tokens > 16000000)
		return flags_refuse(&flags, "--speed, --prompt-tokens", "out of range");
	opt.constant = strcmp(pattern, "constant") == 0;
	if (!opt.constant && strcmp(pattern, "poisson") != 0)
		return flags_refuse(&flags, "--arrival", "bad value");
	if (!opt.turns ||
	    (opt.turns > 1 && (opt.trace || strcmp(opt.path, "/v1/completions") == 0)))
		return flags_refuse(&flags, "--turns", "needs chat and no trace");
	if (opt.api_key && strlen(opt.api_key) > 1024)
		return flags_refuse(&flags, "--api-key", "is too long");
	if (!opt.trace && opt.rate <= 0 && !opt.concurrency)
		opt.concurrency = 1;
	if (!opt.trace && !opt.requests && opt.duration_s <= 0)
		opt.requests = 100;
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	plan = plan_new(&opt);
	if (!plan || client_run(&opt, plan, &result))
		return 2;
	report_print(&opt, &result);
	return result.ok == result.sent ? 0 : 1;
}
