/* SPDX-License-Identifier: Apache-2.0 */
/* Stage 10: what a request was, once, when it ends: metrics and the access log. */
#include "base/clock.h"
#include "dataplane/request.h"

static void count(const struct request *req, uint64_t now)
{
	const struct usage *u = &req->sse.usage;

	switch (req->status / 100) {
	case 2:
		metric_inc(M_RESPONSES_2XX);
		break;
	case 4:
		metric_inc(M_RESPONSES_4XX);
		break;
	case 5:
		metric_inc(M_RESPONSES_5XX);
		break;
	default:
		metric_inc(M_RESPONSES_OTHER);
	}
	if (u->known) {
		metric_add(M_PROMPT_TOKENS, u->prompt_tokens);
		metric_add(M_CACHED_TOKENS, u->cached_tokens);
		metric_add(M_COMPLETION_TOKENS, u->completion_tokens);
	}
	metric_observe_us(H_E2E, (now - req->begin_ns) / NS_PER_US);
}

static uint64_t span_us(uint64_t from, uint64_t to)
{
	return from && to > from ? (to - from) / NS_PER_US : 0;
}

void account_request(struct request *req)
{
	struct worker *w = req->worker;
	uint64_t now = clock_mono_ns();
	struct access_record *r = access_log_begin(w->log, w->index);

	count(req, now);
	if (!r)
		return;
	r->wall_ns = clock_wall_ns() - (now - req->begin_ns);
	access_text(r->request_id, span_of_str(req->id));
	access_text(r->method, req->head.method_text);
	access_text(r->path, req->head.path);
	access_text(r->model, span_of_str(req->says.model));
	if (req->attempts)
		access_text(r->endpoint, span_of_str(req->pick.endpoint && req->picked
							     ? req->pick.endpoint->address
							     : ""));
	if (req->error)
		access_text(r->error, span_of_str(req->error));
	r->status = (uint16_t)req->status;
	r->attempts = req->attempts;
	r->stream = req->says.stream;
	r->usage_known = req->sse.usage.known;
	r->hit_blocks = req->pick.hit_blocks;
	r->total_blocks = req->pick.total_blocks;
	r->prompt_tokens = req->sse.usage.prompt_tokens;
	r->completion_tokens = req->sse.usage.completion_tokens;
	r->cached_tokens = req->sse.usage.cached_tokens;
	r->bytes_in = req->body_bytes;
	r->bytes_out = req->bytes_out;
	r->receive_us = span_us(req->begin_ns, req->body_ns);
	r->engine_ttft_us = span_us(req->sent_ns, req->first_ns);
	r->engine_us = span_us(req->sent_ns, req->last_ns);
	r->ttft_us = span_us(req->begin_ns, req->first_ns);
	r->total_us = span_us(req->begin_ns, now);
	r->gateway_us = span_us(req->body_ns, req->sent_ns);
	access_log_commit(w->log, w->index);
}
