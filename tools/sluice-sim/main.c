/* SPDX-License-Identifier: Apache-2.0 */
/* Flags of sluice-sim: llm-d-inference-sim's names where they exist, so that either can stand in.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "sluice-sim/server.h"

enum kind {
	TEXT,
	COUNT,
	REAL,
	MILLIS,
	FLAG,
	IGNORED
};

static struct sim_options opt = {
	.model = "tiny",
	.host = "127.0.0.1",
	.port = 8000,
	.instances = 1,
	.max_num_seqs = 256,
	.max_waiting = 1000,
	.max_model_len = 131072,
	.block_size = 16,
	.kv_blocks = 32768,
	.time_scale = 1,
	.step_ms = 6,
	.step_ms_per_seq = 0.35,
	.prefill_tokens_per_s = 8000,
	.chunk_tokens = 2048,
	.default_max_tokens = 16,
	.cache = true,
	.details = true,
};
static char *calculator;

static const struct {
	const char *name;
	enum kind kind;
	void *value;
	const char *help;
} flags[] = {
	{"--port", COUNT, &opt.port, "first port"},
	{"--host", TEXT, &opt.host, "IPv4 address to listen on"},
	{"--instances", COUNT, &opt.instances, "engines on consecutive ports"},
	{"--model", TEXT, &opt.model, "model name"},
	{"--served-model-name", TEXT, &opt.model, "the same"},
	{"--lora-modules", TEXT, &opt.lora_modules, "comma-separated adapter names"},
	{"--max-num-seqs", COUNT, &opt.max_num_seqs, "sequences in a batch"},
	{"--max-waiting-queue-length", COUNT, &opt.max_waiting, "beyond: 503"},
	{"--max-model-len", COUNT, &opt.max_model_len, "tokens of prompt and answer; beyond: 400"},
	{"--kv-cache-size", COUNT, &opt.kv_blocks, "blocks of prefix cache"},
	{"--block-size", COUNT, &opt.block_size, "tokens in a block"},
	{"--max-tokens-default", COUNT, &opt.default_max_tokens, "answer length if not asked"},
	{"--latency-calculator", TEXT, &calculator, "constant | per-token | batch (default)"},
	{"--time-to-first-token", MILLIS, &opt.ttft_ms, "constant TTFT"},
	{"--inter-token-latency", MILLIS, &opt.itl_ms, "constant gap"},
	{"--prefill-overhead", MILLIS, &opt.prefill_overhead_ms, "per-token: fixed part of TTFT"},
	{"--prefill-time-per-token", MILLIS, &opt.prefill_us_per_token, "per-token: µs a token"},
	{"--step-time", MILLIS, &opt.step_ms, "batch: length of an empty step"},
	{"--step-time-per-seq", MILLIS, &opt.step_ms_per_seq, "batch: more for each sequence"},
	{"--prefill-rate", REAL, &opt.prefill_tokens_per_s, "batch: tokens a second"},
	{"--chunk-tokens", COUNT, &opt.chunk_tokens, "batch: prefill tokens a step"},
	{"--time-scale", REAL, &opt.time_scale, "run so many times faster"},
	{"--failure-injection-rate", REAL, &opt.failure_rate, "per cent of requests that fail"},
	{"--failure-types", TEXT, &opt.failure_types, "which, by commas; default all"},
	{"--seed", COUNT, &opt.seed, "of injected failures"},
	{"--enable-kvcache", FLAG, &opt.cache, "simulate the prefix cache (default on)"},
	{"--enable-prompt-tokens-details", FLAG, &opt.details, "cached_tokens (default on)"},
	{"--mode", IGNORED, NULL, "accepted: answers follow from the prompt"},
	{"--max-loras", IGNORED, NULL, "accepted"},
};

static void help(FILE *f)
{
	fprintf(f, "Usage: sluice-sim [FLAG VALUE]…\nSimulated OpenAI-compatible engines.\n\n");
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		fprintf(f, "  %-32s %s\n", flags[i].name, flags[i].help);
	fprintf(f, "  %-32s %s\n", "--help", "print this and exit");
}

static int usage_error(const char *what, const char *flag)
{
	fprintf(stderr, "sluice-sim: %s: %s (see --help)\n", flag, what);
	return 2;
}

/* "5ms", "40us", "1.5s" or a number of milliseconds. */
static int millis_parse(const char *text, double *ret)
{
	char *end;
	double n = strtod(text, &end);

	if (end == text || n < 0)
		return -EINVAL;
	if (strcmp(end, "us") == 0)
		n /= 1000;
	else if (strcmp(end, "s") == 0)
		n *= 1000;
	else if (*end && strcmp(end, "ms") != 0)
		return -EINVAL;
	*ret = n;
	return 0;
}

static int value_parse(size_t i, char *text)
{
	char *end;

	switch (flags[i].kind) {
	case TEXT:
		*(char **)flags[i].value = text;
		return 0;
	case COUNT:
		*(unsigned int *)flags[i].value = (unsigned int)strtoul(text, &end, 10);
		return *text < '0' || *text > '9' || *end ? -EINVAL : 0;
	case REAL:
		*(double *)flags[i].value = strtod(text, &end);
		return end == text || *end ? -EINVAL : 0;
	case MILLIS:
		return millis_parse(text, flags[i].value);
	default:
		return 0;
	}
}

static int args_parse(int argc, char **argv)
{
	for (int a = 1; a < argc; a++) {
		size_t i = 0, n = sizeof(flags) / sizeof(*flags);
		char *value = strchr(argv[a], '=');
		size_t len = value ? (size_t)(value - argv[a]) : strlen(argv[a]);

		while (i < n &&
		       (strlen(flags[i].name) != len || strncmp(flags[i].name, argv[a], len) != 0))
			i++;
		if (i == n)
			return usage_error("unknown flag", argv[a]);
		if (flags[i].kind == FLAG) {
			*(bool *)flags[i].value = !value || strcmp(value + 1, "false") != 0;
			continue;
		}
		if (!value && a + 1 == argc)
			return usage_error("needs a value", argv[a]);
		if (value_parse(i, value ? value + 1 : argv[++a]))
			return usage_error("bad value", argv[a]);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct rlimit rl;
	int err;

	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		help(stdout);
		return 0;
	}
	err = args_parse(argc, argv);
	if (err)
		return err;
	if (!opt.instances || !opt.block_size || opt.time_scale <= 0 || !opt.max_num_seqs)
		return usage_error("must not be zero", "--instances, --block-size, --time-scale");
	opt.constant =
		calculator ? strcmp(calculator, "batch") != 0 : opt.ttft_ms > 0 || opt.itl_ms > 0;
	opt.prefill_us_per_token *= 1000;
	srand48((long)opt.seed);
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	return server_run(&opt);
}
