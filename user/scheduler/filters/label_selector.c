/* SPDX-License-Identifier: Apache-2.0 */
/* The parameters of label-selector-filter, as Kubernetes writes a selector, into rules. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/config/params.h"

static int read_values(const struct node *list, char *to, size_t size, struct complaint *c)
{
	size_t n = 0;

	for (const struct node *v = list->first; v; v = v->next) {
		if (v->kind != NODE_SCALAR || strchr(v->text, '|'))
			return complain(c, v, "a label's value is a plain text");
		n += (size_t)snprintf(to + n, size - n, "%s%s", n ? "|" : "", v->text);
		if (n >= size)
			return complain(c, v, "too many values");
	}
	return 0;
}

static int read_expression(struct plugin *p, const struct node *at, struct complaint *c)
{
	static const struct {
		const char *word;
		enum label_op op;
	} ops[] = {{"In", LABEL_IN},
		   {"NotIn", LABEL_NOT_IN},
		   {"Exists", LABEL_EXISTS},
		   {"DoesNotExist", LABEL_ABSENT}};
	const struct node *key = node_child(at, "key"), *op = node_child(at, "operator");
	const struct node *values = node_child(at, "values");
	char text[1024] = "";
	int err = 0;

	if (!key || key->kind != NODE_SCALAR || !op || op->kind != NODE_SCALAR)
		return complain(c, at, "matchExpressions: an item has key, operator and values");
	if (values && values->kind == NODE_LIST)
		err = read_values(values, text, sizeof(text), c);
	if (err)
		return err;
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		if (strcmp(ops[i].word, op->text) != 0)
			continue;
		if ((i < 2) != (*text != 0))
			return complain(c, op, "%s %s values", op->text,
					i < 2 ? "needs" : "takes no");
		return plugin_add_rule(p, ops[i].op, key->text, text, at, c);
	}
	return complain(c, op, "operator is In, NotIn, Exists or DoesNotExist, not \"%.64s\"",
			op->text);
}

int read_label_selector(struct plugin *p, const struct node *parameters, struct complaint *c)
{
	const struct node *labels = node_child(parameters, "matchLabels");
	const struct node *list = node_child(parameters, "matchExpressions");
	int err = 0;

	if (labels && !node_is_null(labels) && labels->kind != NODE_MAP)
		return complain(c, labels, "matchLabels is a mapping of labels to values");
	if (list && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "matchExpressions is a list");
	for (const struct node *n = labels ? labels->first : NULL; n && !err; n = n->next) {
		if (n->kind != NODE_SCALAR || strchr(n->text, '|'))
			return complain(c, n, "a label's value is a plain text");
		err = plugin_add_rule(p, LABEL_IN, n->key, n->text, n, c);
	}
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next)
		err = read_expression(p, n, c);
	return err;
}
