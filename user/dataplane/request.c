/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of the stages: route -> check -> pick -> forward -> (relay) -> account, and what
 * happens when an attempt fails. Invariant: each pick is given back exactly once, by attempt_end().
 */
#include "dataplane/request.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/disagg/disagg.h"
#include "dataplane/flow_control.h"
#include "dataplane/kv_body.h"
#include "dataplane/rewrite.h"
#include "dataplane/upstream.h"

static void request_pick(struct request *req);

/* Gives the pick back: load counts, latency, the engine's own word on cached tokens. */
static void attempt_end(struct request *req, bool failed)
{
	struct sched_outcome out = {.now_ns = req->worker->ring.now_ns, .failed = failed};
	const struct usage *u = &req->sse.usage;
	/* Events that were read here, then packets that the kernel carried past us. */
	uint64_t steps = (req->sse.events ? req->sse.events - 1 : 0) + req->kernel_packets;

	if (!req->picked)
		return;
	if (req->first_ns > req->sent_ns && req->sent_ns)
		out.ttft_us = (uint32_t)((req->first_ns - req->sent_ns) / NS_PER_US);
	if (steps > 1 && req->last_ns > req->first_ns && req->first_ns)
		out.itl_us = (uint32_t)((req->last_ns - req->first_ns) / NS_PER_US / steps);
	out.path = req->path.choice;
	out.usage_known = u->known;
	out.prompt_tokens = u->prompt_tokens;
	out.cached_tokens = u->cached_tokens;
	out.cached_known = u->known && u->cached_known;
	scheduler_done(req->worker->sched, &req->pick, &out);
	endpoint_put(req->pick.endpoint);
	req->picked = false;
}

static void text_copy(char *to, size_t size, struct span from)
{
	size_t n = from.len < size - 1 ? from.len : size - 1;

	memcpy(to, from.ptr, n);
}

void request_show(struct request *req, const char *phase)
{
	struct live_info info = {.begin_ns = req->begin_ns,
				 .prompt_bytes = req->says.prompt_bytes,
				 .attempts = req->attempts};

	if (!req->row)
		return;
	text_copy(info.phase, sizeof(info.phase), span_of_str(phase));
	text_copy(info.id, sizeof(info.id), span_of_str(req->id));
	text_copy(info.path, sizeof(info.path), req->head.path);
	text_copy(info.model, sizeof(info.model), span_of_str(req->says.model));
	if (req->picked) {
		text_copy(info.endpoint, sizeof(info.endpoint),
			  span_of_str(req->pick.endpoint->address));
		info.hit_blocks = req->pick.hit_blocks;
	}
	live_write(req->row, &info);
}

static void request_free(struct request *req)
{
	struct client *c = req->client;

	flow_end(req);
	if (req->up)
		forward_end(req, false);
	if (req->pd)
		disagg_end(req);
	attempt_end(req, req->status == 0);
	live_release(req->row);
	client_blocks_free(c, req->body);
	if (req->retrying)
		req->worker->retrying--;
	worker_request_free(req);
}

void request_body_release(struct request *req)
{
	if (req->pd || req->route->action != ROUTE_FORWARD)
		return;
	/* The head lay in the first of them: what the account still wants is the route's. */
	req->head.path = req->route->path;
	req->head.method_text = SPAN("POST");
	req->head.query = span_of(NULL, 0);
	req->head.field_count = 0;
	client_blocks_free(req->client, req->body);
	req->body = req->body_last = NULL;
}

void request_done(struct request *req)
{
	account_request(req);
	request_free(req);
}

void request_drop(struct request *req)
{
	metric_inc(M_CLIENT_LEFT);
	if (req->flow.flow)
		metric_inc(M_FLOW_LEFT);
	if (!req->error)
		req->error = "client left";
	if (req->picked)
		health_report(req->pick.endpoint, HEALTH_CLIENT_ERROR);
	account_request(req);
	request_free(req);
}

static bool may_retry(struct request *req)
{
	struct worker *w = req->worker;
	uint64_t budget = w->live * w->cfg->retry_budget_percent / 100;

	if (req->committed || req->tried_count > w->cfg->retries_max ||
	    req->tried_count > RETRIES_MAX)
		return false;
	if (!req->retrying &&
	    w->retrying >= (budget < RETRY_BUDGET_MIN ? RETRY_BUDGET_MIN : budget)) {
		metric_inc(M_RETRY_BUDGET_EMPTY);
		return false;
	}
	if (!req->retrying)
		w->retrying++;
	req->retrying = true;
	return true;
}

bool request_may_retry(struct request *req)
{
	return may_retry(req);
}

static void retry_count(const struct failure *why)
{
	if (why->counter) {
		metric_inc((enum metric_counter)why->counter);
		return;
	}
	switch (why->health) {
	case HEALTH_REFUSED:
		metric_inc(M_RETRY_CONNECT);
		return;
	case HEALTH_RESET:
		metric_inc(M_RETRY_RESET);
		return;
	case HEALTH_TIMEOUT:
		metric_inc(M_RETRY_TIMEOUT);
		return;
	default:
		metric_inc(M_RETRY_STATUS);
	}
}

void request_attempt_failed(struct request *req, struct failure why)
{
	char text[256];

	forward_end(req, false);
	if (why.same_endpoint) {
		metric_inc(M_STALE_KEPT);
		forward_start(req);
		return;
	}
	if (req->pd && disagg_decode_failed(req, &why))
		return;
	if (req->picked) {
		health_report(req->pick.endpoint, (enum health_outcome)why.health);
		if (req->tried_count < RETRIES_MAX + 2)
			req->tried[req->tried_count++] = req->pick.endpoint->slot;
	}
	snprintf(text, sizeof(text), "The engine %s failed: %s.",
		 req->picked ? req->pick.endpoint->name : "", why.cause);
	attempt_end(req, true);
	req->failed_status = why.status;
	if (why.retry && may_retry(req)) {
		retry_count(&why);
		req->sse = (struct sse){0};
		req->is_sse = false;
		request_pick(req);
		return;
	}
	respond_error(req, why.status, "server_error", text);
	req->error = why.cause;
}

static struct span header_of(const void *head, const char *name)
{
	return http1_field_get(head, span_of_str(name));
}

/* The token that an answer of ours carried, else the client's own id. */
static struct span session_of(const struct request *req)
{
	const struct setup *s = scheduler_worker_setup(req->worker->sched);
	struct span v = {"", 0};

	if (s->session_token)
		v = http1_field_get(&req->head, span_of_str(s->session_token));
	if (!v.len && s->session_id)
		v = http1_field_get(&req->head, span_of_str(s->session_id));
	return v;
}

void request_sched_fill(struct request *req, uint8_t role, struct sched_request *sr)
{
	struct worker *w = req->worker;
	const struct model *model = NULL;

	if (req->says.model[0])
		model = snapshot_find_model(w->snapshot, span_of_str(req->says.model));
	*sr = (struct sched_request){
		.now_ns = w->ring.now_ns,
		.model = model,
		.model_name = span_of_str(req->says.model),
		.cache_salt = span_of_str(req->says.cache_salt),
		.session = session_of(req),
		.request_id = span_of_str(req->id),
		.pieces = w->pieces,
		.piece_count = segments_pieces(req, w->pieces, PROMPT_SPANS_MAX + 4096),
		.prompt_tokens = req->says.token_ids,
		.excluded = req->tried,
		.excluded_count = req->tried_count,
		.priority = req->flow.priority,
		.header = header_of,
		.header_arg = &req->head,
		.slo_ttft_ms = req->slo_ttft_ms,
		.slo_tpot_ms = req->slo_tpot_ms,
		.role = role,
		.stream = req->says.stream,
	};
	if (kv_body_read(req, model, &w->kv_prompt)) {
		sr->kv_prompt = &w->kv_prompt;
		sr->kv_losses = &w->prompter.losses->all;
		sr->kv_losses_tenant = kv_losses_tenant(w->prompter.losses, flow_tenant(req));
	}
}

static void pick_failed(struct request *req, int err)
{
	if (err == -EBUSY)
		respond_dropped(req, 429, "rejected-saturated",
				"No endpoint fits this request now.");
	else if (err == -EDQUOT)
		respond_dropped(req, 429, "rejected-saturated", "An admitter refused the request.");
	else if (req->tried_count)
		respond_error(req, req->failed_status ? req->failed_status : 502, "server_error",
			      "Every engine that was tried failed.");
	else
		respond_dropped(req, 503, "rejected-no-endpoints",
				"No engine is ready for this model.");
}

/* Prefer: if-available: the client only wants an engine that has some of the prompt cached. */
static bool wants_cached(const struct request *req)
{
	struct span prefer = http1_field_get(&req->head, SPAN("prefer"));

	return prefer.len && memmem(prefer.ptr, prefer.len, "if-available", 12);
}

static void pick_uncached(struct request *req)
{
	health_report(req->pick.endpoint, HEALTH_CLIENT_ERROR);
	attempt_end(req, false);
	respond_error(req, 412, "precondition_failed", "No engine holds a prefix of this prompt.");
}

void request_dispatch(struct request *req)
{
	request_pick(req);
}

static void request_pick(struct request *req)
{
	struct worker *w = req->worker;
	struct sched_request sr;
	uint64_t began = clock_mono_ns();
	int err = -EAGAIN;

	if (w->snapshot) {
		request_sched_fill(req, req->route->generates ? SLUICE_ROLE_DECODE : 0, &sr);
		err = scheduler_pick(w->sched, w->snapshot, &sr, &req->pick);
	}
	metric_inc(err ? M_PICK_FAILED : M_PICKED);
	if (err) {
		if (req->pd && disagg_unpicked(req))
			request_pick(req);
		else
			pick_failed(req, err);
		return;
	}
	req->picked = true; /* and a half-open circuit's trial is ours to report */
	endpoint_get(req->pick.endpoint);
	if (!req->pick.hit_blocks && wants_cached(req)) {
		pick_uncached(req);
		return;
	}
	scheduler_learn(w->sched, &req->pick);
	metric_observe_us(H_PICK, (clock_mono_ns() - began) / NS_PER_US);
	if (!req->attempts++)
		account_begin(req);
	if (disagg_picked(req))
		return;
	request_show(req, "forwarding");
	path_choose(req);
	forward_start(req);
}

/* From here on the request is for the target; the client's own name is kept for the account. */
static void model_rewrite(struct request *req)
{
	struct worker *w = req->worker;
	uint64_t draw = w->random[0] * 0x9e3779b97f4a7c15ULL ^ w->random[1];
	struct span model = span_of_str(req->says.model), to;

	to = rewrites_find(w->rewrites, model, draw);
	if (!to.len)
		return;
	memcpy(req->asked_model, model.ptr, model.len + 1);
	memcpy(req->says.model, to.ptr + 1, to.len - 2);
	req->says.model[to.len - 2] = '\0';
	req->rewritten = to;
	metric_inc(M_MODEL_REWRITTEN);
}

/* Does the body say something that can be served? Answers it here if not. */
static bool body_checked(struct request *req)
{
	const struct endpoint_snapshot *snap = req->worker->snapshot;

	if (openai_scan_finish(&req->scan)) {
		metric_inc(M_JSON_REFUSED);
		respond_bad_body(req);
		return false;
	}
	if (req->says.spans_merged)
		metric_inc(M_SPANS_MERGED);
	if (req->worker->rewrites)
		model_rewrite(req);
	if (req->says.model[0] && snap && snap->model_count &&
	    !snapshot_find_model(snap, span_of_str(req->says.model))) {
		respond_unknown_model(req, req->says.model);
		return false;
	}
	return true;
}

void request_run(struct request *req)
{
	const struct http1_head *head = &req->head;

	req->route = route_find(head->path);
	if (head->method == HTTP1_OPTIONS && req->worker->cfg->cors) {
		respond_options(req);
	} else if (span_eq(head->method_text, SPAN("CONNECT"))) {
		respond_error(req, 405, "invalid_request_error", "No tunnels are made here.");
	} else if (!req->route) {
		respond_error(req, 404, "NotFoundError", "This path is not served here.");
	} else if (!route_takes(req->route, head->method)) {
		respond_error(req, 405, "invalid_request_error",
			      "This path does not take this method.");
	} else if (req->route->action == ROUTE_MODELS) {
		respond_models(req);
	} else if (req->route->action == ROUTE_MODEL) {
		respond_model(req);
	} else if (req->route->action == ROUTE_VERSION) {
		respond_json(req, 200, SPAN("{\"version\":\"sluice\"}"));
	} else if (req->route->action == ROUTE_HEALTH) {
		respond_json(req, 200, SPAN("{}"));
	} else if (body_checked(req)) {
		segments_build(req);
		req->row = live_take(&req->worker->running);
		flow_begin(req);
	}
}
