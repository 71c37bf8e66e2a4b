/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared storage: every engine can load what another has stored. The decode pod is asked first,
 * with a threshold: if it has less of the prompt than that, it stops at once and says so; only then
 * a prefill pod computes and stores it, and the decode pod is asked again, with threshold 0.
 */
#include "dataplane/disagg/disagg.h"

static void probe(const struct disagg *pd, struct edits *e)
{
	if (!pd->req->says.members[OPENAI_CACHE_HIT_THRESHOLD].end)
		edit_set(e, OPENAI_CACHE_HIT_THRESHOLD, "0.8");
}

static void prefill(const struct disagg *pd, struct edits *e)
{
	edit_one_token(pd, e);
	edit_set(e, OPENAI_CACHE_HIT_THRESHOLD, "0");
}

static void decode(const struct disagg *pd, struct edits *e)
{
	(void)pd;
	edit_set(e, OPENAI_CACHE_HIT_THRESHOLD, "0");
}

const struct pd_connector pd_shared_storage = {
	.name = "shared-storage",
	.order = PD_DECODE_FIRST,
	.params_survive = true,
	.probe = probe,
	.prefill = prefill,
	.decode = decode,
};
