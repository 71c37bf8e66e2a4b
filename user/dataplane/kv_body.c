/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member that lies in one receive buffer is used where it is; one that spans several is gathered
 * into the worker's memory. Members that change how a template renders are known by name: with one
 * of them nothing is known for sure.
 */
#include "dataplane/kv_body.h"

#include <string.h>

#include "base/metrics.h"
#include "dataplane/worker.h"

/* They change what the engine makes of the messages. */
static const enum openai_member changers[] = {
	OPENAI_CHAT_TEMPLATE,
	OPENAI_CHAT_TEMPLATE_KWARGS,
	OPENAI_ADD_GENERATION_PROMPT,
	OPENAI_CONTINUE_FINAL_MESSAGE,
	OPENAI_REASONING_EFFORT,
	OPENAI_ADD_SPECIAL_TOKENS,
	OPENAI_TRUNCATE_PROMPT,
	OPENAI_DOCUMENTS,
	OPENAI_PREVIOUS_RESPONSE_ID,
	OPENAI_QUERY,
	OPENAI_TEXT_1,
};

static bool present(const struct request *req, enum openai_member m)
{
	return req->says.members[m].end && !req->says.members[m].null;
}

/* False: too long to be gathered. */
static bool member(struct request *req, enum openai_member m, struct span *ret)
{
	struct kv_prompter *p = &req->worker->prompter;
	const struct openai_place *place = &req->says.members[m];
	uint64_t at = 0, from = place->value, left;

	*ret = span_of(NULL, 0);
	if (!present(req, m))
		return true;
	left = place->end - place->value;
	for (const struct block *b = req->body; b && left; at += block_used(b), b = b->next) {
		uint64_t used = block_used(b), take;
		const char *here;

		if (from >= at + used)
			continue;
		here = b->data + b->start + (from - at);
		take = at + used - from < left ? at + used - from : left;
		if (!ret->ptr && take == left) {
			*ret = span_of(here, take);
			return true;
		}
		if (take > KV_RAW_BYTES_MAX - p->raw_len)
			return false;
		memcpy(p->raw + p->raw_len, here, take);
		if (!ret->ptr)
			ret->ptr = p->raw + p->raw_len;
		p->raw_len += (uint32_t)take;
		ret->len += take;
		from += take;
		left -= take;
	}
	return left == 0;
}

static bool wanted(struct request *req, const struct model *model, struct kv_wanted *w)
{
	struct kv_request *r = &w->request;
	bool adapter = *model->parent;

	if (req->says.has_media || req->route->action != ROUTE_FORWARD || !req->route->generates)
		return false;
	for (unsigned int i = 0; i < sizeof(changers) / sizeof(*changers); i++)
		if (present(req, changers[i]))
			return false;
	*w = (struct kv_wanted){
		.model = span_of_str(adapter ? model->parent : model->name),
		.adapter = adapter ? span_of_str(model->name) : span_of(NULL, 0),
		.cache_salt = span_of_str(req->says.cache_salt),
	};
	r->strings_only = req->route->api == API_ANTHROPIC || present(req, OPENAI_INPUT);
	req->worker->prompter.raw_len = 0;
	return member(req, OPENAI_TOOLS, &w->tools) && member(req, OPENAI_MESSAGES, &r->messages) &&
	       member(req, OPENAI_SYSTEM, &r->system) &&
	       member(req, OPENAI_INSTRUCTIONS, &r->instructions) &&
	       member(req, OPENAI_INPUT, &r->input) && member(req, OPENAI_PROMPT, &r->prompt);
}

bool kv_body_read(struct request *req, const struct model *model, struct kv_prompt *ret)
{
	struct kv_prompter *p = &req->worker->prompter;
	struct kv_wanted w;
	bool precise;

	if (!p->models || !model)
		return false;
	precise = wanted(req, model, &w) && kv_prompter_read(p, &w, ret);
	metric_inc(!precise   ? M_KV_PROMPTS_UNKNOWN
		   : ret->cut ? M_KV_PROMPTS_CUT
			      : M_KV_PROMPTS_EXACT);
	return precise;
}
