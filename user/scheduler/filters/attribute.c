/* SPDX-License-Identifier: Apache-2.0 */
/*
 * endpoint-attribute-filter and -scorer: by one figure of the pod, named as the reference names it.
 * Known are the queue, the batch and the KV cache; any other is missing for every pod.
 */
#include <math.h>
#include <string.h>

#include "scheduler/config/params.h"

enum filter_param {
	ATTRIBUTE,
	PRODUCER,
	ON_MISSING, /* 0 Pass, 1 Fail */
	FALLBACK,
	ALGORITHM,
	OPERATOR,
	VALUE
};

enum scorer_param {
	SCORER_ALGORITHM = 2, /* 0 lower is better, 1 higher */
	RANGE_MIN,
	RANGE_MAX
};

int read_attribute(struct plugin *p, const struct node *parameters, struct complaint *c)
{
	const struct node *algorithm = node_child(parameters, "algorithm");
	const char *key = plugin_text(p, ATTRIBUTE);
	bool range;

	if (!*key)
		return complain(c, parameters, "%s: %s is required", p->type->name,
				p->type->params[ATTRIBUTE].name);
	if (strchr(key, '/') && !node_child(parameters, "producer"))
		return complain(c, parameters, "%s: producer is required for \"%.64s\"",
				p->type->name, key);
	if (!node_child(algorithm, "type"))
		return complain(c, parameters, "%s: algorithm.type is required", p->type->name);
	range = node_child(node_child(algorithm, "normalization"), "fixedRange");
	if (p->type->score && range && p->params[RANGE_MIN] >= p->params[RANGE_MAX])
		return complain(c, parameters, "%s: fixedRange: min is less than max",
				p->type->name);
	if (p->type->narrow && !node_child(algorithm, "threshold"))
		return complain(c, parameters, "%s: algorithm.threshold is required",
				p->type->name);
	return 0;
}

static bool attribute_of(const struct plugin *p, const struct sched_candidate *c, double *ret)
{
	const char *key = plugin_text(p, ATTRIBUTE);

	if (!c->known)
		return false;
	if (strcmp(key, "WaitingQueueSize") == 0)
		*ret = c->waiting;
	else if (strcmp(key, "RunningRequestsSize") == 0)
		*ret = c->running;
	else if (strcmp(key, "KVCacheUsagePercent") == 0)
		*ret = (double)c->kv_used;
	else
		return false;
	return true;
}

static bool holds(unsigned int op, double x, double value)
{
	switch (op) {
	case 0:
		return x < value;
	case 1:
		return x <= value;
	case 2:
		return x > value;
	case 3:
		return x >= value;
	case 4:
		return fabs(x - value) < 1e-9;
	default:
		return fabs(x - value) >= 1e-9;
	}
}

void narrow_attribute(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	bool found = false;
	double x;

	for (uint32_t i = 0; i < view->count; i++) {
		keep[i] = attribute_of(p, &view->candidates[i], &x)
				  ? holds((unsigned int)p->params[OPERATOR], x, p->params[VALUE])
				  : p->params[ON_MISSING] == 0;
		found |= keep[i];
	}
	for (uint32_t i = 0; !found && p->params[FALLBACK] != 0 && i < view->count; i++)
		keep[i] = true;
}

void score_attribute(const struct sched_view *view, const struct plugin *p, float *scores)
{
	double min = p->params[RANGE_MIN], max = p->params[RANGE_MAX], x;
	bool adaptive = !(min < max);

	if (adaptive) {
		min = INFINITY;
		max = -INFINITY;
	}
	for (uint32_t i = 0; adaptive && i < view->count; i++) {
		if (!attribute_of(p, &view->candidates[i], &x))
			continue;
		min = fmin(min, x);
		max = fmax(max, x);
	}
	for (uint32_t i = 0; i < view->count; i++) {
		scores[i] = 0;
		if (!attribute_of(p, &view->candidates[i], &x))
			continue;
		scores[i] = 1;
		if (max > min)
			scores[i] = (float)fmin(1, fmax(0, (x - min) / (max - min)));
		if (max > min && p->params[SCORER_ALGORITHM] == 0)
			scores[i] = 1 - scores[i];
	}
}
