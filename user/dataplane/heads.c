/* SPDX-License-Identifier: Apache-2.0 */
/* The heads that we write ourselves: to the endpoint, and to the client. */
#include <errno.h>
#include <string.h>

#include "dataplane/disagg/disagg.h"
#include "dataplane/request.h"
#include "scheduler/config/setup.h"
#include "scheduler/sessions.h"

struct writer {
	char *at, *end;
	bool full;
};

static void put(struct writer *w, struct span s)
{
	if ((size_t)(w->end - w->at) < s.len) {
		w->full = true;
		return;
	}
	memcpy(w->at, s.ptr, s.len);
	w->at += s.len;
}

static void put_str(struct writer *w, const char *s)
{
	put(w, span_of_str(s));
}

static void put_field(struct writer *w, struct span name, struct span value)
{
	put(w, name);
	put(w, SPAN(": "));
	put(w, value);
	put(w, SPAN("\r\n"));
}

static void put_number(struct writer *w, struct span name, uint64_t n)
{
	char text[24], *at = text + sizeof(text);

	do
		*--at = (char)('0' + n % 10);
	while (n /= 10);
	put_field(w, name, span_of(at, (size_t)(text + sizeof(text) - at)));
}

/* Fields between gateways, or that we write ourselves. */
static bool ours_in_request(struct span name)
{
	return span_eq_nocase(name, SPAN("host")) || span_eq_nocase(name, SPAN("x-request-id")) ||
	       span_eq_nocase(name, SPAN("x-forwarded-for")) ||
	       (name.len > 9 && span_eq_nocase(span_of(name.ptr, 9), SPAN("x-gateway"))) ||
	       (name.len > 8 && span_eq_nocase(span_of(name.ptr, 8), SPAN("x-llm-d-"))) ||
	       (name.len > 6 && span_eq_nocase(span_of(name.ptr, 6), SPAN("x-slo-"))) ||
	       span_eq_nocase(name, SPAN("x-prefiller-host-port")) ||
	       span_eq_nocase(name, SPAN("x-encoder-hosts-ports")) ||
	       span_eq_nocase(name, SPAN("x-data-parallel-rank"));
}

/* Every hop so far, from however many fields, then our peer. */
static void put_forwarded_for(struct writer *w, const struct request *req)
{
	const char *gap = "x-forwarded-for: ";

	for (uint32_t i = 0; i < req->head.field_count; i++) {
		const struct http1_field *f = &req->head.fields[i];

		if (!f->value.len || !span_eq_nocase(f->name, SPAN("x-forwarded-for")))
			continue;
		put_str(w, gap);
		put(w, f->value);
		gap = ", ";
	}
	if (req->client->peer[0]) {
		put_str(w, gap);
		put_str(w, req->client->peer);
		gap = ", ";
	}
	if (*gap == ',')
		put(w, SPAN("\r\n"));
}

ssize_t head_write_request(const struct request *req, const struct endpoint *ep, char *to,
			   size_t size)
{
	return head_write_leg(req, ep, req->forward_bytes, to, size);
}

ssize_t head_write_leg(const struct request *req, const struct endpoint *ep, uint64_t body_bytes,
		       char *to, size_t size)
{
	struct writer w = {to, to + size, false};

	put(&w, req->head.method_text);
	put(&w, SPAN(" "));
	put(&w, req->head.path);
	if (req->head.query.ptr) {
		put(&w, SPAN("?"));
		put(&w, req->head.query);
	}
	put(&w, SPAN(" HTTP/1.1\r\n"));
	put_field(&w, SPAN("host"), span_of_str(ep->address));
	for (uint32_t i = 0; i < req->head.field_count; i++) {
		const struct http1_field *f = &req->head.fields[i];

		if (!ours_in_request(f->name) && !http1_field_is_hop(&req->head, f->name))
			put_field(&w, f->name, f->value);
	}
	put_field(&w, SPAN("x-request-id"), span_of_str(req->id));
	if (ep->label_count && endpoint_label(ep, PD_RANK_LABEL))
		put_field(&w, SPAN("x-data-parallel-rank"),
			  span_of_str(endpoint_label(ep, PD_RANK_LABEL)));
	if (disagg_prefiller(req))
		put_field(&w, SPAN("x-prefiller-host-port"),
			  span_of_str(disagg_prefiller(req)->address));
	put_forwarded_for(&w, req);
	if (path_is_planned(&req->path))
		put(&w, SPAN("connection: close\r\n"));
	if (body_bytes != HEAD_NO_LENGTH) {
		put_number(&w, SPAN("content-length"), body_bytes);
		put(&w, SPAN("\r\n"));
	}
	return w.full ? -ENOSPC : w.at - to;
}

const char *head_reason(int status)
{
	static const struct {
		int status;
		const char *reason;
	} reasons[] = {
		{200, "OK"},
		{204, "No Content"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{408, "Request Timeout"},
		{413, "Content Too Large"},
		{414, "URI Too Long"},
		{415, "Unsupported Media Type"},
		{417, "Expectation Failed"},
		{422, "Unprocessable Content"},
		{429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
		{504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "Status";
}

static bool ours_in_response(struct span name)
{
	return span_eq_nocase(name, SPAN("x-request-id")) ||
	       span_eq_nocase(name, SPAN("x-gateway-destination-endpoint-served"));
}

/* The token that brings the session back to this endpoint, where the profile goes by it. */
static void put_session(struct writer *w, const struct request *req, const struct endpoint *ep)
{
	const struct setup *s = scheduler_worker_setup(req->worker->sched);
	char token[SESSION_TOKEN_MAX];

	if (s->session_token)
		put_field(w, span_of_str(s->session_token),
			  span_of(token, sessions_token(ep, token)));
}

ssize_t head_write_response(const struct request *req, const struct http1_head *answer,
			    const struct endpoint *ep, bool chunked, bool keep, char *to,
			    size_t size)
{
	struct writer w = {to, to + size, false};
	const char digits[3] = {(char)('0' + answer->status / 100 % 10),
				(char)('0' + answer->status / 10 % 10),
				(char)('0' + answer->status % 10)};
	bool bodyless = answer->status == 204 || answer->status == 304;

	put(&w, SPAN("HTTP/1.1 "));
	put(&w, span_of(digits, sizeof(digits)));
	put(&w, SPAN(" "));
	put_str(&w, head_reason(answer->status));
	put(&w, SPAN("\r\n"));
	for (uint32_t i = 0; i < answer->field_count; i++) {
		const struct http1_field *f = &answer->fields[i];

		if (!ours_in_response(f->name) && !http1_field_is_hop(answer, f->name))
			put_field(&w, f->name, f->value);
	}
	if (chunked)
		put(&w, SPAN("transfer-encoding: chunked\r\n"));
	else if (answer->framing == HTTP1_LENGTH_BODY ||
		 (answer->framing == HTTP1_NO_BODY && !bodyless))
		put_number(&w, SPAN("content-length"), answer->content_length);
	put_field(&w, SPAN("x-request-id"), span_of_str(req->id));
	put_field(&w, SPAN("x-gateway-destination-endpoint-served"), span_of_str(ep->address));
	put_session(&w, req, ep);
	if (req->worker->cfg->cors)
		put(&w, SPAN("access-control-allow-origin: *\r\n"));
	put_str(&w, keep ? (req->head.minor == 0 ? "connection: keep-alive\r\n" : "")
			 : "connection: close\r\n");
	put(&w, SPAN("\r\n"));
	return w.full ? -ENOSPC : w.at - to;
}
