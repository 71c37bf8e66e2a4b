/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lora-affinity-scorer: the adapter runs there 1; a place for one more 0.8; it waits there for a
 * place 0.6; else 0. A base model is loaded wherever it is served. An engine that does not say how
 * many adapters it holds counts as having what it lists.
 */
#include "scheduler/plugin.h"

static float score_adapter(const struct endpoint *ep, uint32_t hash)
{
	uint32_t max = atomic_load_explicit(&ep->adapters.max, memory_order_relaxed);
	uint32_t known = atomic_load_explicit(&ep->adapters.count, memory_order_relaxed);
	unsigned int does = endpoint_adapter(ep, hash);

	if (!max || does & ADAPTER_RUNNING)
		return 1.0f;
	if (known < max)
		return 0.8f;
	return does & ADAPTER_WAITING ? 0.6f : 0.0f;
}

void score_lora(const struct sched_view *view, const struct plugin *p, float *scores)
{
	const struct model *model = view->request->model;

	(void)p;
	for (uint32_t i = 0; i < view->count; i++) {
		uint32_t v = view->candidates[i].view;

		if (!model || !(model->views[v / 64] >> (v % 64) & 1))
			scores[i] = 0;
		else if (!model->parent[0])
			scores[i] = 1;
		else
			scores[i] = score_adapter(view->candidates[i].endpoint, model->hash);
	}
}
