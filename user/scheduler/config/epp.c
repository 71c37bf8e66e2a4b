/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An EndpointPickerConfig into a setup: the listed plugins first, then everything that refers to
 * them, then what the reference adds by itself. Outside `parameters` names are case-sensitive and
 * an unknown one is an error. What is refused is refused with the place and with what is known.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "scheduler/config/params.h"
#include "scheduler/config/setup.h"

int setup_read(struct setup *s, const struct node *root, struct complaint *c);

static int refuse_type(struct complaint *c, const struct node *at)
{
	char known[6144] = "";
	size_t n = 0;

	for (int table = 0; table < 2; table++)
		for (const struct plugin_type *t = table ? other_types : plugin_types;
		     t->name && n < sizeof(known); t++)
			n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "",
					      t->name);
	return complain(c, at, "unknown plugin type \"%.64s\"; known types: %s", at->text, known);
}

static int read_plugin(struct setup *s, const struct node *item, struct complaint *c)
{
	static const char *const keys[] = {"name", "type", "parameters", NULL};
	const struct node *type = node_child(item, "type"), *name = node_child(item, "name");
	const struct plugin_type *t;
	const char *called;
	uint32_t index;
	int err = keys_check(item, "plugins[]", keys, c);

	if (err)
		return err;
	if (!type || type->kind != NODE_SCALAR || node_is_null(type))
		return complain(c, item, "a plugin without a type");
	if (name && name->kind != NODE_SCALAR)
		return complain(c, name, "a plugin's name is a plain text");
	t = plugin_find(type->text, strlen(type->text));
	if (!t)
		return refuse_type(c, type);
	called = node_is_null(name) ? type->text : name->text;
	if (setup_plugin_find(s, called) != SETUP_NONE)
		return complain(c, item, "two plugins are named \"%.64s\"", called);
	err = setup_add(s, t, called, item->line, &index);
	if (err == -E2BIG)
		return complain(c, item, "more than %d plugins", SETUP_PLUGINS_MAX);
	if (!err)
		err = params_read(s->plugins[index], node_child(item, "parameters"), c);
	s->has_alpha |= !err && (t->flags & PLUGIN_ALPHA);
	if (!err && strcmp(t->name, "predicted-latency-producer") == 0)
		s->latency_plugin = index;
	s->knows_agents |= !err && strcmp(t->name, "agent-identity") == 0;
	if (!err && strcmp(t->name, "priority-holdback-policy") == 0 &&
	    s->plugins[index]->params[0] < 0)
		return complain(c, item, "priority-holdback-policy: minCeiling is required");
	return err;
}

/* A consumer may only name a producer that is there, or the default one. */
static int check_producers(const struct setup *s, struct complaint *c)
{
	for (unsigned int i = 0; i < s->plugin_count; i++) {
		const struct plugin *p = s->plugins[i];
		struct node at = {.line = s->plugin_lines[i], .column = 1};

		for (int k = 0; p->type->params && p->type->params[k].name; k++) {
			const char *row = p->type->params[k].name;
			size_t len = strlen(row);
			uint32_t named;

			if (k >= PLUGIN_PARAMS_MAX || len < 12 || !p->texts[k] || !*p->texts[k] ||
			    strcasecmp(row + len - 12, "ProducerName") != 0)
				continue;
			named = setup_plugin_find(s, p->texts[k]);
			if (named == SETUP_NONE && plugin_find(p->texts[k], strlen(p->texts[k])))
				continue;
			if (named == SETUP_NONE || !(s->plugins[named]->type->kinds &
						     (PLUGIN_PRODUCER | PLUGIN_EXTRACTOR)))
				return complain(c, &at, "%s: %s: no producer is named \"%.64s\"",
						plugin_name(p), row, p->texts[k]);
		}
	}
	return 0;
}

static int add_to_profile(struct setup_profile *to, const struct plugin *p, double weight,
			  const struct node *at, struct complaint *c)
{
	struct plugin copy;
	int err = plugin_copy(&copy, p);

	if (err)
		return err;
	copy.weight = weight;
	err = profile_add(&to->profile, &copy);
	plugin_fini(&copy);
	if (err == -E2BIG)
		return complain(c, at, "profile %.64s: %s", to->name,
				p->type->pick ? "a second picker" : "too many plugins");
	return err;
}

static int read_profile_plugin(const struct setup *s, struct setup_profile *to,
			       const struct node *item, struct complaint *c)
{
	static const char *const keys[] = {"pluginRef", "weight", NULL};
	const struct node *weight = node_child(item, "weight");
	double w = 1;
	char *end;
	uint32_t i;
	int err = keys_check(item, "schedulingProfiles[].plugins[]", keys, c);

	if (!err)
		err = setup_ref(s, node_child(item, "pluginRef"), ~0U, "pluginRef", c, &i);
	if (err)
		return err;
	if (!node_is_null(weight)) {
		w = weight->kind == NODE_SCALAR ? strtod(weight->text, &end) : NAN;
		if (!isfinite(w) || end == weight->text || *end)
			return complain(c, weight, "a weight is a number");
	}
	return add_to_profile(to, s->plugins[i], w, item, c);
}

static int profile_new(struct setup *s, const char *name, struct setup_profile **ret)
{
	struct setup_profile *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->name = strdup(name);
	p->profile.text = strdup(name);
	if (!p->name || !p->profile.text) {
		profile_fini(&p->profile);
		free(p->name);
		free(p);
		return -ENOMEM;
	}
	s->profiles[s->profile_count++] = p;
	*ret = p;
	return 0;
}

static int read_profile(struct setup *s, const struct node *item, struct complaint *c)
{
	static const char *const keys[] = {"name", "plugins", NULL};
	const struct node *name = node_child(item, "name"), *list = node_child(item, "plugins");
	struct setup_profile *p;
	int err = keys_check(item, "schedulingProfiles[]", keys, c);

	if (err)
		return err;
	if (!name || name->kind != NODE_SCALAR || node_is_null(name))
		return complain(c, item, "a profile without a name");
	if (setup_profile_find(s, name->text) != SETUP_NONE)
		return complain(c, name, "two profiles are named \"%.64s\"", name->text);
	if (s->profile_count == SETUP_PROFILES_MAX)
		return complain(c, item, "more than %d profiles", SETUP_PROFILES_MAX);
	err = profile_new(s, name->text, &p);
	if (!err && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "plugins is a list");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next)
		err = read_profile_plugin(s, p, n, c);
	return err;
}

/* No profiles: one of everything that is listed. */
static int make_default_profile(struct setup *s, struct complaint *c)
{
	struct setup_profile *p;
	int err = profile_new(s, "default", &p);

	for (unsigned int i = 0; i < s->plugin_count && !err; i++)
		if (!(s->plugins[i]->type->pick && p->profile.picker.type))
			err = add_to_profile(p, s->plugins[i], 1, NULL, c);
	return err;
}

/* A profile without a picker takes a listed one, else the best total. */
static int complete_profiles(struct setup *s, struct complaint *c)
{
	const struct plugin *picker = NULL;
	int err = 0;

	for (unsigned int i = s->plugin_count; i-- > 0;)
		if (s->plugins[i]->type->pick)
			picker = s->plugins[i];
	for (unsigned int i = 0; i < s->profile_count && !err; i++) {
		struct setup_profile *p = s->profiles[i];

		if (!p->profile.picker.type && picker)
			err = add_to_profile(p, picker, 1, NULL, c);
		if (!err)
			err = profile_complete(&p->profile);
	}
	return err;
}

/* Plugins that are needed and not listed are added under the name of their type. */
static int add_defaults(struct setup *s)
{
	static const struct {
		const char *type, *for_type;
	} defaults[] = {{"approx-prefix-cache-producer", "prefix-cache-scorer"},
			{"inflight-load-producer", "active-request-scorer"},
			{"inflight-load-producer", "token-load-scorer"},
			{"predicted-latency-producer", "latency-scorer"},
			{"predicted-latency-producer", "slo-headroom-tier-filter"},
			{"mm-embeddings-cache-producer", "mm-embeddings-cache-scorer"}};
	uint32_t index;
	int err = 0;

	for (size_t i = 0; i < sizeof(defaults) / sizeof(defaults[0]) && !err; i++) {
		const struct plugin_type *t =
			plugin_find(defaults[i].type, strlen(defaults[i].type));

		if (setup_uses(s, defaults[i].for_type) &&
		    setup_plugin_find(s, defaults[i].type) == SETUP_NONE)
			err = setup_add(s, t, NULL, 0, &index);
	}
	return err;
}

/* Helm values of the router hold the configuration as a text inside. */
static const struct node *find_embedded(const struct node *root)
{
	const struct node *epp = node_child(node_child(root, "router"), "epp");
	const struct node *all = node_child(epp, "pluginsCustomConfig");
	const struct node *file = node_child(epp, "pluginsConfigFile");

	if (!all || all->kind != NODE_MAP)
		return NULL;
	return file && file->kind == NODE_SCALAR ? node_child(all, file->text) : all->first;
}

static int read_embedded(struct setup *s, const struct node *text, struct complaint *c)
{
	struct complaint inner = {.file = text->key};
	struct node *root;
	int err;

	if (text->kind != NODE_SCALAR)
		return complain(c, text, "a configuration as text is missing here");
	err = tree_read(&inner, span_of_str(text->text), &root);
	if (!err && find_embedded(root))
		err = complain(&inner, NULL, "Helm values inside Helm values");
	if (!err)
		err = setup_read(s, root, &inner);
	tree_free(root);
	if (inner.text)
		complain(c, text, "in it: %s", inner.text);
	free(inner.text);
	return err;
}

static int check_head(const struct node *root, struct complaint *c)
{
	static const char *const keys[] = {"apiVersion",
					   "kind",
					   "plugins",
					   "schedulingProfiles",
					   "dataLayer",
					   "flowControl",
					   "featureGates",
					   "requestHandler",
					   "parser",
					   "saturationDetector",
					   NULL};
	const struct node *version = node_child(root, "apiVersion");
	const struct node *kind = node_child(root, "kind");

	if (!version || version->kind != NODE_SCALAR ||
	    (strcmp(version->text, "llm-d.ai/v1alpha1") &&
	     strcmp(version->text, "inference.networking.x-k8s.io/v1alpha1")))
		return complain(c, version ? version : root,
				"apiVersion is llm-d.ai/v1alpha1 or "
				"inference.networking.x-k8s.io/v1alpha1");
	if (!kind || kind->kind != NODE_SCALAR || strcmp(kind->text, "EndpointPickerConfig"))
		return complain(c, kind ? kind : root, "kind is EndpointPickerConfig");
	return keys_check(root, "an EndpointPickerConfig", keys, c);
}

static int read_gates(struct setup *s, const struct node *list, struct complaint *c)
{
	if (node_is_null(list))
		return 0;
	if (list->kind != NODE_LIST)
		return complain(c, list, "featureGates is a list");
	for (const struct node *n = list->first; n; n = n->next) {
		bool on = true;
		size_t len;

		if (n->kind != NODE_SCALAR)
			return complain(c, n, "a feature gate is a plain text");
		len = strcspn(n->text, "=");
		if (n->text[len] && strcmp(n->text + len, "=true") &&
		    strcmp(n->text + len, "=false"))
			return complain(c, n, "a feature gate is NAME, NAME=true or NAME=false");
		on = strcmp(n->text + len, "=false") != 0;
		if (len == 11 && !strncmp(n->text, "flowControl", len))
			s->flow.on = on;
		else if (len != 28 || strncmp(n->text, "haPopulateNonLeaderDatastore", len))
			return complain(c, n,
					"unknown feature gate \"%.64s\"; known: flowControl, "
					"haPopulateNonLeaderDatastore",
					n->text);
	}
	return 0;
}

static int read_list(struct setup *s, const struct node *list, const char *what,
		     int (*read)(struct setup *, const struct node *, struct complaint *),
		     struct complaint *c)
{
	int err = 0;

	if (node_is_null(list))
		return 0;
	if (list->kind != NODE_LIST)
		return complain(c, list, "%s is a list", what);
	for (const struct node *n = list->first; n && !err; n = n->next)
		err = n->kind == NODE_MAP ? read(s, n, c)
					  : complain(c, n, "an item of %s is a mapping", what);
	return err;
}

int setup_read(struct setup *s, const struct node *root, struct complaint *c)
{
	const struct node *embedded = root ? find_embedded(root) : NULL;
	int err;

	if (embedded)
		return read_embedded(s, embedded, c);
	if (!root || root->kind != NODE_MAP)
		return complain(c, root, "not an EndpointPickerConfig");
	err = check_head(root, c);
	if (!err)
		err = read_gates(s, node_child(root, "featureGates"), c);
	if (!err)
		err = read_list(s, node_child(root, "plugins"), "plugins", read_plugin, c);
	if (!err)
		err = check_producers(s, c);
	if (!err)
		err = read_list(s, node_child(root, "schedulingProfiles"), "schedulingProfiles",
				read_profile, c);
	if (!err && s->profile_count == 0)
		err = make_default_profile(s, c);
	if (!err)
		err = complete_profiles(s, c);
	if (!err)
		err = read_handler(s, c);
	if (!err)
		err = read_data_layer(s, root, c);
	if (!err)
		err = read_flow(s, root, c);
	return err ? err : add_defaults(s);
}
