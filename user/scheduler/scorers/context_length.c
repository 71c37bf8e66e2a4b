/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context-length-aware: pods say by a label "min-max" what prompts they are for. Inside, the
 * narrower and the closer to its end the better; outside, the nearer the better.
 */
#include <stdlib.h>

#include "scheduler/plugin.h"

enum {
	LABEL,
	FILTERS
};

enum range_kind {
	NO_LABEL,
	BAD,
	RANGE
};

static enum range_kind range_of(const struct plugin *p, const struct endpoint *ep, double *ret_min,
				double *ret_max)
{
	const char *text = endpoint_label(ep, plugin_text(p, LABEL));
	char *end;

	if (!text)
		return NO_LABEL;
	*ret_min = (double)strtoull(text, &end, 10);
	if (end == text || *end != '-')
		return BAD;
	text = end + 1;
	*ret_max = (double)strtoull(text, &end, 10);
	return end == text || *end || *ret_max < *ret_min ? BAD : RANGE;
}

bool filter_context_length(const struct sched_view *view, const struct plugin *p,
			   const struct sched_candidate *c)
{
	double tokens = view->prompt_tokens, min, max;

	if (p->params[FILTERS] == 0)
		return true;
	switch (range_of(p, c->endpoint, &min, &max)) {
	case NO_LABEL:
		return true;
	case BAD:
		return false;
	case RANGE:
		break;
	}
	return tokens >= min && tokens <= max;
}

static double score_range(double tokens, double min, double max)
{
	double width = max - min;

	if (tokens < min)
		return 0.3 / (1 + (min - tokens) / 1000);
	if (tokens > max)
		return 0.3 / (1 + (tokens - max) / 1000);
	if (width <= 0)
		return 1;
	return 0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * (max - tokens) / width);
}

void score_context_length(const struct sched_view *view, const struct plugin *p, float *scores)
{
	for (uint32_t i = 0; i < view->count; i++) {
		double min, max;

		switch (range_of(p, view->candidates[i].endpoint, &min, &max)) {
		case NO_LABEL:
			scores[i] = 0.5f;
			break;
		case BAD:
			scores[i] = 0;
			break;
		case RANGE:
			scores[i] = (float)score_range(view->prompt_tokens, min, max);
		}
	}
}
