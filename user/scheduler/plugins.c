/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of plugins, and what several of them share. A new plugin is one file and one row here.
 */
#include <string.h>

#include "scheduler/plugin.h"

const struct plugin_type plugin_types[] = {
	{.name = "decode-filter", .kind = PLUGIN_FILTER, .keep = filter_decode},
	{.name = "prefill-filter", .kind = PLUGIN_FILTER, .keep = filter_prefill},
	{.name = "label-selector-filter",
	 .kind = PLUGIN_FILTER,
	 .keep = filter_labels,
	 .takes_labels = true},
	{.name = "queue-scorer", .kind = PLUGIN_SCORER, .score = score_queue},
	{.name = "running-requests-size-scorer", .kind = PLUGIN_SCORER, .score = score_running},
	{.name = "kv-cache-utilization-scorer", .kind = PLUGIN_SCORER, .score = score_kv},
	{.name = "prefix-cache-scorer",
	 .kind = PLUGIN_SCORER,
	 .score = score_prefix,
	 .params = {{"matchLengthWeight", 0, 0, 1}, {"matchLengthScaleTokens", 8192, 1, 1e9}}},
	{.name = "load-aware-scorer",
	 .kind = PLUGIN_SCORER,
	 .score = score_load_aware,
	 .params = {{"threshold", 128, -1e9, 1e9}}},
	{.name = "active-request-scorer",
	 .kind = PLUGIN_SCORER,
	 .score = score_active,
	 .params = {{"idleThreshold", 0, 0, 1e9}, {"maxBusyScore", 1, 0, 1}}},
	{.name = "token-load-scorer",
	 .kind = PLUGIN_SCORER,
	 .score = score_token_load,
	 .params = {{"queueThresholdTokens", 4194304, -1e12, 1e12}}},
	{.name = "session-affinity-scorer",
	 .kind = PLUGIN_SCORER,
	 .score = score_session,
	 .uses_session = true},
	{.name = "lora-affinity-scorer", .kind = PLUGIN_SCORER, .score = score_lora},
	{.name = "sluice-scorer",
	 .kind = PLUGIN_SCORER,
	 .score = score_sluice,
	 .params = {{"requestTokens", 512, 0, 1e6},
		    {"uncachedWeight", 8, 0, 1e3},
		    {"rendezvousShare", 0, 0, 1}}},
	{.name = "max-score-picker", .kind = PLUGIN_PICKER, .pick = pick_max},
	{.name = "random-picker", .kind = PLUGIN_PICKER, .pick = pick_random},
	{.name = "weighted-random-picker", .kind = PLUGIN_PICKER, .pick = pick_weighted},
	{.name = NULL},
};

const struct plugin_type *plugin_find(const char *name, size_t len)
{
	for (const struct plugin_type *t = plugin_types; t->name; t++)
		if (strlen(t->name) == len && memcmp(t->name, name, len) == 0)
			return t;
	return NULL;
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
