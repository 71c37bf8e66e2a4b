/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of answers. Compare with the captured exchanges in tests/data before changing a field. */
#include "base/clock.h"
#include "sluice-sim/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/sim_text.h"

void out_add(struct out *o, const void *p, size_t n)
{
	if (o->len + n + 1 > o->size) {
		o->size = (o->len + n + 1) * 2;
		o->data = realloc(o->data, o->size);
		if (!o->data)
			abort();
	}
	memcpy(o->data + o->len, p, n);
	o->len += n;
}

void out_cut(struct out *o)
{
	if (o->cut_count < OUT_CUTS)
		o->cuts[o->cut_count++] = o->len;
}

void out_printf(struct out *o, const char *fmt, ...)
{
	char text[4096];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	out_add(o, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

static const char *reason(int status)
{
	return status == 200   ? "OK"
	       : status == 400 ? "Bad Request"
	       : status == 401 ? "Unauthorized"
	       : status == 404 ? "Not Found"
	       : status == 405 ? "Method Not Allowed"
	       : status == 429 ? "Too Many Requests"
	       : status == 503 ? "Service Unavailable"
			       : "Internal Server Error";
}

static void head_start(struct out *o, int status)
{
	char date[64];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	out_printf(o, "HTTP/1.1 %d %s\r\ndate: %s\r\nserver: uvicorn\r\n", status, reason(status),
		   date);
}

static void head_end(struct out *o, unsigned int port, bool chunked)
{
	out_printf(o, "vary: Origin\r\n");
	if (o->request_id[0])
		out_printf(o, "x-request-id: %s\r\n", o->request_id);
	out_printf(o, "%s%sx-inference-pod: sim-%u\r\nx-inference-port: %u\r\n\r\n",
		   o->close ? "connection: close\r\n" : "",
		   chunked ? "transfer-encoding: chunked\r\n" : "", port, port);
}

void reply_page(struct out *o, const char *type, const struct out *body, unsigned int port)
{
	head_start(o, 200);
	out_printf(o, "content-length: %zu\r\ncontent-type: %s\r\n", body->len, type);
	head_end(o, port, false);
	out_cut(o);
	out_add(o, body->data, body->len);
}

void reply_json(struct out *o, int status, const char *body, unsigned int port, bool keep)
{
	head_start(o, status);
	o->close |= !keep;
	out_printf(o, "content-length: %zu\r\n%s", strlen(body),
		   *body ? "content-type: application/json\r\n" : "");
	head_end(o, port, false);
	out_cut(o);
	out_add(o, body, strlen(body));
}

void reply_error(struct out *o, int status, const char *type, const char *message,
		 const char *param, unsigned int port)
{
	char body[1024];

	snprintf(body, sizeof(body),
		 "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":%s%s%s,\"code\":%d}}",
		 message, type, param ? "\"" : "", param ? param : "null", param ? "\"" : "",
		 status);
	reply_json(o, status, body, port, true);
}

#define FINGERPRINT "\"system_fingerprint\":\"vllm-0.32.0-sim\""

/* One event, one chunk, one segment. */
static void chunk(struct out *o, const char *event, size_t n)
{
	out_printf(o, "%zx\r\n", n);
	out_add(o, event, n);
	out_add(o, "\r\n", 2);
	out_cut(o);
}

__attribute__((format(printf, 2, 3))) static void event_put(struct out *o, const char *fmt, ...)
{
	char text[3072];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	chunk(o, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

/* "id":…,"object":…,"created":…,"model":… as both OpenAI answers begin. */
static const char *opening(const struct reply *r, const char *object)
{
	static char text[512];

	snprintf(text, sizeof(text),
		 "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"%s\",", r->id,
		 object, r->created, r->model);
	return text;
}

/* The usage member's value; whole: as in an answer that is not a stream. */
static const char *usage(const struct reply *r, uint32_t made, bool whole)
{
	static char text[512];
	uint32_t in = r->prompt_tokens, cached = r->cached_tokens;

	if (r->api == SIM_MESSAGES)
		snprintf(text, sizeof(text),
			 "{\"input_tokens\":%u,\"output_tokens\":%u,\"cache_creation_input_"
			 "tokens\":0,"
			 "\"cache_read_input_tokens\":%u}",
			 in, made, cached);
	else if (r->api == SIM_RESPONSES)
		snprintf(text, sizeof(text),
			 "{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%u,"
			 "\"cache_write_tokens\":0,\"input_tokens_per_turn\":[],"
			 "\"cached_tokens_per_turn\":[]},\"output_tokens\":%u,"
			 "\"output_tokens_details\":{\"reasoning_tokens\":0,\"tool_output_tokens\":"
			 "0,"
			 "\"output_tokens_per_turn\":[],\"tool_output_tokens_per_turn\":[]},"
			 "\"total_tokens\":%u}",
			 in, cached, made, in + made);
	else if (!r->details)
		snprintf(text, sizeof(text),
			 "{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u%s}",
			 in, in + made, made, whole ? ",\"prompt_tokens_details\":null" : "");
	else
		snprintf(text, sizeof(text),
			 "{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u,"
			 "\"prompt_tokens_details\":{\"cached_tokens\":%u,\"created_cache_tokens\":"
			 "0%s}"
			 "%s}",
			 in, in + made, made, cached, whole ? ",\"multimodal_tokens\":null" : "",
			 whole ? ",\"completion_tokens_details\":null" : "");
	return text;
}

uint32_t reply_echo_tokens(const struct reply *r)
{
	return (uint32_t)((r->echo_len + SIM_TOKEN_BYTES - 1) / SIM_TOKEN_BYTES);
}

/* Where piece i of the echo begins: at a character, so that a piece is UTF-8. */
static size_t echo_at(const struct reply *r, uint32_t i)
{
	size_t at = (size_t)i * SIM_TOKEN_BYTES;

	if (at >= r->echo_len)
		return r->echo_len;
	while (at && ((unsigned char)r->echo[at] & 0xc0) == 0x80)
		at--;
	return at;
}

/* Word i of the answer, escaped for JSON. */
static void word_make(const struct reply *r, uint32_t i, char to[REPLY_WORD_BYTES])
{
	size_t n = 0;

	if (!r->echo) {
		sim_word(r->prompt_hash, i, to);
		return;
	}
	for (size_t at = echo_at(r, i); at < echo_at(r, i + 1); at++) {
		unsigned char c = (unsigned char)r->echo[at];

		if (c == '"' || c == '\\')
			to[n++] = '\\';
		if (c < 0x20)
			n += (size_t)snprintf(to + n, REPLY_WORD_BYTES - n, "\\u%04x", c);
		else
			to[n++] = (char)c;
	}
	to[n] = '\0';
}

/* Has the answer come to its own end, before the limit? */
static bool ended_itself(const struct reply *r)
{
	return r->echo && r->max_tokens == reply_echo_tokens(r);
}

static void words(struct out *o, const struct reply *r)
{
	char word[REPLY_WORD_BYTES];

	for (uint32_t i = 0; i < r->max_tokens; i++) {
		word_make(r, i, word);
		out_add(o, word, strlen(word));
	}
}

/* A Responses object; output only once it is whole. */
static void response_object(struct out *o, const struct reply *r, bool whole)
{
	out_printf(
		o,
		"{\"id\":\"%s\",\"created_at\":%lld,\"incomplete_details\":%s,"
		"\"instructions\":null,\"metadata\":null,\"model\":\"%s\",\"object\":\"response\","
		"\"output\":[",
		r->id, r->created, whole ? "{\"reason\":\"max_output_tokens\"}" : "null", r->model);
	if (whole) {
		out_printf(o, "{\"id\":\"msg_1\",\"content\":[{\"annotations\":[],\"text\":\"");
		words(o, r);
		out_printf(o,
			   "\",\"type\":\"output_text\",\"logprobs\":null}],\"role\":\"assistant\","
			   "\"status\":\"completed\",\"type\":\"message\",\"phase\":null}");
	}
	out_printf(o,
		   "],\"parallel_tool_calls\":true,\"temperature\":1.0,\"tool_choice\":\"none\","
		   "\"tools\":[],\"top_p\":1.0,\"background\":false,\"max_output_tokens\":%u,"
		   "\"max_tool_calls\":null,\"previous_response_id\":null,\"prompt\":null,"
		   "\"reasoning\":null,\"service_tier\":\"auto\",\"status\":\"%s\",\"text\":null,"
		   "\"top_logprobs\":null,\"truncation\":\"disabled\",\"usage\":%s,\"user\":null,"
		   "\"presence_penalty\":0.0,\"frequency_penalty\":0.0,\"kv_transfer_params\":null,"
		   "\"ec_transfer_params\":null,\"input_messages\":null,\"output_messages\":null}",
		   r->max_tokens, whole ? "incomplete" : "in_progress",
		   whole ? usage(r, r->max_tokens, true) : "null");
}

static void response_event(struct out *o, const struct reply *r, const char *name, uint32_t number)
{
	struct out text = {0};

	out_printf(&text, "event: response.%s\ndata: {\"response\":", name);
	response_object(&text, r, strcmp(name, "completed") == 0);
	out_printf(&text, ",\"sequence_number\":%u,\"type\":\"response.%s\"}\n\n", number, name);
	chunk(o, text.data, text.len);
	free(text.data);
}

static void responses_begin(struct out *o, const struct reply *r)
{
	response_event(o, r, "created", 0);
	response_event(o, r, "in_progress", 1);
	event_put(o, "event: response.output_item.added\ndata: {\"item\":{\"id\":\"msg_1\","
		     "\"content\":[],\"role\":\"assistant\",\"status\":\"in_progress\",\"type\":"
		     "\"message\",\"phase\":null},\"output_index\":0,\"sequence_number\":2,"
		     "\"type\":\"response.output_item.added\"}\n\n");
	event_put(o,
		  "event: response.content_part.added\ndata: {\"content_index\":0,"
		  "\"item_id\":\"msg_1\",\"output_index\":0,\"part\":{\"annotations\":[],"
		  "\"text\":\"\",\"type\":\"output_text\",\"logprobs\":[]},\"sequence_number\":3,"
		  "\"type\":\"response.content_part.added\"}\n\n");
}

void reply_stream_head(struct out *o, const struct reply *r)
{
	head_start(o, 200);
	out_printf(o, "content-type: text/event-stream; charset=utf-8\r\n");
	head_end(o, r->port, true);
	out_cut(o);
	if (r->api == SIM_CHAT)
		event_put(o,
			  "data: %s\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
			  "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
			  "\"prompt_token_ids\":null,\"prompt_text\":null}\n\n",
			  opening(r, "chat.completion.chunk"));
	else if (r->api == SIM_RESPONSES)
		responses_begin(o, r);
	if (r->api != SIM_MESSAGES)
		return;
	event_put(o,
		  "event: message_start\ndata: "
		  "{\"type\":\"message_start\",\"message\":{\"id\":\"%s\","
		  "\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"%s\","
		  "\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":%u,"
		  "\"output_tokens\":0}}}\n\n",
		  r->id, r->model, r->prompt_tokens);
	event_put(o, "event: content_block_start\ndata: {\"type\":\"content_block_start\","
		     "\"content_block\":{\"type\":\"text\",\"text\":\"\"},\"index\":0}\n\n");
}

static void responses_end(struct out *o, const struct reply *r, uint32_t made)
{
	struct out text = {0};

	words(&text, r);
	out_add(&text, "", 1);
	if (text.len < 2000) { /* long answers: the completed response holds the text too */
		event_put(o,
			  "event: response.output_text.done\ndata: {\"content_index\":0,"
			  "\"item_id\":\"msg_1\",\"logprobs\":[],\"output_index\":0,"
			  "\"sequence_number\":%u,"
			  "\"text\":\"%s\",\"type\":\"response.output_text.done\"}\n\n",
			  made + 4, text.data);
		event_put(o,
			  "event: response.content_part.done\ndata: {\"content_index\":0,"
			  "\"item_id\":\"msg_1\",\"output_index\":0,\"part\":{\"annotations\":[],"
			  "\"text\":\"%s\",\"type\":\"output_text\",\"logprobs\":null},"
			  "\"sequence_number\":%u,\"type\":\"response.content_part.done\"}\n\n",
			  text.data, made + 5);
		event_put(
			o,
			"event: response.output_item.done\ndata: {\"item\":{\"id\":\"msg_1\","
			"\"content\":[{\"annotations\":[],\"text\":\"%s\",\"type\":\"output_text\","
			"\"logprobs\":null}],\"role\":\"assistant\",\"status\":\"completed\","
			"\"type\":\"message\",\"phase\":null},\"output_index\":0,"
			"\"sequence_number\":%u,\"type\":\"response.output_item.done\"}\n\n",
			text.data, made + 6);
	}
	free(text.data);
	response_event(o, r, "completed", made + 7);
}

static void stream_end(struct out *o, const struct reply *r, uint32_t made)
{
	if (r->api == SIM_MESSAGES) {
		event_put(o, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\","
			     "\"index\":0}\n\n");
		event_put(o,
			  "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{"
			  "\"stop_reason\":\"%s\",\"stop_sequence\":null},\"usage\":%s}\n\n",
			  ended_itself(r) ? "end_turn" : "max_tokens", usage(r, made, false));
		event_put(o, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
	} else if (r->api == SIM_RESPONSES) {
		responses_end(o, r, made);
	} else {
		if (r->usage && r->api != SIM_GENERATE)
			event_put(o, "data: %s\"choices\":[],\"usage\":%s," FINGERPRINT "}\n\n",
				  opening(r, r->api == SIM_CHAT ? "chat.completion.chunk"
								: "text_completion"),
				  usage(r, made, false));
		event_put(o, "data: [DONE]\n\n");
	}
	out_add(o, "0\r\n\r\n", 5);
}

static uint32_t token_id(const struct reply *r, uint32_t i)
{
	return (uint32_t)(r->prompt_hash >> 20 ^ i * 2654435761u) % 4000;
}

/* A comment of the event, so that who receives it knows how long it was under way. */
static const char *stamp(const struct reply *r)
{
	static char text[48];

	if (!r->stamped)
		return "";
	snprintf(text, sizeof(text), ": sent %llu\n", (unsigned long long)clock_mono_ns());
	return text;
}

void reply_stream_token(struct out *o, const struct reply *r, uint32_t i, bool last)
{
	char word[REPLY_WORD_BYTES];
	const char *finish = !last ? "null" : ended_itself(r) ? "\"stop\"" : "\"length\"";
	const char *print = last && !r->usage ? "," FINGERPRINT : "";

	word_make(r, i, word);
	if (r->api == SIM_CHAT)
		event_put(o,
			  "%sdata: %s\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},"
			  "\"logprobs\":null,\"finish_reason\":%s%s,\"token_ids\":null}]%s}\n\n",
			  stamp(r), opening(r, "chat.completion.chunk"), word, finish,
			  last ? ",\"stop_reason\":null" : "", print);
	else if (r->api == SIM_COMPLETION)
		event_put(o,
			  "data: %s\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,"
			  "\"finish_reason\":%s,\"stop_reason\":null,\"prompt_token_ids\":null,"
			  "\"token_ids\":null}]%s}\n\n",
			  opening(r, "text_completion"), word, finish, print);
	else if (r->api == SIM_GENERATE)
		event_put(
			o,
			"data: {\"request_id\":\"%s\",\"choices\":[{\"index\":0,\"logprobs\":null,"
			"\"finish_reason\":%s,\"token_ids\":[%u]}]}\n\n",
			r->id, finish, token_id(r, i));
	else if (r->api == SIM_MESSAGES)
		event_put(o,
			  "event: content_block_delta\ndata: {\"type\":\"content_block_delta\","
			  "\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"},\"index\":0}\n\n",
			  word);
	else
		event_put(o,
			  "event: response.output_text.delta\ndata: {\"content_index\":0,\"delta\":"
			  "\"%s\",\"item_id\":\"msg_1\",\"logprobs\":[],\"output_index\":0,"
			  "\"sequence_number\":%u,\"type\":\"response.output_text.delta\"}\n\n",
			  word, i + 4);
	if (last)
		stream_end(o, r, i + 1);
}

static void whole_chat(struct out *b, const struct reply *r)
{
	out_printf(b,
		   "%s\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
		   opening(r, "chat.completion"));
	words(b, r);
	out_printf(b,
		   "\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,"
		   "\"reasoning\":null},\"logprobs\":null,\"finish_reason\":\"%s\","
		   "\"stop_reason\":null,\"token_ids\":null,\"routed_experts\":null}],"
		   "\"service_tier\":null," FINGERPRINT ",\"usage\":%s,\"prompt_logprobs\":null,"
		   "\"prompt_token_ids\":null,\"prompt_text\":null,\"kv_transfer_params\":null,"
		   "\"ec_transfer_params\":null,\"metrics\":null}",
		   ended_itself(r) ? "stop" : "length", usage(r, r->max_tokens, true));
}

static void whole_completion(struct out *b, const struct reply *r)
{
	out_printf(b, "%s\"choices\":[{\"index\":0,\"text\":\"", opening(r, "text_completion"));
	words(b, r);
	out_printf(b,
		   "\",\"logprobs\":null,\"finish_reason\":\"%s\",\"stop_reason\":null,"
		   "\"token_ids\":null,\"prompt_logprobs\":null,\"prompt_token_ids\":null,"
		   "\"routed_experts\":null}],\"service_tier\":null," FINGERPRINT ",\"usage\":%s,"
		   "\"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}",
		   ended_itself(r) ? "stop" : "length", usage(r, r->max_tokens, true));
}

static void whole_generate(struct out *b, const struct reply *r)
{
	out_printf(b,
		   "{\"request_id\":\"%s\",\"model\":\"%s\",\"created\":%lld,\"usage\":%s,"
		   "\"prompt_logprobs\":null,\"prompt_token_id_logprobs\":null,"
		   "\"prompt_token_ids\":null,\"mm_placeholders\":null,\"metrics\":null,"
		   "\"kv_transfer_params\":null,\"ec_transfer_params\":null,"
		   "\"output_mode\":\"tokens\",\"choices\":[{\"index\":0,\"finish_reason\":"
		   "\"length\",\"stop_reason\":null,\"token_ids\":[",
		   r->id, r->model, r->created, usage(r, r->max_tokens, true));
	for (uint32_t i = 0; i < r->max_tokens; i++)
		out_printf(b, "%s%u", i ? "," : "", token_id(r, i));
	out_printf(b, "],\"routed_experts\":null,\"sampling_mask\":null,\"logprobs\":null}]}");
}

/* The parameters take the place of the null, or stand at the end where there is none. */
static void params_put(struct out *body, const char *name, const char *params)
{
	char null[64];
	size_t n = (size_t)snprintf(null, sizeof(null), "\"%s\":null", name), rest = 1;
	char *at = memmem(body->data, body->len, null, n);
	struct out to = {0};

	if (at) {
		at += n - 4; /* before the null */
		rest = body->len - (size_t)(at - body->data) - 4;
		out_add(&to, body->data, (size_t)(at - body->data));
	} else {
		out_add(&to, body->data, body->len - 1);
		out_printf(&to, ",\"%s\":", name);
	}
	out_add(&to, params, strlen(params));
	out_add(&to, body->data + body->len - rest, rest);
	free(body->data);
	*body = to;
}

void reply_whole(struct out *o, const struct reply *r)
{
	struct out body = {0};

	if (r->api == SIM_CHAT) {
		whole_chat(&body, r);
	} else if (r->api == SIM_COMPLETION) {
		whole_completion(&body, r);
	} else if (r->api == SIM_GENERATE) {
		whole_generate(&body, r);
	} else if (r->api == SIM_MESSAGES) {
		out_printf(&body,
			   "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"content\":"
			   "[{\"type\":\"text\",\"text\":\"",
			   r->id);
		words(&body, r);
		out_printf(&body, "\"}],\"model\":\"%s\",\"stop_reason\":\"%s\",\"usage\":%s}",
			   r->model, ended_itself(r) ? "end_turn" : "max_tokens",
			   usage(r, r->max_tokens, true));
	} else {
		response_object(&body, r, true);
	}
	if (r->kv_params)
		params_put(&body, "kv_transfer_params", r->kv_params);
	if (r->ec_params)
		params_put(&body, "ec_transfer_params", r->ec_params);
	out_add(&body, "", 1);
	reply_json(o, 200, body.data, r->port, true);
	free(body.data);
}
