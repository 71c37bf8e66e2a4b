/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topology-affinity-scorer and -filter: how near a pod is to the peer, the pod of the earlier leg.
 * The tightest level with the same, non-empty label counts.
 */
#include <string.h>

#include "scheduler/plugin.h"

#define LEVELS 4

static const char *const level_labels[LEVELS] = {
	"kubernetes.io/hostname", "topology.kubernetes.io/rack", "topology.kubernetes.io/zone",
	"topology.kubernetes.io/region"};

/* 0 host … 3 region, LEVELS none. */
static int shared_level(const struct endpoint *a, const struct endpoint *b)
{
	for (int i = 0; i < LEVELS; i++) {
		const char *x = endpoint_label(a, level_labels[i]);
		const char *y = endpoint_label(b, level_labels[i]);

		if (x && y && *x && strcmp(x, y) == 0)
			return i;
	}
	return LEVELS;
}

void score_topology(const struct sched_view *view, const struct plugin *p, float *scores)
{
	static const float by_level[LEVELS + 1] = {1, 0.2f, 0.05f, 0.02f, 0};

	(void)p;
	for (uint32_t i = 0; i < view->count; i++)
		scores[i] =
			view->peer
				? by_level[shared_level(view->candidates[i].endpoint, view->peer)]
				: 0;
}

void narrow_topology(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	bool found = false;

	for (uint32_t i = 0; i < view->count; i++) {
		keep[i] = view->peer && shared_level(view->candidates[i].endpoint, view->peer) <=
						(int)p->params[0];
		found |= keep[i];
	}
	for (uint32_t i = 0; !found && i < view->count; i++)
		keep[i] = true;
}
