/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each path of the simulated engine does: reads the JSON, makes the sequence, refuses as a
 * real engine would. Sockets are server.c's, bytes of answers reply.c's, time engine.c's.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/sim_text.h"
#include "sluice-sim/events.h"
#include "sluice-sim/pd.h"
#include "sluice-sim/tokens.h"

void seq_free(struct seq *s)
{
	free(s->chain);
	free(s->tokens);
	free(s);
}

/* The prompt as text: every string below the prompt members, in order. */
static void prompt_text(json_t *v, struct out *to)
{
	const char *key;
	json_t *item;
	size_t i;

	if (json_is_string(v)) {
		out_add(to, json_string_value(v), json_string_length(v));
	} else if (json_is_integer(v)) {
		int id = (int)json_integer_value(v);

		out_add(to, &id, sizeof(id));
	} else if (json_is_array(v)) {
		json_array_foreach(v, i, item) prompt_text(item, to);
	} else if (json_is_object(v)) {
		json_object_foreach(v, key, item) prompt_text(item, to);
	}
}

/* The text of the last message, or the prompt: what an echo says. */
static void echo_text(json_t *body, struct out *to)
{
	static const char *const lists[] = {"messages", "input"};

	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		json_t *list = json_object_get(body, lists[i]);
		json_t *last = json_array_get(list, json_array_size(list) - 1);

		if (json_object_get(last, "content"))
			prompt_text(json_object_get(last, "content"), to);
	}
	if (!to->len)
		prompt_text(json_object_get(body, "prompt"), to);
	if (!to->len)
		prompt_text(json_object_get(body, "input"), to);
}

static struct seq *seq_new(const struct sim_options *opt, const struct out *prompt,
			   const char *model, const char *salt)
{
	struct seq *s = calloc(1, sizeof(*s));
	uint64_t hash = XXH64(model, strlen(model), XXH64(salt, strlen(salt), 0));
	uint32_t bytes = opt->block_size * SIM_TOKEN_BYTES;

	s->prompt_tokens = (uint32_t)(prompt->len / SIM_TOKEN_BYTES) + 1;
	s->chain_count = (uint32_t)(prompt->len / bytes);
	s->chain = malloc((s->chain_count + 1) * sizeof(uint64_t));
	for (uint32_t i = 0; i < s->chain_count; i++) {
		hash = XXH64(prompt->data + (size_t)i * bytes, bytes, hash);
		s->chain[i] = hash;
	}
	return s;
}

static bool model_known(const struct sim_options *opt, const char *model)
{
	const char *p = opt->lora_modules ? opt->lora_modules : "";
	size_t n = strlen(model);

	if (strcmp(model, opt->model) == 0)
		return true;
	for (; n && *p; p += strcspn(p, ", "), p += strspn(p, ", "))
		if (strcspn(p, ", ") == n && memcmp(p, model, n) == 0)
			return true;
	return false;
}

static uint32_t int_member(json_t *body, const char *name, uint32_t otherwise)
{
	json_t *v = json_object_get(body, name);

	json_int_t n = json_integer_value(v);

	return !json_is_integer(v) ? otherwise
	       : n < 0		   ? 0
	       : n > INT32_MAX	   ? INT32_MAX
				   : (uint32_t)n;
}

static void embeddings(struct conn *c, uint32_t tokens)
{
	char body[512];

	snprintf(body, sizeof(body),
		 "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"model\":\"%s\",\"data\":[{"
		 "\"index\":0,\"object\":\"embedding\",\"embedding\":[0.5,-0.5,0.25,-0.25]}],"
		 "\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":0}}",
		 c->id, c->reply.created, c->model, tokens, tokens);
	reply_json(&c->out, 200, body, c->inst->port, true);
}

/* Injected failures, as llm-d-inference-sim names them. True if one was answered. */
static bool failure_injected(struct conn *c)
{
	static const struct {
		const char *name, *type;
		int status;
	} kinds[] = {{"rate_limit", "rate_limit_exceeded", 429},
		     {"invalid_api_key", "invalid_api_key", 401},
		     {"context_length", "BadRequestError", 400},
		     {"server_error", "InternalServerError", 500},
		     {"invalid_request", "BadRequestError", 400},
		     {"model_not_found", "NotFoundError", 404}};
	const struct sim_options *opt = c->inst->engine.opt;
	size_t n = sizeof(kinds) / sizeof(*kinds), chosen[sizeof(kinds) / sizeof(*kinds)];
	size_t count = 0, i;

	if (opt->failure_rate <= 0 || drand48() * 100 >= opt->failure_rate)
		return false;
	for (i = 0; i < n; i++)
		if (!opt->failure_types || strstr(opt->failure_types, kinds[i].name))
			chosen[count++] = i;
	if (!count)
		return false;
	i = chosen[(size_t)(drand48() * (double)count)];
	reply_error(&c->out, kinds[i].status, kinds[i].type, "Injected.", NULL, c->inst->port);
	return true;
}

static void echo_begin(struct conn *c, json_t *body)
{
	struct out text = {0};
	uint32_t most;

	echo_text(body, &text);
	out_add(&text, "", 0);
	c->reply.echo = c->echo = text.data;
	c->reply.echo_len = text.len;
	most = reply_echo_tokens(&c->reply);
	if (most < c->reply.max_tokens)
		c->reply.max_tokens = most;
}

/* What the body asks for, into c->reply and a new sequence of the caller's. */
static struct seq *request_read(struct conn *c, const struct http1_head *head, json_t *body,
				enum sim_api api)
{
	static const char *const parts[] = {"system", "instructions", "messages", "prompt",
					    "input",  "tools",	      "token_ids"};
	const struct sim_options *opt = c->inst->engine.opt;
	const char *salt = json_string_value(json_object_get(body, "cache_salt"));
	struct span id = http1_field_get(head, SPAN("x-request-id"));
	struct out prompt = {0};
	struct seq *s;

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		prompt_text(json_object_get(body, parts[i]), &prompt);
	snprintf(c->id, sizeof(c->id), "%s%.*s", api == SIM_CHAT ? "chatcmpl-" : "cmpl-",
		 (int)(id.len > 60 ? 60 : id.len), id.ptr ? id.ptr : "");
	c->reply = (struct reply){
		.api = api,
		.stream = json_is_true(json_object_get(body, "stream")),
		.usage = json_is_true(
			json_object_get(json_object_get(body, "stream_options"), "include_usage")),
		.details = opt->details,
		.stamped = opt->stamp_events,
		.id = c->id,
		.model = c->model,
		.prompt_hash = sim_prompt_hash(prompt.data ? prompt.data : "", prompt.len),
		.created = (long long)time(NULL),
		.port = c->inst->port,
	};
	c->reply.max_tokens = int_member(
		body, "max_completion_tokens",
		int_member(body, "max_tokens",
			   int_member(body, "max_output_tokens",
				      int_member(json_object_get(body, "sampling_params"),
						 "max_tokens", opt->default_max_tokens))));
	if (opt->echo)
		echo_begin(c, body);
	if (!c->reply.max_tokens)
		c->reply.max_tokens = 1;
	if (tokens_loaded()) {
		struct token_list list;

		tokens_of_request(body, &list);
		s = tokens_seq_new(opt, &list, c->model, salt ? salt : "");
	} else {
		s = seq_new(opt, &prompt, c->model, salt ? salt : "");
	}
	free(prompt.data);
	c->reply.prompt_tokens = s->prompt_tokens;
	s->max_tokens = c->reply.max_tokens;
	s->owner = c;
	s->adapter = strcmp(c->model, opt->model) != 0 ? c->model : NULL;
	return s;
}

static void model_read(struct conn *c, json_t *body)
{
	const char *model = json_string_value(json_object_get(body, "model"));

	snprintf(c->model, sizeof(c->model), "%s", model ? model : c->inst->engine.opt->model);
	for (char *p = c->model; *p; p++) /* it is printed into JSON as it is */
		if ((unsigned char)*p < ' ' || *p == '"' || *p == '\\')
			*p = '?';
}

/* Answers what cannot be generated. True if it did. */
static bool refused(struct conn *c, const struct seq *s)
{
	const struct sim_options *opt = c->inst->engine.opt;
	char text[512];

	if ((uint64_t)s->prompt_tokens + s->max_tokens > opt->max_model_len) {
		snprintf(text, sizeof(text),
			 "This model's maximum context length is %u tokens. However, your prompt "
			 "contains at least %u input tokens, which exceeds this limit even without "
			 "any output tokens. Please reduce the length of the input prompt. "
			 "(parameter=input_tokens, value=%u)",
			 opt->max_model_len, s->prompt_tokens, s->prompt_tokens);
		reply_error(&c->out, 400, "BadRequestError", text, "input_tokens", c->inst->port);
		return true;
	}
	if (!engine_full(&c->inst->engine))
		return false;
	reply_error(&c->out, 503, "ServiceUnavailableError", "The queue is full.", NULL,
		    c->inst->port);
	return true;
}

static void generate(struct conn *c, const struct http1_head *head, json_t *body, enum sim_api api)
{
	const struct sim_options *opt = c->inst->engine.opt;
	char text[512];
	struct seq *s;

	model_read(c, body);
	if (!model_known(opt, c->model)) {
		snprintf(text, sizeof(text), "The model `%s` does not exist. Valid aliases: %s.",
			 c->model, opt->model);
		reply_error(&c->out, 404, "NotFoundError", text, "model", c->inst->port);
		return;
	}
	s = request_read(c, head, body, api);
	if (api == SIM_EMBEDDINGS)
		embeddings(c, s->prompt_tokens);
	if (api == SIM_EMBEDDINGS || refused(c, s)) {
		seq_free(s);
		return;
	}
	switch (pd_begin(c, head, body, s)) {
	case PD_ANSWERED:
		seq_free(s);
		return;
	case PD_ON_ITS_WAY:
		if (!c->pd) { /* hung, on order */
			c->hung = true;
			seq_free(s);
		}
		return;
	case PD_PLAIN:
		break;
	}
	c->seq = s;
	if (c->reply.stream)
		reply_stream_head(&c->out, &c->reply);
	conn_flush(c); /* the head of a stream goes at once, also while the request waits */
	if (engine_submit(&c->inst->engine, s, server_now_ms())) {
		c->seq = NULL; /* cannot be: refused() asked */
		seq_free(s);
		c->dead = true;
	}
}

/* A token is four bytes: its id follows from them. */
static void tokenize(struct conn *c, json_t *body)
{
	struct out prompt = {0}, text = {0};
	size_t count;

	prompt_text(json_object_get(body, "prompt"), &prompt);
	prompt_text(json_object_get(body, "messages"), &prompt);
	count = prompt.len / SIM_TOKEN_BYTES + 1;
	out_printf(&text, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", count,
		   c->inst->engine.opt->max_model_len);
	for (size_t i = 0; i < count; i++) {
		size_t at = i * SIM_TOKEN_BYTES, n = prompt.len - at;

		out_printf(&text, "%s%u", i ? "," : "",
			   (unsigned int)(XXH64(prompt.data + at,
						n < SIM_TOKEN_BYTES ? n : SIM_TOKEN_BYTES, 0) %
					  100000));
	}
	out_printf(&text, "],\"token_strs\":null}");
	reply_page(&c->out, "application/json", &text, c->inst->port);
	free(text.data);
	free(prompt.data);
}

static void rerank(struct conn *c, json_t *body)
{
	json_t *documents = json_object_get(body, "documents");
	struct out text = {0};

	out_printf(&text, "{\"id\":\"rerank-sim\",\"model\":\"%s\",\"results\":[",
		   c->inst->engine.opt->model);
	for (size_t i = 0; i < json_array_size(documents); i++)
		out_printf(&text, "%s{\"index\":%zu,\"relevance_score\":%.4f}", i ? "," : "", i,
			   1.0 / (double)(i + 1));
	out_printf(&text, "]}");
	out_add(&text, "", 1);
	reply_json(&c->out, 200, text.data, c->inst->port, true);
	free(text.data);
}

/* As if the process had been started anew; connections stay. */
static void kv_restart(struct conn *c)
{
	if (c->inst->engine.events)
		events_restart(c->inst->engine.events);
	engine_forget(&c->inst->engine);
	reply_json(&c->out, 200, "{}", c->inst->port, true);
}

/* What a test compares a listener's view with. */
static void kv_events_report(struct conn *c)
{
	char text[128];

	snprintf(text, sizeof(text), "{\"messages\":%llu,\"blocks\":%u}",
		 (unsigned long long)events_count(c->inst->engine.events),
		 cache_used(c->inst->engine.cache));
	reply_json(&c->out, 200, text, c->inst->port, true);
}

static void kv_sources(struct conn *c)
{
	char text[8192];

	events_sources(c->inst->engine.events, text, sizeof(text));
	reply_json(&c->out, 200, text, c->inst->port, true);
}

void api_post(struct conn *c, const struct http1_head *head, struct span body)
{
	static const struct {
		const char *path;
		enum sim_api api;
	} paths[] = {{"/v1/chat/completions", SIM_CHAT},       {"/v1/completions", SIM_COMPLETION},
		     {"/v1/responses", SIM_RESPONSES},	       {"/v1/messages", SIM_MESSAGES},
		     {"/inference/v1/generate", SIM_GENERATE}, {"/v1/embeddings", SIM_EMBEDDINGS}};
	json_t *json = json_loadb(body.ptr, body.len, JSON_ALLOW_NUL, NULL);

	if (!json_is_object(json)) {
		reply_error(&c->out, 400, "BadRequestError", "The body is not a JSON object.", NULL,
			    c->inst->port);
		json_decref(json);
		return;
	}
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		if (!span_eq(head->path, span_of_str(paths[i].path)))
			continue;
		if (!failure_injected(c))
			generate(c, head, json, paths[i].api);
		json_decref(json);
		return;
	}
	if (span_eq(head->path, SPAN("/tokenize")) && tokens_loaded())
		tokens_tokenize(c, json);
	else if (span_eq(head->path, SPAN("/detokenize")) && tokens_loaded())
		tokens_detokenize(c, json);
	else if (span_eq(head->path, SPAN("/sim/kv_restart")))
		kv_restart(c);
	else if (span_eq(head->path, SPAN("/tokenize")))
		tokenize(c, json);
	else if (span_eq(head->path, SPAN("/sim/fail")))
		pd_order_failure(c, json);
	else if (span_eq(head->path, SPAN("/detokenize")))
		reply_json(&c->out, 200, "{\"prompt\":\"\"}", c->inst->port, true);
	else if (span_eq(head->path, SPAN("/rerank")) || span_eq(head->path, SPAN("/v1/rerank")) ||
		 span_eq(head->path, SPAN("/v2/rerank")))
		rerank(c, json);
	else
		reply_json(&c->out, 404, "{\"detail\":\"Not Found\"}", c->inst->port, true);
	json_decref(json);
}

void api_get(struct conn *c, const struct http1_head *head)
{
	const struct sim_options *opt = c->inst->engine.opt;

	if (span_eq(head->path, SPAN("/v1/models")))
		reply_models(&c->out, opt, c->inst->port);
	else if (span_eq(head->path, SPAN("/metrics")))
		reply_metrics(&c->out, &c->inst->engine, opt->model, c->inst->port);
	else if (span_eq(head->path, SPAN("/health")) || span_eq(head->path, SPAN("/ping")))
		reply_json(&c->out, 200, "", c->inst->port, true);
	else if (opt->kv_connector && span_eq(head->path, SPAN("/query")))
		pd_query(c);
	else if (c->inst->engine.events && !opt->hide_sources &&
		 span_eq(head->path, SPAN("/kv_event_sources")))
		kv_sources(c);
	else if (c->inst->engine.events && span_eq(head->path, SPAN("/sim/events")))
		kv_events_report(c);
	else if (span_eq(head->path, SPAN("/sim/kv")))
		pd_report(c);
	else if (span_eq(head->path, SPAN("/version")))
		reply_json(&c->out, 200, "{\"version\":\"0.32.0-sim\"}", c->inst->port, true);
	else
		reply_json(&c->out, 404, "{\"detail\":\"Not Found\"}", c->inst->port, true);
}
