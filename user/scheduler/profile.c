/* SPDX-License-Identifier: Apache-2.0 */
/* The compact form of a profile, read into plugins with their parameters. Start time only. */
#include "scheduler/profile.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct named_profile named_profiles[] = {
	{"llm-d", "queue-scorer=2,kv-cache-utilization-scorer=2,prefix-cache-scorer=3"},
	{"sluice", "sluice-scorer"},
	{"sluice-many", "sluice-scorer:rendezvousShare=0.05"}, /* gateways that share nothing */
	{NULL, NULL},
};

__attribute__((format(printf, 2, 3))) static int fail(char **ret_error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(ret_error, fmt, ap) < 0)
		*ret_error = NULL;
	va_end(ap);
	return -EINVAL;
}

static int fail_unknown(char **ret_error, const char *name)
{
	char *known = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&known, &bytes);
	int err;

	if (!f)
		return -ENOMEM;
	for (const struct plugin_type *t = plugin_types; t->name; t++)
		fprintf(f, "%s%s", t == plugin_types ? "" : ", ", t->name);
	fclose(f);
	err = fail(ret_error, "unknown plugin type \"%s\"; known types: %s", name, known);
	free(known);
	return err;
}

static int parse_rule(struct plugin *p, const char *text, char **ret_error)
{
	struct label_rule *rule = &p->rules[p->rule_count];
	const char *eq = strchr(text, '=');
	size_t key_len = eq ? (size_t)(eq - text) : strlen(text);

	if (p->rule_count == PLUGIN_RULES_MAX)
		return fail(ret_error, "%s: more than %d rules", p->type->name, PLUGIN_RULES_MAX);
	rule->op = eq ? LABEL_IN : LABEL_EXISTS;
	if (!eq && *text == '!') {
		rule->op = LABEL_ABSENT;
		text++;
		key_len--;
	} else if (eq && key_len && text[key_len - 1] == '!') {
		rule->op = LABEL_NOT_IN;
		key_len--;
	}
	if (!key_len)
		return fail(ret_error, "%s: a rule without a label", p->type->name);
	rule->key = strndup(text, key_len);
	rule->values = strdup(eq ? eq + 1 : "");
	if (!rule->key || !rule->values)
		return -ENOMEM;
	p->rule_count++;
	return 0;
}

static int parse_number(const char *what, const char *text, double min, double max, double *ret,
			char **ret_error)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !isfinite(value))
		return fail(ret_error, "%s: \"%s\" is not a number", what, text);
	if (value < min || value > max)
		return fail(ret_error, "%s: %s is not in %g to %g", what, text, min, max);
	*ret = value;
	return 0;
}

static int parse_param(struct plugin *p, char *text, char **ret_error)
{
	char *eq = strchr(text, '=');

	if (p->type->takes_labels)
		return parse_rule(p, text, ret_error);
	if (!eq)
		return fail(ret_error, "%s: parameter \"%s\" has no value", p->type->name, text);
	*eq = 0;
	for (int i = 0; i < PLUGIN_PARAMS_MAX && p->type->params[i].name; i++) {
		const struct plugin_param *known = &p->type->params[i];

		if (strcasecmp(known->name, text) == 0)
			return parse_number(known->name, eq + 1, known->min, known->max,
					    &p->params[i], ret_error);
	}
	return fail(ret_error, "%s has no parameter \"%s\"", p->type->name, text);
}

static struct plugin *profile_place(struct profile *profile, enum plugin_kind kind)
{
	switch (kind) {
	case PLUGIN_FILTER:
		return profile->filter_count == PLUGINS_MAX
			       ? NULL
			       : &profile->filters[profile->filter_count++];
	case PLUGIN_SCORER:
		return profile->scorer_count == PLUGINS_MAX
			       ? NULL
			       : &profile->scorers[profile->scorer_count++];
	case PLUGIN_PICKER:
		return profile->picker.type ? NULL : &profile->picker;
	}
	return NULL;
}

/* item: "type=weight:param=value:…", cut up in place. */
static int parse_item(struct profile *profile, char *item, char **ret_error)
{
	char *rest = item, *head = strsep(&rest, ":"), *weight = head, *param;
	const char *name = strsep(&weight, "=");
	const struct plugin_type *type = plugin_find(name, strlen(name));
	struct plugin *p;
	int err = 0;

	if (!type)
		return fail_unknown(ret_error, name);
	p = profile_place(profile, type->kind);
	if (!p && type->kind == PLUGIN_PICKER)
		return fail(ret_error, "%s: a profile has one picker", name);
	if (!p)
		return fail(ret_error, "%s: more than %d plugins", name, PLUGINS_MAX);
	p->type = type;
	p->weight = 1;
	for (int i = 0; i < PLUGIN_PARAMS_MAX; i++)
		p->params[i] = type->params[i].value;
	if (weight && type->kind != PLUGIN_SCORER)
		return fail(ret_error, "%s: only scorers have a weight", name);
	if (weight)
		err = parse_number(name, weight, 0, 1e6, &p->weight, ret_error);
	while (!err && (param = strsep(&rest, ":")))
		err = parse_param(p, param, ret_error);
	profile->uses_session |= type->uses_session;
	if (type->kind == PLUGIN_SCORER)
		profile->weight_sum += p->weight;
	return err;
}

static char *strip(char *s)
{
	size_t len;

	s += strspn(s, " \t\n");
	len = strlen(s);
	while (len && strchr(" \t\n", s[len - 1]))
		s[--len] = 0;
	return s;
}

int profile_parse(struct profile *profile, const char *text, char **ret_error)
{
	char *copy, *rest, *item;
	int err = 0;

	memset(profile, 0, sizeof(*profile));
	for (const struct named_profile *n = named_profiles; n->name; n++)
		if (strcmp(n->name, text) == 0)
			text = n->text;
	profile->text = strdup(text);
	copy = rest = strdup(text);
	if (!copy || !profile->text) {
		free(copy);
		return -ENOMEM;
	}
	while (!err && (item = strsep(&rest, ","))) {
		item = strip(item);
		if (!*item)
			err = fail(ret_error, "an empty item in the profile \"%s\"", text);
		else
			err = parse_item(profile, item, ret_error);
	}
	free(copy);
	if (!err && !profile->picker.type)
		profile->picker.type = plugin_find("max-score-picker", 16);
	return err;
}

static void plugin_fini(struct plugin *p)
{
	for (unsigned int i = 0; i < p->rule_count; i++) {
		free(p->rules[i].key);
		free(p->rules[i].values);
	}
}

void profile_fini(struct profile *profile)
{
	for (unsigned int i = 0; i < profile->filter_count; i++)
		plugin_fini(&profile->filters[i]);
	free(profile->text);
	memset(profile, 0, sizeof(*profile));
}
