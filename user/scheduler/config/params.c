/* SPDX-License-Identifier: Apache-2.0 */
/* Walks the map of parameters along the paths that the type's rows name. */
#include "scheduler/config/params.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PATH_MAX_BYTES 128

struct walk {
	struct plugin *p;
	struct complaint *c;
	char path[PATH_MAX_BYTES];
};

int duration_read(const char *text, double *ret_ms)
{
	static const struct {
		const char *unit;
		double ms;
	} units[] = {{"ns", 1e-6}, {"us", 1e-3}, {"µs", 1e-3}, {"ms", 1},
		     {"s", 1e3},   {"m", 6e4},	 {"h", 3.6e6}};
	double ms = 0;

	if (strcmp(text, "0") == 0) {
		*ret_ms = 0;
		return 0;
	}
	if (!*text)
		return -EINVAL;
	while (*text) {
		size_t i, len;
		char *end;
		double n;

		if (!strchr("0123456789.", *text))
			return -EINVAL;
		n = strtod(text, &end);
		len = strcspn(end, "0123456789.");
		for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
			if (strlen(units[i].unit) == len && !strncmp(units[i].unit, end, len))
				break;
		if (end == text || i == sizeof(units) / sizeof(units[0]) || !isfinite(n))
			return -EINVAL;
		ms += n * units[i].ms;
		text = end + len;
	}
	*ret_ms = ms;
	return 0;
}

int quantity_read(const char *text, double *ret)
{
	static const struct {
		const char *suffix;
		double factor;
	} suffixes[] = {{"", 1},
			{"m", 1e-3},
			{"k", 1e3},
			{"M", 1e6},
			{"G", 1e9},
			{"T", 1e12},
			{"Ki", 1024},
			{"Mi", 1048576},
			{"Gi", 1073741824.0},
			{"Ti", 1099511627776.0}};
	char *end;
	double n;

	if (!*text || !strchr("0123456789.-+", *text))
		return -EINVAL;
	n = strtod(text, &end);
	if (end == text || !isfinite(n))
		return -EINVAL;
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
		if (strcmp(suffixes[i].suffix, end) == 0) {
			*ret = n * suffixes[i].factor;
			return 0;
		}
	return -EINVAL;
}

static int number_read(const struct plugin_param *row, const char *text, double *ret)
{
	char *end;

	if (row->kind == PARAM_TIME)
		return duration_read(text, ret);
	if (row->kind == PARAM_QUANTITY)
		return quantity_read(text, ret);
	*ret = strtod(text, &end);
	if (end == text || *end || !isfinite(*ret))
		return -EINVAL;
	return row->kind == PARAM_INTEGER && *ret != floor(*ret) ? -EINVAL : 0;
}

static int word_index(const char *words, const char *text)
{
	size_t len = strlen(text);

	for (int i = 0;; i++) {
		const char *end = strchrnul(words, '|');

		if ((size_t)(end - words) == len && memcmp(words, text, len) == 0)
			return i;
		if (!*end)
			return -1;
		words = end + 1;
	}
}

/* Checks a scalar against its row; keeps it where keep says so. */
static int value_take(struct walk *w, unsigned int index, const char *text, const struct node *at,
		      bool keep)
{
	const struct plugin_param *row = &w->p->type->params[index];
	const char *type = w->p->type->name;
	double value = 0;

	if (row->kind == PARAM_TEXT) {
		if (!keep)
			return 0;
		free(w->p->texts[index]);
		w->p->texts[index] = strdup(text);
		return w->p->texts[index] ? 0 : -ENOMEM;
	}
	if (row->kind == PARAM_BOOL) {
		if (strcmp(text, "true") && strcmp(text, "false"))
			return complain(w->c, at, "%s: %s is true or false, not \"%.64s\"", type,
					row->name, text);
		value = strcmp(text, "true") == 0;
	} else if (row->kind == PARAM_WORD) {
		value = word_index(row->words, text);
		if (value < 0)
			return complain(w->c, at, "%s: %s is one of %s, not \"%.64s\"", type,
					row->name, row->words, text);
	} else {
		if (number_read(row, text, &value))
			return complain(w->c, at, "%s: %s: \"%.64s\" is not %s", type, row->name,
					text, row->kind == PARAM_TIME ? "a time" : "a number");
		if ((row->min != 0 || row->max != 0) && (value < row->min || value > row->max))
			return complain(w->c, at, "%s: %s: %.64s is not in %g to %g", type,
					row->name, text, row->min, row->max);
	}
	if (keep)
		w->p->params[index] = value;
	return 0;
}

static int row_find(const struct plugin *p, const char *path)
{
	for (int i = 0; p->type->params && p->type->params[i].name; i++)
		if (strcasecmp(p->type->params[i].name, path) == 0)
			return i;
	return -1;
}

static bool row_below(const struct plugin *p, const char *path, const char *joint)
{
	size_t len = strlen(path), more = strlen(joint);

	for (int i = 0; p->type->params && p->type->params[i].name; i++) {
		const char *name = p->type->params[i].name;

		if (strncasecmp(name, path, len) == 0 && strncmp(name + len, joint, more) == 0)
			return true;
	}
	return false;
}

/* "a parameter X; known: a, b, c": the names at this level, each once. */
static int refuse_unknown(struct walk *w, const struct node *at, size_t level)
{
	char known[1024] = "", last[64] = "";
	const struct plugin_param *rows = w->p->type->params;
	size_t n = 0;

	for (int i = 0; rows && rows[i].name; i++) {
		const char *name = rows[i].name;
		size_t len;

		if (strncasecmp(name, w->path, level) != 0)
			continue;
		len = strcspn(name + level, ".[");
		if (len >= sizeof(last) ||
		    (strlen(last) == len && !strncmp(last, name + level, len)))
			continue;
		snprintf(last, sizeof(last), "%.*s", (int)len, name + level);
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", last);
		if (n + 64 >= sizeof(known))
			break;
	}
	return complain(w->c, at, "%s has no parameter \"%.64s\"; known: %s", w->p->type->name,
			w->path, n ? known : "none");
}

static int walk_map(struct walk *w, const struct node *map, size_t level, bool keep);

static int walk_list(struct walk *w, const struct node *list, size_t end)
{
	int row, err = 0;

	if (list->kind != NODE_LIST)
		return complain(w->c, list, "%s: %s is a list", w->p->type->name, w->path);
	memcpy(w->path + end, "[]", 3);
	row = row_find(w->p, w->path);
	for (const struct node *item = list->first; item && !err; item = item->next) {
		w->path[end + 2] = 0;
		if (row >= 0 && item->kind == NODE_SCALAR) {
			err = value_take(w, (unsigned int)row, item->text, item, false);
		} else if (row < 0 && item->kind == NODE_MAP) {
			memcpy(w->path + end + 2, ".", 2);
			err = walk_map(w, item, end + 3, false);
		} else {
			err = complain(w->c, item, "%s: %s: not what an item looks like",
				       w->p->type->name, w->path);
		}
	}
	return err;
}

static int walk_member(struct walk *w, const struct node *n, size_t level, bool keep)
{
	size_t len = strlen(n->key);
	int row;

	if (level + len + 8 > sizeof(w->path))
		return complain(w->c, n, "%s: a name too long", w->p->type->name);
	memcpy(w->path + level, n->key, len + 1);
	row = row_find(w->p, w->path);
	if (row >= 0) {
		if (node_is_null(n) || w->p->type->params[row].kind == PARAM_TREE)
			return 0;
		if (n->kind != NODE_SCALAR)
			return complain(w->c, n, "%s: %s takes one value", w->p->type->name,
					w->path);
		return value_take(w, (unsigned int)row, n->text, n, keep);
	}
	if (row_below(w->p, w->path, "[]"))
		return node_is_null(n) ? 0 : walk_list(w, n, level + len);
	if (!row_below(w->p, w->path, "."))
		return refuse_unknown(w, n, level);
	if (node_is_null(n))
		return 0;
	if (n->kind != NODE_MAP)
		return complain(w->c, n, "%s: %s is a mapping", w->p->type->name, w->path);
	memcpy(w->path + level + len, ".", 2);
	return walk_map(w, n, level + len + 1, keep);
}

static int walk_map(struct walk *w, const struct node *map, size_t level, bool keep)
{
	for (const struct node *n = map->first; n; n = n->next) {
		int err = walk_member(w, n, level, keep);

		if (err)
			return err;
	}
	return 0;
}

int params_read(struct plugin *p, const struct node *parameters, struct complaint *c)
{
	struct walk w = {.p = p, .c = c};
	int err = 0;

	if (p->type->flags & PLUGIN_ANY_PARAMS)
		return 0;
	if (!node_is_null(parameters)) {
		if (parameters->kind != NODE_MAP)
			return complain(c, parameters, "%s: parameters is a mapping",
					p->type->name);
		err = walk_map(&w, parameters, 0, true);
	} else {
		parameters = NULL;
	}
	return !err && p->type->read ? p->type->read(p, parameters, c) : err;
}

int param_set(struct plugin *p, const char *name, const char *value, struct complaint *c)
{
	struct walk w = {.p = p, .c = c};
	int row = row_find(p, name);

	snprintf(w.path, sizeof(w.path), "%s", name);
	if (row < 0 || p->type->params[row].kind == PARAM_TREE)
		return refuse_unknown(&w, NULL, 0);
	return value_take(&w, (unsigned int)row, value, NULL, true);
}

int plugin_add_rule(struct plugin *p, enum label_op op, const char *key, const char *values,
		    const struct node *at, struct complaint *c)
{
	struct label_rule *rule = &p->rules[p->rule_count];

	if (p->rule_count == PLUGIN_RULES_MAX)
		return complain(c, at, "%s: more than %d rules", p->type->name, PLUGIN_RULES_MAX);
	rule->op = op;
	rule->key = strdup(key);
	rule->values = strdup(values ? values : "");
	if (rule->key && rule->values) {
		p->rule_count++;
		return 0;
	}
	free(rule->key);
	free(rule->values);
	return -ENOMEM;
}
