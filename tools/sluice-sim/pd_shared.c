/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared storage: one store of blocks for all engines of the process. A request with a threshold
 * stops at once when less of its prompt is stored; every other one stores what it computed.
 */
#include <stdlib.h>
#include <string.h>

#include "sluice-sim/pd.h"

#define STORE_SLOTS (1u << 20)

static uint64_t store[STORE_SLOTS];

static uint64_t *slot_of(uint64_t hash)
{
	uint32_t i = (uint32_t)(hash >> 20) % STORE_SLOTS;

	while (store[i] && store[i] != hash)
		i = (i + 1) % STORE_SLOTS;
	return &store[i];
}

static uint32_t stored(const struct seq *s)
{
	uint32_t n = 0;

	while (n < s->chain_count && *slot_of(s->chain[n] | 1))
		n++;
	return n;
}

static void finished(struct conn *c)
{
	for (uint32_t i = 0; i < c->seq->chain_count; i++)
		*slot_of(c->seq->chain[i] | 1) = c->seq->chain[i] | 1;
}

static enum pd_verdict threshold_answer(struct conn *c)
{
	static const char text[] =
		"{\"id\":\"%s\",\"object\":\"chat.completion\",\"model\":\"%s\",\"choices\":[{"
		"\"index\":0,\"%s\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":"
		"\"cache_threshold\"}]}";
	char body[1024];

	c->inst->pd.decodes++;
	snprintf(body, sizeof(body), text, c->id, c->model, c->reply.stream ? "delta" : "message");
	if (c->reply.stream)
		pd_stream_one(c, body);
	else
		reply_json(&c->out, 200, body, c->inst->port, true);
	return PD_ANSWERED;
}

static enum pd_verdict begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *v = json_object_get(body, "cache_hit_threshold");
	double threshold = json_number_value(v);
	uint32_t have = stored(s);

	if (v && (!json_is_number(v) || threshold < 0 || threshold > 1))
		return pd_refuse(c, "cache_hit_threshold is no share");
	if (threshold > 0 && have < threshold * s->chain_count)
		return threshold_answer(c);
	if (s->max_tokens == 1)
		return pd_prefills(c, s, "store");
	s->remote = have && have == s->chain_count;
	return pd_loads(c, s, s->remote);
}

const struct pd_connector pd_shared_storage = {
	.name = "shared-storage", .stores = true, .begin = begin, .finished = finished};
