/* SPDX-License-Identifier: Apache-2.0 */
/* decode-, prefill- and encode-filter: by the pod's role; decode also takes pods without a role. */
#include "scheduler/plugin.h"

bool filter_decode(const struct sched_view *view, const struct plugin *p,
		   const struct sched_candidate *c)
{
	(void)view;
	(void)p;
	return c->endpoint->role == 0 || (c->endpoint->role & SLUICE_ROLE_DECODE);
}

bool filter_prefill(const struct sched_view *view, const struct plugin *p,
		    const struct sched_candidate *c)
{
	(void)view;
	(void)p;
	return c->endpoint->role & SLUICE_ROLE_PREFILL;
}

bool filter_encode(const struct sched_view *view, const struct plugin *p,
		   const struct sched_candidate *c)
{
	(void)view;
	(void)p;
	return c->endpoint->role & SLUICE_ROLE_ENCODE;
}
