/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of disagg.h. Each leg ends in exactly one call of leg_over(); each phase change
 * is one assignment here. Invariant: req->view is the body of the decode leg under way, NULL when
 * the client's own body goes; the prefill pick is given back once, by prefill_end().
 */
#include "dataplane/disagg/disagg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/disagg/pool.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static void prefill_begin(struct disagg *pd);
static void prefill_over(struct leg *leg);

/* ---- what a leg is sent ---- */

static unsigned int prefill_fill(const struct leg *leg, uint64_t from, struct iovec *iov,
				 unsigned int max)
{
	return body_fill(&container(leg, struct disagg, leg)->prefill_body, from, iov, max);
}

static int leg_body(struct disagg *pd, void (*members)(const struct disagg *, struct edits *),
		    struct body_view *view)
{
	struct request *req = pd->req;
	struct edits e = {.text = pd->text + pd->text_used, .room = PD_TEXT_BYTES - pd->text_used};
	int err;

	edit_strip(&e);
	if (members)
		members(pd, &e);
	pd->text_used = (uint32_t)(e.text - pd->text);
	err = e.err;
	if (!err)
		err = body_build(view, req->body, req->body_bytes, &req->says, e.list, e.count);
	return err;
}

/* The head of a leg's request, in a block of its own. */
static struct block *leg_head(struct disagg *pd, const struct endpoint *ep, uint64_t body_bytes)
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

/* ---- the prefill pod ---- */

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
	sr.peer = req->pick.endpoint;
	err = scheduler_pick(w->sched, w->snapshot, &sr, &pd->prefill);
	if (err)
		return err;
	endpoint_get(pd->prefill.endpoint);
	pd->prefill_picked = true;
	pd->prefill_slot = pd->prefill.endpoint->slot;
	scheduler_learn(w->sched, &pd->prefill);
	return 0;
}

/* Gives the pick back and says how the pod did. */
static void prefill_end(struct disagg *pd, enum health_outcome health, bool failed)
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

static void answer_drop(struct disagg *pd)
{
	block_free_chain(&pd->worker->blocks, pd->answer);
	pd->answer = NULL;
	pd->params = (struct answer){0};
}

/* ---- the decode leg ---- */

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

static void decode_alone(struct disagg *pd, enum pd_cause cause)
{
	struct request *req = pd->req;

	disagg_count_alone(cause);
	pd->phase = PD_ALONE;
	answer_drop(pd);
	req->sent_ns = 0;
	req->view = NULL;
	segments_build(req);
	request_show(req, "forwarding");
	forward_start(req);
}

/* The prefill answered (or runs beside): the client's request goes on to the decode pod. */
static void decode_begin(struct disagg *pd)
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

/* ---- the prefill leg ---- */

static void prefill_exclude(struct disagg *pd)
{
	if (pd->tried_count < PD_PREFILL_TRIES)
		pd->tried[pd->tried_count++] = pd->prefill_slot;
}

static bool prefill_may_repeat(const struct disagg *pd)
{
	return pd->tries < PD_PREFILL_TRIES;
}

/* No prefill for this request, or none that worked. */
static void prefill_given_up(struct disagg *pd, enum pd_cause cause)
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

static void cause_of(const struct leg *leg, enum pd_cause *ret_cause,
		     enum health_outcome *ret_health)
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

static void prefill_begin(struct disagg *pd)
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
	if (b)
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

	if (ok || clients_fault(pd->leg.status)) {
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

static void release_begin(struct disagg *pd);
static void orphan_free(struct disagg *pd);

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
	if (pd->connector->order == PD_AT_ONCE) {
		ok = ok && !first_event_is_error(leg);
		leg_fini(leg);
		prefill_over_beside(pd, ok);
		return;
	}
	if (leg->result == LEG_ANSWERED && clients_fault(leg->status)) {
		prefill_refused(pd);
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
	else if (pd->phase == PD_ALONE)
		forward_start(pd->req);
	else if (pd->phase == PD_DECODE && pd->answer && pd->connector->params_survive)
		decode_begin(pd);
	else
		pair_again(pd);
}

bool disagg_picked(struct request *req)
{
	struct disagg *pd = req->pd;

	if (pd) {
		picked_again(pd);
		return true;
	}
	if (!disagg_wanted(req->worker) || !route_has_legs(req) || !decide(req))
		return false;
	pd = disagg_new(req->worker);
	if (!pd) {
		disagg_count_alone(PD_CAUSE_NO_MEMORY);
		return false;
	}
	metric_inc(M_PD_REQUESTS);
	pd->req = req;
	req->pd = pd;
	if (pd->connector->order == PD_DECODE_FIRST)
		probe_begin(pd);
	else
		prefill_begin(pd);
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

bool disagg_decode_failed(struct request *req, const struct failure *why)
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

/* ---- the client has left ---- */

static void orphan_free(struct disagg *pd)
{
	struct blocks *blocks = &pd->worker->blocks;

	leg_cut(&pd->leg);
	leg_fini(&pd->leg);
	answer_drop(pd);
	block_free_chain(blocks, pd->body);
	block_free(blocks, pd->release_head);
	endpoint_put(pd->decode);
	disagg_free(pd);
}

static void release_over(struct leg *leg)
{
	struct disagg *pd = container(leg, struct disagg, leg);

	metric_inc(leg->result == LEG_ANSWERED && leg->status < 300 ? M_PD_RELEASED
								    : M_PD_RELEASE_FAILED);
	orphan_free(pd);
}

static unsigned int release_fill(const struct leg *leg, uint64_t from, struct iovec *iov,
				 unsigned int max)
{
	return body_fill(&container(leg, struct disagg, leg)->decode_body, from, iov, max);
}

/* The prefill's body, of one token, with the decode leg's parameters. */
static int release_body(struct disagg *pd)
{
	struct edits e = {.text = pd->text + pd->text_used, .room = PD_TEXT_BYTES - pd->text_used};

	pd->connector->decode(pd, &e);
	for (uint32_t i = 0; !e.err && i < e.count; i++)
		if (e.list[i].marked)
			return body_remark(&pd->decode_body, &pd->prefill_body, e.list[i].value);
	return -ENOSPC;
}

/* The prefill holds blocks that nobody will pull: the decode pod pulls them for one token. */
static void release_begin(struct disagg *pd)
{
	struct block *head = pd->release_head;
	int n;

	leg_fini(&pd->leg);
	pd->phase = PD_RELEASE;
	if (!head || release_body(pd)) {
		metric_inc(M_PD_RELEASE_FAILED);
		orphan_free(pd);
		return;
	}
	n = snprintf(head->data + head->end, block_room(head), "content-length: %llu\r\n\r\n",
		     (unsigned long long)pd->decode_body.bytes);
	head->end += (uint32_t)n;
	pd->release_head = NULL;
	pd->leg = (struct leg){.worker = pd->worker,
			       .endpoint = pd->decode,
			       .head = head,
			       .fill = release_fill,
			       .body_bytes = pd->decode_body.bytes,
			       .head_ms = PD_RELEASE_MS,
			       .whole_ms = PD_RELEASE_MS,
			       .done = release_over};
	if (leg_start(&pd->leg)) {
		metric_inc(M_PD_RELEASE_FAILED);
		orphan_free(pd);
	}
}

/* Does a prefill pod hold blocks now, or may it before it hears of the departure? */
static bool blocks_held(const struct disagg *pd)
{
	const struct request *req = pd->req;

	if (!pd->connector->releases || req->status)
		return false;
	if (pd->phase == PD_PREFILL)
		return pd->leg.up && pd->leg.sent_all;
	return pd->phase == PD_DECODE && pd->answer &&
	       (!req->sent_ns || clock_mono_ns() - req->sent_ns < PD_RELEASE_SURE_MS * NS_PER_MS);
}

/* What the release will need outlives the request: body, our head, the decode pod. */
static void orphan_begin(struct disagg *pd)
{
	struct request *req = pd->req;
	struct block *head = leg_head(pd, req->pick.endpoint, HEAD_NO_LENGTH);

	if (head && block_room(head) < 64) {
		block_free(&pd->worker->blocks, head);
		head = NULL;
	}
	pd->release_head = head;
	pd->decode = endpoint_get(req->pick.endpoint);
	pd->body = req->body;
	req->body = req->body_last = NULL;
	pd->req = NULL;
	req->pd = NULL;
	metric_inc(M_PD_LEFT);
}

static void observe(const struct disagg *pd)
{
	const struct request *req = pd->req;

	if (pd->phase != PD_DECODE || !req->status || !req->sent_ns)
		return;
	if (req->last_ns > req->sent_ns)
		metric_observe_us(H_PD_DECODE, (req->last_ns - req->sent_ns) / NS_PER_US);
	if (req->first_ns > req->sent_ns)
		metric_observe_us(H_PD_TRANSFER, (req->first_ns - req->sent_ns) / NS_PER_US);
	if (pd->leg.end_ns && req->sent_ns > pd->leg.end_ns)
		metric_observe_us(H_PD_HOP, (req->sent_ns - pd->leg.end_ns) / NS_PER_US);
}

void disagg_end(struct request *req)
{
	struct disagg *pd = req->pd;
	bool running = pd->leg.up != NULL;

	observe(pd);
	if (req->picked && !req->client->recv_op.pending && req->body && blocks_held(pd)) {
		orphan_begin(pd);
		prefill_end(pd, HEALTH_CLIENT_ERROR, true);
		if (running) {
			pd->phase = PD_LEAVING;
			leg_leave(&pd->leg, PD_LEAVE_MS);
		} else {
			release_begin(pd);
		}
		return;
	}
	if (running)
		metric_inc(M_PD_LEFT);
	prefill_end(pd, HEALTH_CLIENT_ERROR, true);
	req->view = NULL;
	req->pd = NULL;
	orphan_free(pd);
}
