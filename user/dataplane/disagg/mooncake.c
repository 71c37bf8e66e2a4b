/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's Mooncake connector. The prefill pod's bootstrap server tells its engine's id once; then
 * both legs start at once and meet by a transfer id. Nothing of the prefill's answer is used.
 */
#include <stdio.h>

#include "dataplane/disagg/disagg.h"

static void pair(struct disagg *pd)
{
	pd_transfer_id(pd, "xfer-");
}

static void prefill(const struct disagg *pd, struct edits *e)
{
	edit_one_token(pd, e);
	edit_params(e,
		    "{\"do_remote_decode\":true,\"do_remote_prefill\":false,"
		    "\"transfer_id\":\"%s\"}",
		    pd->transfer_id);
}

static void decode(const struct disagg *pd, struct edits *e)
{
	edit_params(e,
		    "{\"do_remote_decode\":false,\"do_remote_prefill\":true,"
		    "\"transfer_id\":\"%s\",\"remote_bootstrap_addr\":\"http://%s:%u\","
		    "\"remote_engine_id\":\"%s\"}",
		    pd->transfer_id, pd->prefill_url_host, pd_bootstrap_port(pd), pd->engine_id);
}

const struct pd_connector pd_mooncake = {
	.name = "mooncake",
	.order = PD_AT_ONCE,
	.queries = true,
	.pair = pair,
	.prefill = prefill,
	.decode = decode,
};
