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

/* What events say, or what they will soon. */
static void hits_set(struct sched_candidate *c, const struct sched_view *view, double share,
		     const struct recent *recent, const uint64_t *hashes)
{
	uint32_t blocks = (uint32_t)(share * view->total_blocks + 0.5);
	uint32_t soon = recent_find(recent, hashes, blocks, c->hit_blocks, c->endpoint->slot,
				    c->endpoint->generation);

	c->on_its_way = soon > 0;
	c->hit_blocks = (uint16_t)(soon ? soon : blocks);
}

void precise_match(const struct kv_index *index, const struct kv_trust *trust,
		   const struct recent *recent, struct sched_view *view, const uint64_t *slots,
		   const uint32_t *generations, const uint64_t *hashes, struct kv_match *scratch)
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
			hits_set(c, view, share_of(m, prompt->len + prompt->rest), recent, hashes);
	}
}

void precise_account(const struct kv_index *index, const struct sched_request *req,
		     const uint64_t *slots, const struct kv_match *matches,
		     const struct endpoint *chosen)
{
	uint32_t best = 0;

	if (!req->kv_losses || !matches[chosen->slot].known)
		return;
	for (unsigned int i = 0; i < KV_SLOT_WORDS; i++)
		for (uint64_t left = slots[i]; left; left &= left - 1) {
			const struct kv_match *m =
				&matches[i * 64 + (unsigned int)__builtin_ctzll(left)];

			best = m->bytes > best ? m->bytes : best;
		}
	kv_losses_note(req->kv_losses, req->kv_losses_tenant, index, req->kv_prompt, best,
		       matches[chosen->slot].bytes);
}
