/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's offloading connector. The prefill stores its blocks in its own tier under an id of ours;
 * the decode fetches them there. The first leg ends before the second starts: a fetch that comes
 * too early waits out its deadline. What is never fetched is evicted, so nothing is stranded.
 */
#include "dataplane/disagg/disagg.h"

#define OFFLOADING_PORT 7777 /* of rank 0 */

static void pair(struct disagg *pd)
{
	pd_transfer_id(pd, "kv-");
}

static void prefill(const struct disagg *pd, struct edits *e)
{
	edit_one_token(pd, e);
	edit_params(e, "{\"remote_decoder\":{\"kv_request_id\":\"%s\"}}", pd->transfer_id);
}

static void decode(const struct disagg *pd, struct edits *e)
{
	edit_params(e,
		    "{\"remote_prefiller\":{\"kv_request_id\":\"%s\",\"remote_host\":\"%s\","
		    "\"remote_port\":%u}}",
		    pd->transfer_id, pd->prefill_host, OFFLOADING_PORT + pd->prefill_rank);
}

const struct pd_connector pd_offloading = {
	.name = "offloading",
	.order = PD_PREFILL_FIRST,
	.params_survive = true,
	.pair = pair,
	.prefill = prefill,
	.decode = decode,
};
