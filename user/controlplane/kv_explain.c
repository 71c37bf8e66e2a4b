/* SPDX-License-Identifier: Apache-2.0 */
/* The same path as a request's: member, glue, render, fingerprint, match; then words for it. */
#include "controlplane/kv_explain.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "base/load.h"
#include "kv/kv_prompter.h"

#define TEXT_SHOWN 48 /* bytes of the prompt around the place where a match ends */

struct explain {
	const struct kv_explainer *x;
	const struct endpoint_snapshot *snap;
	const struct model *model;
	struct kv_prompter prompter;
	struct kv_prompt prompt;
	struct kv_match *matches;
	uint64_t slots[KV_SLOT_WORDS];
	uint32_t *generations;
};

static bool prompt_read(struct explain *e, const char *salt, struct span body)
{
	struct kv_wanted w = {.cache_salt = span_of_str(salt)};
	bool adapter = *e->model->parent;

	w.model = span_of_str(adapter ? e->model->parent : e->model->name);
	w.adapter = adapter ? span_of_str(e->model->name) : span_of(NULL, 0);
	kv_json_member(body, "tools", &w.tools);
	kv_json_member(body, "messages", &w.request.messages);
	kv_json_member(body, "system", &w.request.system);
	kv_json_member(body, "instructions", &w.request.instructions);
	kv_json_member(body, "input", &w.request.input);
	kv_json_member(body, "prompt", &w.request.prompt);
	return kv_prompter_read(&e->prompter, &w, &e->prompt);
}

/* The prompt's text at a byte, on one line of valid UTF-8. */
static void text_write(const struct explain *e, uint32_t at, FILE *f)
{
	char text[TEXT_SHOWN + 1];
	uint32_t from = at > TEXT_SHOWN / 2 ? at - TEXT_SHOWN / 2 : 0, n = 0;

	for (uint32_t i = from; i < e->prompt.len && n < TEXT_SHOWN; i++) {
		char c = e->prompt.bytes[i];

		text[n++] = (c >= ' ' && c < 127) ? c : c == '\n' ? ' ' : '?';
	}
	json_string_write(f, span_of(text, n));
}

static const char *why_not_more(const struct explain *e, const struct endpoint *ep,
				const struct kv_match *m)
{
	struct kv_beyond beyond;

	if (!m->known)
		return "its events are not heard: matched approximately";
	if (kv_index_endpoint_pairs(e->x->index, ep->slot) == 0)
		return "it holds nothing that we know of";
	kv_index_beyond(e->x->index, &e->prompt, m->bytes, &beyond);
	if (beyond.same && beyond.holders)
		return "the next block is held elsewhere; here it was evicted or never stored";
	if (beyond.same)
		return "the next block was held once, and was evicted";
	if (beyond.lengths)
		return "what follows differs: others went on with another text from here";
	return m->blocks ? "nothing that goes on from here was ever seen"
			 : "a prompt that begins so was never seen";
}

static void endpoint_write(const struct explain *e, const struct endpoint *ep, bool first, FILE *f)
{
	const struct kv_match *m = &e->matches[ep->slot];

	fprintf(f, "%s{\"name\":", first ? "" : ",");
	json_string_write(f, span_of_str(ep->name));
	fprintf(f,
		",\"address\":\"%s\",\"known\":%s,\"trusted\":%s,\"blocks\":%u,\"cpu_blocks\":%u,"
		"\"bytes\":%u,\"tokens\":%u,\"held_blocks\":%llu,\"why\":",
		ep->address, m->known ? "true" : "false",
		kv_trusted(e->x->trust, ep->slot, ep->generation) ? "true" : "false", m->blocks,
		m->cpu_blocks, m->bytes, m->blocks * load_read(ep->load->block_tokens),
		(unsigned long long)kv_index_endpoint_pairs(e->x->index, ep->slot));
	json_string_write(f, span_of_str(why_not_more(e, ep, m)));
	fputs(",\"text\":", f);
	text_write(e, m->bytes, f);
	fputc('}', f);
}

static void endpoints_write(struct explain *e, FILE *f)
{
	bool first = true;

	for (uint32_t v = 0; v < e->snap->view_count; v++) {
		const struct endpoint *ep = e->snap->views[v];

		if (!(e->model->views[v / 64] >> (v % 64) & 1))
			continue;
		e->slots[ep->slot / 64] |= 1ULL << (ep->slot % 64);
		e->generations[ep->slot] = ep->generation;
	}
	kv_index_match(e->x->index, &e->prompt, e->slots, e->generations, e->matches);
	for (uint32_t v = 0; v < e->snap->view_count; v++)
		if (e->model->views[v / 64] >> (v % 64) & 1) {
			endpoint_write(e, e->snap->views[v], first, f);
			first = false;
		}
}

static const char *state_of(const struct explain *e)
{
	struct kv_model *model;

	if (!e->model)
		return "unknown model";
	if (!e->x->index)
		return "no events are heard: --tokenizer is not set";
	model = kv_models_find(e->x->models,
			       span_of_str(*e->model->parent ? e->model->parent : e->model->name));
	return model ? kv_model_state_name(model) : "no tokenizer for this model";
}

int kv_explain(const struct kv_explainer *x, const struct endpoint_snapshot *snap, struct span body,
	       FILE *f)
{
	json_t *json = json_loadb(body.ptr, body.len, JSON_ALLOW_NUL, NULL);
	const char *name = json_string_value(json_object_get(json, "model"));
	const char *salt = json_string_value(json_object_get(json, "cache_salt"));
	struct explain e = {.x = x, .snap = snap};
	bool precise = false;

	if (!json_is_object(json)) {
		json_decref(json);
		return -EBADMSG;
	}
	e.model = name ? snapshot_find_model(snap, span_of_str(name)) : NULL;
	e.matches = calloc(ENDPOINTS_MAX, sizeof(*e.matches));
	e.generations = calloc(ENDPOINTS_MAX, sizeof(*e.generations));
	if (e.model && x->index && e.matches && e.generations &&
	    kv_prompter_init(&e.prompter, x->index, x->models) == 0)
		precise = prompt_read(&e, salt ? salt : "", body);
	fputs("{\"model\":", f);
	json_string_write(f, span_of_str(name ? name : ""));
	fputs(",\"state\":", f);
	json_string_write(f, span_of_str(state_of(&e)));
	fprintf(f, ",\"precise\":%s,\"prompt_bytes\":%u,\"endpoints\":[",
		precise ? "true" : "false", e.prompt.len);
	if (precise)
		endpoints_write(&e, f);
	fputs("]}", f);
	kv_prompter_fini(&e.prompter);
	free(e.matches);
	free(e.generations);
	json_decref(json);
	return 0;
}
