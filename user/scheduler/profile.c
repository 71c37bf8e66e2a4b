/* SPDX-License-Identifier: Apache-2.0 */
/* The compact form of a profile, read into plugins with their parameters. Start time only. */
#include "scheduler/profile.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/config/params.h"

const struct named_profile named_profiles[] = {
	{"llm-d", "queue-scorer=2,kv-cache-utilization-scorer=2,prefix-cache-scorer=3"},
	{"sluice", "sluice-scorer"},
	{"sluice-many",
	 "sluice-scorer:rendezvousShare=0.3:uncachedWeight=4:requestTokens=8192"}, /* share nothing
										    */
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
	struct complaint c = {.file = p->type->name};
	char *eq = strchr(text, '=');
	int err;

	if (p->type->takes_labels)
		return parse_rule(p, text, ret_error);
	if (!eq)
		return fail(ret_error, "%s: parameter \"%s\" has no value", p->type->name, text);
	*eq = 0;
	err = param_set(p, text, eq + 1, &c);
	*ret_error = c.text;
	return err;
}

int profile_add(struct profile *profile, const struct plugin *from)
{
	const struct plugin_type *type = from->type;
	bool filters = type->keep || type->narrow;
	int err = 0;

	if ((type->pick && profile->picker.type) ||
	    (filters && profile->filter_count == PLUGINS_MAX) ||
	    (type->score && profile->scorer_count == PLUGINS_MAX))
		return -E2BIG;
	if (filters)
		err = plugin_copy(&profile->filters[profile->filter_count], from);
	profile->filter_count += filters && !err;
	if (!err && type->score) {
		err = plugin_copy(&profile->scorers[profile->scorer_count], from);
		profile->scorer_count += !err;
		if (!err)
			profile->weight_sum += fabs(from->weight);
	}
	if (!err && type->pick)
		err = plugin_copy(&profile->picker, from);
	profile->uses_session |= type->uses_session;
	return err;
}

/* item: "type=weight:param=value:…", cut up in place. */
static int parse_item(struct profile *profile, char *item, char **ret_error)
{
	char *rest = item, *head = strsep(&rest, ":"), *weight = head, *param;
	const char *name = strsep(&weight, "=");
	const struct plugin_type *type = plugin_find(name, strlen(name));
	struct plugin p;
	int err = 0;

	if (!type || !(type->keep || type->narrow || type->score || type->pick))
		return fail_unknown(ret_error, name);
	plugin_init(&p, type);
	if (weight && !type->score)
		return fail(ret_error, "%s: only scorers have a weight", name);
	if (weight)
		err = parse_number(name, weight, 0, 1e6, &p.weight, ret_error);
	while (!err && (param = strsep(&rest, ":")))
		err = parse_param(&p, param, ret_error);
	if (!err)
		err = profile_add(profile, &p);
	plugin_fini(&p);
	if (err == -E2BIG && type->pick)
		return fail(ret_error, "%s: a profile has one picker", name);
	if (err == -E2BIG)
		return fail(ret_error, "%s: more than %d plugins", name, PLUGINS_MAX);
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
	return err ? err : profile_complete(profile);
}

int profile_complete(struct profile *profile)
{
	if (!profile->picker.type)
		plugin_init(&profile->picker, plugin_find("max-score-picker", 16));
	return 0;
}

void profile_fini(struct profile *profile)
{
	for (unsigned int i = 0; i < profile->filter_count; i++)
		plugin_fini(&profile->filters[i]);
	for (unsigned int i = 0; i < profile->scorer_count; i++)
		plugin_fini(&profile->scorers[i]);
	plugin_fini(&profile->picker);
	free(profile->text);
	memset(profile, 0, sizeof(*profile));
}
