/* SPDX-License-Identifier: Apache-2.0 */
/* vLLM's Mooncake connector, both sides: they meet by transfer id; each engine's own port is its
 * bootstrap server and answers GET /query. */
#include <stdio.h>
#include <string.h>

#include "sluice-sim/pd.h"

static enum pd_verdict prefill(struct conn *c, json_t *body, const char *id, size_t members,
			       struct seq *s)
{
	const char *wrong = pd_one_token(body);

	if (*wrong)
		return pd_refuse(c, wrong);
	if (members != 3)
		return pd_refuse(c, "a prefill leg has three parameters");
	if (pd_hold_find(c->inst, id))
		return pd_refuse(c, "this transfer id is taken");
	return pd_prefills(c, s, id);
}

static enum pd_verdict decode(struct conn *c, json_t *kv, const char *id, struct seq *s)
{
	const char *addr = json_string_value(json_object_get(kv, "remote_bootstrap_addr"));
	const char *engine = json_string_value(json_object_get(kv, "remote_engine_id"));
	unsigned int at = 0, port = 0;

	if (!addr || !engine || json_object_size(kv) != 5)
		return pd_refuse(c, "a decode leg has five parameters");
	if (sscanf(addr, "http://127.0.0.1:%u", &at) != 1 ||
	    sscanf(engine, "sim-engine-%u", &port) != 1 || at != port || !pd_instance(port))
		return pd_fail(c, "unknown engine");
	return pd_meets(c, s, pd_instance(port), id);
}

static enum pd_verdict begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *kv = json_object_get(body, "kv_transfer_params");
	const char *id = json_string_value(json_object_get(kv, "transfer_id"));

	if (!json_is_object(kv))
		return PD_PLAIN;
	if (!id || strncmp(id, "xfer-", 5) != 0)
		return pd_refuse(c, "no transfer_id");
	if (json_is_true(json_object_get(kv, "do_remote_decode")) &&
	    json_is_false(json_object_get(kv, "do_remote_prefill")))
		return prefill(c, body, id, json_object_size(kv), s);
	if (json_is_true(json_object_get(kv, "do_remote_prefill")) &&
	    json_is_false(json_object_get(kv, "do_remote_decode")))
		return decode(c, kv, id, s);
	return pd_refuse(c, "neither a prefill nor a decode leg");
}

const struct pd_connector pd_mooncake = {.name = "mooncake", .meets = true, .begin = begin};
