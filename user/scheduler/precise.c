/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's blocks and ours differ in length: what counts for scores is the share of the prompt,
 * what counts for expectations is the engine's blocks times its tokens a block.
 */
#include "scheduler/precise.h"

#include "base/load.h"

static double share_of(const struct kv_match *m, uint32_t prompt_bytes)
{
	double worth;

	if (!m->blocks || !prompt_bytes)
		return 0;
	worth = (m->blocks - (1 - KV_CPU_WORTH) * m->cpu_blocks) / m->blocks;
	return worth * m->bytes / prompt_bytes;
}

void precise_match(const struct kv_index *index, const struct kv_trust *trust,
		   struct sched_view *view, const uint64_t *slots, const uint32_t *generations,
		   struct kv_match *scratch)
{
	const struct kv_prompt *prompt = view->request->kv_prompt;

	kv_index_match(index, prompt, slots, generations, scratch);
	for (uint32_t i = 0; i < view->count; i++) {
		struct sched_candidate *c = &view->candidates[i];
		const struct endpoint *ep = c->endpoint;
		const struct kv_match *m = &scratch[ep->slot];

		if (!m->known)
			continue;
		c->precise = true;
		c->precise_tokens = m->blocks * load_read(ep->load->block_tokens);
		c->trusted = !trust || kv_trusted(trust, ep->slot, ep->generation);
		if (c->trusted)
			c->hit_blocks =
				(uint16_t)(share_of(m, prompt->len) * view->total_blocks + 0.5);
	}
}
