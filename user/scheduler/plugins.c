/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of plugins, and what several of them share. A new plugin is one file and one row here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/plugin.h"

/* clang-format off */
#define MAX_ENDPOINTS PARAMS({"maxNumOfEndpoints", .value = 1, .kind = PARAM_INTEGER})
#define PRODUCER_NAME(n) {n, .kind = PARAM_TEXT, .words = ""}
#define NONE .flags = PLUGIN_ANY_PARAMS
#define SESSION_PARAMS                                                                             \
	PARAMS({"strategy", .kind = PARAM_WORD, .words = "encoded_endpoint_header|session_id"},    \
	       {"encodedEndpointHeaderConfig.header", .kind = PARAM_TEXT,                          \
		.words = "x-session-token"},                                                       \
	       {"sessionIdConfig.sources", .kind = PARAM_TREE},                                    \
	       NUM("sessionIdConfig.evictionTtlSeconds", 300, 1, 1e9),                                \
	       NUM("sessionIdConfig.evictionSweepSeconds", 10, 1, 1e9),                               \
	       {"profileName", .kind = PARAM_TEXT, .words = ""})

const struct plugin_type plugin_types[] = {
	{ "decode-filter", PLUGIN_FILTER, NONE, .keep = filter_decode },
	{ "prefill-filter", PLUGIN_FILTER, NONE, .keep = filter_prefill },
	{ "encode-filter", PLUGIN_FILTER, NONE, .keep = filter_encode },
	{ "label-selector-filter", PLUGIN_FILTER, .keep = filter_labels, .takes_labels = true,
	  .read = read_label_selector,
	  PARAMS({"matchLabels", .kind = PARAM_TREE}, {"matchExpressions", .kind = PARAM_TREE}) },
	{ "by-label-selector", PLUGIN_FILTER, PLUGIN_DEPRECATED, .keep = filter_labels,
	  .takes_labels = true, .read = read_label_selector,
	  PARAMS({"matchLabels", .kind = PARAM_TREE}, {"matchExpressions", .kind = PARAM_TREE}) },
	{ "by-label", PLUGIN_FILTER, PLUGIN_DEPRECATED, .keep = filter_by_label,
	  .read = read_by_label,
	  PARAMS({"label", .kind = PARAM_TEXT, .words = ""}, {"validValues[]", .kind = PARAM_TEXT},
		 {"allowsNoLabel", .kind = PARAM_BOOL}) },
	{ "prefix-cache-affinity-filter", PLUGIN_FILTER, .narrow = narrow_prefix_affinity,
	  PARAMS(NUM("affinityThreshold", 0.8, -1e9, 1), NUM("explorationProbability", 0, 0, 1),
		 NUM("maxTTFTPenaltyMs", 18000, 0, 1e12),
		 {"ttftSource", .kind = PARAM_WORD, .words = "prefillThroughput|latencyPredictor"},
		 NUM("peakPrefillThroughput", 15928, 1, 1e12),
		 PRODUCER_NAME("prefixMatchInfoProducerName"),
		 PRODUCER_NAME("latencyPredictionInfoProducerName"),
		 PRODUCER_NAME("inFlightLoadProducerName")) },
	{ "slo-headroom-tier-filter", PLUGIN_FILTER, .narrow = narrow_slo_tier,
	  PARAMS(NUM("epsilonExploreNeg", 0.01, 0, 1),
		 PRODUCER_NAME("latencyPredictionInfoProducerName")) },
	{ "session-affinity-filter", PLUGIN_FILTER, PLUGIN_ALPHA, .narrow = narrow_session,
	  .uses_session = true, .read = read_session, SESSION_PARAMS },
	{ "topology-affinity-filter", PLUGIN_FILTER, PLUGIN_ALPHA, .narrow = narrow_topology,
	  PARAMS({"minAffinity", .kind = PARAM_WORD, .words = "host|rack|zone|region"},
		 PRODUCER_NAME("topologyProducerName")) },
	{ "endpoint-attribute-filter", PLUGIN_FILTER, PLUGIN_ALPHA, .narrow = narrow_attribute,
	  .read = read_attribute,
	  PARAMS({"attribute", .kind = PARAM_TEXT, .words = ""},
		 {"producer", .kind = PARAM_TEXT, .words = "core-metrics-extractor"},
		 {"onMissing", .kind = PARAM_WORD, .words = "Pass|Fail"},
		 {"fallbackOnEmpty", .kind = PARAM_BOOL},
		 {"algorithm.type", .kind = PARAM_WORD, .words = "threshold"},
		 {"algorithm.threshold.operator", .kind = PARAM_WORD,
		  .words = "LessThan|LessThanOrEqual|GreaterThan|GreaterThanOrEqual|Equal|NotEqual"},
		 NUM("algorithm.threshold.value", 0, 0, 0)) },
	{ "utilization-filter", PLUGIN_FILTER, PLUGIN_ALPHA, .narrow = narrow_utilization,
	  .read = read_utilization,
	  PARAMS({"fallbackOnEmpty", .kind = PARAM_BOOL},
		 PRODUCER_NAME("inFlightLoadProducerName"),
		 NUM("active-requests", -1, 0, 0), NUM("running-requests", -1, 0, 0), NUM("waiting-queue", -1, 0, 0),
		 NUM("kv-cache-utilization", -1, 0, 0),
		 {"conditions[].metric", .kind = PARAM_WORD,
		  .words = "active-requests|running-requests|waiting-queue|kv-cache-utilization"},
		 NUM("conditions[].maxValue", 0, 0, 1e15)) },
	{ "utilization-detector", PLUGIN_FILTER | PLUGIN_DETECTOR, .narrow = narrow_saturated,
	  .note = "a pod whose figures are stale counts by our own requests in flight / 100",
	  PARAMS(NUM("queueDepthThreshold", 5, 1e-9, 1e15), NUM("kvCacheUtilThreshold", 0.8, 1e-9, 1),
		 {"metricsStalenessThreshold", .value = 200, .min = 1, .max = 1e9, .kind = PARAM_TIME}, NUM("headroom", 0, 0, 1e9)) },
	{ "concurrency-detector", PLUGIN_FILTER | PLUGIN_DETECTOR, .narrow = narrow_concurrency,
	  PARAMS(NUM("maxConcurrency", 100, 1, 1e9),
		 {"concurrencyMode", .kind = PARAM_WORD, .words = "requests|tokens|hybrid"},
		 NUM("maxTokenConcurrency", 1000000, 1, 1e15), NUM("headroom", 0, 0, 1e9),
		 PRODUCER_NAME("inFlightLoadProducerName")) },

	{ "queue-scorer", PLUGIN_SCORER, NONE, .score = score_queue },
	{ "running-requests-size-scorer", PLUGIN_SCORER, NONE, .score = score_running },
	{ "kv-cache-utilization-scorer", PLUGIN_SCORER, NONE, .score = score_kv },
	{ "prefix-cache-scorer", PLUGIN_SCORER, .score = score_prefix,
	  PARAMS(NUM("matchLengthWeight", 0, 0, 1), NUM("matchLengthScaleTokens", 8192, 1, 1e9),
		 PRODUCER_NAME("prefixMatchInfoProducerName")) },
	{ "load-aware-scorer", PLUGIN_SCORER, .score = score_load_aware,
	  PARAMS(NUM("threshold", 128, -1e9, 1e9)) },
	{ "active-request-scorer", PLUGIN_SCORER, .score = score_active,
	  PARAMS(NUM("idleThreshold", 0, 0, 1e9), NUM("maxBusyScore", 1, -1e9, 1e9),
		 PRODUCER_NAME("inFlightLoadProducerName"),
		 {"requestTimeout", .kind = PARAM_TEXT, .words = ""}) },
	{ "token-load-scorer", PLUGIN_SCORER, .score = score_token_load,
	  PARAMS(NUM("queueThresholdTokens", 4194304, -1e12, 1e12),
		 PRODUCER_NAME("inFlightLoadProducerName")) },
	{ "session-affinity-scorer", PLUGIN_SCORER, PLUGIN_ALPHA, .score = score_session,
	  .uses_session = true, .read = read_session, SESSION_PARAMS },
	{ "lora-affinity-scorer", PLUGIN_SCORER, NONE, .score = score_lora },
	{ "no-hit-lru-scorer", PLUGIN_SCORER, .score = score_no_hit_lru,
	  PARAMS(NUM("lruSize", 1024, -1e9, 1e9), PRODUCER_NAME("prefixMatchInfoProducerName"),
		 {"prefixPluginType", .kind = PARAM_TEXT, .words = ""},
		 {"prefixPluginName", .kind = PARAM_TEXT, .words = ""}) },
	{ "context-length-aware", PLUGIN_FILTER | PLUGIN_SCORER, .keep = filter_context_length,
	  .score = score_context_length,
	  PARAMS({"label", .kind = PARAM_TEXT, .words = "llm-d.ai/context-length-range"},
		 {"enableFiltering", .kind = PARAM_BOOL}) },
	{ "latency-scorer", PLUGIN_SCORER, .score = score_latency,
	  PARAMS(NUM("ttftWeight", 0.8, 0, 1e6), NUM("tpotWeight", 0.2, 0, 1e6),
		 {"headroomSelectionStrategy", .kind = PARAM_WORD, .words = "least|most"},
		 NUM("compositeKVWeight", 1, 0, 1e6), NUM("compositeQueueWeight", 1, 0, 1e6),
		 NUM("compositePrefixWeight", 1, 0, 1e6),
		 PRODUCER_NAME("latencyPredictionInfoProducerName"),
		 PRODUCER_NAME("prefixMatchInfoProducerName")) },
	{ "mm-embeddings-cache-scorer", PLUGIN_SCORER, .score = score_media,
	  PARAMS(PRODUCER_NAME("producerName")) },
	{ "header-label-affinity-scorer", PLUGIN_SCORER, PLUGIN_ALPHA, .score = score_header_label,
	  PARAMS({"headerName", .kind = PARAM_TEXT}, {"labelKey", .kind = PARAM_TEXT}) },
	{ "topology-affinity-scorer", PLUGIN_SCORER, PLUGIN_ALPHA, .score = score_topology,
	  PARAMS(PRODUCER_NAME("topologyProducerName")) },
	{ "endpoint-attribute-scorer", PLUGIN_SCORER, PLUGIN_ALPHA, .score = score_attribute,
	  .read = read_attribute,
	  PARAMS({"attributeKey", .kind = PARAM_TEXT, .words = ""},
		 {"producer", .kind = PARAM_TEXT, .words = "core-metrics-extractor"},
		 {"algorithm.type", .kind = PARAM_WORD,
		  .words = "linear_lower_is_better|linear_higher_is_better"},
		 NUM("algorithm.normalization.fixedRange.min", 0, 0, 0),
		 NUM("algorithm.normalization.fixedRange.max", 0, 0, 0),
		 {"algorithm.normalization.adaptiveRange", .kind = PARAM_TREE}) },
	{ "precise-prefix-cache-scorer", PLUGIN_SCORER | PLUGIN_PRODUCER,
	  PLUGIN_DEPRECATED | PLUGIN_ANY_PARAMS, .score = score_prefix,
	  .note = "scores by the index that is there; see precise-prefix-cache-producer" },
	{ "sluice-scorer", PLUGIN_SCORER, .score = score_sluice,
	  PARAMS(NUM("requestTokens", 512, 0, 1e6), NUM("uncachedWeight", 2, 0, 1e3),
		 NUM("rendezvousShare", 0, 0, 1), NUM("backlogTokens", 8000, 0, 1e12)) },

	{ "max-score-picker", PLUGIN_PICKER, .pick = pick_max, MAX_ENDPOINTS,
	  .note = "ties go by rendezvous hash; a retry picks anew" },
	{ "random-picker", PLUGIN_PICKER, .pick = pick_random, MAX_ENDPOINTS },
	{ "weighted-random-picker", PLUGIN_PICKER, .pick = pick_weighted, MAX_ENDPOINTS },
	{ .name = NULL },
};
/* clang-format on */

static const struct plugin_type *find_in(const struct plugin_type *t, const char *name, size_t len)
{
	for (; t->name; t++)
		if (strlen(t->name) == len && memcmp(t->name, name, len) == 0)
			return t;
	return NULL;
}

const struct plugin_type *plugin_find(const char *name, size_t len)
{
	const struct plugin_type *t = find_in(plugin_types, name, len);

	return t ? t : find_in(other_types, name, len);
}

void plugin_init(struct plugin *p, const struct plugin_type *type)
{
	*p = (struct plugin){.type = type, .weight = 1};
	for (int i = 0; type->params && type->params[i].name && i < PLUGIN_PARAMS_MAX; i++)
		p->params[i] = type->params[i].value;
}

static bool text_copy(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

int plugin_copy(struct plugin *to, const struct plugin *from)
{
	bool ok = true;

	*to = *from;
	ok &= text_copy(&to->name, from->name);
	for (int i = 0; i < PLUGIN_PARAMS_MAX; i++)
		ok &= text_copy(&to->texts[i], from->texts[i]);
	for (unsigned int i = 0; i < from->rule_count; i++) {
		ok &= text_copy(&to->rules[i].key, from->rules[i].key);
		ok &= text_copy(&to->rules[i].values, from->rules[i].values);
	}
	if (ok)
		return 0;
	plugin_fini(to);
	return -ENOMEM;
}

void plugin_fini(struct plugin *p)
{
	for (unsigned int i = 0; i < p->rule_count; i++) {
		free(p->rules[i].key);
		free(p->rules[i].values);
	}
	for (int i = 0; i < PLUGIN_PARAMS_MAX; i++)
		free(p->texts[i]);
	free(p->name);
	*p = (struct plugin){0};
}

const char *plugin_name(const struct plugin *p)
{
	return p->name ? p->name : p->type->name;
}

const char *plugin_text(const struct plugin *p, unsigned int param)
{
	if (p->texts[param])
		return p->texts[param];
	return p->type->params[param].words ? p->type->params[param].words : "";
}

struct span request_header(const struct sched_request *req, const char *name)
{
	return req->header ? req->header(req->header_arg, name) : (struct span){"", 0};
}

void score_unknown(const struct sched_view *view, float *scores)
{
	bool any = false;
	float worst = 0.5f;

	for (uint32_t i = 0; i < view->count; i++) {
		if (!view->candidates[i].known)
			continue;
		if (!any || scores[i] < worst)
			worst = scores[i];
		any = true;
	}
	for (uint32_t i = 0; i < view->count; i++)
		if (!view->candidates[i].known)
			scores[i] = worst;
}

void score_least(const struct sched_view *view, const uint32_t *values, float *scores)
{
	uint32_t min = UINT32_MAX, max = 0;

	for (uint32_t i = 0; i < view->count; i++) {
		if (!view->candidates[i].known)
			continue;
		if (values[i] < min)
			min = values[i];
		if (values[i] > max)
			max = values[i];
	}
	for (uint32_t i = 0; i < view->count; i++) {
		if (!view->candidates[i].known)
			continue;
		scores[i] = max == min ? 1 : (float)(max - values[i]) / (float)(max - min);
	}
	score_unknown(view, scores);
}

double plugin_random(uint64_t *rng)
{
	uint64_t x = *rng;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*rng = x;
	return ((double)(x >> 11) + 0.5) / 9007199254740992.0;
}
