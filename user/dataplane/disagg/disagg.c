/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of disagg.h, as request.c and relay.c see it: what the decode leg is sent, and
 * where a request goes when it fails. The other leg is prefill.c's, the end leave.c's. Invariant:
 * req->view is the body of the decode leg under way, NULL when the client's own body goes.
 */
#include "dataplane/disagg/disagg.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/disagg/encode.h"
#include "dataplane/disagg/stages.h"

/* ---- what a leg is sent ---- */

int leg_body(struct disagg *pd, void (*members)(const struct disagg *, struct edits *),
	     struct body_view *view)
{
	struct request *req = pd->req;
	struct edits e = {.text = pd->text + pd->text_used, .room = PD_TEXT_BYTES - pd->text_used};
	int err;

	edit_strip(&e);
	if (req->rewritten.len)
		edit_value(&e, OPENAI_MODEL, req->rewritten);
	if (members)
		members(pd, &e);
	if (pd->ec && !(members == pd->connector->decode &&
			pd->connector->order == PD_PREFILL_FIRST)) /* the prefill had them */
		edit_encoded(pd, &e);
	pd->text_used = (uint32_t)(e.text - pd->text);
	err = e.err;
	if (!err)
		err = body_build(view, req->body, req->body_bytes, &req->says, e.list, e.count);
	return err;
}

/* The head of a leg's request, in a block of its own. */
struct block *leg_head(struct disagg *pd, const struct endpoint *ep, uint64_t body_bytes)
{
	struct blocks *blocks = &pd->worker->blocks;
	struct block *b = block_new(blocks, BLOCK_SMALL);
	ssize_t n = -ENOMEM;

	if (b)
		n = head_write_leg(pd->req, ep, body_bytes, b->data, b->size);
	if (n == -ENOSPC && block_grow(blocks, &b) == 0)
		n = head_write_leg(pd->req, ep, body_bytes, b->data, b->size);
	if (n < 0) {
		block_free(blocks, b);
		return NULL;
	}
	b->end = (uint32_t)n;
	return b;
}

/* ---- the decode leg ---- */

/* A share of what runs may be decoded alone; beyond, the decode pods are for those with a prefill.
 */
static bool alone_allowed(struct disagg *pd)
{
	struct disagg_pool *pool = pd->worker->disagg;
	uint64_t most = pd->worker->live * pd->worker->cfg->pd_alone_percent / 100;

	if (pd->alone_counted)
		return true;
	if (pool->alone >= (most < PD_ALONE_MIN ? PD_ALONE_MIN : most) &&
	    pd->worker->cfg->pd_alone_percent < 100)
		return false;
	pd->alone_counted = true;
	pool->alone++;
	return true;
}

/* The client's own body, or with what encode pods made of its parts. */
static void alone_send(struct disagg *pd)
{
	struct request *req = pd->req;

	pd->phase = PD_ALONE;
	req->sent_ns = 0;
	req->view = NULL;
	segments_build(req);
	if (pd->ec && leg_body(pd, NULL, &pd->decode_body) == 0) {
		req->view = &pd->decode_body;
		req->forward_bytes = pd->decode_body.bytes;
	}
	request_show(req, "forwarding");
	forward_start(req);
}

void decode_alone(struct disagg *pd, enum pd_cause cause)
{
	struct request *req = pd->req;

	if (!alone_allowed(pd)) {
		metric_inc(M_PD_ALONE_SHED);
		pd->phase = PD_ALONE;
		respond_error(req, 503, "server_error",
			      "No prefill engine can take this request now.");
		return;
	}
	disagg_count_alone(cause);
	pd->phase = PD_ALONE;
	answer_drop(pd);
	alone_send(pd);
}

/* The prefill answered (or runs beside): the client's request goes on to the decode pod. */
void decode_begin(struct disagg *pd)
{
	struct request *req = pd->req;

	if (leg_body(pd, pd->connector->decode, &pd->decode_body)) {
		disagg_count_decode_failure(PD_CAUSE_NO_MEMORY);
		decode_alone(pd, PD_CAUSE_NO_MEMORY);
		return;
	}
	pd->phase = PD_DECODE;
	req->sent_ns = 0;
	req->view = &pd->decode_body;
	req->forward_bytes = pd->decode_body.bytes;
	if (pd->leg.end_ns > pd->leg.sent_ns && pd->leg.sent_ns) /* not the gateway's own time */
		req->body_ns += pd->leg.end_ns - pd->leg.sent_ns;
	request_show(req, "decoding");
	forward_start(req);
}

/* ---- request.c's and relay.c's questions ---- */

static bool route_has_legs(const struct request *req)
{
	return req->route->generates && req->head.method == HTTP1_POST &&
	       !span_eq(req->head.path, SPAN("/generate"));
}

static bool decide(const struct request *req)
{
	struct disagg_pool *pool = req->worker->disagg;
	const struct endpoint_snapshot *snap = req->worker->snapshot;
	struct pd_question q = {
		.snapshot = snap, .decode = &req->pick, .has_media = req->says.has_media};
	enum pd_reason reason;
	bool yes;

	if (req->says.model[0])
		q.model = snapshot_find_model(snap, span_of_str(req->says.model));
	yes = pd_decide(&pool->decider, &q, &reason);
	disagg_count_decision(reason);
	return yes;
}

/* The pair did not work: another prefill, or none. */
static void pair_again(struct disagg *pd)
{
	if (pd->answer && pd->connector->releases)
		metric_inc(M_PD_STRANDED);
	answer_drop(pd);
	if (prefill_may_repeat(pd))
		prefill_begin(pd);
	else
		prefill_given_up(pd, pd->cause);
}

/* PD_DECODE_FIRST: the decode pod is asked how much of the prompt it has. */
static void probe_begin(struct disagg *pd)
{
	struct request *req = pd->req;

	if (leg_body(pd, pd->connector->probe, &pd->decode_body)) {
		decode_alone(pd, PD_CAUSE_NO_MEMORY);
		return;
	}
	pd->phase = PD_PROBE;
	req->sent_ns = 0;
	req->view = &pd->decode_body;
	req->forward_bytes = pd->decode_body.bytes;
	request_show(req, "asking");
	forward_start(req);
}

bool disagg_probing(const struct request *req)
{
	return req->pd && req->pd->phase == PD_PROBE;
}

void disagg_prefill_due(struct request *req)
{
	forward_end(req, false);
	req->sse = (struct sse){0};
	req->is_sse = false;
	prefill_begin(req->pd);
}

/* Another decode pod is picked after the first failed. */
static void picked_again(struct disagg *pd)
{
	metric_inc(M_PD_ANOTHER_DECODE);
	if (pd->phase == PD_PROBE)
		probe_begin(pd);
	else if (pd->phase == PD_ALONE || pd->phase == PD_TOLD)
		forward_start(pd->req);
	else if (pd->phase == PD_DECODE && pd->answer && pd->connector->params_survive)
		decode_begin(pd);
	else
		pair_again(pd);
}

const struct endpoint *disagg_prefiller(const struct request *req)
{
	return req->pd && req->pd->phase == PD_TOLD && req->pd->prefill_picked
		       ? req->pd->prefill.endpoint
		       : NULL;
}

static bool allowed(const struct string_list *list, const char *address)
{
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->items[i], "any") == 0 || strcmp(list->items[i], address) == 0)
			return true;
	return false;
}

/* An outer gateway's x-prefiller-host-port: an endpoint of ours that --pd-header-allow names. */
static const struct endpoint *prefiller_asked(const struct request *req)
{
	const struct config *cfg = req->worker->cfg;
	const struct endpoint_snapshot *snap = req->worker->snapshot;
	struct span name;

	if (!cfg->pd_header_allow.count)
		return NULL;
	name = http1_field_get(&req->head, SPAN("x-prefiller-host-port"));
	for (uint32_t i = 0; name.len && i < snap->view_count; i++)
		if (span_eq(name, span_of_str(snap->views[i]->address)) &&
		    allowed(&cfg->pd_header_allow, snap->views[i]->address))
			return snap->views[i];
	if (name.len)
		metric_inc(M_PD_HEADER_IGNORED);
	return NULL;
}

/* After the encode stage, or without one. */
static void next_begin(struct disagg *pd)
{
	if (pd->apart)
		metric_inc(M_PD_REQUESTS);
	if (!pd->apart)
		alone_send(pd);
	else if (pd->connector->order == PD_DECODE_FIRST)
		probe_begin(pd);
	else
		prefill_begin(pd);
}

void encode_done(struct disagg *pd)
{
	encode_merge(pd);
	encode_end(pd);
	next_begin(pd);
}

bool disagg_picked(struct request *req)
{
	const struct endpoint *asked = NULL;
	struct disagg *pd = req->pd;
	bool apart = false;

	if (pd) {
		picked_again(pd);
		return true;
	}
	if (!route_has_legs(req))
		return false;
	if (disagg_wanted(req->worker)) {
		asked = prefiller_asked(req);
		apart = asked || decide(req);
	}
	if (!apart && !encode_wanted(req))
		return false;
	pd = disagg_new(req->worker);
	if (!pd) {
		disagg_count_alone(PD_CAUSE_NO_MEMORY);
		return false;
	}
	pd->req = req;
	req->pd = pd;
	pd->asked = asked;
	pd->apart = apart;
	if (!encode_wanted(req) || !encode_begin(pd))
		next_begin(pd);
	return true;
}

bool disagg_may_fall_back(const struct request *req)
{
	return req->pd && req->pd->phase == PD_DECODE && req->worker->cfg->pd_fallback;
}

static enum pd_cause decode_cause(const struct failure *why)
{
	switch (why->health) {
	case HEALTH_REFUSED:
		return PD_CAUSE_REFUSED;
	case HEALTH_RESET:
		return PD_CAUSE_RESET;
	case HEALTH_TIMEOUT:
		return PD_CAUSE_TIMEOUT;
	case HEALTH_SERVER_ERROR:
		return PD_CAUSE_TRANSFER;
	default:
		return PD_CAUSE_NO_MEMORY;
	}
}

/* Whose blocks they are: is it still thought well? */
static bool prefill_alive(const struct disagg *pd)
{
	const struct endpoint_snapshot *snap = pd->worker->snapshot;

	for (uint32_t i = 0; snap && i < snap->view_count; i++)
		if (snap->views[i]->slot == pd->prefill_slot)
			return health_may_pick(snap->views[i]);
	return false;
}

bool disagg_unpicked(struct request *req)
{
	struct disagg *pd = req->pd;

	if (pd->phase != PD_DECODE || !pd->transfer_failed)
		return false;
	pd->phase = PD_AGAIN;
	prefill_exclude(pd);
	req->tried_count = 0;
	return true;
}

bool disagg_decode_failed(struct request *req, struct failure *why)
{
	struct disagg *pd = req->pd;
	enum pd_cause cause = decode_cause(why);

	if (pd->phase != PD_DECODE)
		return false;
	disagg_count_decode_failure(cause);
	pd->cause = cause;
	if (pd->connector->order == PD_AT_ONCE) { /* the other half waits for nobody */
		leg_cut(&pd->leg);
		leg_fini(&pd->leg);
		prefill_end(pd, HEALTH_CLIENT_ERROR, true);
		pd->phase = PD_AGAIN;
	}
	if (cause != PD_CAUSE_TRANSFER || !req->worker->cfg->pd_fallback)
		return false;
	/* It answered, but without the KV cache: the pod is fine, the pair is not. */
	if (pd->answer && pd->connector->params_survive && !pd->transfer_failed &&
	    prefill_alive(pd) && request_may_retry(req)) {
		pd->transfer_failed = true;
		why->health = HEALTH_CLIENT_ERROR;
		return false;
	}
	health_report(req->pick.endpoint, HEALTH_CLIENT_ERROR);
	prefill_exclude(pd);
	req->sse = (struct sse){0};
	req->is_sse = false;
	pd->phase = PD_AGAIN;
	pair_again(pd);
	return true;
}

bool disagg_decode_late(const struct request *req, uint64_t now_ns)
{
	const struct config *cfg = req->worker->cfg;
	uint64_t limit_ms = req->committed ? cfg->pd_decode_ms : cfg->pd_decode_head_ms;

	return req->pd && (req->pd->phase == PD_DECODE || req->pd->phase == PD_PROBE) &&
	       req->sent_ns && (now_ns - req->sent_ns) / NS_PER_MS >= limit_ms;
}
