/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The encode side of a pod, and what the next leg does with its words. A request of one message
 * with one media part, one token, not streamed, is an encode leg; it answers under which handle the
 * embedding lies. Any other request with media is expected to name handles that exist; what it does
 * not name it encodes itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/sim_text.h"
#include "sluice-sim/pd.h"

#define HANDLES_MAX 65536

static uint64_t handles[HANDLES_MAX]; /* of embeddings that some encode pod holds */

static bool is_media(json_t *part)
{
	const char *type = json_string_value(json_object_get(part, "type"));

	return type && (strstr(type, "image") || strstr(type, "audio") || strstr(type, "video"));
}

static uint64_t handle_of(json_t *part)
{
	char *text = json_dumps(part, JSON_COMPACT | JSON_SORT_KEYS);
	uint64_t hash = sim_prompt_hash(text, strlen(text)) | 1;

	free(text);
	return hash;
}

static json_t *messages_of(json_t *body)
{
	json_t *m = json_object_get(body, "messages");

	return m ? m : json_object_get(body, "input");
}

static json_t *only_part(json_t *body)
{
	json_t *messages = messages_of(body);
	json_t *content = json_object_get(json_array_get(messages, 0), "content");

	if (json_array_size(messages) != 1 || json_array_size(content) != 1 ||
	    !json_is_false(json_object_get(body, "stream")))
		return NULL;
	return is_media(json_array_get(content, 0)) ? json_array_get(content, 0) : NULL;
}

static bool encodes(struct conn *c, json_t *body, struct seq *s)
{
	json_t *part = only_part(body);
	uint64_t handle;

	if (!part || s->max_tokens != 1 || json_object_get(body, "kv_transfer_params") ||
	    json_object_size(body) != 4)
		return false;
	handle = handle_of(part);
	handles[handle % HANDLES_MAX] = handle;
	c->inst->pd.encodes++;
	if (asprintf(&c->reply.ec_params,
		     "{\"%016llx\":{\"peer_host\":\"127.0.0.1\",\"peer_port\":%u,\"size_bytes\":%u,"
		     "\"sim\":\"\\u00e9 kept\"}}",
		     (unsigned long long)handle, c->inst->port, 4096) < 0)
		c->reply.ec_params = NULL;
	return true;
}

enum pd_verdict pd_encode_begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *ec = json_object_get(body, "ec_transfer_params"), *message, *part, *value;
	size_t i, j, named = 0;
	const char *key;

	if (encodes(c, body, s))
		return pd_loads_nothing(c);
	json_object_foreach(ec, key, value)
	{
		uint64_t handle = strtoull(key, NULL, 16);

		if (handles[handle % HANDLES_MAX] != handle ||
		    !json_is_integer(json_object_get(value, "peer_port")) ||
		    strcmp(json_string_value(json_object_get(value, "sim")), "\u00e9 kept") != 0)
			return pd_fail(c, "no such embedding");
	}
	json_array_foreach(messages_of(body), i, message)
	{
		json_array_foreach(json_object_get(message, "content"), j, part)
		{
			char name[24];

			if (!is_media(part))
				continue;
			snprintf(name, sizeof(name), "%016llx",
				 (unsigned long long)handle_of(part));
			if (json_object_get(ec, name))
				named++;
			else
				c->inst->pd.encoded_here++;
		}
	}
	if (named != json_object_size(ec))
		return pd_fail(c, "embeddings of other parts");
	c->inst->pd.ec_used += named;
	return PD_PLAIN;
}
