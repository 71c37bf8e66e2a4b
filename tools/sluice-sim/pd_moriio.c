/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's MoRI-IO connector in write mode, both sides. The prefill engine needs to know where to
 * push; the decode engine needs what it echoed and what it did not.
 */
#include <stdio.h>
#include <string.h>

#include "sluice-sim/pd.h"

static bool ports_right(json_t *kv)
{
	return json_integer_value(json_object_get(kv, "remote_notify_port")) == 61005 &&
	       json_integer_value(json_object_get(kv, "remote_handshake_port")) == 6301 &&
	       json_is_integer(json_object_get(kv, "remote_dp_rank"));
}

static enum pd_verdict prefill(struct conn *c, json_t *body, json_t *kv, const char *id,
			       struct seq *s)
{
	const char *wrong = pd_one_token(body);

	if (*wrong)
		return pd_refuse(c, wrong);
	if (!ports_right(kv) || !json_is_integer(json_object_get(kv, "tp_size")) ||
	    !json_is_string(json_object_get(kv, "remote_host")))
		return pd_refuse(c, "it does not say where to push");
	return pd_prefills(c, s, id);
}

static enum pd_verdict decode(struct conn *c, json_t *kv, const char *id, struct seq *s)
{
	struct pd_hold *h = pd_hold_find(NULL, id);
	const char *name;
	json_t *value;

	if (!ports_right(kv))
		return pd_fail(c, "remote_notify_port and its kin are missing");
	if (!h)
		return pd_fail(c, "unknown transfer");
	json_object_foreach(h->params, name, value)
	{
		if (!json_equal(value, json_object_get(kv, name)))
			return pd_fail(c, "the parameters were altered");
	}
	if (h->reader)
		return pd_fail(c, "these blocks are being read already");
	return pd_pulls(c, s, h);
}

static enum pd_verdict begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *kv = json_object_get(body, "kv_transfer_params");
	const char *id = json_string_value(json_object_get(kv, "transfer_id"));

	if (!json_is_object(kv))
		return PD_PLAIN;
	if (!id || strncmp(id, "tx", 2) != 0)
		return pd_refuse(c, "no transfer_id with tx");
	return json_is_true(json_object_get(kv, "do_remote_decode")) ? prefill(c, body, kv, id, s)
								     : decode(c, kv, id, s);
}

static json_t *params(const struct conn *c, const struct pd_hold *h)
{
	char engine[32];

	snprintf(engine, sizeof(engine), "127.0.0.1:%u", c->inst->port);
	return json_pack("{s:b,s:b,s:[i],s:s,s:s,s:i,s:i}", "do_remote_prefill", 1,
			 "do_remote_decode", 0, "remote_block_ids", (int)h->blocks,
			 "remote_engine_id", engine, "remote_host", "127.0.0.1", "remote_port",
			 6301, "tp_size", 1);
}

const struct pd_connector pd_moriio = {.name = "moriio", .begin = begin, .params = params};
