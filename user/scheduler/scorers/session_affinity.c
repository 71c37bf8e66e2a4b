/* SPDX-License-Identifier: Apache-2.0 */
/* session-affinity-scorer: 1 for the endpoint that the session is bound to, else 0. */
#include "scheduler/plugin.h"

void score_session(const struct sched_view *view, const struct plugin *p, float *scores)
{
	(void)p;
	for (uint32_t i = 0; i < view->count; i++)
		scores[i] = (int32_t)view->candidates[i].view == view->session_view;
}
