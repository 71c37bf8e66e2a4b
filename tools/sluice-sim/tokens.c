/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabulary pieces in a hash table; ChatML as the template. */
#include "sluice-sim/tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kv/vocab.h"

static struct vocab *vocab;
static uint32_t *table, mask; /* piece -> id + 1 */
static size_t longest;
static const char *extra; /* behind each message */

static void table_make(void)
{
	uint32_t size = 1024;

	while (size < vocab->count * 2)
		size *= 2;
	mask = size - 1;
	table = calloc(size, sizeof(*table));
	for (uint32_t id = 0; id < vocab->count; id++) {
		struct span b = vocab_bytes(vocab, id);
		uint32_t i = (uint32_t)XXH64(b.ptr, b.len, 0) & mask;

		if (!b.len)
			continue;
		longest = b.len > longest ? b.len : longest;
		while (table[i])
			i = (i + 1) & mask;
		table[i] = id + 1;
	}
}

int tokens_load(const char *path, const char *template_extra)
{
	char error[256];
	int err = vocab_load(path, &vocab, error, sizeof(error));

	if (err)
		fprintf(stderr, "sluice-sim: %s: %s\n", path, error);
	else
		table_make();
	extra = template_extra;
	return err;
}

bool tokens_loaded(void)
{
	return vocab != NULL;
}

static void list_add(struct token_list *l, uint32_t id)
{
	if (l->count == l->size) {
		l->size = l->size ? l->size * 2 : 256;
		l->ids = realloc(l->ids, l->size * sizeof(*l->ids));
		if (!l->ids)
			abort();
	}
	l->ids[l->count++] = id;
}

/* The id of exactly these bytes, or -1. */
static int64_t find(const char *p, size_t n)
{
	for (uint32_t i = (uint32_t)XXH64(p, n, 0) & mask; table[i]; i = (i + 1) & mask)
		if (span_eq(vocab_bytes(vocab, table[i] - 1), span_of(p, n)))
			return table[i] - 1;
	return -1;
}

static void text_tokens(const char *p, size_t n, struct token_list *to)
{
	while (n) {
		size_t len = n < longest ? n : longest;
		int64_t id = -1;

		while (len && (id = find(p, len)) < 0)
			len--;
		if (id < 0) /* no such byte: any id stands for it */
			len = 1;
		list_add(to, id < 0 ? 0 : (uint32_t)id);
		p += len;
		n -= len;
	}
}

/* A content: a string, or text parts joined by line breaks. */
static void content_text(json_t *content, struct out *to)
{
	json_t *part;
	size_t i;

	if (json_is_string(content))
		out_add(to, json_string_value(content), json_string_length(content));
	json_array_foreach(content, i, part)
	{
		json_t *text = json_object_get(part, "text");

		if (i)
			out_add(to, "\n", 1);
		out_add(to, json_string_value(text), json_string_length(text));
	}
}

static void message_text(const char *role, json_t *content, json_t *calls, struct out *to)
{
	out_printf(to, "<|im_start|>%s\n", role);
	content_text(content, to);
	if (json_array_size(calls)) {
		char *text = json_dumps(calls, JSON_SORT_KEYS);

		out_printf(to, "<calls>");
		out_add(to, text, strlen(text));
		free(text);
	}
	out_printf(to, "<|im_end|>\n%s", extra ? extra : "");
}

static void messages_text(json_t *messages, struct out *to)
{
	json_t *m;
	size_t i;

	json_array_foreach(messages, i, m)
	{
		const char *role = json_string_value(json_object_get(m, "role"));

		message_text(role ? role : "user", json_object_get(m, "content"),
			     json_object_get(m, "tool_calls"), to);
	}
}

static void chat_text(json_t *body, struct out *to)
{
	json_t *tools = json_object_get(body, "tools");
	json_t *system = json_object_get(body, "system");
	json_t *input = json_object_get(body, "input");

	if (!system)
		system = json_object_get(body, "instructions");
	if (json_array_size(tools)) {
		char *text = json_dumps(tools, JSON_SORT_KEYS);

		out_printf(to, "<|im_start|>tools\n");
		out_add(to, text, strlen(text));
		out_printf(to, "<|im_end|>\n");
		free(text);
	}
	if (system)
		message_text("system", system, NULL, to);
	messages_text(json_object_get(body, "messages"), to);
	if (json_is_string(input))
		message_text("user", input, NULL, to);
	else
		messages_text(input, to);
	if (!json_is_false(json_object_get(body, "add_generation_prompt")))
		out_printf(to, "<|im_start|>assistant\n");
}

void tokens_of_request(json_t *body, struct token_list *ret)
{
	json_t *prompt = json_object_get(body, "prompt"), *id;
	struct out text = {0};
	size_t i;

	*ret = (struct token_list){0};
	if (!prompt)
		prompt = json_object_get(body, "token_ids");
	if (!prompt)
		chat_text(body, &text);
	else
		content_text(json_is_string(prompt) ? prompt : NULL, &text);
	json_array_foreach(prompt, i, id)
	{
		if (json_is_integer(id))
			list_add(ret, (uint32_t)json_integer_value(id));
		else if (json_is_string(id))
			out_add(&text, json_string_value(id), json_string_length(id));
	}
	text_tokens(text.data, text.len, ret);
	free(text.data);
}

void tokens_tokenize(struct conn *c, json_t *body)
{
	struct token_list list;
	struct out text = {0};

	if (c->inst->engine.opt->prompts_only && !json_object_get(body, "prompt")) {
		reply_json(&c->out, 400, "{\"detail\":\"prompt: Field required\"}", c->inst->port,
			   true);
		return;
	}
	tokens_of_request(body, &list);
	out_printf(&text, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", list.count,
		   c->inst->engine.opt->max_model_len);
	for (size_t i = 0; i < list.count; i++)
		out_printf(&text, "%s%u", i ? "," : "", list.ids[i]);
	out_printf(&text, "],\"token_strs\":null}");
	reply_page(&c->out, "application/json", &text, c->inst->port);
	free(text.data);
	free(list.ids);
}

void tokens_detokenize(struct conn *c, json_t *body)
{
	bool sglang = c->inst->engine.opt->prompts_only;
	const char *name = sglang ? "text" : "prompt";
	json_t *id, *answer;
	struct out text = {0}, page = {0};
	char *json;
	size_t i;

	json_array_foreach(json_object_get(body, "tokens"), i, id)
	{
		struct span b = vocab_bytes(vocab, (uint32_t)json_integer_value(id));

		out_add(&text, b.ptr, b.len);
	}
	answer = json_pack("{s:s%}", name, text.data ? text.data : "", text.len);
	if (!answer) /* half a character: the engine would put U+FFFD */
		answer = json_pack("{s:s}", name, "\xef\xbf\xbd");
	json = json_dumps(answer, JSON_COMPACT);
	out_add(&page, json, strlen(json));
	reply_page(&c->out, "application/json", &page, c->inst->port);
	json_decref(answer);
	free(json);
	free(text.data);
	free(page.data);
}

struct seq *tokens_seq_new(const struct sim_options *opt, struct token_list *list,
			   const char *model, const char *salt)
{
	struct seq *s = calloc(1, sizeof(*s));
	uint64_t hash = XXH64(model, strlen(model), XXH64(salt, strlen(salt), opt->seed));

	s->prompt_tokens = (uint32_t)(list->count ? list->count : 1);
	s->chain_count = (uint32_t)(list->count / opt->block_size);
	s->chain = malloc((s->chain_count + 1) * sizeof(uint64_t));
	for (uint32_t i = 0; i < s->chain_count; i++) {
		hash = XXH64(list->ids + (size_t)i * opt->block_size,
			     opt->block_size * sizeof(*list->ids), hash);
		s->chain[i] = hash;
	}
	s->tokens = list->ids;
	snprintf(s->salt, sizeof(s->salt), "%s", salt);
	return s;
}
