/* SPDX-License-Identifier: Apache-2.0 */
/* The deciders, and their table. */
#include "scheduler/pd.h"

#include <string.h>

#include "base/health.h"
#include "base/load.h"

enum prefix_param {
	NON_CACHED_TOKENS,
	PROMPT_TOKENS,
};

enum sluice_param {
	TOKENS_PER_S, /* an engine's prefill rate */
	TRANSFER_MS,  /* fixed cost of a second leg and its transfer */
	TRANSFER_US,  /* more for each token that travels */
	STALL_SHARE,  /* how much a stalled decode elsewhere counts, against our own wait */
	DEDICATED,    /* a pod that only prefills may be slower by so much */
	SHARED,	      /* one that decodes too must be faster by so much */
};

static bool decide_always(const struct pd_decider *d, const struct pd_question *q,
			  enum pd_reason *ret_reason)
{
	(void)d;
	(void)q;
	*ret_reason = PD_BECAUSE_ALWAYS;
	return true;
}

static bool decide_never(const struct pd_decider *d, const struct pd_question *q,
			 enum pd_reason *ret_reason)
{
	(void)d;
	(void)q;
	*ret_reason = PD_BECAUSE_NEVER;
	return false;
}

static bool decide_media(const struct pd_decider *d, const struct pd_question *q,
			 enum pd_reason *ret_reason)
{
	(void)d;
	*ret_reason = q->has_media ? PD_BECAUSE_MEDIA : PD_BECAUSE_NO_MEDIA;
	return q->has_media;
}

/* Uncached tokens on the decode pod >= nonCachedTokens (0: never) and prompt >= promptTokens. */
static bool decide_prefix(const struct pd_decider *d, const struct pd_question *q,
			  enum pd_reason *ret_reason)
{
	double tokens = q->decode->prompt_tokens;
	double uncached = tokens - q->decode->cached_tokens_expected;

	if (d->params[NON_CACHED_TOKENS] <= 0) {
		*ret_reason = PD_BECAUSE_NEVER;
		return false;
	}
	if (tokens < d->params[PROMPT_TOKENS]) {
		*ret_reason = PD_BECAUSE_SHORT;
		return false;
	}
	if (uncached < d->params[NON_CACHED_TOKENS]) {
		*ret_reason = PD_BECAUSE_CACHED;
		return false;
	}
	*ret_reason = PD_BECAUSE_UNCACHED;
	return true;
}

/* What a prefill on ep costs, in ms: its line, the whole prompt, those who decode there, transfer.
 */
static double cost_there(const struct pd_decider *d, const struct pd_question *q,
			 const struct endpoint *ep)
{
	double rate = d->params[TOKENS_PER_S] / 1e3, prompt = q->decode->prompt_tokens, running = 0;

	if (ep->role & SLUICE_ROLE_DECODE)
		running = load_read(ep->load->running);
	return ((double)load_read(ep->load->inflight_tokens) + prompt +
		running * prompt * d->params[STALL_SHARE]) /
		       rate +
	       d->params[TRANSFER_MS] + prompt * d->params[TRANSFER_US] / 1e3;
}

/*
 * Elsewhere when it is sooner, counting what a prefill in between costs those who decode:
 *   here  = (line here + uncached) / rate + running here x uncached / rate x stallShare
 *   there = (line + whole prompt) / rate + running there x prompt / rate x stallShare + transfer
 * A pod that only prefills is idle otherwise, so it is asked while there < here x dedicatedFactor;
 * one that decodes too is disturbed, so it must gain more: there < here x sharedFactor.
 * The prompt's own pick is already in the line here: uncached is not added twice. The factors and
 * the share were found on the Mooncake conversation trace, see deploy/disaggregation.md.
 */
static bool decide_sluice(const struct pd_decider *d, const struct pd_question *q,
			  enum pd_reason *ret_reason)
{
	const struct sched_pick *pick = q->decode;
	const struct sluice_endpoint_load *load = pick->endpoint->load;
	double rate = d->params[TOKENS_PER_S] / 1e3; /* tokens a ms */
	double uncached = (double)pick->prompt_tokens - pick->cached_tokens_expected;
	double line = (double)load_read(load->inflight_tokens), here;

	if (line < uncached)
		line = uncached;
	here = line / rate + load_read(load->running) * uncached / rate * d->params[STALL_SHARE];
	*ret_reason = PD_BECAUSE_NO_PREFILL;
	for (uint32_t i = 0; i < q->snapshot->view_count; i++) {
		const struct endpoint *ep = q->snapshot->views[i];
		double factor = d->params[ep->role & SLUICE_ROLE_DECODE ? SHARED : DEDICATED];

		if (!(ep->role & SLUICE_ROLE_PREFILL) || ep == pick->endpoint ||
		    (q->model && !(q->model->views[i / 64] >> (i % 64) & 1)) ||
		    !health_may_pick(ep))
			continue;
		*ret_reason = PD_BECAUSE_NO_GAIN;
		if (cost_there(d, q, ep) >= here * factor)
			continue;
		*ret_reason = PD_BECAUSE_GAIN;
		return true;
	}
	return false;
}

const struct pd_decider_type pd_decider_types[] = {
	{"prefix-based-pd-decider",
	 "prefix",
	 decide_prefix,
	 {NUM("nonCachedTokens", 0, 0, 1e9), NUM("promptTokens", 0, 0, 1e9)}},
	{"always-disagg-pd-decider", "always", decide_always, {{0}}},
	{"always-disagg-multimodal-decider", "multimodal", decide_media, {{0}}},
	{"sluice-pd-decider",
	 "sluice",
	 decide_sluice,
	 {NUM("tokensPerSecond", 8000, 1, 1e9), NUM("transferMs", 10, 0, 1e6),
	  NUM("transferUsPerToken", 5, 0, 1e6), NUM("stallShare", 0.3, 0, 1),
	  NUM("dedicatedFactor", 1.5, 0, 100), NUM("sharedFactor", 0.5, 0, 100)}},
	{"never-disagg-pd-decider", "never", decide_never, {{0}}},
	{NULL, NULL, NULL, {{0}}},
};

const struct pd_decider_type *pd_decider_find(const char *name)
{
	for (const struct pd_decider_type *t = pd_decider_types; t->name; t++)
		if (strcmp(t->name, name) == 0 || strcmp(t->word, name) == 0)
			return t;
	return NULL;
}

void pd_decider_init(struct pd_decider *d, const struct pd_decider_type *type)
{
	d->type = type;
	for (int i = 0; i < PLUGIN_PARAMS_MAX; i++)
		d->params[i] = type->params[i].value;
}

bool pd_decide(const struct pd_decider *d, const struct pd_question *q, enum pd_reason *ret_reason)
{
	return d->type->decide(d, q, ret_reason);
}

const char *pd_reason_text(enum pd_reason reason)
{
	static const char *const texts[PD_REASONS] = {
		[PD_BECAUSE_ALWAYS] = "always",	    [PD_BECAUSE_NEVER] = "never",
		[PD_BECAUSE_UNCACHED] = "uncached", [PD_BECAUSE_CACHED] = "cached",
		[PD_BECAUSE_SHORT] = "short",	    [PD_BECAUSE_MEDIA] = "media",
		[PD_BECAUSE_NO_MEDIA] = "no-media", [PD_BECAUSE_GAIN] = "gain",
		[PD_BECAUSE_NO_GAIN] = "no-gain",   [PD_BECAUSE_NO_PREFILL] = "no-prefill-pod",
	};

	return texts[reason];
}
