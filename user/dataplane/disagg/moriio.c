/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's MoRI-IO connector in write mode: the prefill engine pushes its blocks to the decode pod,
 * so it is told beforehand where that is. Its answer goes to the decode leg; what the engine does
 * not echo (transfer id, ports, rank) is put in front of it.
 */
#include <stdio.h>

#include "dataplane/disagg/disagg.h"

#define NOTIFY_PORT    61005
#define HANDSHAKE_PORT 6301

static void pair(struct disagg *pd)
{
	pd_transfer_id(pd, "tx");
}

static void prefill(const struct disagg *pd, struct edits *e)
{
	edit_one_token(pd, e);
	edit_params(e,
		    "{\"do_remote_decode\":true,\"do_remote_prefill\":false,"
		    "\"remote_engine_id\":null,\"remote_block_ids\":null,\"remote_host\":\"%s\","
		    "\"remote_port\":null,\"remote_notify_port\":%d,\"remote_handshake_port\":%d,"
		    "\"remote_dp_rank\":%u,\"transfer_id\":\"%s\",\"tp_size\":1}",
		    pd->decode_host, NOTIFY_PORT, HANDSHAKE_PORT, pd->decode_rank, pd->transfer_id);
}

static void decode(const struct disagg *pd, struct edits *e)
{
	char more[256];
	size_t n = 0;

	if (!pd_params_have(pd, "\"transfer_id\""))
		n += (size_t)snprintf(more + n, sizeof(more) - n, "\"transfer_id\":\"%s\",",
				      pd->transfer_id);
	if (!pd_params_have(pd, "\"remote_notify_port\""))
		n += (size_t)snprintf(more + n, sizeof(more) - n, "\"remote_notify_port\":%d,",
				      NOTIFY_PORT);
	if (!pd_params_have(pd, "\"remote_handshake_port\""))
		n += (size_t)snprintf(more + n, sizeof(more) - n, "\"remote_handshake_port\":%d,",
				      HANDSHAKE_PORT);
	if (!pd_params_have(pd, "\"remote_dp_rank\""))
		n += (size_t)snprintf(more + n, sizeof(more) - n, "\"remote_dp_rank\":%u,",
				      pd->prefill_rank);
	more[n] = '\0';
	edit_params_answered(pd, e, more);
}

const struct pd_connector pd_moriio = {
	.name = "moriio",
	.order = PD_PREFILL_FIRST,
	.answer_params = true,
	.releases = true,
	.pair = pair,
	.prefill = prefill,
	.decode = decode,
};
