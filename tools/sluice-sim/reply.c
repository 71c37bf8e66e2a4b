/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of answers. Compare with the captured exchanges in tests/data before changing a field. */
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

static void head_end(struct out *o, unsigned int port)
{
	out_printf(o, "x-inference-pod: sim-%u\r\nx-inference-port: %u\r\n\r\n", port, port);
}

void reply_json(struct out *o, int status, const char *body, unsigned int port, bool keep)
{
	head_start(o, status);
	out_printf(o, "content-length: %zu\r\ncontent-type: application/json\r\n%s", strlen(body),
		   keep ? "" : "connection: close\r\n");
	head_end(o, port);
	out_add(o, body, strlen(body));
}

void reply_error(struct out *o, int status, const char *type, const char *message,
		 unsigned int port)
{
	char body[1024];

	snprintf(body, sizeof(body),
		 "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%d}}",
		 message, type, status);
	reply_json(o, status, body, port, true);
}

static void chunk(struct out *o, const char *event)
{
	out_printf(o, "%zx\r\n", strlen(event));
	out_add(o, event, strlen(event));
	out_add(o, "\r\n", 2);
}

static void usage_text(const struct reply *r, uint32_t made, char *to, size_t size)
{
	if (r->api == SIM_MESSAGES || r->api == SIM_RESPONSES)
		snprintf(
			to, size,
			"{\"input_tokens\":%u,\"output_tokens\":%u,\"cache_read_input_tokens\":%u}",
			r->prompt_tokens, made, r->cached_tokens);
	else
		snprintf(to, size,
			 "{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u,"
			 "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
			 r->prompt_tokens, r->prompt_tokens + made, made, r->cached_tokens);
}

void reply_stream_head(struct out *o, const struct reply *r)
{
	char event[1024];

	head_start(o, 200);
	out_printf(o, "content-type: text/event-stream; charset=utf-8\r\n"
		      "transfer-encoding: chunked\r\n");
	head_end(o, r->port);
	event[0] = '\0';
	if (r->api == SIM_CHAT)
		snprintf(event, sizeof(event),
			 "data: "
			 "{\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%lld,"
			 "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"role\":"
			 "\"assistant\","
			 "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
			 "\"prompt_token_ids\":null,\"prompt_text\":null}\n\n",
			 r->id, r->created, r->model);
	else if (r->api == SIM_MESSAGES)
		snprintf(event, sizeof(event),
			 "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{"
			 "\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],"
			 "\"model\":\"%s\",\"stop_reason\":null,\"stop_sequence\":null,"
			 "\"usage\":{\"input_tokens\":%u,\"output_tokens\":0}}}\n\n"
			 "event: content_block_start\ndata: {\"type\":\"content_block_start\","
			 "\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
			 r->id, r->model, r->prompt_tokens);
	else if (r->api == SIM_RESPONSES)
		snprintf(
			event, sizeof(event),
			"event: response.created\ndata: {\"type\":\"response.created\","
			"\"sequence_number\":0,\"response\":{\"id\":\"%s\",\"object\":\"response\","
			"\"created_at\":%lld,\"status\":\"in_progress\",\"model\":\"%s\","
			"\"output\":[],\"parallel_tool_calls\":true,\"tool_choice\":\"auto\","
			"\"tools\":[]}}\n\n",
			r->id, r->created, r->model);
	if (event[0])
		chunk(o, event);
}

static void stream_end(struct out *o, const struct reply *r, uint32_t made)
{
	char event[1024], usage[256];

	usage_text(r, made, usage, sizeof(usage));
	event[0] = '\0';
	if (r->api == SIM_MESSAGES)
		snprintf(event, sizeof(event),
			 "event: content_block_stop\ndata: {\"type\":\"content_block_stop\","
			 "\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\","
			 "\"delta\":{\"stop_reason\":\"max_tokens\",\"stop_sequence\":null},"
			 "\"usage\":%s}\n\nevent: message_stop\ndata: "
			 "{\"type\":\"message_stop\"}\n\n",
			 usage);
	else if (r->api == SIM_RESPONSES)
		snprintf(event, sizeof(event),
			 "event: response.completed\ndata: {\"type\":\"response.completed\","
			 "\"sequence_number\":%u,\"response\":{\"id\":\"%s\",\"object\":"
			 "\"response\","
			 "\"created_at\":%lld,\"status\":\"completed\",\"model\":\"%s\","
			 "\"output\":[],\"parallel_tool_calls\":true,\"tool_choice\":\"auto\","
			 "\"tools\":[],\"usage\":%s}}\n\n",
			 made + 1, r->id, r->created, r->model, usage);
	else if (r->usage)
		snprintf(event, sizeof(event),
			 "data: {\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"%s\","
			 "\"choices\":[],\"usage\":%s}\n\n",
			 r->id, r->api == SIM_CHAT ? "chat.completion.chunk" : "text_completion",
			 r->created, r->model, usage);
	if (event[0])
		chunk(o, event);
	if (r->api == SIM_CHAT || r->api == SIM_COMPLETION)
		chunk(o, "data: [DONE]\n\n");
	out_add(o, "0\r\n\r\n", 5);
}

void reply_stream_token(struct out *o, const struct reply *r, uint32_t i, bool last)
{
	char event[768], word[SIM_WORD_BYTES + 1];
	const char *finish = last ? "\"length\"" : "null";

	sim_word(r->prompt_hash, i, word);
	if (r->api == SIM_CHAT)
		snprintf(
			event, sizeof(event),
			"data: "
			"{\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%lld,"
			"\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},"
			"\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]}\n\n",
			r->id, r->created, r->model, word, finish);
	else if (r->api == SIM_COMPLETION)
		snprintf(event, sizeof(event),
			 "data: {\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,"
			 "\"model\":\"%s\",\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":"
			 "null,"
			 "\"finish_reason\":%s,\"stop_reason\":null,\"prompt_token_ids\":null,"
			 "\"token_ids\":null}]}\n\n",
			 r->id, r->created, r->model, word, finish);
	else if (r->api == SIM_MESSAGES)
		snprintf(event, sizeof(event),
			 "event: content_block_delta\ndata: {\"type\":\"content_block_delta\","
			 "\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"}}\n\n",
			 word);
	else
		snprintf(event, sizeof(event),
			 "event: response.output_text.delta\ndata: {\"type\":"
			 "\"response.output_text.delta\",\"sequence_number\":%u,\"item_id\":\"msg_"
			 "1\","
			 "\"output_index\":0,\"content_index\":0,\"delta\":\"%s\",\"logprobs\":[]}"
			 "\n\n",
			 i + 1, word);
	chunk(o, event);
	if (last)
		stream_end(o, r, i + 1);
}

static void words(struct out *o, const struct reply *r)
{
	char word[SIM_WORD_BYTES + 1];

	for (uint32_t i = 0; i < r->max_tokens; i++) {
		sim_word(r->prompt_hash, i, word);
		out_add(o, word, SIM_WORD_BYTES);
	}
}

void reply_whole(struct out *o, const struct reply *r)
{
	struct out body = {0};
	char usage[256];

	usage_text(r, r->max_tokens, usage, sizeof(usage));
	if (r->api == SIM_CHAT)
		out_printf(&body,
			   "{\"id\":\"%s\",\"object\":\"chat.completion\",\"created\":%lld,"
			   "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
			   "\"assistant\",\"content\":\"",
			   r->id, r->created, r->model);
	else if (r->api == SIM_COMPLETION)
		out_printf(&body,
			   "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,"
			   "\"model\":\"%s\",\"choices\":[{\"index\":0,\"text\":\"",
			   r->id, r->created, r->model);
	else if (r->api == SIM_MESSAGES)
		out_printf(&body,
			   "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":"
			   "\"%s\",\"content\":[{\"type\":\"text\",\"text\":\"",
			   r->id, r->model);
	else
		out_printf(&body,
			   "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"model\":"
			   "\"%s\",\"status\":\"completed\",\"parallel_tool_calls\":true,"
			   "\"tool_choice\":\"auto\",\"tools\":[],\"output\":[{\"id\":\"msg_1\","
			   "\"type\":\"message\",\"role\":\"assistant\",\"status\":\"completed\","
			   "\"content\":[{\"type\":\"output_text\",\"annotations\":[],\"text\":\"",
			   r->id, r->created, r->model);
	words(&body, r);
	if (r->api == SIM_CHAT)
		out_printf(&body,
			   "\",\"refusal\":null,\"annotations\":null,\"audio\":null,"
			   "\"function_call\":null,\"reasoning\":null},\"logprobs\":null,"
			   "\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":%s,"
			   "\"prompt_logprobs\":null,\"kv_transfer_params\":null}",
			   usage);
	else if (r->api == SIM_COMPLETION)
		out_printf(
			&body,
			"\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],"
			"\"usage\":%s,\"kv_transfer_params\":null}",
			usage);
	else if (r->api == SIM_MESSAGES)
		out_printf(
			&body,
			"\"}],\"stop_reason\":\"max_tokens\",\"stop_sequence\":null,\"usage\":%s}",
			usage);
	else
		out_printf(&body, "\"}]}],\"usage\":%s}", usage);
	out_add(&body, "", 1);
	reply_json(o, 200, body.data, r->port, true);
	free(body.data);
}

void reply_models(struct out *o, const struct sim_options *opt, unsigned int port)
{
	struct out body = {0};
	char *list = strdup(opt->lora_modules ? opt->lora_modules : ""), *save = NULL;
	long long now = (long long)time(NULL);

	out_printf(
		&body,
		"{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":"
		"%lld,\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,\"max_model_len\":%u}",
		opt->model, now, opt->model, opt->max_model_len);
	for (char *name = strtok_r(list, ", ", &save); name; name = strtok_r(NULL, ", ", &save))
		out_printf(&body,
			   ",{\"id\":\"%s\",\"object\":\"model\",\"created\":%lld,\"owned_by\":"
			   "\"vllm\",\"root\":\"%s\",\"parent\":\"%s\"}",
			   name, now, name, opt->model);
	out_printf(&body, "]}");
	out_add(&body, "", 1);
	reply_json(o, 200, body.data, port, true);
	free(body.data);
	free(list);
}

static void gauge(struct out *o, const char *name, const char *model, double value)
{
	out_printf(o, "# HELP vllm:%s Simulated.\n# TYPE vllm:%s gauge\n", name, name);
	out_printf(o, "vllm:%s{engine=\"0\",model_name=\"%s\"} %.9g\n", name, model, value);
}

void reply_metrics(struct out *o, const struct engine *e, const char *model, unsigned int port)
{
	struct out b = {0};

	gauge(&b, "num_requests_running", model, e->running_count);
	gauge(&b, "num_requests_waiting", model, e->waiting_count);
	gauge(&b, "kv_cache_usage_perc", model,
	      (double)e->running_count / (e->opt->max_num_seqs ? e->opt->max_num_seqs : 1));
	gauge(&b, "prefix_cache_queries_total", model, (double)e->queries);
	gauge(&b, "prefix_cache_hits_total", model, (double)e->hits);
	gauge(&b, "prompt_tokens_total", model, (double)e->prompt_total);
	gauge(&b, "generation_tokens_total", model, (double)e->generated_total);
	gauge(&b, "request_success_total", model, (double)e->successes);
	out_printf(&b,
		   "# TYPE vllm:cache_config_info gauge\n"
		   "vllm:cache_config_info{block_size=\"%u\",engine=\"0\",num_gpu_blocks=\"%u\"} "
		   "1.0\n",
		   e->opt->block_size, e->opt->kv_blocks);
	head_start(o, 200);
	out_printf(o, "content-length: %zu\r\ncontent-type: text/plain; version=1.0.0\r\n", b.len);
	head_end(o, port);
	out_add(o, b.data, b.len);
	free(b.data);
}
