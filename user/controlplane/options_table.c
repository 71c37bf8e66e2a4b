/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every option, one row each. A new setting is a field in base/config.h and a row here; flags, YAML
 * keys, --help, defaults, checks and --check-config follow.
 */
#include "controlplane/options_table.h"

#include <stddef.h>

#include "base/log.h"
#include "sluice/limits.h"

#define FIELD(f)      .offset = offsetof(struct config, f)
#define GROUP(g)      .group = g
#define RELOADS	      .reloads = true
#define STR(n, f)     .name = n, .type = OPTION_STRING, FIELD(f)
#define BOOL(n, f, d) .name = n, .type = OPTION_BOOL, FIELD(f), .def = d
#define COUNT(n, f, d, lo, hi)                                                                     \
	.name = n, .type = OPTION_COUNT, FIELD(f), .def = d, .min = lo, .max = hi
#define SIZE(n, f, d, lo, hi)                                                                      \
	.name = n, .type = OPTION_SIZE, FIELD(f), .def = d, .min = lo, .max = hi
#define TIME(n, f, d, lo)                                                                          \
	.name = n, .type = OPTION_DURATION, FIELD(f), .def = d, .min = lo, .max = 86400000
#define WEIGHT(n, f, d) .name = n, .type = OPTION_WEIGHT, FIELD(f), .def_text = d

/* clang-format off */
const struct option_row option_rows[] = {
	{ GROUP("Clients"), .name = "listen", .type = OPTION_LIST, FIELD(listen),
	  .def_text = "0.0.0.0:8080", .placeholder = "ADDR",
	  .help = "take requests at HOST:PORT, [V6]:PORT or unix:/PATH (repeatable)" },
	{ .name = "workers", .type = OPTION_WORKERS, FIELD(workers), .max = WORKERS_MAX,
	  .help = "worker threads, each with its own ring; 0: one per CPU" },
	{ BOOL("pin-workers", pin_workers, true), .help = "pin each worker to a CPU" },
	{ BOOL("cors", cors, false), .help = "answer OPTIONS and add CORS fields for browsers" },
	{ BOOL("allow-gateway-fields", allow_gateway_fields, false),
	  .help = "pass on kv_transfer_params and the like from clients (may crash an engine)" },
	{ SIZE("head-bytes-max", head_bytes_max, HEAD_BYTES_MAX, 1024, 1 << 20),
	  .help = "largest request head; beyond: 431" },
	{ COUNT("head-fields-max", head_fields_max, HEAD_FIELDS_MAX, 8, HEAD_FIELDS_MAX),
	  .help = "most header fields; beyond: 431" },
	{ SIZE("target-bytes-max", target_bytes_max, TARGET_BYTES_MAX, 64, 1 << 16),
	  .help = "longest request target; beyond: 414" },
	{ SIZE("body-bytes-max", body_bytes_max, BODY_BYTES_MAX, 1024, 4ULL << 30),
	  .help = "largest request body; beyond: 413" },
	{ TIME("head-timeout", head_timeout_ms, HEAD_TIMEOUT_MS, 10),
	  .help = "time for a request's head; beyond: 408" },
	{ TIME("body-grace", body_grace_ms, BODY_GRACE_MS, 10),
	  .help = "time before a body must keep its rate" },
	{ SIZE("body-rate-min", body_rate_min, BODY_RATE_MIN, 0, 1 << 30),
	  .help = "slowest body, bytes per second; below: 408" },
	{ TIME("idle-timeout", idle_timeout_ms, IDLE_TIMEOUT_MS, 10),
	  .help = "idle kept connections are closed after it" },
	{ COUNT("connections-max", connections_max, CONNECTIONS_MAX, 1, 1 << 20),
	  .help = "client connections per worker; then accepting pauses" },
	{ SIZE("buffered-bytes-max", buffered_bytes_max, BUFFERED_BYTES_MAX, 1 << 20, 1ULL << 40),
	  .help = "bytes held for all requests; then new bodies wait unread" },
	{ TIME("buffered-wait", buffered_wait_ms, BUFFERED_WAIT_MS, 0),
	  .help = "how long they wait; then 503 with Retry-After" },

	{ GROUP("Endpoints"), .name = "endpoint", .type = OPTION_LIST, FIELD(endpoints), RELOADS,
	  .placeholder = "SPEC",
	  .help = "an engine: HOST:PORT[,name=N][,role=R][,label.K=V]… (repeatable)" },
	{ STR("endpoints", endpoints_file), RELOADS, .placeholder = "FILE",
	  .help = "read the engines from a file, watched for changes" },
	{ TIME("scrape-interval", scrape_interval_ms, 100, 10),
	  .help = "how often an engine's /metrics is read" },
	{ TIME("load-stale", load_stale_ms, LOAD_STALE_MS, 10),
	  .help = "older load figures count as unknown" },
	{ TIME("resolve-interval", resolve_interval_ms, 30000, 100),
	  .help = "how often host names of engines are resolved again" },
	{ TIME("models-interval", models_interval_ms, 10000, 100),
	  .help = "how often an engine's models are listed" },
	{ TIME("probe-interval", probe_interval_ms, 1000, 10),
	  .help = "how often an engine's health is probed" },
	{ TIME("upstream-idle", upstream_idle_ms, UPSTREAM_IDLE_MS, 0),
	  .help = "kept connections to engines are retired after it" },
	{ COUNT("upstream-kept-max", upstream_kept_max, UPSTREAM_KEPT_MAX, 0, 1 << 16),
	  .help = "kept connections per engine and worker" },

	{ GROUP("Forwarding"), TIME("connect-timeout", connect_timeout_ms, CONNECT_TIMEOUT_MS, 1),
	  .help = "then another engine is tried" },
	{ TIME("response-timeout", response_timeout_ms, 0, 0),
	  .help = "time for an engine's response head; 0: none" },
	{ TIME("stall-timeout", stall_timeout_ms, STALL_TIMEOUT_MS, 10),
	  .help = "a silent stream of an unhealthy engine is cut after it" },
	{ TIME("drain-timeout", drain_timeout_ms, DRAIN_TIMEOUT_MS, 0),
	  .help = "time for running requests at SIGTERM" },
	{ STR("handover", handover), .placeholder = "PATH",
	  .help = "unix socket where the next sluiced is given our sockets; without it: sluicectl upgrade" },
	{ TIME("handover-timeout", handover_timeout_ms, HANDOVER_TIMEOUT_MS, 0),
	  .help = "time for running requests once a successor serves" },
	{ COUNT("retries-max", retries_max, RETRIES_MAX, 0, 10),
	  .help = "other engines tried while nothing has reached the client" },
	{ COUNT("retry-budget-percent", retry_budget_percent, RETRY_BUDGET_PERCENT, 0, 100),
	  .help = "retries at a time, in percent of live requests" },
	{ BOOL("retry-500", retry_500, false), .help = "retry also after a 500" },
	{ .name = "model-rewrite", .type = OPTION_LIST, FIELD(model_rewrites), .placeholder = "RULE",
	  .help = "engines are asked for another model: FROM=TO[:WEIGHT][,TO[:WEIGHT]]… (repeatable)" },
	{ SIZE("relay-bytes-max", relay_bytes_max, RELAY_BYTES_MAX, 4096, 1 << 30),
	  .help = "unsent to a client; then the engine is not read" },

	{ GROUP("Prefill and decode apart"), STR("pd", pd), .def_text = "auto",
	  .placeholder = "NAME",
	  .help = "auto, off, nixlv2, sglang, mooncake, offloading, shared-storage, moriio or sidecar" },
	{ STR("pd-decider", pd_decider), .def_text = "sluice", .placeholder = "NAME",
	  .help = "who gets a prefill leg: prefix, always, multimodal, sluice or never" },
	{ COUNT("pd-uncached-min", pd_uncached_min, PD_UNCACHED_MIN, 0, 1 << 30),
	  .help = "prefix decider: tokens not cached on the decode engine that ask for one" },
	{ COUNT("pd-bootstrap-port", pd_bootstrap_port, 8998, 1, 65535),
	  .help = "sglang, mooncake: of prefill engines (label bootstrap-port: of one)" },
	{ BOOL("pd-fallback", pd_fallback, true),
	  .help = "a failed prefill or transfer: the decode engine does it all" },
	{ COUNT("pd-alone-percent", pd_alone_percent, 100, 0, 100),
	  .help = "of live requests that may go without a prefill leg when it fails; beyond: 503" },
	{ .name = "pd-header-allow", .type = OPTION_LIST, FIELD(pd_header_allow),
	  .placeholder = "ADDR",
	  .help = "heed x-prefiller-host-port when it names this endpoint, or any (repeatable)" },
	{ TIME("pd-prefill-head-timeout", pd_prefill_head_ms, PD_PREFILL_MS, 1),
	  .help = "time for the head of a prefill's answer" },
	{ TIME("pd-prefill-timeout", pd_prefill_ms, PD_PREFILL_MS, 1),
	  .help = "time for a prefill's whole answer" },
	{ TIME("pd-decode-head-timeout", pd_decode_head_ms, PD_DECODE_HEAD_MS, 1),
	  .help = "time until a decode leg's first event or whole answer" },
	{ TIME("pd-decode-timeout", pd_decode_ms, PD_DECODE_MS, 1),
	  .help = "time for a decode leg's whole answer" },

	{ GROUP("Choosing"), STR("scheduler-profile", scheduler_profile), .def_text = "sluice",
	  .placeholder = "LIST",
	  .help = "sluice, sluice-many, llm-d, or plugins and weights: queue-scorer=2,prefix-cache-scorer=3,…" },
	{ STR("scheduler-config", scheduler_config), .placeholder = "FILE",
	  .help = "an EndpointPickerConfig, as llm-d takes it; --check-config explains it" },
	{ STR("objectives", objectives), .placeholder = "FILE",
	  .help = "priorities by name, `objectives: [{name, priority}]`; a request's header names one" },
	{ BOOL("allow-experimental-plugins", allow_experimental_plugins, false),
	  .help = "start with plugin types that are alpha" },
	{ WEIGHT("weight-queue", weight_queue, "2"),
	  .help = "profile llm-d: weight of short queues" },
	{ WEIGHT("weight-kv", weight_kv, "2"), .help = "profile llm-d: weight of free KV cache" },
	{ WEIGHT("weight-prefix", weight_prefix, "3"),
	  .help = "profile llm-d: weight of cached prompt" },
	{ SIZE("prompt-block-bytes", prompt_block_bytes, PROMPT_BLOCK_BYTES, 16, 1 << 16),
	  .help = "prompt bytes that one block of the prefix index stands for" },
	{ SIZE("affinity-bytes-max", affinity_bytes_max, AFFINITY_BYTES_MAX, 1 << 16, 1ULL << 36),
	  .help = "memory of the prefix index" },
	{ COUNT("decisions-max", decisions_max, DECISIONS_MAX, 0, 1 << 24),
	  .help = "decisions kept for sluicectl why" },

	{ GROUP("Kernel"), STR("path", path), .def_text = "auto", .placeholder = "NAME",
	  .help = "how answers travel: auto, relay, splice or steer; what does not fit is relayed" },
	{ COUNT("flows-max", flows_max, FLOWS_SPLICED_MAX, 16, 1 << 20),
	  .help = "flows spliced at a time; one more is relayed" },
	{ TIME("flow-idle-timeout", flow_idle_ms, FLOW_IDLE_MS, 1000),
	  .help = "a spliced flow without a byte is given up after it" },
	{ COUNT("path-short-tokens", path_short_tokens, PATH_SHORT_TOKENS, 0, 1 << 30),
	  .help = "whole answers of fewer max_tokens are relayed, their connections kept" },
	{ .name = "interface", .type = OPTION_LIST, FIELD(interfaces),
	  .placeholder = "NAME",
	  .help = "where clients and engines are (repeatable); none: found by addresses and routes" },

	{ GROUP("Guard"), STR("guard", guard), .def_text = "off", .placeholder = "MODE",
	  .help = "drop floods before TCP: off, auto, native, generic (XDP) or tc" },
	{ .name = "guard-interface", .type = OPTION_LIST, FIELD(guard_interfaces),
	  .placeholder = "NAME", .help = "guarded interface (repeatable); none: hardware that is up" },
	{ .name = "guard-deny", .type = OPTION_LIST, FIELD(guard_deny), .placeholder = "PREFIX",
	  .help = "drop everything from 10.0.0.0/8, 2001:db8::/32, … to our ports (repeatable)" },
	{ COUNT("guard-syns", guard_syns, 0, 0, 1000000000),
	  .help = "connections that one source may open per second; 0: any number" },
	{ COUNT("guard-syn-burst", guard_syn_burst, 256, 1, 1000000),
	  .help = "of those at once" },
	{ COUNT("guard-packets", guard_packets, 0, 0, 1000000000),
	  .help = "packets that one source may send per second; 0: any number" },
	{ COUNT("guard-packet-burst", guard_packet_burst, 4096, 1, 1000000),
	  .help = "of those at once" },
	{ BOOL("guard-dry-run", guard_dry_run, false), .help = "count what would be dropped, drop nothing" },

	{ GROUP("KV events"), .name = "tokenizer", .type = OPTION_LIST, FIELD(tokenizers),
	  .placeholder = "MODEL=FILE",
	  .help = "a model's tokenizer.json, or learn: its KV events are followed (repeatable)" },
	{ STR("kv-events", kv_events), .def_text = "auto", .placeholder = "auto|off|PORT",
	  .help = "where engines publish them: as /kv_event_sources says, nowhere, or that port" },
	{ STR("kv-events-bind", kv_events_bind), .placeholder = "tcp://ADDR:PORT",
	  .help = "engines connect here to publish their KV events" },
	{ SIZE("kv-index-bytes-max", kv_index_bytes_max, KV_INDEX_BYTES_MAX, 1 << 20, 1ULL << 36),
	  .help = "memory of the precise index" },

	{ GROUP("Seen from outside"), .name = "admin", .type = OPTION_ADDRESS, FIELD(admin),
	  .def_text = "127.0.0.1:9090", .placeholder = "ADDR",
	  .help = "metrics, health and state at HOST:PORT or unix:/PATH; \"\": none" },
	{ BOOL("llm-d-metrics", llm_d_metrics, true),
	  .help = "metrics also under their llm_d_epp_ names" },
	{ STR("access-log", access_log), .placeholder = "FILE",
	  .help = "one JSON line per request; \"-\": stderr" },
	{ .name = "log-level", .type = OPTION_LEVEL, FIELD(log_level), RELOADS, .def = LOG_INFO,
	  .help = "error, warn, info or debug" },
	{ BOOL("bpf", bpf, true), .help = "keep the shared tables in BPF maps" },
	{ STR("bpffs-dir", bpffs_dir), .def_text = "/sys/fs/bpf/sluice", .placeholder = "DIR",
	  .help = "where the maps are pinned" },
};
/* clang-format on */

const unsigned int option_row_count = sizeof(option_rows) / sizeof(option_rows[0]);

const struct option_row *option_find(struct span name)
{
	for (unsigned int i = 0; i < option_row_count; i++)
		if (span_eq(span_of_str(option_rows[i].name), name))
			return &option_rows[i];
	return NULL;
}
