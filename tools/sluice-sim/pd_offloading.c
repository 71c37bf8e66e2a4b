/* SPDX-License-Identifier: Apache-2.0 */
/* vLLM's offloading connector, both sides: a fetch must come after the store. */
#include <string.h>

#include "sluice-sim/pd.h"

#define OFFLOADING_PORT 7777

static enum pd_verdict begin(struct conn *c, json_t *body, struct seq *s)
{
	json_t *kv = json_object_get(body, "kv_transfer_params");
	json_t *to = json_object_get(kv, "remote_decoder");
	json_t *from = json_object_get(kv, "remote_prefiller");
	const char *id = json_string_value(json_object_get(to ? to : from, "kv_request_id")),
		   *wrong;
	struct pd_hold *h;

	if (!json_is_object(kv))
		return PD_PLAIN;
	if (!id || json_object_size(kv) != 1)
		return pd_refuse(c, "no kv_request_id");
	if (to) {
		wrong = pd_one_token(body);
		if (*wrong)
			return pd_refuse(c, wrong);
		return pd_prefills(c, s, id);
	}
	if (json_integer_value(json_object_get(from, "remote_port")) != OFFLOADING_PORT ||
	    !json_string_value(json_object_get(from, "remote_host")) || json_object_size(from) != 3)
		return pd_refuse(c, "remote_prefiller is not the contract's");
	h = pd_hold_find(NULL, id);
	if (!h)
		return pd_fail(c, "fetched before it was stored");
	return pd_pulls(c, s, h);
}

const struct pd_connector pd_offloading = {.name = "offloading", .stores = true, .begin = begin};
