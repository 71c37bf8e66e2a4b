/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's NIXL connector, both sides. The decode side knows what the prefill side answered and takes
 * nothing else: every member, in any order, with its value. What a real engine does with parameters
 * that lead nowhere is a 500 (or that as its first event); with a bare do_remote_prefill it dies.
 */
#include <stdio.h>
#include <string.h>

#include "sluice-sim/pd.h"

static bool is_null(json_t *o, const char *name)
{
	return json_is_null(json_object_get(o, name));
}

static enum pd_verdict prefill(struct conn *c, json_t *body, json_t *kv, struct seq *s)
{
	const char *wrong = pd_one_token(body);
	char key[96];

	if (*wrong)
		return pd_refuse(c, wrong);
	if (!json_is_false(json_object_get(kv, "do_remote_prefill")) ||
	    !is_null(kv, "remote_engine_id") || !is_null(kv, "remote_block_ids") ||
	    !is_null(kv, "remote_host") || !is_null(kv, "remote_port") || json_object_size(kv) != 6)
		return pd_refuse(c, "a prefill leg's kv_transfer_params are not the contract's");
	snprintf(key, sizeof(key), "%s-%08x", c->id, c->inst->pd.next_id++);
	return pd_prefills(c, s, key);
}

static enum pd_verdict decode(struct conn *c, json_t *kv, struct seq *s)
{
	const char *key = json_string_value(json_object_get(kv, "remote_request_id"));
	const char *engine = json_string_value(json_object_get(kv, "remote_engine_id"));
	unsigned int port = 0;
	struct pd_hold *h;

	if (!key || !engine) {
		c->inst->pd.refused++;
		return pd_fail(c, "parameters are missing: a real engine would have died");
	}
	if (sscanf(engine, "sim-engine-%u", &port) != 1 || !pd_instance(port))
		return pd_fail(c, "unknown engine");
	h = pd_hold_find(pd_instance(port), key);
	if (!h)
		return pd_fail(c, "unknown block ids");
	if (!json_equal(h->params, kv)) {
		c->inst->pd.refused++;
		return pd_fail(c, "the parameters were altered");
	}
	if (h->reader)
		return pd_fail(c, "these blocks are being pulled already");
	c->reply.remote_cached =
		(uint32_t)json_integer_value(json_object_get(kv, "remote_prefill_cached_tokens"));
	return pd_pulls(c, s, h);
}

static enum pd_verdict begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *kv = json_object_get(body, "kv_transfer_params");

	if (!json_is_object(kv))
		return PD_PLAIN;
	if (json_is_true(json_object_get(kv, "do_remote_decode")))
		return prefill(c, body, kv, s);
	if (json_is_true(json_object_get(kv, "do_remote_prefill")))
		return decode(c, kv, s);
	return pd_refuse(c, "kv_transfer_params of another connector");
}

static json_t *params(const struct conn *c, const struct pd_hold *h)
{
	json_t *ids = json_array(), *kv;
	char engine[32];

	snprintf(engine, sizeof(engine), "sim-engine-%u", c->inst->port);
	for (uint32_t i = 0; i < h->blocks; i++)
		json_array_append_new(ids, json_integer(c->inst->pd.next_id * 7 + i));
	/* A null and a member that no document names: all of it has to travel. */
	kv = json_pack("{s:b,s:b,s:[o],s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:n,s:s,s:i,s:s}",
		       "do_remote_prefill", 1, "do_remote_decode", 0, "remote_block_ids", ids,
		       "remote_engine_id", engine, "remote_request_id", h->key, "remote_host",
		       "127.0.0.1", "remote_port", 5600, "tp_size", 1, "dcp_size", 1, "pp_size", 1,
		       "remote_num_tokens", (int)h->tokens, "remote_blocks_expiry_time",
		       "transfer_mode", "pull", "remote_prefill_cached_tokens",
		       (int)c->reply.cached_tokens, "sim_unknown", "\u00e9 \"quoted\" \\ kept");
	return kv;
}

const struct pd_connector pd_nixlv2 = {.name = "nixlv2", .begin = begin, .params = params};
