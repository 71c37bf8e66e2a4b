/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an engine tells of its KV cache: from its own GET /kv_event_sources, from the endpoint's
 * labels, or by the port convention. Pure functions.
 */
#ifndef SLUICE_CONTROLPLANE_KV_SOURCES_H
#define SLUICE_CONTROLPLANE_KV_SOURCES_H

#include "base/endpoint.h"

#define KV_RANKS_MAX 16 /* sources of one endpoint; further ranks are not heard, logged */

struct kv_source {
	uint32_t rank;
	char events[160]; /* "tcp://10.0.0.1:5557" */
	char replay[160]; /* "": none */
	char topic[160];
};

/*
 * {"0": {"endpoint": "tcp://HOST:5557", "replay_endpoint", "topic", "enable_kv_cache_events"}, …}.
 * A HOST of * or 0.0.0.0 means the engine's own. Returns how many (0: events are off), or
 * -EBADMSG.
 */
int kv_sources_parse(const struct endpoint *ep, const char *json, size_t len,
		     struct kv_source ret[KV_RANKS_MAX]);

/*
 * Labels kv-events ("off", PORT or "tcp://…"), kv-replay, kv-topic, data-parallel-rank; without
 * them default_port (+ rank), 0: none. Returns how many: 0 or 1. -ENOENT: nothing is said (ask
 * the engine).
 */
int kv_sources_of_labels(const struct endpoint *ep, unsigned int default_port,
			 struct kv_source ret[KV_RANKS_MAX]);

/* The endpoint address within a topic "kv@ip:port@model"; len 0: none. */
struct span kv_topic_address(struct span topic);

#endif
