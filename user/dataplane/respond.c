/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that the gateway gives itself: errors in the client's own API, models, health. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dataplane/request.h"

/* Appends text as the inside of a JSON string; cut where it does not fit. */
static size_t json_escape(char *to, size_t size, const char *text)
{
	size_t n = 0;

	for (; *text && n + 7 < size; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			to[n++] = '\\';
			to[n++] = (char)c;
		} else if (c < 0x20 || c == 0x7f) {
			n += (size_t)snprintf(to + n, size - n, "\\u%04x", c);
		} else {
			to[n++] = (char)c;
		}
	}
	to[n] = '\0';
	return n;
}

static size_t date_write(char *to, size_t size)
{
	static _Thread_local time_t last;
	static _Thread_local char text[40];
	time_t now = time(NULL);
	struct tm tm;

	if (now != last) {
		gmtime_r(&now, &tm);
		strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
		last = now;
	}
	return (size_t)snprintf(to, size, "date: %s\r\n", text);
}

struct local {
	int status;
	const char *type, *extra; /* content type; further field lines or "" */
	struct span body;
	const char *id; /* x-request-id, or NULL */
	bool head, keep, old;
};

static void local_send(struct client *c, const struct local *l)
{
	struct block *b = block_new(&c->worker->blocks, l->body.len + 1024);
	int n;

	if (!b || l->body.len + 1024 > b->size) {
		block_free(&c->worker->blocks, b);
		client_abort(c);
		return;
	}
	n = snprintf(b->data, b->size, "HTTP/1.1 %d %s\r\n", l->status, head_reason(l->status));
	n += (int)date_write(b->data + n, b->size - (size_t)n);
	if (l->type)
		n += snprintf(b->data + n, b->size - (size_t)n,
			      "content-type: %s\r\ncontent-length: %zu\r\n", l->type, l->body.len);
	if (l->id)
		n += snprintf(b->data + n, b->size - (size_t)n, "x-request-id: %s\r\n", l->id);
	n += snprintf(b->data + n, b->size - (size_t)n, "%s%s\r\n", l->extra,
		      !l->keep ? "connection: close\r\n"
		      : l->old ? "connection: keep-alive\r\n"
			       : "");
	if (!l->head) {
		memcpy(b->data + n, l->body.ptr, l->body.len);
		n += (int)l->body.len;
	}
	b->end = (uint32_t)n;
	client_send(c, b);
	client_answer_end(c, l->keep);
}

static void respond(struct request *req, int status, const char *type, const char *extra,
		    struct span body)
{
	struct client *c = req->client;

	req->status = status;
	req->bytes_out = body.len;
	if (req->up)
		forward_end(req, false);
	local_send(c, &(struct local){.status = status,
				      .type = type,
				      .extra = extra,
				      .body = body,
				      .id = req->id,
				      .head = req->head.method == HTTP1_HEAD,
				      .keep = req->head.keep_alive && !c->close,
				      .old = req->head.minor == 0});
}

/* param: a member of the body in quotes, or "null". */
static size_t error_write(char *to, size_t size, enum route_api api, int status, const char *type,
			  const char *param, const char *message)
{
	char text[1024];

	json_escape(text, sizeof(text), message);
	if (api == API_ANTHROPIC && strcmp(type, "server_error") == 0)
		type = status == 503 ? "overloaded_error" : "api_error";
	if (api == API_ANTHROPIC)
		return (size_t)snprintf(to, size,
					"{\"type\":\"error\",\"error\":{\"type\":\"%s\","
					"\"message\":\"%s\"}}",
					type, text);
	return (size_t)snprintf(to, size,
				"{\"error\":{\"message\":\"%s\",\"type\":\"%s\","
				"\"param\":%s,\"code\":%d}}",
				text, type, param, status);
}

static void respond_error_at(struct request *req, int status, const char *type, const char *param,
			     const char *message)
{
	char body[1536];
	size_t n = error_write(body, sizeof(body), route_api_of(req->head.path), status, type,
			       param, message);
	const char *extra = status == 503				    ? "retry-after: 1\r\n"
			    : status != 405				    ? ""
			    : req->route && req->route->method == HTTP1_GET ? "allow: GET, HEAD\r\n"
									    : "allow: POST\r\n";

	req->error = type;
	respond(req, status, "application/json", extra, span_of(body, n));
}

void respond_dropped(struct request *req, int status, const char *reason, const char *message)
{
	char body[1536], extra[128];
	size_t n =
		error_write(body, sizeof(body), route_api_of(req->head.path), status,
			    status == 429 ? "rate_limit_error" : "server_error", "null", message);

	snprintf(extra, sizeof(extra), "retry-after: 1\r\nx-llm-d-request-dropped-reason: %s\r\n",
		 reason);
	req->error = reason;
	respond(req, status, "application/json", extra, span_of(body, n));
}

void respond_error(struct request *req, int status, const char *type, const char *message)
{
	respond_error_at(req, status, type, "null", message);
}

void respond_bad_body(struct request *req)
{
	const char *field = req->scan.error_field;
	char text[160], param[64] = "null";

	if (field)
		snprintf(param, sizeof(param), "\"%s\"", field);
	respond_error_at(req, 400, "invalid_request_error", param,
			 openai_error_text(&req->scan, text, sizeof(text)));
}

void respond_unknown_model(struct request *req, const char *name)
{
	const struct endpoint_snapshot *snap = req->worker->snapshot;
	char text[768];
	size_t n = (size_t)snprintf(text, sizeof(text), "The model `%s` does not exist.", name);

	for (uint32_t i = 0; snap && i < snap->model_count; i++) {
		const char *alias = snap->models[i].name;

		if (n + strlen(alias) + 24 > sizeof(text))
			break;
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s",
				      i ? ", " : " Valid aliases: ", alias);
		if (i + 1 == snap->model_count)
			n += (size_t)snprintf(text + n, sizeof(text) - n, ".");
	}
	respond_error_at(req, 404, "NotFoundError", "\"model\"", text);
}

void respond_refusal(struct client *c, struct request *req, enum http1_refusal why)
{
	int status = http1_refusal_status(why);
	char body[512];
	size_t n = error_write(body, sizeof(body), req ? route_api_of(req->head.path) : API_OPENAI,
			       status, status == 503 ? "server_error" : "invalid_request_error",
			       "null", http1_refusal_text(why));

	/* Nothing else of a refused head can be trusted, but a body here would be a second answer.
	 */
	bool to_head = req ? req->head.method == HTTP1_HEAD
			   : c->in && span_starts_with(span_of(c->in->data + c->in->start,
							       block_used(c->in)),
						       SPAN("HEAD "));

	metric_inc(http1_refusal_counter(why));
	timer_clear(&c->timer);
	c->state = CLIENT_BUSY;
	if (req) {
		req->status = status;
		req->error = http1_refusal_text(why);
	}
	local_send(c, &(struct local){.status = status,
				      .type = "application/json",
				      .extra = status == 503 ? "retry-after: 1\r\n" : "",
				      .body = span_of(body, n),
				      .id = req ? req->id : NULL,
				      .head = to_head});
}

void respond_json(struct request *req, int status, struct span body)
{
	respond(req, status, "application/json", "", body);
}

void respond_options(struct request *req)
{
	respond(req, 204, NULL,
		"access-control-allow-origin: *\r\n"
		"access-control-allow-methods: GET, POST, OPTIONS\r\n"
		"access-control-allow-headers: *\r\n"
		"access-control-max-age: 600\r\n",
		(struct span){"", 0});
}

static size_t model_write(const struct model *m, char *to, size_t room)
{
	char name[MODEL_NAME_BYTES_MAX * 2], parent[MODEL_NAME_BYTES_MAX * 2];

	json_escape(name, sizeof(name), m->name);
	json_escape(parent, sizeof(parent), m->parent);
	return (size_t)snprintf(to, room,
				"{\"id\":\"%s\",\"object\":\"model\",\"created\":%lld,"
				"\"owned_by\":\"sluice\",\"root\":\"%s\",\"parent\":%s%s%s}",
				name, (long long)time(NULL), name, *parent ? "\"" : "null", parent,
				*parent ? "\"" : "");
}

/* The one that the path names, percent-decoded as clients send slashes either way. */
void respond_model(struct request *req)
{
	const struct endpoint_snapshot *snap = req->worker->snapshot;
	struct span rest = span_of(req->head.path.ptr + req->route->path.len,
				   req->head.path.len - req->route->path.len);
	char name[MODEL_NAME_BYTES_MAX];
	char body[MODEL_NAME_BYTES_MAX * 8];
	const struct model *m;
	size_t n = 0;

	for (size_t i = 0; i < rest.len && n + 1 < sizeof(name); i++) {
		char hex[3] = {0};

		if (rest.ptr[i] == '%' && i + 2 < rest.len) {
			memcpy(hex, rest.ptr + i + 1, 2);
			name[n++] = (char)strtoul(hex, NULL, 16);
			i += 2;
		} else {
			name[n++] = rest.ptr[i];
		}
	}
	name[n] = '\0';
	m = snap ? snapshot_find_model(snap, span_of(name, n)) : NULL;
	if (!m) {
		for (size_t i = 0; i < n; i++) /* it goes into JSON: no half characters */
			if ((unsigned char)name[i] < 0x20 || (unsigned char)name[i] > 0x7e)
				name[i] = '?';
		respond_unknown_model(req, name);
		return;
	}
	respond_json(req, 200, span_of(body, model_write(m, body, sizeof(body))));
}

/* The union of what the endpoints serve, in vLLM's shape; as many as fit one block. */
void respond_models(struct request *req)
{
	const struct endpoint_snapshot *snap = req->worker->snapshot;
	struct block *b = block_new(&req->worker->blocks, BLOCK_BIG);
	size_t n = 0, room = BLOCK_BIG - 2048;

	if (!b) {
		respond_error(req, 503, "server_error", http1_refusal_text(HTTP1_NO_MEMORY));
		return;
	}
	n += (size_t)snprintf(b->data, room, "{\"object\":\"list\",\"data\":[");
	for (uint32_t i = 0; snap && i < snap->model_count && n + 2048 < room; i++) {
		if (i)
			b->data[n++] = ',';
		n += model_write(&snap->models[i], b->data + n, room - n);
	}
	n += (size_t)snprintf(b->data + n, room - n, "]}");
	respond(req, 200, "application/json", "", span_of(b->data, n));
	block_free(&req->worker->blocks, b);
}
