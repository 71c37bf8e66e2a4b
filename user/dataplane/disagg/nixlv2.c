/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vLLM's NIXL connector. The prefill leg asks for one token and keeps its blocks; its answer says
 * where they are. The decode leg is the client's request with those words, byte for byte: unknown
 * members are the engines' affair. The decode engine pulls the blocks and tells the prefill engine,
 * which lets go of them: so a decode of one token is also the way to release them.
 */
#include "dataplane/disagg/disagg.h"

static void prefill(const struct disagg *pd, struct edits *e)
{
	edit_one_token(pd, e);
	edit_params(e, "{\"do_remote_decode\":true,\"do_remote_prefill\":false,"
		       "\"remote_engine_id\":null,\"remote_block_ids\":null,"
		       "\"remote_host\":null,\"remote_port\":null}");
}

static void decode(const struct disagg *pd, struct edits *e)
{
	edit_params_answered(pd, e, "");
}

const struct pd_connector pd_nixlv2 = {
	.name = "nixlv2",
	.order = PD_PREFILL_FIRST,
	.answer_params = true,
	.params_survive = true,
	.releases = true,
	.prefill = prefill,
	.decode = decode,
};
