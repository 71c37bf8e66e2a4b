/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session-affinity-filter: the pod that the session is bound to, if it is a candidate. The first
 * header of its sources is kept as a rule; attributes of other producers name no session here.
 */
#include "scheduler/config/params.h"

int read_session(struct plugin *p, const struct node *parameters, struct complaint *c)
{
	const struct node *config = node_child(parameters, "sessionIdConfig");
	const struct node *list = node_child(config, "sources");

	int err = 0;

	if (list && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "sessionIdConfig.sources is a list");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next) {
		const struct node *header = node_child(n, "header");

		if (!header && !node_child(n, "attribute"))
			return complain(c, n, "a session's source is a header or an attribute");
		if (header && header->kind == NODE_SCALAR)
			err = plugin_add_rule(p, LABEL_EXISTS, header->text, NULL, n, c);
	}
	return err;
}

void narrow_session(const struct sched_view *view, const struct plugin *p, bool *keep)
{
	bool found = false;

	(void)p;
	for (uint32_t i = 0; i < view->count; i++) {
		keep[i] = (int32_t)view->candidates[i].view == view->session_view;
		found |= keep[i];
	}
	for (uint32_t i = 0; !found && i < view->count; i++)
		keep[i] = true;
}
