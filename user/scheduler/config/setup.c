/* SPDX-License-Identifier: Apache-2.0 */
/* Where a setup comes from, what it consists of, and its end. */
#include "scheduler/config/setup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static struct setup *setup_new(void)
{
	struct setup *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->decode = s->prefill = s->encode = s->handler_plugin = SETUP_NONE;
	s->latency_plugin = s->flow.usage_limit = s->flow.detector = SETUP_NONE;
	return s;
}

void setup_free(struct setup *s)
{
	if (!s)
		return;
	for (unsigned int i = 0; i < s->plugin_count; i++) {
		plugin_fini(s->plugins[i]);
		free(s->plugins[i]);
	}
	for (unsigned int i = 0; i < s->profile_count; i++) {
		profile_fini(&s->profiles[i]->profile);
		free(s->profiles[i]->name);
		free(s->profiles[i]);
	}
	for (unsigned int i = 0; i < s->objective_count; i++)
		free(s->objectives[i].name);
	free(s->objectives);
	free(s->session_token);
	free(s->session_id);
	free(s);
}

int setup_add(struct setup *s, const struct plugin_type *type, const char *name, uint32_t line,
	      uint32_t *ret)
{
	struct plugin *p;

	if (s->plugin_count == SETUP_PLUGINS_MAX)
		return -E2BIG;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	plugin_init(p, type);
	if (name) {
		p->name = strdup(name);
		if (!p->name) {
			free(p);
			return -ENOMEM;
		}
	}
	s->plugin_lines[s->plugin_count] = line;
	s->plugins[s->plugin_count] = p;
	*ret = s->plugin_count++;
	return 0;
}

uint32_t setup_plugin_find(const struct setup *s, const char *name)
{
	for (unsigned int i = 0; i < s->plugin_count; i++)
		if (strcmp(plugin_name(s->plugins[i]), name) == 0)
			return i;
	return SETUP_NONE;
}

uint32_t setup_profile_find(const struct setup *s, const char *name)
{
	for (unsigned int i = 0; i < s->profile_count; i++)
		if (strcmp(s->profiles[i]->name, name) == 0)
			return i;
	return SETUP_NONE;
}

bool setup_uses(const struct setup *s, const char *type)
{
	for (unsigned int i = 0; i < s->profile_count; i++) {
		const struct profile *p = &s->profiles[i]->profile;

		for (unsigned int k = 0; k < p->filter_count; k++)
			if (strcmp(p->filters[k].type->name, type) == 0)
				return true;
		for (unsigned int k = 0; k < p->scorer_count; k++)
			if (strcmp(p->scorers[k].type->name, type) == 0)
				return true;
	}
	return false;
}

int keys_check(const struct node *map, const char *where, const char *const *known,
	       struct complaint *c)
{
	char list[512] = "";

	if (!map || node_is_null(map))
		return 0;
	if (map->kind != NODE_MAP)
		return complain(c, map, "%s is a mapping", where);
	for (const struct node *n = map->first; n; n = n->next) {
		const char *const *k = known;
		size_t used = 0;

		while (*k && strcmp(*k, n->key) != 0)
			k++;
		if (*k)
			continue;
		for (k = known; *k && used < sizeof(list); k++)
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
						 used ? ", " : "", *k);
		return complain(c, n, "%s has no field \"%.64s\"; known: %s", where, n->key, list);
	}
	return 0;
}

int setup_ref(const struct setup *s, const struct node *ref, unsigned int kinds, const char *what,
	      struct complaint *c, uint32_t *ret)
{
	char list[1024] = "";
	size_t used = 0;
	uint32_t i;

	if (!ref || ref->kind != NODE_SCALAR)
		return complain(c, ref, "%s: the name of a plugin is missing", what);
	i = setup_plugin_find(s, ref->text);
	if (i != SETUP_NONE && (s->plugins[i]->type->kinds & kinds)) {
		*ret = i;
		return 0;
	}
	for (unsigned int k = 0; k < s->plugin_count && used < sizeof(list); k++)
		if (s->plugins[k]->type->kinds & kinds)
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
						 used ? ", " : "", plugin_name(s->plugins[k]));
	if (i != SETUP_NONE)
		return complain(c, ref, "%s: \"%.64s\" is a %s, which cannot stand here; could: %s",
				what, ref->text, s->plugins[i]->type->name, used ? list : "none");
	return complain(c, ref, "%s: no plugin is named \"%.64s\"; listed are: %s", what, ref->text,
			used ? list : "none of that kind");
}

int setup_from_profile(const char *text, struct setup **ret, char **ret_error)
{
	struct setup *s = setup_new();
	struct setup_profile *p = calloc(1, sizeof(*p));
	int err = -ENOMEM;

	if (s && p) {
		s->profiles[s->profile_count++] = p;
		p->name = strdup("default");
		err = p->name ? profile_parse(&p->profile, text, ret_error) : -ENOMEM;
		p = NULL;
	}
	if (err) {
		free(p);
		setup_free(s);
		return err;
	}
	s->decode = 0;
	err = read_flow(s, NULL, &(struct complaint){.file = "default"});
	if (err) {
		setup_free(s);
		return err;
	}
	*ret = s;
	return 0;
}

int setup_read(struct setup *s, const struct node *root, struct complaint *c);

int setup_from_text(const char *name, struct span text, struct setup **ret, char **ret_error)
{
	struct complaint c = {.file = name};
	struct setup *s = setup_new();
	struct node *root = NULL;
	int err = s ? tree_read(&c, text, &root) : -ENOMEM;

	if (!err)
		err = setup_read(s, root, &c);
	tree_free(root);
	*ret_error = c.text;
	if (err) {
		setup_free(s);
		return err;
	}
	*ret = s;
	return 0;
}

/* *ret_text: the whole file, at most TREE_BYTES_MAX + 1 bytes. Free it. */
static int file_read(const char *path, char **ret_text, size_t *ret_bytes, char **ret_error)
{
	FILE *f __cleanup(file_close) = fopen(path, "re");
	char *text = f ? malloc(TREE_BYTES_MAX + 1) : NULL;
	int err = f ? 0 : errno;

	if (f && !text)
		return -ENOMEM;
	if (f) {
		*ret_bytes = fread(text, 1, TREE_BYTES_MAX + 1, f);
		err = ferror(f) ? errno : 0;
	}
	if (err) {
		free(text);
		if (asprintf(ret_error, "%s: %s", path, strerror(err)) < 0)
			*ret_error = NULL;
		return -err;
	}
	*ret_text = text;
	return 0;
}

int setup_from_file(const char *path, struct setup **ret, char **ret_error)
{
	char *text __cleanup(mem_free) = NULL;
	size_t n;
	int err = file_read(path, &text, &n, ret_error);

	return err ? err : setup_from_text(path, span_of(text, n), ret, ret_error);
}

static int read_objective(struct setup *s, const struct node *item, struct complaint *c)
{
	static const char *const keys[] = {"name", "priority", NULL};
	const struct node *name = node_child(item, "name"),
			  *priority = node_child(item, "priority");
	struct objective *more;
	char *end = NULL;
	long n = 0;
	int err = keys_check(item, "objectives[]", keys, c);

	if (err)
		return err;
	if (!name || name->kind != NODE_SCALAR)
		return complain(c, item, "an objective without a name");
	if (!node_is_null(priority) && priority->kind == NODE_SCALAR)
		n = strtol(priority->text, &end, 10);
	if (!node_is_null(priority) && (!end || end == priority->text || *end || n != (int32_t)n))
		return complain(c, priority, "a priority is a whole number");
	more = realloc(s->objectives, (s->objective_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->objectives = more;
	more[s->objective_count].priority = (int32_t)n;
	more[s->objective_count].name = strdup(name->text);
	return more[s->objective_count++].name ? 0 : -ENOMEM;
}

int setup_read_objectives(struct setup *s, const char *path, char **ret_error)
{
	static const char *const keys[] = {"objectives", NULL};
	char *text __cleanup(mem_free) = NULL;
	struct complaint c = {.file = path};
	const struct node *list = NULL;
	struct node *root = NULL;
	size_t n;
	int err = file_read(path, &text, &n, ret_error);

	if (err)
		return err;
	err = tree_read(&c, span_of(text, n), &root);
	if (!err)
		err = keys_check(root, "the file of objectives", keys, &c);
	if (!err)
		list = node_child(root, "objectives");
	if (!err && !node_is_null(list) && list->kind != NODE_LIST)
		err = complain(&c, list, "objectives is a list");
	for (const struct node *o = list ? list->first : NULL; o && !err; o = o->next)
		err = read_objective(s, o, &c);
	tree_free(root);
	*ret_error = c.text;
	return err;
}

int32_t setup_objective(const struct setup *s, struct span name)
{
	for (unsigned int i = 0; name.len && i < s->objective_count; i++)
		if (span_eq(name, span_of_str(s->objectives[i].name)))
			return s->objectives[i].priority;
	return 0;
}

static int setup_choose(const struct config *cfg, struct setup **ret, char **ret_error)
{
	char text[256];
	int err;

	if (cfg->scheduler_config && *cfg->scheduler_config) {
		err = setup_from_file(cfg->scheduler_config, ret, ret_error);
		if (!err)
			(*ret)->from_file = true;
		return err;
	}
	if (cfg->scheduler_profile && *cfg->scheduler_profile &&
	    strcmp(cfg->scheduler_profile, "llm-d") != 0)
		return setup_from_profile(cfg->scheduler_profile, ret, ret_error);
	snprintf(text, sizeof(text),
		 "queue-scorer=%g,kv-cache-utilization-scorer=%g,prefix-cache-scorer=%g",
		 cfg->weight_queue, cfg->weight_kv, cfg->weight_prefix);
	return setup_from_profile(text, ret, ret_error);
}

/* session-affinity's parameters, in the order of its row. */
enum session_param {
	SESSION_STRATEGY, /* 0: a token in a field that answers carry, 1: the client's own id */
	SESSION_TOKEN_FIELD,
};

static const struct plugin *session_plugin(const struct setup *s)
{
	for (unsigned int i = 0; i < s->profile_count; i++) {
		const struct profile *p = &s->profiles[i]->profile;

		for (unsigned int k = 0; k < p->filter_count; k++)
			if (p->filters[k].type->uses_session)
				return &p->filters[k];
		for (unsigned int k = 0; k < p->scorer_count; k++)
			if (p->scorers[k].type->uses_session)
				return &p->scorers[k];
	}
	return NULL;
}

/* Which fields name a session. An id is always understood; a token where that is the strategy. */
static int choose_session_fields(struct setup *s)
{
	const struct plugin *p = session_plugin(s);

	if (!p)
		return 0;
	s->session_id = strdup(p->rule_count ? p->rules[0].key : "x-session-id");
	if (p->params[SESSION_STRATEGY] == 0)
		s->session_token = strdup(plugin_text(p, SESSION_TOKEN_FIELD));
	return s->session_id && (s->session_token || p->params[SESSION_STRATEGY] != 0) ? 0
										       : -ENOMEM;
}

int setup_from_config(const struct config *cfg, struct setup **ret, char **ret_error)
{
	struct setup *s = NULL;
	int err = setup_choose(cfg, &s, ret_error);

	if (!err && cfg->objectives && *cfg->objectives)
		err = setup_read_objectives(s, cfg->objectives, ret_error);
	if (!err)
		err = choose_session_fields(s);
	if (err)
		setup_free(s);
	else
		*ret = s;
	return err;
}
