/* SPDX-License-Identifier: Apache-2.0 */
/* Flags of sluice-load. Exit status: 0 all answered, 1 some failed, 2 a usage error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "sluice-load/load.h"

enum kind {
	TEXT,
	COUNT,
	REAL,
	ON,
	OFF
};

static struct load_options opt = {
	.model = "tiny",
	.path = "/v1/chat/completions",
	.prompt_tokens = 128,
	.max_tokens = 16,
	.speed = 1,
	.timeout_s = 120,
	.stream = true,
};
static char *pattern;

static const struct {
	const char *name;
	enum kind kind;
	void *value;
	const char *help;
} flags[] = {
	{"--target", TEXT, &opt.target, "IPV4:PORT; several, by commas, are used in turn"},
	{"--model", TEXT, &opt.model, "model name"},
	{"--path", TEXT, &opt.path, "request path"},
	{"--concurrency", COUNT, &opt.concurrency, "closed loop: requests at a time"},
	{"--rate", REAL, &opt.rate, "open loop: requests a second"},
	{"--arrival", TEXT, &pattern, "poisson (default) | constant"},
	{"--requests", COUNT, &opt.requests, "how many"},
	{"--duration", REAL, &opt.duration_s, "for so many seconds"},
	{"--prompt-tokens", COUNT, &opt.prompt_tokens, "of 4 bytes each"},
	{"--max-tokens", COUNT, &opt.max_tokens, "answer length"},
	{"--prefix-groups", COUNT, &opt.groups, "prompts share a prefix by group"},
	{"--prefix-tokens", COUNT, &opt.group_tokens, "length of it, in steps of 512"},
	{"--trace", TEXT, &opt.trace, "replay: Mooncake JSON lines or Azure CSV"},
	{"--speed", REAL, &opt.speed, "replay so many times faster"},
	{"--limit", COUNT, &opt.limit, "first rows of the trace only"},
	{"--timeout", REAL, &opt.timeout_s, "seconds for one request"},
	{"--seed", COUNT, &opt.seed, "of arrivals"},
	{"--stream", ON, &opt.stream, "streamed answers (default)"},
	{"--no-stream", OFF, &opt.stream, "whole answers"},
	{"--verify", ON, &opt.verify, "check every byte of simulated answers"},
	{"--json", ON, &opt.json, "one JSON object"},
	{"--quiet", ON, &opt.quiet, "no progress"},
};

static int usage_error(const char *what, const char *flag)
{
	fprintf(stderr, "sluice-load: %s: %s (see --help)\n", flag, what);
	return 2;
}

static void help(void)
{
	printf("Usage: sluice-load --target IPV4:PORT [FLAG VALUE]…\n\n");
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		printf("  %-18s %s\n", flags[i].name, flags[i].help);
	printf("  %-18s %s\n", "--help", "print this and exit");
}

static int value_parse(size_t i, char *text)
{
	char *end = text;

	if (flags[i].kind == TEXT)
		*(char **)flags[i].value = text;
	else if (flags[i].kind == COUNT)
		*(unsigned int *)flags[i].value = (unsigned int)strtoul(text, &end, 10);
	else
		*(double *)flags[i].value = strtod(text, &end);
	return flags[i].kind != TEXT && (end == text || *end || *text == '-');
}

static int args_parse(int argc, char **argv)
{
	for (int a = 1; a < argc; a++) {
		size_t i = 0, n = sizeof(flags) / sizeof(*flags);

		while (i < n && strcmp(flags[i].name, argv[a]) != 0)
			i++;
		if (i == n)
			return usage_error("unknown flag", argv[a]);
		if (flags[i].kind == ON || flags[i].kind == OFF) {
			*(bool *)flags[i].value = flags[i].kind == ON;
			continue;
		}
		if (a + 1 == argc)
			return usage_error("needs a value", argv[a]);
		if (value_parse(i, argv[++a]))
			return usage_error("bad value", argv[a]);
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct result result;
	struct plan *plan;
	struct rlimit rl;
	int err;

	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		help();
		return 0;
	}
	err = args_parse(argc, argv);
	if (err)
		return err;
	if (!opt.target)
		return usage_error("is needed", "--target");
	if (opt.speed <= 0 || opt.prompt_tokens > 16000000)
		return usage_error("out of range", "--speed, --prompt-tokens");
	opt.constant = pattern && strcmp(pattern, "constant") == 0;
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
