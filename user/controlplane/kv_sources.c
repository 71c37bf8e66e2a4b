/* SPDX-License-Identifier: Apache-2.0 */
/* vLLM 0.32 answers /kv_event_sources; older ones and other engines have ports by convention. */
#include "controlplane/kv_sources.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* The address without its port: "10.0.0.1", "[::1]". */
static struct span host_of(const struct endpoint *ep)
{
	const char *colon = strrchr(ep->address, ':');

	return span_of(ep->address, colon ? (size_t)(colon - ep->address) : strlen(ep->address));
}

/* A host of * becomes the engine's own. 0 or -EBADMSG. */
static int address_fill(const struct endpoint *ep, const char *text, char *to, size_t size)
{
	struct span host = host_of(ep), rest = span_of_str(text);
	const char *colon;
	int n;

	if (!span_starts_with(rest, SPAN("tcp://")))
		return -EBADMSG;
	colon = strrchr(text, ':');
	rest = span_of(text + 6, colon > text + 6 ? (size_t)(colon - text) - 6 : 0);
	if (colon <= text + 6 || strtoul(colon + 1, NULL, 10) - 1 >= 65535)
		return -EBADMSG;
	if (span_eq(rest, SPAN("*")) || span_eq(rest, SPAN("0.0.0.0")) ||
	    span_eq(rest, SPAN("[::]")))
		n = snprintf(to, size, "tcp://%.*s%s", SPAN_FMT(host), colon);
	else
		n = snprintf(to, size, "%s", text);
	return n > 0 && (size_t)n < size ? 0 : -EBADMSG;
}

int kv_sources_parse(const struct endpoint *ep, const char *text, size_t len,
		     struct kv_source ret[KV_RANKS_MAX])
{
	json_t *root = json_loadb(text, len, 0, NULL), *entry;
	const char *rank;
	int n = 0;

	if (!json_is_object(root)) {
		json_decref(root);
		return -EBADMSG;
	}
	json_object_foreach(root, rank, entry)
	{
		const char *events = json_string_value(json_object_get(entry, "endpoint"));
		const char *replay = json_string_value(json_object_get(entry, "replay_endpoint"));
		const char *topic = json_string_value(json_object_get(entry, "topic"));
		struct kv_source *s = &ret[n];

		if (n == KV_RANKS_MAX) {
			log_warn("%s: events of more than %d ranks are not heard", ep->name,
				 KV_RANKS_MAX);
			break;
		}
		*s = (struct kv_source){.rank = (uint32_t)strtoul(rank, NULL, 10)};
		if (!events || json_is_false(json_object_get(entry, "enable_kv_cache_events")) ||
		    address_fill(ep, events, s->events, sizeof(s->events)))
			continue;
		if (!replay || address_fill(ep, replay, s->replay, sizeof(s->replay)))
			*s->replay = '\0';
		snprintf(s->topic, sizeof(s->topic), "%s", topic ? topic : "");
		n++;
	}
	json_decref(root);
	return n;
}

/* A label that is a port or an address. */
static int label_address(const struct endpoint *ep, const char *text, char *to, size_t size)
{
	char whole[64];

	if (strspn(text, "0123456789") != strlen(text))
		return address_fill(ep, text, to, size);
	snprintf(whole, sizeof(whole), "tcp://*:%.10s", text);
	return address_fill(ep, whole, to, size);
}

int kv_sources_of_labels(const struct endpoint *ep, unsigned int default_port,
			 struct kv_source ret[KV_RANKS_MAX])
{
	const char *events = endpoint_label(ep, "kv-events"),
		   *replay = endpoint_label(ep, "kv-replay"),
		   *topic = endpoint_label(ep, "kv-topic"),
		   *rank = endpoint_label(ep, "data-parallel-rank");
	struct kv_source *s = &ret[0];
	char port[16];

	*s = (struct kv_source){.rank = rank ? (uint32_t)strtoul(rank, NULL, 10) : 0};
	if (events && strcmp(events, "off") == 0)
		return 0;
	if (!events && !default_port)
		return -ENOENT;
	snprintf(port, sizeof(port), "%u", default_port + s->rank);
	if (label_address(ep, events ? events : port, s->events, sizeof(s->events))) {
		log_error("%s: label kv-events=%s is neither off, a port nor tcp://HOST:PORT",
			  ep->name, events ? events : port);
		return 0;
	}
	if (replay && label_address(ep, replay, s->replay, sizeof(s->replay)))
		*s->replay = '\0';
	snprintf(s->topic, sizeof(s->topic), "%s", topic ? topic : "");
	return 1;
}

struct span kv_topic_address(struct span topic)
{
	const char *from = memchr(topic.ptr, '@', topic.len), *to;

	if (!from)
		return span_of(NULL, 0);
	from++;
	to = memchr(from, '@', topic.len - (size_t)(from - topic.ptr));
	return span_of(from, (size_t)((to ? to : topic.ptr + topic.len) - from));
}
