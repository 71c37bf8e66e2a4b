/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SGLang's disaggregation, both sides: bodies must be the same, rooms must meet. Which side an
 * engine is follows from the bootstrap port: here each engine's own port is its bootstrap server.
 */
#include <stdio.h>
#include <string.h>

#include "common/sim_text.h"
#include "sluice-sim/pd.h"

static enum pd_verdict begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *host = json_object_get(body, "bootstrap_host");
	json_t *port = json_object_get(body, "bootstrap_port");
	json_t *room = json_object_get(body, "bootstrap_room");
	struct instance *prefiller;
	char key[96], *text;
	uint64_t hash;

	if (!host && !port && !room)
		return PD_PLAIN;
	if (!json_is_string(host) || !json_is_integer(port) || !json_is_integer(room) ||
	    json_integer_value(room) < 0)
		return pd_refuse(c, "bootstrap members are missing or of a wrong type");
	prefiller = pd_instance((unsigned int)json_integer_value(port));
	if (!prefiller || strcmp(json_string_value(host), "127.0.0.1") != 0)
		return pd_fail(c, "no bootstrap server there");
	text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
	hash = sim_prompt_hash(text, strlen(text)); /* another body: another key, they never meet */
	free(text);
	snprintf(key, sizeof(key), "%lld-%016llx", (long long)json_integer_value(room),
		 (unsigned long long)hash);
	if (prefiller != c->inst)
		return pd_meets(c, s, prefiller, key);
	s->max_tokens = c->reply.max_tokens = 1;
	if (pd_hold_find(c->inst, key))
		return pd_refuse(c, "this room is taken");
	return pd_prefills(c, s, key);
}

const struct pd_connector pd_sglang = {.name = "sglang", .meets = true, .begin = begin};
