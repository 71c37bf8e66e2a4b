/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lora-affinity-scorer: adapter loaded 1; not loaded 0. The steps between (free slot 0.8, waiting
 * 0.6) need figures that the load table does not carry. A base model is loaded wherever it is
 * served.
 */
#include "scheduler/plugin.h"

void score_lora(const struct sched_view *view, const struct plugin *p, float *scores)
{
	const struct model *model = view->request->model;

	(void)p;
	for (uint32_t i = 0; i < view->count; i++) {
		uint32_t v = view->candidates[i].view;

		scores[i] = model && (model->views[v / 64] >> (v % 64) & 1);
	}
}
