/* SPDX-License-Identifier: Apache-2.0 */
/* libyaml's events into nodes. Duplicate keys are refused; what is too deep or too much as well. */
#include "scheduler/config/tree.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define ANCHORS_MAX 256

struct anchor {
	char *name;
	const struct node *node;
};

struct builder {
	yaml_parser_t yaml;
	yaml_event_t event;
	bool has_event;
	struct complaint *complaint;
	struct anchor anchors[ANCHORS_MAX];
	unsigned int anchor_count, nodes;
};

int complain(struct complaint *c, const struct node *at, const char *fmt, ...)
{
	char *what = NULL;
	va_list ap;

	if (c->text)
		return -EINVAL;
	va_start(ap, fmt);
	if (vasprintf(&what, fmt, ap) < 0)
		what = NULL;
	va_end(ap);
	if (at &&
	    asprintf(&c->text, "%s:%u:%u: %s", c->file, at->line, at->column, what ? what : "") < 0)
		c->text = NULL;
	if (!at && asprintf(&c->text, "%s: %s", c->file, what ? what : "") < 0)
		c->text = NULL;
	free(what);
	return -EINVAL;
}

static int complain_mark(struct builder *b, yaml_mark_t mark, const char *text)
{
	struct node at = {.line = (uint32_t)mark.line + 1, .column = (uint32_t)mark.column + 1};

	return complain(b->complaint, &at, "%s", text);
}

static int next_event(struct builder *b)
{
	if (b->has_event)
		yaml_event_delete(&b->event);
	b->has_event = false;
	if (!yaml_parser_parse(&b->yaml, &b->event))
		return complain_mark(b,
				     b->yaml.problem_mark.line || b->yaml.problem_mark.column
					     ? b->yaml.problem_mark
					     : b->yaml.mark,
				     b->yaml.problem ? b->yaml.problem : "not YAML");
	b->has_event = true;
	return 0;
}

void tree_free(struct node *node)
{
	while (node) {
		struct node *next = node->next;

		tree_free(node->first);
		free(node->key);
		free(node->text);
		free(node);
		node = next;
	}
}

static int node_new(struct builder *b, enum node_kind kind, struct node **ret)
{
	yaml_mark_t mark = b->event.start_mark;

	if (++b->nodes > TREE_NODES_MAX)
		return complain_mark(b, mark, "too many nodes");
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	(*ret)->kind = kind;
	(*ret)->line = (uint32_t)mark.line + 1;
	(*ret)->column = (uint32_t)mark.column + 1;
	return 0;
}

/* A copy of an anchored node, at the place of its alias. */
static int node_copy(struct builder *b, const struct node *from, struct node **ret)
{
	struct node *n, **at;
	int err = node_new(b, from->kind, &n);

	if (err)
		return err;
	*ret = n;
	n->plain = from->plain;
	n->text = from->text ? strdup(from->text) : NULL;
	if (from->text && !n->text)
		return -ENOMEM;
	at = &n->first;
	for (const struct node *child = from->first; child; child = child->next) {
		err = node_copy(b, child, at);
		if (err)
			return err;
		if (child->key) {
			(*at)->key = strdup(child->key);
			if (!(*at)->key)
				return -ENOMEM;
		}
		at = &(*at)->next;
	}
	return 0;
}

static int keep_anchor(struct builder *b, char *name, const struct node *node)
{
	if (!name)
		return 0;
	if (b->anchor_count == ANCHORS_MAX) {
		free(name);
		return complain(b->complaint, node, "too many anchors");
	}
	b->anchors[b->anchor_count++] = (struct anchor){name, node};
	return 0;
}

static int read_alias(struct builder *b, struct node **ret)
{
	const char *name = (const char *)b->event.data.alias.anchor;

	for (unsigned int i = b->anchor_count; i-- > 0;)
		if (strcmp(b->anchors[i].name, name) == 0)
			return node_copy(b, b->anchors[i].node, ret);
	return complain_mark(b, b->event.start_mark, "an alias without its anchor");
}

static int read_node(struct builder *b, unsigned int depth, struct node **ret);

static int read_list(struct builder *b, unsigned int depth, struct node *list)
{
	struct node **at = &list->first;

	for (;;) {
		int err = next_event(b);

		if (err || b->event.type == YAML_SEQUENCE_END_EVENT)
			return err;
		err = read_node(b, depth + 1, at);
		if (err)
			return err;
		at = &(*at)->next;
	}
}

static int read_map(struct builder *b, unsigned int depth, struct node *map)
{
	struct node **at = &map->first;
	char *key = NULL;
	int err;

	for (;;) {
		yaml_mark_t mark;

		err = next_event(b);
		if (err || b->event.type == YAML_MAPPING_END_EVENT)
			break;
		mark = b->event.start_mark;
		if (b->event.type != YAML_SCALAR_EVENT) {
			err = complain_mark(b, mark, "a key is a plain text");
			break;
		}
		key = strdup((const char *)b->event.data.scalar.value);
		err = key ? next_event(b) : -ENOMEM;
		if (err)
			break;
		if (node_child(map, key)) {
			err = complain_mark(b, mark, "this key is here twice");
			break;
		}
		err = read_node(b, depth + 1, at);
		if (err)
			break;
		(*at)->key = key;
		(*at)->line = (uint32_t)mark.line + 1;
		(*at)->column = (uint32_t)mark.column + 1;
		key = NULL;
		at = &(*at)->next;
	}
	free(key);
	return err;
}

/* The node that the current event begins. *ret is in the tree even after an error. */
static int read_node(struct builder *b, unsigned int depth, struct node **ret)
{
	const yaml_event_t *ev = &b->event;
	char *anchor = NULL;
	int err;

	if (depth > TREE_DEPTH_MAX)
		return complain_mark(b, ev->start_mark, "nested too deeply");
	switch (ev->type) {
	case YAML_ALIAS_EVENT:
		return read_alias(b, ret);
	case YAML_SCALAR_EVENT:
		err = node_new(b, NODE_SCALAR, ret);
		if (err)
			return err;
		(*ret)->plain = ev->data.scalar.plain_implicit;
		(*ret)->text = strndup((const char *)ev->data.scalar.value, ev->data.scalar.length);
		if (!(*ret)->text)
			return -ENOMEM;
		return keep_anchor(b,
				   ev->data.scalar.anchor
					   ? strdup((const char *)ev->data.scalar.anchor)
					   : NULL,
				   *ret);
	case YAML_SEQUENCE_START_EVENT:
	case YAML_MAPPING_START_EVENT:
		if (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.anchor)
			anchor = strdup((const char *)ev->data.mapping_start.anchor);
		if (ev->type == YAML_SEQUENCE_START_EVENT && ev->data.sequence_start.anchor)
			anchor = strdup((const char *)ev->data.sequence_start.anchor);
		err = node_new(b, ev->type == YAML_MAPPING_START_EVENT ? NODE_MAP : NODE_LIST, ret);
		if (!err && (*ret)->kind == NODE_MAP)
			err = read_map(b, depth, *ret);
		else if (!err)
			err = read_list(b, depth, *ret);
		if (!err)
			return keep_anchor(b, anchor, *ret);
		free(anchor);
		return err;
	default:
		return complain_mark(b, ev->start_mark, "not a value");
	}
}

static int read_stream(struct builder *b, struct node **ret_root)
{
	for (;;) {
		int err = next_event(b);

		if (err)
			return err;
		switch (b->event.type) {
		case YAML_STREAM_END_EVENT:
			return 0;
		case YAML_STREAM_START_EVENT:
		case YAML_DOCUMENT_START_EVENT:
		case YAML_DOCUMENT_END_EVENT:
			break;
		default:
			if (*ret_root)
				return complain_mark(b, b->event.start_mark, "a second document");
			err = read_node(b, 0, ret_root);
			if (err)
				return err;
		}
	}
}

int tree_read(struct complaint *c, struct span text, struct node **ret_root)
{
	struct builder *b = calloc(1, sizeof(*b));
	int err;

	*ret_root = NULL;
	if (!b)
		return -ENOMEM;
	b->complaint = c;
	if (text.len > TREE_BYTES_MAX) {
		free(b);
		return complain(c, NULL, "larger than %d bytes", TREE_BYTES_MAX);
	}
	if (!yaml_parser_initialize(&b->yaml)) {
		free(b);
		return -ENOMEM;
	}
	yaml_parser_set_input_string(&b->yaml, (const unsigned char *)text.ptr, text.len);
	err = read_stream(b, ret_root);
	if (b->has_event)
		yaml_event_delete(&b->event);
	yaml_parser_delete(&b->yaml);
	for (unsigned int i = 0; i < b->anchor_count; i++)
		free(b->anchors[i].name);
	free(b);
	if (err) {
		tree_free(*ret_root);
		*ret_root = NULL;
	}
	return err;
}

const struct node *node_child(const struct node *map, const char *key)
{
	if (!map || map->kind != NODE_MAP)
		return NULL;
	for (const struct node *n = map->first; n; n = n->next)
		if (n->key && strcmp(n->key, key) == 0)
			return n;
	return NULL;
}

bool node_is_null(const struct node *node)
{
	return !node || (node->kind == NODE_SCALAR && node->plain &&
			 (!*node->text || !strcmp(node->text, "~") || !strcmp(node->text, "null")));
}
