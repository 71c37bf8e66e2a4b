/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leg to a prefill pod: the pod is picked, its bootstrap server asked where that is needed, the
 * leg sent, its answer read; and what follows from each way it can end. Each leg ends in exactly
 * one call of prefill_over(). Invariant: the pick is given back once, by prefill_end().
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/disagg/stages.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static void prefill_over(struct leg *leg);

static unsigned int prefill_fill(const struct leg *leg, uint64_t from, struct iovec *iov,
				 unsigned int max)
{
	return body_fill(&container(leg, struct disagg, leg)->prefill_body, from, iov, max);
}

/* All others are excluded: the outer gateway has chosen. */
static void exclude_others(const struct disagg *pd, struct sched_request *sr)
{
	static _Thread_local uint16_t others[ENDPOINTS_MAX];
	const struct endpoint_snapshot *snap = pd->worker->snapshot;

	sr->excluded = others;
	sr->excluded_count = 0;
	for (uint32_t i = 0; i < snap->view_count; i++)
		if (snap->views[i] != pd->asked)
			others[sr->excluded_count++] = snap->views[i]->slot;
}

static int prefill_pick(struct disagg *pd)
{
	struct request *req = pd->req;
	struct worker *w = pd->worker;
	struct sched_request sr;
	int err;

	pd->tried[pd->tried_count] = req->pick.endpoint->slot;
	request_sched_fill(req, SLUICE_ROLE_PREFILL, &sr);
	sr.excluded = pd->tried;
	sr.excluded_count = pd->tried_count + 1u;
	if (pd->asked && pd->tries == 0)
		exclude_others(pd, &sr);
	sr.peer = req->pick.endpoint;
	err = scheduler_pick(w->sched, w->snapshot, &sr, &pd->prefill);
	if (err)
		return err;
	endpoint_get(pd->prefill.endpoint);
	pd->prefill_picked = true;
	pd->prefill_slot = pd->prefill.endpoint->slot;
	scheduler_learn(w->sched, &pd->prefill);
	scheduler_first_token(&req->pick); /* nothing of it is prefilled on the decode pod */
	return 0;
}

/* Gives the pick back and says how the pod did. */
void prefill_end(struct disagg *pd, enum health_outcome health, bool failed)
{
	struct sched_outcome out = {.now_ns = clock_mono_ns(), .failed = failed};
	const struct usage *u = &pd->params.usage;

	if (!pd->prefill_picked)
		return;
	pd->prefill_picked = false;
	if (!failed && pd->leg.sent_ns) {
		out.ttft_us = (uint32_t)((pd->leg.end_ns - pd->leg.sent_ns) / NS_PER_US);
		out.usage_known = u->known;
		out.prompt_tokens = u->prompt_tokens;
		out.cached_tokens = u->cached_tokens;
		out.cached_known = u->known && u->cached_known;
	}
	health_report(pd->prefill.endpoint, health);
	scheduler_done(pd->worker->sched, &pd->prefill, &out);
	endpoint_put(pd->prefill.endpoint);
}

void answer_drop(struct disagg *pd)
{
	block_free_chain(&pd->worker->blocks, pd->answer);
	pd->answer = NULL;
	pd->params = (struct answer){0};
}

static const char *pd_cause_text(enum pd_cause cause)
{
	static const char *const texts[PD_CAUSES] = {
		[PD_CAUSE_NONE] = "no cause",
		[PD_CAUSE_REFUSED] = "the connection was refused",
		[PD_CAUSE_RESET] = "the connection was lost",
		[PD_CAUSE_TIMEOUT] = "no answer in time",
		[PD_CAUSE_STATUS] = "the engine answered with an error",
		[PD_CAUSE_NO_PARAMS] = "its answer has no kv_transfer_params",
		[PD_CAUSE_TOO_LARGE] = "its answer is too large",
		[PD_CAUSE_MALFORMED] = "its answer is malformed",
		[PD_CAUSE_NO_MEMORY] = "the gateway has no room for it",
		[PD_CAUSE_TRANSFER] = "the KV cache was not moved",
		[PD_CAUSE_NO_POD] = "no prefill pod is ready",
	};

	return texts[cause];
}

void prefill_exclude(struct disagg *pd)
{
	if (pd->tried_count < PD_PREFILL_TRIES)
		pd->tried[pd->tried_count++] = pd->prefill_slot;
}

bool prefill_may_repeat(const struct disagg *pd)
{
	return pd->tries < PD_PREFILL_TRIES;
}

/* No prefill for this request, or none that worked. */
void prefill_given_up(struct disagg *pd, enum pd_cause cause)
{
	struct request *req = pd->req;
	char text[256];

	if (pd->worker->cfg->pd_fallback) {
		decode_alone(pd, cause);
		return;
	}
	pd->phase = PD_ALONE;
	snprintf(text, sizeof(text), "The prefill failed: %s.", pd_cause_text(cause));
	respond_error(req,
		      cause == PD_CAUSE_TIMEOUT	 ? 504
		      : cause == PD_CAUSE_NO_POD ? 503
						 : 502,
		      "server_error", text);
}

static void prefill_failed(struct disagg *pd, enum pd_cause cause, enum health_outcome health)
{
	disagg_count_prefill_failure(cause);
	query_forget(pd);
	prefill_end(pd, health, true);
	prefill_exclude(pd);
	pd->cause = cause;
	if (prefill_may_repeat(pd))
		prefill_begin(pd);
	else
		prefill_given_up(pd, cause);
}

void cause_of(const struct leg *leg, enum pd_cause *ret_cause, enum health_outcome *ret_health)
{
	static const struct {
		enum pd_cause cause;
		enum health_outcome health;
	} table[] = {
		[LEG_RUNNING] = {PD_CAUSE_RESET, HEALTH_CLIENT_ERROR},
		[LEG_ANSWERED] = {PD_CAUSE_STATUS, HEALTH_SERVER_ERROR},
		[LEG_REFUSED] = {PD_CAUSE_REFUSED, HEALTH_REFUSED},
		[LEG_RESET] = {PD_CAUSE_RESET, HEALTH_RESET},
		[LEG_TIMEOUT] = {PD_CAUSE_TIMEOUT, HEALTH_TIMEOUT},
		[LEG_TOO_LARGE] = {PD_CAUSE_TOO_LARGE, HEALTH_SERVER_ERROR},
		[LEG_MALFORMED] = {PD_CAUSE_MALFORMED, HEALTH_SERVER_ERROR},
		[LEG_NO_MEMORY] = {PD_CAUSE_NO_MEMORY, HEALTH_CLIENT_ERROR},
		[LEG_LEFT] = {PD_CAUSE_RESET, HEALTH_CLIENT_ERROR},
	};

	*ret_cause = table[leg->result].cause;
	*ret_health = table[leg->result].health;
	if (leg->result == LEG_ANSWERED && leg->status < 500)
		*ret_health = HEALTH_OK; /* full, not ill */
}

/* Our own lack: no other pod has more. */
static void prefill_no_memory(struct disagg *pd)
{
	leg_fini(&pd->leg);
	pd->leg.result = LEG_NO_MEMORY;
	pd->tries = PD_PREFILL_TRIES;
	prefill_failed(pd, PD_CAUSE_NO_MEMORY, HEALTH_CLIENT_ERROR);
}

static void leg_prepare(struct disagg *pd, void (*done)(struct leg *))
{
	const struct config *cfg = pd->worker->cfg;

	pd->leg = (struct leg){.worker = pd->worker,
			       .endpoint = pd->prefill.endpoint,
			       .head_ms = cfg->pd_prefill_head_ms,
			       .whole_ms = cfg->pd_prefill_ms,
			       .done = done};
}

static void prefill_send(struct disagg *pd)
{
	struct leg *leg = &pd->leg;

	pd->phase = PD_PREFILL;
	pd->transfer_failed = false;
	pd->text_used = 0;
	if (pd->connector->pair)
		pd->connector->pair(pd);
	leg_prepare(pd, prefill_over);
	leg->fill = prefill_fill;
	leg->drop = pd->connector->order == PD_AT_ONCE;
	if (leg_body(pd, pd->connector->prefill, &pd->prefill_body) == 0)
		leg->head = leg_head(pd, pd->prefill.endpoint, pd->prefill_body.bytes);
	leg->body_bytes = pd->prefill_body.bytes;
	if (!leg->head || leg_start(leg)) {
		prefill_no_memory(pd);
		return;
	}
	request_show(pd->req, "prefilling");
	if (pd->connector->order == PD_AT_ONCE)
		decode_begin(pd);
}

static void query_over(struct leg *leg)
{
	struct disagg *pd = container(leg, struct disagg, leg);
	bool ok = leg->result == LEG_ANSWERED && leg->status == 200 && query_answered(pd);
	enum health_outcome health;
	enum pd_cause cause;

	cause_of(leg, &cause, &health);
	leg_fini(leg);
	if (ok)
		prefill_send(pd);
	else
		prefill_failed(pd, cause, HEALTH_CLIENT_ERROR);
}

/* GET /query of the pod's bootstrap server. */
static void query_begin(struct disagg *pd)
{
	struct leg *leg = &pd->leg;
	struct block *b = block_new(&pd->worker->blocks, BLOCK_SMALL);

	pd->phase = PD_QUERY;
	leg_prepare(pd, query_over);
	leg->head = b;
	leg->addr = pd->prefill.endpoint->addr;
	leg->addr_len = pd->prefill.endpoint->addr_len;
	if (leg->addr.ss_family == AF_INET)
		((struct sockaddr_in *)&leg->addr)->sin_port = htons(pd->bootstrap_port);
	else
		((struct sockaddr_in6 *)&leg->addr)->sin6_port = htons(pd->bootstrap_port);
	if (b)
		b->end = (uint32_t)snprintf(b->data, b->size,
					    "GET /query HTTP/1.1\r\nhost: %s:%u\r\n\r\n",
					    pd->prefill_url_host, pd->bootstrap_port);
	if (!b || leg_start(leg))
		prefill_no_memory(pd);
}

void prefill_begin(struct disagg *pd)
{
	bool again = pd->tries > 0;

	if (prefill_pick(pd)) {
		if (!again)
			disagg_count_prefill_failure(PD_CAUSE_NO_POD);
		prefill_given_up(pd, again ? pd->cause : PD_CAUSE_NO_POD);
		return;
	}
	if (again)
		metric_inc(M_PD_ANOTHER_PREFILL);
	pd->tries++;
	pd_names(pd);
	if (pd->connector->order == PD_HEADER_ONLY) {
		pd->phase = PD_TOLD;
		forward_start(pd->req);
		return;
	}
	if (pd->connector->queries && !query_known(pd))
		query_begin(pd);
	else
		prefill_send(pd);
}

static bool clients_fault(int status)
{
	return status >= 400 && status < 500 && status != 408 && status != 425 && status != 429;
}

/* The engine's own words to the client. */
static void prefill_refused(struct disagg *pd)
{
	struct request *req = pd->req;
	struct blocks *blocks = &pd->worker->blocks;
	struct block *b = block_new(blocks, BLOCK_BIG);
	int status = pd->leg.status;
	size_t n = 0;

	metric_inc(M_PD_CLIENT_ERRORS);
	if (b && !(pd->leg.drop && pd->leg.answer_bytes > LEG_KEPT))
		n = body_copy(pd->leg.answer, 0, pd->leg.answer_bytes, b->data, b->size - 2048);
	leg_fini(&pd->leg);
	prefill_end(pd, HEALTH_OK, false);
	pd->phase = PD_ALONE;
	if (n)
		respond_json(req, status, span_of(b->data, n));
	else
		respond_error(req, status, "invalid_request_error",
			      "The engine refused this request.");
	block_free(blocks, b);
}

/* Reads the answer; the leg's blocks become the request's. */
static enum pd_cause params_take(struct disagg *pd)
{
	int err;

	answer_drop(pd);
	pd->answer = pd->leg.answer;
	pd->leg.answer = NULL;
	err = answer_read(pd->answer, OPENAI_KV_TRANSFER_PARAMS, &pd->params);
	if (err)
		return PD_CAUSE_MALFORMED;
	return pd->connector->answer_params && !pd->params.end ? PD_CAUSE_NO_PARAMS : PD_CAUSE_NONE;
}

/* A prefill that streams may say 200 and then that it failed. */
static bool first_event_is_error(const struct leg *leg)
{
	char text[LEG_KEPT];
	struct sse sse = {0};

	sse_feed(&sse, text, body_copy(leg->answer, 0, leg->answer_bytes, text, sizeof(text)));
	return sse.first_is_error;
}

/* Both legs ran at once: the decode leg decides, but a prefill that died would let it wait. */
static void prefill_over_beside(struct disagg *pd, bool ok)
{
	enum pd_cause cause;
	enum health_outcome health;

	if (ok) {
		prefill_end(pd, HEALTH_OK, false);
		return;
	}
	cause_of(&pd->leg, &cause, &health);
	if (pd->req->committed || pd->phase != PD_DECODE) {
		disagg_count_prefill_failure(cause);
		prefill_end(pd, health, true);
		return;
	}
	forward_end(pd->req, false);
	prefill_failed(pd, cause, health);
}

static void prefill_over(struct leg *leg)
{
	struct disagg *pd = container(leg, struct disagg, leg);
	bool ok = leg->result == LEG_ANSWERED && leg->status >= 200 && leg->status < 300;
	enum health_outcome health;
	enum pd_cause cause;

	if (leg->sent_ns)
		metric_observe_us(H_PD_PREFILL, (leg->end_ns - leg->begin_ns) / NS_PER_US);
	if (!pd->req) { /* the client has left meanwhile */
		if (ok && params_take(pd) == PD_CAUSE_NONE)
			release_begin(pd);
		else
			orphan_free(pd);
		return;
	}
	if (leg->result == LEG_ANSWERED && clients_fault(leg->status) && !pd->req->committed) {
		if (pd->connector->order == PD_AT_ONCE)
			forward_end(pd->req, false); /* the decode leg would wait for it */
		prefill_refused(pd);
		return;
	}
	if (pd->connector->order == PD_AT_ONCE) {
		ok = ok && !first_event_is_error(leg);
		leg_fini(leg);
		prefill_over_beside(pd, ok);
		return;
	}
	cause_of(leg, &cause, &health);
	if (ok)
		cause = params_take(pd);
	leg_fini(leg);
	if (!ok || cause != PD_CAUSE_NONE) {
		prefill_failed(pd, cause, health);
		return;
	}
	prefill_end(pd, HEALTH_OK, false);
	decode_begin(pd);
}
