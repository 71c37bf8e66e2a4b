/* SPDX-License-Identifier: Apache-2.0 */
/* Every tabled metric, in the order of the exporter. Rows of one name stand together. No guard. */
COUNTER(REQUESTS, "requests_total", "", "Requests whose head was read")
COUNTER(CONNECTIONS, "client_connections_total", "", "Client connections accepted")
COUNTER(CLIENTS_HANDED_OVER, "client_connections_moved_total", "to=\"successor\"",
	"Kept client connections that moved between two processes at an upgrade")
COUNTER(CLIENTS_ADOPTED, "client_connections_moved_total", "to=\"us\"",
	"Kept client connections that moved between two processes at an upgrade")
COUNTER(ACCESS_LOG_LINES, "access_log_lines_total", "", "Lines written to the access log")
COUNTER(ACCESS_LOG_DROPPED, "access_log_dropped_total", "",
	"Requests missing from the access log: full ring or failed write")
COUNTER(ADMIN_REQUESTS, "admin_requests_total", "", "Requests answered on the admin port")
COUNTER(ADMIN_REFUSED, "admin_refused_total", "",
	"Admin connections refused: too many, too slow or malformed")
COUNTER(CLIENT_IDLE_CLOSED, "client_idle_closed_total", "",
	"Kept client connections closed for idleness")
COUNTER(ACCEPT_PAUSED, "accept_paused_total", "",
	"Times that accepting paused: too many connections")
COUNTER(BODY_BUDGET_WAITS, "body_budget_waits_total", "",
	"Bodies left unread for a while: bytes budget used up")
COUNTER(JSON_REFUSED, "json_refused_total", "",
	"Bodies refused: not JSON, or a routing field is wrong")
COUNTER(SPANS_MERGED, "prompt_spans_merged_total", "", "Prompts of more parts than are told apart")
COUNTER(MODEL_REWRITTEN, "model_rewritten_total", "", "Requests whose model name was rewritten")
COUNTER(GATEWAY_FIELDS_STRIPPED, "gateway_fields_stripped_total", "",
	"Bodies from which a gateway-only member was cut")
COUNTER(RETRY_CONNECT, "forward_retries_total", "reason=\"connect\"",
	"Attempts that moved to another endpoint")
COUNTER(RETRY_RESET, "forward_retries_total", "reason=\"reset\"",
	"Attempts that moved to another endpoint")
COUNTER(RETRY_TIMEOUT, "forward_retries_total", "reason=\"timeout\"",
	"Attempts that moved to another endpoint")
COUNTER(RETRY_STATUS, "forward_retries_total", "reason=\"status\"",
	"Attempts that moved to another endpoint")
COUNTER(RETRY_FIRST_EVENT, "forward_retries_total", "reason=\"first-event\"",
	"Attempts that moved to another endpoint")
COUNTER(RETRY_BAD_HEAD, "forward_retries_total", "reason=\"bad-head\"",
	"Attempts that moved to another endpoint")
COUNTER(RETRY_BUDGET_EMPTY, "retry_budget_empty_total", "",
	"Retries not made: too many requests were being retried")
COUNTER(STALE_KEPT, "upstream_stale_total", "", "Kept endpoint connections found closed at reuse")
COUNTER(UPSTREAM_CONNECTS, "upstream_connects_total", "", "Connections opened to endpoints")
COUNTER(STREAM_CUT, "streams_cut_total", "", "Answers that an endpoint did not finish")
COUNTER(STREAM_STALLED, "streams_stalled_total", "",
	"Streams cut: no progress and the endpoint fails its probe")
COUNTER(RELAY_PAUSED, "relay_paused_total", "", "Times that an answer waited for a slow client")
COUNTER(CLIENT_LEFT, "client_left_total", "",
	"Requests whose client left before the answer was whole")
COUNTER(DRAIN_CUT, "drain_cut_total", "", "Requests cut at the end of the drain timeout")
COUNTER(RESPONSES_2XX, "responses_total", "class=\"2xx\"", "Answers sent, by class of status")
COUNTER(RESPONSES_4XX, "responses_total", "class=\"4xx\"", "Answers sent, by class of status")
COUNTER(RESPONSES_5XX, "responses_total", "class=\"5xx\"", "Answers sent, by class of status")
COUNTER(RESPONSES_OTHER, "responses_total", "class=\"other\"", "Answers sent, by class of status")
COUNTER(PROMPT_TOKENS, "prompt_tokens_total", "", "Prompt tokens as the engines reported")
COUNTER(CACHED_TOKENS, "cached_tokens_total", "", "Prompt tokens that the engines found cached")
COUNTER(COMPLETION_TOKENS, "completion_tokens_total", "",
	"Completion tokens as the engines reported")
COUNTER(REFUSED_BAD_START, "http_refused_total", "reason=\"bad-start\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BAD_METHOD, "http_refused_total", "reason=\"bad-method\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BAD_TARGET, "http_refused_total", "reason=\"bad-target\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BAD_VERSION, "http_refused_total", "reason=\"bad-version\"",
	"Requests refused, by reason")
COUNTER(REFUSED_VERSION, "http_refused_total", "reason=\"version\"", "Requests refused, by reason")
COUNTER(REFUSED_BARE_CR, "http_refused_total", "reason=\"bare-cr\"", "Requests refused, by reason")
COUNTER(REFUSED_BARE_LF, "http_refused_total", "reason=\"bare-lf\"", "Requests refused, by reason")
COUNTER(REFUSED_NUL, "http_refused_total", "reason=\"nul\"", "Requests refused, by reason")
COUNTER(REFUSED_OBS_FOLD, "http_refused_total", "reason=\"obs-fold\"",
	"Requests refused, by reason")
COUNTER(REFUSED_SPACE_COLON, "http_refused_total", "reason=\"space-colon\"",
	"Requests refused, by reason")
COUNTER(REFUSED_FIELD_NAME, "http_refused_total", "reason=\"field-name\"",
	"Requests refused, by reason")
COUNTER(REFUSED_FIELD_VALUE, "http_refused_total", "reason=\"field-value\"",
	"Requests refused, by reason")
COUNTER(REFUSED_NO_HOST, "http_refused_total", "reason=\"no-host\"", "Requests refused, by reason")
COUNTER(REFUSED_TWO_HOSTS, "http_refused_total", "reason=\"two-hosts\"",
	"Requests refused, by reason")
COUNTER(REFUSED_TWO_TYPES, "http_refused_total", "reason=\"two-types\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BAD_HOST, "http_refused_total", "reason=\"bad-host\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BOTH_LENGTHS, "http_refused_total", "reason=\"both-lengths\"",
	"Requests refused, by reason")
COUNTER(REFUSED_LENGTH, "http_refused_total", "reason=\"length\"", "Requests refused, by reason")
COUNTER(REFUSED_CODING, "http_refused_total", "reason=\"coding\"", "Requests refused, by reason")
COUNTER(REFUSED_CODING_10, "http_refused_total", "reason=\"coding-10\"",
	"Requests refused, by reason")
COUNTER(REFUSED_CHUNK, "http_refused_total", "reason=\"chunk\"", "Requests refused, by reason")
COUNTER(REFUSED_TRAILERS, "http_refused_total", "reason=\"trailers\"",
	"Requests refused, by reason")
COUNTER(REFUSED_HEAD_BYTES, "http_refused_total", "reason=\"head-bytes\"",
	"Requests refused, by reason")
COUNTER(REFUSED_HEAD_FIELDS, "http_refused_total", "reason=\"head-fields\"",
	"Requests refused, by reason")
COUNTER(REFUSED_TARGET_BYTES, "http_refused_total", "reason=\"target-bytes\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BODY_BYTES, "http_refused_total", "reason=\"body-bytes\"",
	"Requests refused, by reason")
COUNTER(REFUSED_EXPECT, "http_refused_total", "reason=\"expect\"", "Requests refused, by reason")
COUNTER(REFUSED_HEAD_TIMEOUT, "http_refused_total", "reason=\"head-timeout\"",
	"Requests refused, by reason")
COUNTER(REFUSED_BODY_SLOW, "http_refused_total", "reason=\"body-slow\"",
	"Requests refused, by reason")
COUNTER(REFUSED_NO_MEMORY, "http_refused_total", "reason=\"no-memory\"",
	"Requests refused, by reason")
HISTOGRAM(TTFT, "ttft_seconds", "", "From the request's first byte to the first event with content")
HISTOGRAM(GATEWAY, "gateway_seconds", "",
	  "Time of a request inside the gateway: body whole to request sent")
HISTOGRAM(E2E, "request_seconds", "",
	  "From the first byte of the request to the last of its answer")
HISTOGRAM(FLOW_QUEUE, "flow_control_request_queue_duration_seconds", "",
	  "Time of a request between its arrival and its dispatch")
COUNTER(FLOW_DISPATCHED, "flow_control_requests_total", "outcome=\"dispatched\"",
	"Requests that flow control saw, by outcome")
COUNTER(FLOW_SHED, "flow_control_requests_total", "outcome=\"rejected-saturated\"",
	"Requests that flow control saw, by outcome")
COUNTER(FLOW_FULL, "flow_control_requests_total", "outcome=\"rejected-full\"",
	"Requests that flow control saw, by outcome")
COUNTER(FLOW_EXPIRED, "flow_control_requests_total", "outcome=\"rejected-ttl-expired\"",
	"Requests that flow control saw, by outcome")
COUNTER(FLOW_LEFT, "flow_control_requests_total", "outcome=\"rejected-context-cancelled\"",
	"Requests that flow control saw, by outcome")
COUNTER(FLOW_SHUTDOWN, "flow_control_requests_total", "outcome=\"rejected-shutting-down\"",
	"Requests that flow control saw, by outcome")
COUNTER(FLOW_EVICTED, "flow_control_requests_total", "outcome=\"evicted\"",
	"Requests that flow control saw, by outcome")
HISTOGRAM(PICK, "pick_seconds", "", "Time of one scheduling decision")
COUNTER(ENDPOINTS_REFUSED, "endpoints_refused_total", "", "Endpoints beyond ENDPOINTS_MAX")
COUNTER(MODELS_REFUSED, "models_refused_total", "", "Models and adapters beyond MODELS_MAX")
COUNTER(ENDPOINT_RESTARTS, "endpoint_restarts_total", "", "Engines seen to have restarted")
COUNTER(LABEL_VALUES_CAPPED, "label_values_capped_total", "",
	"Requests counted under \"other\": too many models")
COUNTER(PICKED, "picks_total", "result=\"picked\"", "Scheduling decisions")
COUNTER(PICK_FAILED, "picks_total", "result=\"nobody\"", "Scheduling decisions")
COUNTER(SNAPSHOTS, "snapshots_total", "", "Endpoint snapshots published")
COUNTER(BREAKER_OPENED, "breaker_opened_total", "", "Times that an endpoint's circuit opened")
COUNTER(SOURCE_REFUSED, "endpoints_file_refused_total", "",
	"Endpoint files refused; the old stayed")
COUNTER(DNS_FAILED, "dns_failed_total", "", "Endpoint names that did not resolve")
COUNTER(SCRAPES, "scrapes_total", "", "Metrics pages read whole")
COUNTER(SCRAPE_TOO_LARGE, "scrape_failed_total", "reason=\"too-large\"", "Metrics pages given up")
COUNTER(SCRAPE_STALL, "scrape_failed_total", "reason=\"stall\"", "Metrics pages given up")
COUNTER(SCRAPE_CONNECT, "scrape_failed_total", "reason=\"connect\"", "Metrics pages given up")
COUNTER(SCRAPE_CLOSED, "scrape_failed_total", "reason=\"closed\"", "Metrics pages given up")
COUNTER(SCRAPE_STATUS, "scrape_failed_total", "reason=\"status\"", "Metrics pages given up")
COUNTER(SCRAPE_MALFORMED, "scrape_failed_total", "reason=\"malformed\"", "Metrics pages given up")
COUNTER(PROBES, "probes_total", "", "Answers to /health probes")
COUNTER(PROBES_FAILED, "probes_failed_total", "", "Probes refused, timed out or answered 5xx")
COUNTER(MODELS_FAILED, "models_failed_total", "", "Answers to /v1/models that could not be used")
COUNTER(AFFINITY_REFUSED, "affinity_refused_total", "",
	"Blocks not learned: no room near their place")
COUNTER(PD_DECISION_ALWAYS, "disagg_decision_total", "kind=\"prefill-decode\",reason=\"always\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_UNCACHED, "disagg_decision_total",
	"kind=\"prefill-decode\",reason=\"uncached\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_MEDIA, "disagg_decision_total", "kind=\"prefill-decode\",reason=\"media\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_GAIN, "disagg_decision_total", "kind=\"prefill-decode\",reason=\"gain\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_NEVER, "disagg_decision_total", "kind=\"decode-only\",reason=\"never\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_CACHED, "disagg_decision_total", "kind=\"decode-only\",reason=\"cached\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_SHORT, "disagg_decision_total", "kind=\"decode-only\",reason=\"short\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_NO_MEDIA, "disagg_decision_total", "kind=\"decode-only\",reason=\"no-media\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_NO_GAIN, "disagg_decision_total", "kind=\"decode-only\",reason=\"no-gain\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_DECISION_NO_PREFILL, "disagg_decision_total",
	"kind=\"decode-only\",reason=\"no-prefill-pod\"",
	"Requests asked of the decider, by its answer")
COUNTER(PD_PREFILL_REFUSED, "pd_leg_failures_total", "leg=\"prefill\",cause=\"refused\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_RESET, "pd_leg_failures_total", "leg=\"prefill\",cause=\"reset\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_TIMEOUT, "pd_leg_failures_total", "leg=\"prefill\",cause=\"timeout\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_STATUS, "pd_leg_failures_total", "leg=\"prefill\",cause=\"status\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_NO_PARAMS, "pd_leg_failures_total", "leg=\"prefill\",cause=\"no-params\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_TOO_LARGE, "pd_leg_failures_total", "leg=\"prefill\",cause=\"too-large\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_MALFORMED, "pd_leg_failures_total", "leg=\"prefill\",cause=\"malformed\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_NO_MEMORY, "pd_leg_failures_total", "leg=\"prefill\",cause=\"no-memory\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_TRANSFER, "pd_leg_failures_total", "leg=\"prefill\",cause=\"transfer\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_PREFILL_NO_POD, "pd_leg_failures_total", "leg=\"prefill\",cause=\"no-pod\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_REFUSED, "pd_leg_failures_total", "leg=\"decode\",cause=\"refused\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_RESET, "pd_leg_failures_total", "leg=\"decode\",cause=\"reset\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_TIMEOUT, "pd_leg_failures_total", "leg=\"decode\",cause=\"timeout\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_STATUS, "pd_leg_failures_total", "leg=\"decode\",cause=\"status\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_NO_PARAMS, "pd_leg_failures_total", "leg=\"decode\",cause=\"no-params\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_TOO_LARGE, "pd_leg_failures_total", "leg=\"decode\",cause=\"too-large\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_MALFORMED, "pd_leg_failures_total", "leg=\"decode\",cause=\"malformed\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_NO_MEMORY, "pd_leg_failures_total", "leg=\"decode\",cause=\"no-memory\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_TRANSFER, "pd_leg_failures_total", "leg=\"decode\",cause=\"transfer\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_DECODE_NO_POD, "pd_leg_failures_total", "leg=\"decode\",cause=\"no-pod\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_REFUSED, "pd_leg_failures_total", "leg=\"encode\",cause=\"refused\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_RESET, "pd_leg_failures_total", "leg=\"encode\",cause=\"reset\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_TIMEOUT, "pd_leg_failures_total", "leg=\"encode\",cause=\"timeout\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_STATUS, "pd_leg_failures_total", "leg=\"encode\",cause=\"status\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_NO_PARAMS, "pd_leg_failures_total", "leg=\"encode\",cause=\"no-params\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_TOO_LARGE, "pd_leg_failures_total", "leg=\"encode\",cause=\"too-large\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_MALFORMED, "pd_leg_failures_total", "leg=\"encode\",cause=\"malformed\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_NO_MEMORY, "pd_leg_failures_total", "leg=\"encode\",cause=\"no-memory\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_TRANSFER, "pd_leg_failures_total", "leg=\"encode\",cause=\"transfer\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ENCODE_NO_POD, "pd_leg_failures_total", "leg=\"encode\",cause=\"no-pod\"",
	"Legs of disaggregated requests that failed, by cause")
COUNTER(PD_ALONE_REFUSED, "pd_fallbacks_total", "to=\"decode-only\",cause=\"refused\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_RESET, "pd_fallbacks_total", "to=\"decode-only\",cause=\"reset\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_TIMEOUT, "pd_fallbacks_total", "to=\"decode-only\",cause=\"timeout\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_STATUS, "pd_fallbacks_total", "to=\"decode-only\",cause=\"status\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_NO_PARAMS, "pd_fallbacks_total", "to=\"decode-only\",cause=\"no-params\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_TOO_LARGE, "pd_fallbacks_total", "to=\"decode-only\",cause=\"too-large\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_MALFORMED, "pd_fallbacks_total", "to=\"decode-only\",cause=\"malformed\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_NO_MEMORY, "pd_fallbacks_total", "to=\"decode-only\",cause=\"no-memory\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_TRANSFER, "pd_fallbacks_total", "to=\"decode-only\",cause=\"transfer\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ALONE_NO_POD, "pd_fallbacks_total", "to=\"decode-only\",cause=\"no-pod\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ANOTHER_PREFILL, "pd_fallbacks_total", "to=\"another-prefill\",cause=\"\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_ANOTHER_DECODE, "pd_fallbacks_total", "to=\"another-decode\",cause=\"\"",
	"Disaggregated requests that went another way, by cause of the last failure")
COUNTER(PD_REQUESTS, "pd_requests_total", "", "Requests whose prefill leg was begun")
COUNTER(PD_CLIENT_ERRORS, "pd_prefill_client_errors_total", "",
	"Prefill legs that ended with a 4xx: the client's fault, its answer")
COUNTER(PD_LEFT, "pd_left_total", "",
	"Clients that left while a prefill ran or held blocks for them")
COUNTER(PD_RELEASED, "pd_releases_total", "result=\"done\"",
	"Blocks given up for clients that left, by a decode of one token")
COUNTER(PD_RELEASE_FAILED, "pd_releases_total", "result=\"failed\"",
	"Blocks given up for clients that left, by a decode of one token")
COUNTER(PD_ALONE_SHED, "pd_alone_shed_total", "",
	"Requests refused: no prefill, and --pd-alone-percent of the others went without one "
	"already")
COUNTER(PD_HEADER_IGNORED, "pd_header_ignored_total", "",
	"x-prefiller-host-port that named no allowed endpoint")
COUNTER(PD_STRANDED, "pd_stranded_total", "",
	"Prefills whose blocks the decode engine may not have pulled: theirs to time out")
COUNTER(PD_ENCODE_LEFT, "pd_encode_left_total", "",
	"Media parts beyond PD_ENCODE_PARTS_MAX, left to the next leg")
HISTOGRAM(PD_ENCODE, "pd_encode_seconds", "", "Encode legs, from their start to the whole answer")
HISTOGRAM(PD_PREFILL, "pd_prefill_seconds", "",
	  "Prefill legs, from their start to the whole answer")
HISTOGRAM(PD_DECODE, "pd_decode_seconds", "", "Decode legs, from their start to their end")
HISTOGRAM(PD_TRANSFER, "pd_transfer_seconds", "",
	  "As seen from outside: decode leg sent to its first content")
HISTOGRAM(PD_HOP, "pd_hop_seconds", "",
	  "Inside the gateway: prefill answer whole to decode request sent")
COUNTER(KV_MESSAGES, "kv_event_messages_total", "", "Messages of engines about their KV caches")
COUNTER(KV_STORED, "kv_events_blocks_total", "event=\"stored\"", "Blocks that events named")
COUNTER(KV_REMOVED, "kv_events_blocks_total", "event=\"removed\"", "Blocks that events named")
COUNTER(KV_LOADS, "kv_event_loads_total", "", "Loads that engines pushed")
COUNTER(KV_REFUSED_MALFORMED, "kv_events_refused_total", "reason=\"malformed\"",
	"Messages and events about KV caches that were refused")
COUNTER(KV_REFUSED_TOO_LARGE, "kv_events_refused_total", "reason=\"too-large\"",
	"Messages and events about KV caches that were refused")
COUNTER(KV_REFUSED_SHAPE, "kv_events_refused_total", "reason=\"shape\"",
	"Messages and events about KV caches that were refused")
COUNTER(KV_REFUSED_COUNTS, "kv_events_refused_total", "reason=\"counts\"",
	"Messages and events about KV caches that were refused")
COUNTER(KV_REFUSED_UNKNOWN, "kv_events_refused_total", "reason=\"unknown\"",
	"Messages and events about KV caches that were refused")
COUNTER(KV_ORPHANS, "kv_orphans_total", "", "Blocks behind one that was never seen")
COUNTER(KV_NO_ROOM, "kv_no_room_total", "", "Blocks that the precise index had no room for")
COUNTER(KV_UNKNOWN_TOKENS, "kv_unknown_tokens_total", "",
	"Blocks whose tokens the vocabulary cannot turn into text")
COUNTER(KV_GAPS, "kv_event_gaps_total", "", "Times that messages of an engine were missing")
COUNTER(KV_REPLAYS, "kv_event_replays_total", "", "Replays asked for")
COUNTER(KV_REPLAYED, "kv_event_replayed_messages_total", "", "Messages that replays brought")
COUNTER(KV_FORGOTTEN, "kv_event_forgotten_total", "",
	"Times that all blocks of an engine were forgotten")
COUNTER(KV_LATE, "kv_event_late_total", "", "Messages that came twice or too late")
COUNTER(KV_SOURCES_REFUSED, "kv_sources_refused_total", "", "Event sockets beyond KV_SOURCES_MAX")
COUNTER(KV_PROMPTS_EXACT, "kv_prompts_total", "match=\"precise\"",
	"Prompts by how their cached part was found")
COUNTER(KV_PROMPTS_CUT, "kv_prompts_total", "match=\"partial\"",
	"Prompts by how their cached part was found")
COUNTER(KV_PROMPTS_UNKNOWN, "kv_prompts_total", "match=\"approximate\"",
	"Prompts by how their cached part was found")
COUNTER(KV_GLUES_REFUSED, "kv_glues_refused_total", "", "Template pieces beyond KV_GLUES_MAX")
COUNTER(KV_GLUES_LEARNED, "kv_glues_learned_total", "", "Template pieces learned from engines")
COUNTER(KV_PIECES_LEARNED, "kv_pieces_learned_total", "",
	"Messages that no glue covers, as an engine rendered them")
COUNTER(KV_PIECES_REFUSED, "kv_pieces_refused_total", "",
	"Such messages that were too long, or too many at a time, to be asked for")
COUNTER(KV_CONTRADICTED, "kv_templates_contradicted_total", "",
	"Models whose answers contradict what was learned of their template")
COUNTER(STEER_BYTES, "steer_bytes_total", "",
	"Bytes of answers that went straight from the endpoint's socket to the client's")
COUNTER(STEER_OUT_OF_CREDIT, "steer_out_of_credit_total", "",
	"Times that a steered answer was relayed for a while: its client read too slowly")
COUNTER(PATH_RELAY, "path_total", "path=\"relay\"",
	"Answers of endpoints, by the way their bytes took")
COUNTER(PATH_STEER, "path_total", "path=\"steer\"",
	"Answers of endpoints, by the way their bytes took")
COUNTER(PATH_SPLICE, "path_total", "path=\"splice\"",
	"Answers of endpoints, by the way their bytes took")
#define REFUSAL(id, name, text)                                                                    \
	COUNTER(PATH_STEER_##id, "path_refused_total", "path=\"steer\",reason=\"" name "\"",       \
		"Flows that did not take a kernel path, by reason")
#include "base/path_refusals.h"
#undef REFUSAL
#define REFUSAL(id, name, text)                                                                    \
	COUNTER(PATH_SPLICE_##id, "path_refused_total", "path=\"splice\",reason=\"" name "\"",     \
		"Flows that did not take a kernel path, by reason")
#include "base/path_refusals.h"
#undef REFUSAL
COUNTER(FLOWS_LATE, "flows_late_bytes_total", "",
	"Handovers taken back because bytes turned up late; they were made again")
COUNTER(FLOWS_IDLE, "flows_idle_total", "", "Spliced flows given up for idleness")
COUNTER(FLOWS_ADOPTED, "flows_adopted_total", "",
	"Spliced flows of an earlier agent whose account was closed here")
COUNTER(FLOWS_MISSED, "flows_missed_total", "",
	"Ends of spliced flows found in the map: their event was lost")
COUNTER(FLOWS_FORGED, "flows_reopened_total", "",
	"Spliced flows that went on after an RST, which was no end then")
