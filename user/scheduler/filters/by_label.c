/* SPDX-License-Identifier: Apache-2.0 */
/* by-label (old): the label has one of the listed values, or is absent where that is allowed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/config/params.h"

enum {
	LABEL,
	VALUES,
	ALLOWS_NO_LABEL
};

int read_by_label(struct plugin *p, const struct node *parameters, struct complaint *c)
{
	const struct node *list = node_child(parameters, "validValues");
	int err = 0;

	if (!*plugin_text(p, LABEL))
		return complain(c, parameters, "by-label: label is required");
	if ((!list || !list->first) && !(p->params[ALLOWS_NO_LABEL] != 0))
		return complain(c, parameters,
				"by-label: validValues or allowsNoLabel is required");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next)
		err = plugin_add_rule(p, LABEL_IN, plugin_text(p, LABEL), n->text, n, c);
	return err;
}

bool filter_by_label(const struct sched_view *view, const struct plugin *p,
		     const struct sched_candidate *c)
{
	const char *value = endpoint_label(c->endpoint, plugin_text(p, LABEL));

	(void)view;
	if (!value)
		return p->params[ALLOWS_NO_LABEL] != 0;
	for (unsigned int i = 0; i < p->rule_count; i++)
		if (strcmp(p->rules[i].values, value) == 0)
			return true;
	return false;
}
