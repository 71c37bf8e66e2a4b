/* SPDX-License-Identifier: Apache-2.0 */
/* utilization-filter: every named figure is at most its maximum; one that is missing is 0. */
#include <string.h>

#include "scheduler/config/params.h"

enum {
	FALLBACK,
	PRODUCER,
	MAXIMA, /* four, -1 where there is no condition */
	METRICS = 4
};

static const char *const metrics[METRICS] = {"active-requests", "running-requests", "waiting-queue",
					     "kv-cache-utilization"};

int read_utilization(struct plugin *p, const struct node *parameters, struct complaint *c)
{
	const struct node *list = node_child(parameters, "conditions");
	double max;

	if (!list || list->kind != NODE_LIST || !list->first)
		return complain(c, parameters, "utilization-filter: at least one condition");
	for (const struct node *n = list->first; n; n = n->next) {
		const struct node *name = node_child(n, "metric"),
				  *value = node_child(n, "maxValue");

		if (!name || !value || quantity_read(value->text, &max))
			return complain(c, n, "a condition has metric and maxValue");
		for (int i = 0; i < METRICS; i++) {
			if (strcmp(metrics[i], name->text) != 0)
				continue;
			if (i == 3 && max > 1)
				return complain(c, value, "kv-cache-utilization is at most 1");
			p->params[MAXIMA + i] = max;
		}
	}
	return 0;
}

static bool fits(const struct plugin *p, const struct sched_candidate *c)
{
	const double figures[METRICS] = {c->own_requests, c->known ? c->running : 0,
					 c->known ? c->waiting : 0,
					 c->known ? (double)c->kv_used : 0};

	for (int i = 0; i < METRICS; i++)
		if (p->params[MAXIMA + i] >= 0 && figures[i] > p->params[MAXIMA + i])
			return false;
	return true;
}

void narrow_utilization(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	bool found = false;

	for (uint32_t i = 0; i < view->count; i++) {
		keep[i] = fits(p, &view->candidates[i]);
		found |= keep[i];
	}
	for (uint32_t i = 0; !found && p->params[FALLBACK] != 0 && i < view->count; i++)
		keep[i] = true;
}
