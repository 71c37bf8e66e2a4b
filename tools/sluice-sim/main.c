/* SPDX-License-Identifier: Apache-2.0 */
/* Flags of sluice-sim: llm-d-inference-sim's names where they exist, so that either can stand in.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/flags.h"
#include "sluice-sim/pd.h"
#include "sluice-sim/server.h"
#include "sluice-sim/tokens.h"

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
	.ranks = 1,
	.max_loras = 1,
	.time_factor = 1,
	.details = true,
	.event_batch = 16,
};
static char *calculator, *mode = "random", *fake_metrics;

static const struct flag rows[] = {
	{"port", "N", FLAG_COUNT, &opt.port, "first port"},
	{"host", "ADDR", FLAG_TEXT, &opt.host, "IPv4 address to listen on"},
	{"instances", "N", FLAG_COUNT, &opt.instances, "engines on consecutive ports"},
	{"model", "NAME", FLAG_TEXT, &opt.model, "model name"},
	{"data-parallel-size", "N", FLAG_COUNT, &opt.ranks, "ranks of each engine, a port each"},
	{"served-model-name", "NAME", FLAG_TEXT, &opt.served_model,
	 "the name clients use, if another"},
	{"lora-modules", "LIST", FLAG_TEXT, &opt.lora_modules,
	 "adapter names, by commas, or JSON objects with a name"},
	{"max-loras", "N", FLAG_COUNT, &opt.max_loras, "adapters that run at a time"},
	{"max-num-seqs", "N", FLAG_COUNT, &opt.max_num_seqs, "sequences in a batch"},
	{"max-waiting-queue-length", "N", FLAG_COUNT, &opt.max_waiting, "beyond: 503"},
	{"max-model-len", "N", FLAG_COUNT, &opt.max_model_len,
	 "tokens of prompt and answer; beyond: 400"},
	{"max-tokens-default", "N", FLAG_COUNT, &opt.default_max_tokens,
	 "answer length if not asked"},
	{"mode", "MODE", FLAG_TEXT, &mode,
	 "random: words that follow from the prompt; echo: the last message"},
	{"enable-kvcache", NULL, FLAG_BOOL, &opt.cache, "simulate the prefix cache"},
	{"kv-cache-size", "N", FLAG_COUNT, &opt.kv_blocks, "blocks of KV cache"},
	{"block-size", "N", FLAG_COUNT, &opt.block_size, "tokens in a block"},
	{"enable-prompt-tokens-details", NULL, FLAG_BOOL, &opt.details, "cached_tokens in usage"},
	{"enable-request-id-headers", NULL, FLAG_BOOL, &opt.request_ids, "answer x-request-id"},
	{"fake-metrics", "JSON", FLAG_TEXT, &fake_metrics,
	 "what /metrics says: running-requests, waiting-requests, kv-cache-usage"},
	{"latency-calculator", "KIND", FLAG_TEXT, &calculator, "constant, per-token or batch"},
	{"time-to-first-token", "TIME", FLAG_MILLIS, &opt.ttft_ms, "constant TTFT"},
	{"time-to-first-token-std-dev", "TIME", FLAG_MILLIS, &opt.ttft_sd_ms,
	 "of it, at most 30 %"},
	{"inter-token-latency", "TIME", FLAG_MILLIS, &opt.itl_ms, "constant gap"},
	{"inter-token-latency-std-dev", "TIME", FLAG_MILLIS, &opt.itl_sd_ms, "of it, at most 30 %"},
	{"prefill-overhead", "TIME", FLAG_MILLIS, &opt.prefill_overhead_ms,
	 "per-token: fixed part of TTFT"},
	{"prefill-time-per-token", "TIME", FLAG_MILLIS, &opt.prefill_ms_per_token,
	 "per-token: for each token not cached"},
	{"prefill-time-per-token-std-dev", "TIME", FLAG_MILLIS, &opt.prefill_sd_ms_per_token,
	 "of it, at most 30 %"},
	{"prefill-time-std-dev", "TIME", FLAG_MILLIS, &opt.prefill_sd_ms_per_token, "the same"},
	{"time-factor-under-load", "N", FLAG_REAL, &opt.time_factor,
	 "constant and per-token: how much slower a full batch is"},
	{"step-time", "TIME", FLAG_MILLIS, &opt.step_ms, "batch: length of an empty step"},
	{"step-time-per-seq", "TIME", FLAG_MILLIS, &opt.step_ms_per_seq,
	 "batch: more for each sequence"},
	{"prefill-rate", "N", FLAG_REAL, &opt.prefill_tokens_per_s, "batch: tokens a second"},
	{"chunk-tokens", "N", FLAG_COUNT, &opt.chunk_tokens, "batch: prefill tokens a step"},
	{"time-scale", "N", FLAG_REAL, &opt.time_scale, "run so many times faster"},
	{"failure-injection-rate", "PERCENT", FLAG_REAL, &opt.failure_rate, "requests that fail"},
	{"failure-types", "LIST", FLAG_TEXT, &opt.failure_types,
	 "which, by commas: rate_limit, invalid_api_key, context_length, server_error, "
	 "invalid_request, model_not_found; default all"},
	{"kv-connector", "NAME", FLAG_TEXT, &opt.kv_connector,
	 "play both sides of prefill and decode apart: nixlv2, sglang, mooncake, offloading, "
	 "shared-storage, moriio"},
	{"kv-cache-transfer-latency", "TIME", FLAG_MILLIS, &opt.kv_transfer_ms,
	 "of blocks from another engine"},
	{"kv-cache-transfer-latency-std-dev", "TIME", FLAG_MILLIS, &opt.kv_transfer_sd_ms,
	 "of it, at most 30 %"},
	{"kv-cache-transfer-time-per-token", "TIME", FLAG_MILLIS, &opt.kv_transfer_ms_per_token,
	 "more for each token of them"},
	{"tokenizer", "FILE", FLAG_TEXT, &opt.tokenizer,
	 "a tokenizer.json: prompts are real tokens of it, /tokenize answers them"},
	{"zmq-endpoint", "TCP", FLAG_TEXT, &opt.zmq_endpoint,
	 "publish KV events, e.g. tcp://127.0.0.1:5557; the n-th engine n ports on"},
	{"zmq-connect", NULL, FLAG_BOOL, &opt.zmq_connect,
	 "connect to that endpoint, all engines to the same, instead of waiting there"},
	{"event-batch-size", "N", FLAG_COUNT, &opt.event_batch, "events of a message, at most"},
	{"use-vllm-map-event-format", NULL, FLAG_BOOL, &opt.map_events, "events are maps"},
	{"kv-events-replay-endpoint", "TCP", FLAG_TEXT, &opt.replay_endpoint,
	 "give messages again from here, likewise"},
	{"hide-event-sources", NULL, FLAG_BOOL, &opt.hide_sources,
	 "no /kv_event_sources, as before vLLM 0.32"},
	{"event-hwm", "N", FLAG_COUNT, &opt.event_hwm, "messages that wait for a slow subscriber"},
	{"event-loss", "PERCENT", FLAG_REAL, &opt.event_loss, "messages that are lost"},
	{"event-duplicate", "PERCENT", FLAG_REAL, &opt.event_duplicate,
	 "messages that are sent twice"},
	{"event-reorder", "PERCENT", FLAG_REAL, &opt.event_reorder,
	 "messages that the next one overtakes"},
	{"stamp-events", NULL, FLAG_BOOL, &opt.stamp_events,
	 "a comment in each event of a chat says when it was sent; sluice-load reads it"},
	{"event-hide-evictions", NULL, FLAG_BOOL, &opt.event_keep,
	 "evicted blocks are not told of: what events say becomes untrue"},
	{"load-stat", NULL, FLAG_BOOL, &opt.load_stat, "push the load where events are, as SGLang"},
	{"data-parallel-sources", NULL, FLAG_BOOL, &opt.rank_sources,
	 "/kv_event_sources of each rank names all ranks of its engine"},
	{"clock-sequence", NULL, FLAG_BOOL, &opt.clock_sequence,
	 "messages are numbered from the clock on, the first says that all is cleared: "
	 "TensorRT-LLM"},
	{"tokenize-prompts-only", NULL, FLAG_BOOL, &opt.prompts_only,
	 "/tokenize refuses chats, /detokenize answers \"text\": SGLang before it rendered them"},
	{"template-extra", "TEXT", FLAG_TEXT, &opt.template_extra,
	 "the chat template puts it behind each message"},
	{"seed", "N", FLAG_COUNT, &opt.seed, "of all that is random"},
};

static const struct flags flags = {
	.tool = "sluice-sim",
	.synopsis = "[FLAG VALUE]…",
	.about = "Simulated OpenAI-compatible engines.",
	.rows = rows,
	.count = sizeof(rows) / sizeof(rows[0]),
};

/* "{…name…} {…name…}" or a list of them, as llm-d gives adapters, to names by commas. */
static int adapters_read(void)
{
	json_t *json, *names;
	size_t size = strlen(opt.lora_modules) + 3;
	char *text = malloc(size), *to;

	snprintf(text, size, *opt.lora_modules == '[' ? "%s" : "[%s]", opt.lora_modules);
	for (char *p = text; *p; p++)
		if (*p == '}' && strchr(" \t\n", p[1]) && p[1])
			p[1] = ',';
	json = json_loads(text, 0, NULL);
	free(text);
	if (!json)
		return -EINVAL;
	to = opt.lora_modules = calloc(1, size);
	for (size_t i = 0; i < json_array_size(json); i++) {
		names = json_object_get(json_array_get(json, i), "name");
		if (json_is_string(names))
			to += sprintf(to, "%s%s", i ? "," : "", json_string_value(names));
	}
	json_decref(json);
	return 0;
}

static int fake_read(void)
{
	json_t *json = json_loads(fake_metrics, 0, NULL);

	opt.fake = (struct sim_fake){
		.given = true,
		.running = json_number_value(json_object_get(json, "running-requests")),
		.waiting = json_number_value(json_object_get(json, "waiting-requests")),
		.kv_usage = json_number_value(json_object_get(json, "kv-cache-usage")),
	};
	json_decref(json);
	return json ? 0 : -EINVAL;
}

/* What is more than a value. FLAGS_GO_ON or the exit status. */
static int options_read(void)
{
	opt.echo = strcmp(mode, "echo") == 0;
	if (!opt.echo && strcmp(mode, "random") != 0)
		return flags_refuse(&flags, "--mode", "bad value");
	if (opt.lora_modules && strchr(opt.lora_modules, '{') && adapters_read())
		return flags_refuse(&flags, "--lora-modules", "not understood");
	if (fake_metrics && fake_read())
		return flags_refuse(&flags, "--fake-metrics", "not JSON");
	if (!opt.ranks || opt.instances > 65535 / opt.ranks)
		return flags_refuse(&flags, "--data-parallel-size", "out of range");
	opt.instances *= opt.ranks;
	return FLAGS_GO_ON;
}

int main(int argc, char **argv)
{
	struct rlimit rl;
	int status = flags_parse(&flags, argc, argv);

	if (status != FLAGS_GO_ON)
		return status;
	if (!opt.instances || !opt.block_size || opt.time_scale <= 0 || !opt.max_num_seqs)
		return flags_refuse(&flags,
				    "--instances, --block-size, --time-scale, --max-num-seqs",
				    "must not be zero");
	if (calculator && strcmp(calculator, "constant") != 0 &&
	    strcmp(calculator, "per-token") != 0 && strcmp(calculator, "batch") != 0)
		return flags_refuse(&flags, "--latency-calculator", "bad value");
	if (opt.kv_connector && !pd_find(opt.kv_connector))
		return flags_refuse(&flags, "--kv-connector", "unknown");
	status = options_read();
	if (status != FLAGS_GO_ON)
		return status;
	if (opt.tokenizer && tokens_load(opt.tokenizer, opt.template_extra))
		return 2;
	if (opt.zmq_endpoint && !opt.tokenizer)
		return flags_refuse(&flags, "--zmq-endpoint", "needs --tokenizer");
	if (opt.served_model)
		opt.model = opt.served_model;
	opt.constant =
		calculator ? strcmp(calculator, "batch") != 0 : opt.ttft_ms > 0 || opt.itl_ms > 0;
	srand48((long)opt.seed);
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	return server_run(&opt);
}
