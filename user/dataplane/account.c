/* SPDX-License-Identifier: Apache-2.0 */
/* Stage 10: what a request was, told by its end: metrics and the access log. */
#include <string.h>

#include "base/clock.h"
#include "dataplane/request.h"

static uint64_t span_us(uint64_t from, uint64_t to)
{
	return from && to > from ? (to - from) / NS_PER_US : 0;
}

void account_begin(struct request *req)
{
	struct span target = span_of_str(req->says.model);

	req->figures =
		model_row(req->rewritten.len ? span_of_str(req->asked_model) : target, target);
	model_count(req->figures, MODEL_STARTED, 1);
}

void account_progress(struct request *req, uint64_t now_ns)
{
	uint64_t before_ns = req->last_ns;

	req->progress_ns = req->last_ns = now_ns;
	if (req->first_ns) {
		/* what ends a stream (usage, [DONE]) is no token */
		if (req->is_sse && req->figures && !req->sse.usage.known && !req->sse.done)
			model_observe(req->figures, MODEL_ITL, span_us(before_ns, now_ns));
	} else if (req->sse.content) {
		req->first_ns = now_ns;
		scheduler_first_token(&req->pick);
		metric_observe_us(H_TTFT, span_us(req->begin_ns, now_ns));
		if (req->figures)
			model_observe(req->figures, MODEL_TTFT, span_us(req->begin_ns, now_ns));
	}
}

static void count_status(const struct request *req)
{
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
}

static void count_usage(const struct request *req, uint64_t total_us)
{
	const struct usage *u = &req->sse.usage;
	struct model_row *row = req->figures;

	metric_add(M_PROMPT_TOKENS, u->prompt_tokens);
	metric_add(M_CACHED_TOKENS, u->cached_tokens);
	metric_add(M_COMPLETION_TOKENS, u->completion_tokens);
	if (!row)
		return;
	model_count(row, MODEL_PROMPT_TOKENS, u->prompt_tokens);
	model_count(row, MODEL_CACHED_TOKENS, u->cached_tokens);
	model_count(row, MODEL_COMPLETION_TOKENS, u->completion_tokens);
	model_observe(row, MODEL_INPUT_TOKENS, u->prompt_tokens);
	model_observe(row, MODEL_REQUEST_CACHED_TOKENS, u->cached_tokens);
	model_observe(row, MODEL_OUTPUT_TOKENS, u->completion_tokens);
	if (u->completion_tokens)
		model_observe(row, MODEL_NTPOT, total_us / u->completion_tokens);
	if (req->is_sse && u->completion_tokens > 1)
		model_observe(row, MODEL_TPOT,
			      span_us(req->first_ns, req->last_ns) / (u->completion_tokens - 1));
}

static enum model_counter error_code(const struct request *req)
{
	if (!req->status || (req->error && strcmp(req->error, "client left") == 0))
		return MODEL_ERROR_CLIENT_LEFT;
	if (req->status < 400) /* it began well */
		return MODEL_ERROR_ENGINE;
	if (req->status == 429)
		return MODEL_ERROR_EXHAUSTED;
	if (req->status < 500)
		return MODEL_ERROR_BAD_REQUEST;
	if (req->status == 503)
		return MODEL_ERROR_UNAVAILABLE;
	return req->error ? MODEL_ERROR_INTERNAL : MODEL_ERROR_ENGINE;
}

static void count_model(const struct request *req, uint64_t total_us)
{
	struct model_row *row = req->figures;
	const struct sched_pick *pick = &req->pick;

	model_count(row, MODEL_ENDED, 1);
	if (req->status >= 400 || req->error)
		model_count(row, error_code(req), 1);
	model_observe(row, MODEL_DURATION, total_us);
	model_observe(row, MODEL_REQUEST_BYTES, req->body_bytes);
	model_observe(row, MODEL_RESPONSE_BYTES, req->bytes_out);
	if (!pick->total_blocks)
		return;
	model_count(row, MODEL_LOOKUPS, 1);
	model_count(row, MODEL_LOOKUP_HITS, pick->hit_blocks > 0);
	model_observe(row, MODEL_HIT_PERCENT, 100ULL * pick->hit_blocks / pick->total_blocks);
	model_observe(row, MODEL_HIT_BYTES,
		      pick->hit_blocks * req->worker->cfg->prompt_block_bytes);
}

static void count(const struct request *req, uint64_t now)
{
	uint64_t total_us = span_us(req->begin_ns, now);

	count_status(req);
	if (req->sse.usage.known)
		count_usage(req, total_us);
	if (req->figures)
		count_model(req, total_us);
	metric_observe_us(H_E2E, total_us);
}

void account_request(struct request *req)
{
	struct worker *w = req->worker;
	uint64_t now = w->ring.now_ns;
	struct access_record *r = access_log_begin(w->log, w->index);

	count(req, now);
	path_account(req);
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
	r->way = req->path.choice;
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
