/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything a user can set, in one plain struct. controlplane/options.c has the table that makes
 * the flags, the YAML keys, --help and the defaults; modules read the fields they need.
 * Strings and arrays are owned by the struct and live as long as the process.
 */
#ifndef SLUICE_BASE_CONFIG_H
#define SLUICE_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct string_list {
	char **items;
	size_t count;
};

struct config {
	struct string_list listen;    /* "0.0.0.0:8080", "[::]:8080", "unix:/run/sluice.sock" */
	struct string_list endpoints; /* "ip:port[,name=…][,role=…][,label.K=V]…" */
	char *endpoints_file, *admin, *access_log, *config_file, *bpffs_dir;
	unsigned int workers;	/* 0: one per CPU */
	unsigned int log_level; /* enum log_level */
	bool pin_workers, bpf, cors, allow_gateway_fields, retry_500, llm_d_metrics;

	uint64_t head_bytes_max, head_fields_max, target_bytes_max, body_bytes_max;
	uint64_t head_timeout_ms, body_grace_ms, body_rate_min, idle_timeout_ms;
	uint64_t connections_max, buffered_bytes_max, buffered_wait_ms;
	uint64_t upstream_idle_ms, upstream_kept_max, connect_timeout_ms;
	uint64_t response_timeout_ms; /* endpoint's head; 0 none */
	uint64_t stall_timeout_ms, drain_timeout_ms, relay_bytes_max;
	uint64_t retries_max, retry_budget_percent;
	struct string_list model_rewrites; /* "FROM=TO[:WEIGHT],…" */
	char *pd, *pd_decider;		   /* NULL: "auto", "sluice" */
	bool pd_fallback;
	struct string_list pd_header_allow; /* prefill addresses an outer gateway may name */
	uint64_t pd_alone_percent;
	uint64_t pd_bootstrap_port; /* sglang, mooncake */
	uint64_t pd_uncached_min;   /* tokens, of the prefix decider */
	uint64_t pd_prefill_head_ms, pd_prefill_ms, pd_decode_head_ms, pd_decode_ms;
	uint64_t scrape_interval_ms, load_stale_ms, models_interval_ms, probe_interval_ms;
	uint64_t resolve_interval_ms;
	uint64_t affinity_bytes_max, decisions_max, prompt_block_bytes;
	double weight_queue, weight_kv, weight_prefix; /* the default profile */
	char *scheduler_config; /* an EndpointPickerConfig; wins over the profile */
	char *objectives;	/* file: name -> priority */
	bool allow_experimental_plugins;
	struct string_list tokenizers; /* "MODEL=FILE" */
	char *kv_events;	       /* "auto", "off" or a port */
	char *kv_events_bind;	       /* "tcp://ADDR:PORT": engines connect to us; NULL none */
	uint64_t kv_index_bytes_max;
	char *scheduler_profile; /* "sluice" style "queue-scorer=2,…", NULL: llm-d, 2/2/3 */

	char *path; /* auto, relay, splice, steer */
	uint64_t flows_max, flow_idle_ms;
	uint64_t path_short_tokens; /* a whole answer of fewer stays with the relay */
	char *handover;		    /* unix socket where a successor asks; NULL none */
	uint64_t handover_timeout_ms;
	struct string_list interfaces; /* names; none: found by routes */

	char *guard; /* off, auto, native, generic, tc */
	struct string_list guard_interfaces, guard_deny;
	uint64_t guard_syns, guard_syn_burst, guard_packets, guard_packet_burst; /* per second */
	bool guard_dry_run;
};

#endif
