/* SPDX-License-Identifier: Apache-2.0 */
/* random-picker: any candidate, whatever its score. */
#include "scheduler/plugin.h"

uint32_t pick_random(struct sched_view *view, const struct plugin *p, const float *totals)
{
	(void)p;
	(void)totals;
	return (uint32_t)(plugin_random(view->rng) * view->count);
}
