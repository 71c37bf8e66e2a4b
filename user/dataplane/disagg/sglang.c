/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SGLang: both legs carry the client's request and the same three members. They start at once and
 * meet in the room, a random number, at the prefill pod's bootstrap server. What the prefill leg
 * answers is dropped; that it answered is what counts.
 */
#include "dataplane/disagg/disagg.h"

static void pair(struct disagg *pd)
{
	pd->room = pd_random(pd->worker) >> 1; /* 63 bits */
}

static void members(const struct disagg *pd, struct edits *e)
{
	edit_add(e, "bootstrap_host", "\"%s\"", pd->prefill_host);
	edit_add(e, "bootstrap_port", "%u", pd_bootstrap_port(pd));
	edit_add(e, "bootstrap_room", "%llu", (unsigned long long)pd->room);
}

const struct pd_connector pd_sglang = {
	.name = "sglang",
	.order = PD_AT_ONCE,
	.pair = pair,
	.prefill = members,
	.decode = members,
};
