/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every limit of the gateway, its number, the counter that tells when it was met, and what happens
 * then. Settable ones are the defaults of a flag. tools/man/sluice-limits.7 documents each by name;
 * the style check holds the two together.
 */
#ifndef SLUICE_LIMITS_H
#define SLUICE_LIMITS_H

/* HTTP from clients. */
#define HEAD_BYTES_MAX	     (64 * 1024) /* 431, close; http_refused_total{reason="head-bytes"} */
#define HEAD_FIELDS_MAX	     128	 /* 431, close; {reason="head-fields"} */
#define TARGET_BYTES_MAX     (8 * 1024)	 /* 414, close; {reason="target-bytes"} */
#define BODY_BYTES_MAX	     (64L << 20) /* 413, close; {reason="body-bytes"} */
#define HEAD_TIMEOUT_MS	     10000	 /* 408, close; {reason="head-timeout"} */
#define BODY_GRACE_MS	     10000	 /* after it, less than BODY_RATE_MIN: 408, close */
#define BODY_RATE_MIN	     1024	 /* bytes a second; {reason="body-slow"} */
#define IDLE_TIMEOUT_MS	     75000	 /* close without an answer; client_idle_closed_total */
#define CONNECTIONS_MAX	     16384	 /* per worker: accepting pauses; accept_paused_total */
#define BUFFERED_BYTES_MAX   (1L << 30)	 /* bodies wait unread; body_budget_waits_total */
#define BUFFERED_WAIT_MS     5000	 /* then 503 with Retry-After; {reason="no-memory"} */
#define CHUNK_LINE_BYTES_MAX 4096	 /* chunk-size line or trailer: 400, close */
#define TRAILER_BYTES_MAX    (16 * 1024) /* all trailers together: 431, close */

/* The JSON of a request. */
#define JSON_DEPTH_MAX	     256  /* 400; json_refused_total */
#define PROMPT_SPANS_MAX     4096 /* the rest of the prompt is one span; prompt_spans_merged_total */
#define MODEL_NAME_BYTES_MAX 256  /* 400; json_refused_total */
#define EDITS_MAX	     24	  /* edits to one body; our own code keeps below it */
#define REWRITE_TARGETS_MAX                                                                        \
	16 /* models that one rewritten name stands for; configuration error                       \
	    */

/* Endpoints. */
#define ENDPOINTS_MAX	  1024 /* one more is refused, logged; endpoints_refused_total */
#define ENDPOINT_NAME_MAX 64   /* bytes with the NUL; longer names are a configuration error */
#define LABELS_MAX	  32   /* per endpoint; more are a configuration error */
#define MODELS_MAX	  1024 /* models and adapters in a snapshot; models_refused_total */
#define ADAPTERS_MAX                                                                               \
	64 /* LoRA adapters known as loaded or waiting per endpoint; the rest                      \
	     count as not loaded */
#define ENDPOINTS_FILE_MAX (1 << 20) /* --endpoints file: larger is refused, the old one stays */
#define METRICS_PAGE_MAX   (4 << 20) /* page given up; scrape_failed_total{reason="too-large"} */
#define SCRAPE_STALL_MS	   1000	     /* page given up; scrape_failed_total{reason="stall"} */
#define LOAD_STALE_MS	   2000	     /* load counts as unknown; endpoints_stale */
#define UPSTREAM_IDLE_MS   4000	     /* kept connection retired: engines close at 5 s */
#define UPSTREAM_KEPT_MAX  256	     /* kept connections per endpoint and worker; the oldest goes */
#define CONNECT_TIMEOUT_MS 1000	     /* another endpoint; forward_retries_total{reason="connect"} */
#define RESPONSE_HEAD_MAX  (64 * 1024) /* counts as a failed head; {reason="bad-head"} */

/* Forwarding. */
#define RETRIES_MAX	     2	   /* other endpoints tried; then the last error */
#define RETRY_BUDGET_PERCENT 20	   /* of live requests; retry_budget_empty_total */
#define RETRY_BUDGET_MIN     16	   /* retries at a time that a worker may always make */
#define STALL_TIMEOUT_MS     10000 /* after a failed probe: stream cut; streams_stalled_total */
#define RELAY_BYTES_MAX	     (256 * 1024) /* unsent to a client: reading stops; relay_paused_total */
#define DRAIN_TIMEOUT_MS     30000	  /* at SIGTERM; what still runs is cut; drain_cut_total */
#define HANDOVER_TIMEOUT_MS  600000	  /* after an upgrade; what still runs is cut: the same */
#define HANDOVER_START_MS    60000	  /* a successor that does not serve by then: given up */

/* Prefill and decode apart. */
#define PD_ANSWER_BYTES_MAX (1 << 20) /* a prefill's answer: given up; pd_leg_failures_total */
#define PD_UNCACHED_MIN	    512 /* tokens: fewer are not worth a second leg (--pd-decider prefix) */
#define PD_PREFILL_MS	    60000 /* a prefill leg: given up; pd_leg_failures_total{cause="timeout"} */
#define PD_DECODE_HEAD_MS   600000  /* a decode leg without an event: another way; the same */
#define PD_DECODE_MS	    3600000 /* a decode leg as a whole: cut; the same */
#define PD_LEAVE_MS	    1000    /* a prefill that was left may still answer so long */
#define PD_RELEASE_MS	    30000   /* a release of blocks: given up; pd_releases_total */
#define PD_RELEASE_SURE_MS  100	    /* a decode sent later than this has its blocks for sure */
#define PD_ALONE_MIN	    4  /* requests that may always go without a prefill leg that failed */
#define PD_ENCODE_PARTS_MAX 16 /* media parts encoded apart; pd_encode_left_total */
#define PD_PREFILL_TRIES    2  /* prefill pods tried for one request; then decode alone */

/* Choosing. */
#define PROMPT_BLOCKS_MAX  2048	       /* longer prompts match by their first blocks only */
#define PROMPT_BLOCK_BYTES 256	       /* 64 tokens of 4 bytes: the default stretch of a block */
#define AFFINITY_BYTES_MAX (64L << 20) /* the kv_affinity map; the oldest blocks go */
#define DECISIONS_MAX	   65536       /* kept for `sluicectl why`; the oldest is overwritten */
#define PLUGINS_MAX	   32	       /* in one profile; a configuration error */

/* The kernel paths. */
#define FLOWS_SPLICED_MAX 65536 /* at a time; one more is relayed, {reason="full"} */
#define LEGS_MAX                                                                                   \
	131072 /* connections watched; the least recently used is relayed, {"no-tuple"}            \
		*/
#define FLOW_IDLE_MS	  3600000 /* a spliced flow without a byte is given back; flows_idle_total */
#define FLOW_FIN_MS	  60000	  /* and one that only one side has closed */
#define PATH_SHORT_TOKENS 1024	  /* relayed; path_refused_total, "short-answer" */

/* The guard (XDP). */
#define GUARD_PREFIXES_MAX 65536 /* in the deny list; one more is refused by sluicectl guard */
#define GUARD_SOURCES_MAX                                                                          \
	131072 /* with a budget at a time; the least recently seen starts anew                     \
		*/

/* Paths through the kernel. */
#define STEER_FLOWS_MAX 16384 /* at a time; more: path_refused_total, "full" */
#define STEER_PORTS_MAX 64    /* listened on; clients of further ones are relayed */
#define STEER_CREDIT_BYTES                                                                         \
	(512 * 1024) /* under way to a client; more: relayed, steer_out_of_credit_total */
#define STEER_RESUME_BYTES (64 * 1024) /* under way at most when a flow is redirected again */
#define INTERFACES_MAX	   256 /* followed; one more is not, logged: its answers are relayed */

/* What engines say of their KV caches. */
#define KV_MESSAGE_BYTES_MAX (16 << 20) /* skipped; kv_events_refused_total{reason="too-large"} */
#define KV_EVENT_BLOCKS_MAX  65536	/* in one event: skipped; the same counter */
#define KV_BLOCK_BYTES_MAX                                                                         \
	65535 /* text of one block: it ends its chain; kv_unknown_tokens_total                     \
	       */
#define KV_SOURCES_MAX                                                                             \
	2048 /* engines' event sockets: one more is not heard; kv_sources_refused_total */
#define KV_INDEX_BYTES_MAX                                                                         \
	(256L << 20)	       /* the precise index: blocks are refused; kv_no_room_total */
#define KV_MODELS_MAX	    64 /* models with a tokenizer: one more stays approximate, logged */
#define KV_PROMPT_BYTES_MAX (1 << 20) /* longer prompts match by their first bytes only */
#define KV_PIECES_BYTES                                                                            \
	(16 << 20) /* of a model's odd messages as engines render them: the oldest go */
#define KV_PIECE_WISHES_MAX                                                                        \
	32 /* odd messages to be asked for at a time; kv_pieces_refused_total                      \
	    */
#define KV_PIECE_WISH_BYTES_MAX                                                                    \
	131072			 /* a longer one stays approximate; kv_pieces_refused_total        \
				  */
#define KV_TENANTS_MAX	      64 /* of a model, whose lost bytes are told apart; more: only in its sum */
#define TENANT_NAME_BYTES_MAX 64   /* longer names are cut where losses are told */
#define KV_HINTS	      4096 /* places whose next blocks a worker remembers; a power of two */
#define KV_GLUES_MAX                                                                               \
	256 /* template pieces kept: new tools stay approximate; kv_glues_refused_total */
#define KV_TOOLS_BYTES_MAX   65536	/* of a request's tools: longer ones stay approximate */
#define VOCAB_TOKENS_MAX     (1 << 20)	/* ids of a tokenizer: a file beyond is refused, logged */
#define VOCAB_FILE_BYTES_MAX (64 << 20) /* of a tokenizer.json: refused, logged */
#define KV_EVENT_TOKENS_MAX  (1 << 20)	/* in one event: skipped; the same counter */

/* Flow control. Limits by requests and bytes are the configuration's. */
#define FLOW_BANDS_MAX 32   /* priorities told apart; one more joins the nearest */
#define FLOWS_MAX      1024 /* tenants per worker with a turn of their own; the rest share one */

/* Seen from outside. */
#define LABEL_VALUES_MAX      1000 /* per metric; then the value is "other" */
#define ACCESS_LOG_QUEUE      4096 /* lines per worker; then dropped: access_log_dropped_total */
#define ADMIN_BODY_BYTES_MAX  (2 << 20) /* of sluicectl affinity --prompt: 413 */
#define ADMIN_CONNECTIONS_MAX 64	/* one more is closed at once; admin_refused_total */
#define REQUEST_ID_BYTES_MAX  128	/* a longer x-request-id is replaced by ours */
#define WORKERS_MAX	      64	/* more is a configuration error */

#endif
