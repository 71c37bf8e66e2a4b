/* SPDX-License-Identifier: Apache-2.0 */
/* The sections dataLayer, requestHandler and flowControl: references checked, limits read. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/config/params.h"
#include "scheduler/config/setup.h"

#define BAND_REQUESTS_MAX 5000
#define BAND_BYTES_MAX	  1e9
#define TTL_MS		  60000

static int find_or_add(struct setup *s, const char *type, uint32_t *ret)
{
	uint32_t i = setup_plugin_find(s, type);

	if (i != SETUP_NONE) {
		*ret = i;
		return 0;
	}
	return setup_add(s, plugin_find(type, strlen(type)), NULL, 0, ret);
}

/* ---- dataLayer, requestHandler ---- */

static int read_source(struct setup *s, const struct node *item, struct complaint *c)
{
	static const char *const keys[] = {"pluginRef", "extractors", NULL};
	static const char *const extractor_keys[] = {"pluginRef", NULL};
	const struct node *list = node_child(item, "extractors");
	const struct plugin_type *seen[16];
	unsigned int count = 0;
	uint32_t i;
	int err = keys_check(item, "dataLayer.sources[]", keys, c);

	if (!err)
		err = setup_ref(s, node_child(item, "pluginRef"), PLUGIN_SOURCE,
				"dataLayer.sources[]", c, &i);
	if (!err && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "extractors is a list");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next) {
		err = keys_check(n, "extractors[]", extractor_keys, c);
		if (!err)
			err = setup_ref(s, node_child(n, "pluginRef"),
					PLUGIN_EXTRACTOR | PLUGIN_PRODUCER, "extractors[]", c, &i);
		for (unsigned int k = 0; !err && k < count; k++)
			if (seen[k] == s->plugins[i]->type)
				return complain(c, n, "two extractors of one type on a source");
		if (!err && count < 16)
			seen[count++] = s->plugins[i]->type;
	}
	return err;
}

static int read_discovery(struct setup *s, const struct node *ref, struct complaint *c)
{
	static const char *const keys[] = {"pluginRef", NULL};
	uint32_t i;
	int err;

	if (node_is_null(ref))
		return 0;
	err = keys_check(ref, "dataLayer.discovery", keys, c);
	if (!err)
		err = setup_ref(s, node_child(ref, "pluginRef"), PLUGIN_DISCOVERY,
				"dataLayer.discovery", c, &i);
	if (err)
		return err;
	if (!*plugin_text(s->plugins[i], 0))
		return complain(c, ref, "file-discovery: path is required");
	s->endpoints_file = plugin_text(s->plugins[i], 0);
	return 0;
}

static int read_parsers(struct setup *s, const struct node *root, struct complaint *c)
{
	static const char *const keys[] = {"parsers", NULL}, *const ref_keys[] = {"pluginRef",
										  NULL};
	const struct node *handler = node_child(root, "requestHandler");
	const struct node *list = node_child(handler, "parsers");
	int err = keys_check(handler, "requestHandler", keys, c);

	if (!err && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "parsers is a list");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next) {
		const struct node *ref = node_child(n, "pluginRef");
		const struct plugin_type *t;
		uint32_t i;

		err = keys_check(n, "parsers[]", ref_keys, c);
		if (err)
			break;
		if (ref && ref->kind == NODE_SCALAR &&
		    setup_plugin_find(s, ref->text) == SETUP_NONE) {
			t = plugin_find(ref->text, strlen(ref->text));
			if (t && (t->kinds & PLUGIN_PARSER))
				err = setup_add(s, t, NULL, 0, &i);
		}
		if (!err)
			err = setup_ref(s, ref, PLUGIN_PARSER, "parsers[]", c, &i);
	}
	return err;
}

int read_data_layer(struct setup *s, const struct node *root, struct complaint *c)
{
	static const char *const keys[] = {"injectDefaults",
					   "sources",
					   "discovery",
					   "peerDiscovery",
					   "crossReplicaSyncerPluginRef",
					   "crossReplicaSyncInterval",
					   NULL};
	const struct node *layer = node_child(root, "dataLayer");
	const struct node *list = node_child(layer, "sources");
	const struct node *syncer = node_child(layer, "crossReplicaSyncerPluginRef");
	int err = keys_check(layer, "dataLayer", keys, c);

	if (!err && !node_is_null(syncer))
		return complain(c, syncer, "there is no type of cross-replica syncer");
	if (!err && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "sources is a list");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next)
		err = n->kind == NODE_MAP ? read_source(s, n, c)
					  : complain(c, n, "a source is a mapping");
	if (!err)
		err = read_discovery(s, node_child(layer, "discovery"), c);
	return err ? err : read_parsers(s, root, c);
}

/* ---- flowControl ---- */

static int read_amount(const struct node *map, const char *key, double *ret, struct complaint *c)
{
	const struct node *n = node_child(map, key);

	if (node_is_null(n))
		return 0;
	if (n->kind != NODE_SCALAR || quantity_read(n->text, ret) || *ret < 0)
		return complain(c, n, "%s is an amount, 0 or more", key);
	return 0;
}

static int read_time(const struct node *map, const char *key, uint64_t *ret_ms, struct complaint *c)
{
	const struct node *n = node_child(map, key);
	double ms;

	if (node_is_null(n))
		return 0;
	if (n->kind != NODE_SCALAR || duration_read(n->text, &ms) || ms > 1e12)
		return complain(c, n, "%s is a time like 30s", key);
	*ret_ms = (uint64_t)ms;
	return 0;
}

static int read_band(struct setup *s, const struct node *map, struct flow_band *band,
		     struct complaint *c)
{
	static const char *const keys[] = {"priority",		"maxBytes",	     "maxRequests",
					   "fairnessPolicyRef", "orderingPolicyRef", NULL};
	const struct node *priority = node_child(map, "priority");
	const struct node *fairness = node_child(map, "fairnessPolicyRef");
	const struct node *ordering = node_child(map, "orderingPolicyRef");
	int err = keys_check(map, "a priority band", keys, c);
	char *end;

	if (!err)
		err = read_amount(map, "maxBytes", &band->bytes_max, c);
	if (!err)
		err = read_amount(map, "maxRequests", &band->requests_max, c);
	if (!err && !node_is_null(priority)) {
		band->priority = (int32_t)strtol(
			priority->kind == NODE_SCALAR ? priority->text : "", &end, 10);
		if (priority->kind != NODE_SCALAR || end == priority->text || *end)
			return complain(c, priority, "a priority is a whole number");
	}
	if (!err && !node_is_null(fairness))
		err = setup_ref(s, fairness, PLUGIN_FAIRNESS, "fairnessPolicyRef", c,
				&band->fairness);
	if (!err && !node_is_null(ordering))
		err = setup_ref(s, ordering, PLUGIN_ORDERING, "orderingPolicyRef", c,
				&band->ordering);
	if (band->bytes_max <= 0)
		band->bytes_max = BAND_BYTES_MAX;
	if (band->requests_max <= 0)
		band->requests_max = BAND_REQUESTS_MAX;
	return err;
}

static int read_bands(struct setup *s, const struct node *map, struct complaint *c)
{
	const struct node *list = node_child(map, "priorityBands");
	struct flow_setup *f = &s->flow;
	int err;

	f->usual =
		(struct flow_band){.requests_max = BAND_REQUESTS_MAX, .bytes_max = BAND_BYTES_MAX};
	err = find_or_add(s, "global-strict-fairness-policy", &f->usual.fairness);
	if (!err)
		err = find_or_add(s, "fcfs-ordering-policy", &f->usual.ordering);
	f->negative = f->usual;
	if (!err)
		err = read_band(s, node_child(map, "defaultPriorityBand"), &f->usual, c);
	if (!err && node_is_null(node_child(map, "defaultNegativePriorityBand")))
		f->negative = f->usual;
	if (!err)
		err = read_band(s, node_child(map, "defaultNegativePriorityBand"), &f->negative, c);
	if (!err && !node_is_null(list) && list->kind != NODE_LIST)
		return complain(c, list, "priorityBands is a list");
	for (const struct node *n = list ? list->first : NULL; n && !err; n = n->next) {
		struct flow_band band = f->usual;

		band.requests_max = band.bytes_max = 0;
		band.priority = 0;
		err = read_band(s, n, &band, c);
		for (unsigned int i = 0; !err && i < f->band_count; i++)
			if (f->bands[i].priority == band.priority)
				return complain(c, n, "two bands of priority %d", band.priority);
		if (!err && f->band_count == SETUP_BANDS_MAX)
			return complain(c, n, "more than %d priority bands", SETUP_BANDS_MAX);
		if (!err)
			f->bands[f->band_count++] = band;
	}
	return err;
}

static int read_detector(struct setup *s, const struct node *root, struct complaint *c)
{
	static const char *const keys[] = {"pluginRef", NULL};
	const struct node *d = node_child(node_child(root, "flowControl"), "saturationDetector");
	const struct node *ref;
	int err;

	if (node_is_null(d))
		d = node_child(root, "saturationDetector");
	err = keys_check(d, "saturationDetector", keys, c);
	ref = node_child(d, "pluginRef");
	if (err)
		return err;
	if (node_is_null(ref) || strcmp(ref->text ? ref->text : "", "utilization-detector") == 0)
		return find_or_add(s, "utilization-detector", &s->flow.detector);
	return setup_ref(s, ref, PLUGIN_DETECTOR, "saturationDetector", c, &s->flow.detector);
}

int read_flow(struct setup *s, const struct node *root, struct complaint *c)
{
	static const char *const keys[] = {"maxRequests",
					   "maxBytes",
					   "defaultRequestTTL",
					   "noEndpointRequestTTL",
					   "priorityBands",
					   "defaultPriorityBand",
					   "defaultNegativePriorityBand",
					   "usageLimitPolicyPluginRef",
					   "saturationDetector",
					   "enableEviction",
					   NULL};
	const struct node *map = node_child(root, "flowControl");
	const struct node *limit = node_child(map, "usageLimitPolicyPluginRef");
	const struct node *evict = node_child(map, "enableEviction");
	struct flow_setup *f = &s->flow;
	int err = keys_check(map, "flowControl", keys, c);

	f->ttl_ms = TTL_MS;
	if (!err)
		err = read_amount(map, "maxRequests", &f->requests_max, c);
	if (!err)
		err = read_amount(map, "maxBytes", &f->bytes_max, c);
	if (!err)
		err = read_time(map, "defaultRequestTTL", &f->ttl_ms, c);
	f->empty_pool_ttl_ms =
		node_is_null(node_child(map, "defaultRequestTTL")) ? TTL_MS : f->ttl_ms;
	if (!err)
		err = read_time(map, "noEndpointRequestTTL", &f->empty_pool_ttl_ms, c);
	if (!err)
		err = read_bands(s, map, c);
	if (!err && node_is_null(limit))
		err = find_or_add(s, "static-usage-limit-policy", &f->usage_limit);
	else if (!err)
		err = setup_ref(s, limit, PLUGIN_USAGE_LIMIT, "usageLimitPolicyPluginRef", c,
				&f->usage_limit);
	if (!err)
		err = read_detector(s, root, c);
	if (!err && !node_is_null(evict)) {
		if (evict->kind != NODE_SCALAR ||
		    (strcmp(evict->text, "true") && strcmp(evict->text, "false")))
			return complain(c, evict, "enableEviction is true or false");
		f->evicts = strcmp(evict->text, "true") == 0;
	}
	return err;
}
