/* SPDX-License-Identifier: Apache-2.0 */
/* label-selector-filter: all rules must hold; a pod without the label passes "not in" and "absent".
 */
#include "scheduler/plugin.h"

static bool value_listed(const char *value, const char *values)
{
	size_t len = strlen(value);

	for (const char *v = values;; v++) {
		const char *end = strchrnul(v, '|');

		if ((size_t)(end - v) == len && memcmp(v, value, len) == 0)
			return true;
		if (!*end)
			return false;
		v = end;
	}
}

static bool rule_holds(const struct label_rule *rule, const struct endpoint *ep)
{
	const char *value = endpoint_label(ep, rule->key);

	switch (rule->op) {
	case LABEL_IN:
		return value && value_listed(value, rule->values);
	case LABEL_NOT_IN:
		return !value || !value_listed(value, rule->values);
	case LABEL_EXISTS:
		return value;
	case LABEL_ABSENT:
		return !value;
	}
	return false;
}

bool filter_labels(const struct sched_view *view, const struct plugin *p,
		   const struct sched_candidate *c)
{
	(void)view;
	for (unsigned int i = 0; i < p->rule_count; i++)
		if (!rule_holds(&p->rules[i], c->endpoint))
			return false;
	return true;
}
