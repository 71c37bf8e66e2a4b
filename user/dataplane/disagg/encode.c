/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Legs to encode pods. Invariant: encode_done() is called when the last of them is over, never
 * while one runs; each pick is given back once.
 */
#include "dataplane/disagg/encode.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "dataplane/disagg/stages.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static bool leg_begin(struct encode_leg *l);

bool encode_wanted(const struct request *req)
{
	return req->says.has_media && disagg_encoders(req->worker);
}

/* ---- one leg ---- */

static unsigned int encode_fill(const struct leg *leg, uint64_t from, struct iovec *iov,
				unsigned int max)
{
	const struct encode_leg *l = container(leg, struct encode_leg, leg);
	const struct encode *e = l->encode;
	struct body_view v = {.chain = e->pd->req->body, .count = 3};

	v.parts[0] = (struct body_part){.text = e->before, .end = strlen(e->before)};
	v.parts[1] = (struct body_part){.start = l->part.start, .end = l->part.end};
	v.parts[2] = (struct body_part){.text = e->after, .end = strlen(e->after)};
	return body_fill(&v, from, iov, max);
}

static int leg_pick(struct encode_leg *l)
{
	struct disagg *pd = l->encode->pd;
	struct worker *w = pd->worker;
	struct sched_request sr;
	int err;

	request_sched_fill(pd->req, SLUICE_ROLE_ENCODE, &sr);
	sr.piece_count = 0; /* the prompt's blocks are not its business */
	sr.prompt_tokens = 1;
	sr.excluded = l->tried;
	sr.excluded_count = l->tries;
	sr.peer = pd->req->pick.endpoint;
	err = scheduler_pick(w->sched, w->snapshot, &sr, &l->pick);
	if (err)
		return err;
	endpoint_get(l->pick.endpoint);
	l->picked = true;
	return 0;
}

static void pick_end(struct encode_leg *l, enum health_outcome health, bool failed)
{
	struct sched_outcome out = {.now_ns = clock_mono_ns(), .failed = failed};

	if (!l->picked)
		return;
	l->picked = false;
	health_report(l->pick.endpoint, health);
	scheduler_done(l->encode->pd->worker->sched, &l->pick, &out);
	endpoint_put(l->pick.endpoint);
}

static void leg_failed(struct encode_leg *l, enum pd_cause cause, enum health_outcome health)
{
	disagg_count_encode_failure(cause);
	leg_fini(&l->leg);
	if (l->picked && l->tries < PD_PREFILL_TRIES)
		l->tried[l->tries] = l->pick.endpoint->slot;
	l->tries++;
	pick_end(l, health, true);
}

static void leg_over(struct leg *leg)
{
	struct encode_leg *l = container(leg, struct encode_leg, leg);
	struct encode *e = l->encode;
	bool ok = leg->result == LEG_ANSWERED && leg->status >= 200 && leg->status < 300;
	enum health_outcome health;
	enum pd_cause cause;

	if (leg->sent_ns)
		metric_observe_us(H_PD_ENCODE, (leg->end_ns - leg->begin_ns) / NS_PER_US);
	cause_of(leg, &cause, &health);
	if (ok && answer_read(leg->answer, OPENAI_EC_TRANSFER_PARAMS, &l->ec))
		ok = false, cause = PD_CAUSE_MALFORMED;
	else if (ok && !l->ec.end)
		ok = false, cause = PD_CAUSE_NO_PARAMS;
	if (ok) {
		pick_end(l, HEALTH_OK, false);
	} else {
		leg_failed(l, cause, health);
		if (leg->status / 100 != 4 && l->tries < PD_PREFILL_TRIES && leg_begin(l))
			return;
	}
	if (--e->running == 0)
		encode_done(e->pd);
}

static bool leg_begin(struct encode_leg *l)
{
	struct encode *e = l->encode;
	struct disagg *pd = e->pd;
	const struct config *cfg = pd->worker->cfg;

	if (leg_pick(l)) {
		disagg_count_encode_failure(PD_CAUSE_NO_POD);
		return false;
	}
	l->ec = (struct answer){0};
	l->leg = (struct leg){.worker = pd->worker,
			      .endpoint = l->pick.endpoint,
			      .fill = encode_fill,
			      .body_bytes = strlen(e->before) + (l->part.end - l->part.start) +
					    strlen(e->after),
			      .head_ms = cfg->pd_prefill_head_ms,
			      .whole_ms = cfg->pd_prefill_ms,
			      .done = leg_over};
	l->leg.head = leg_head(pd, l->pick.endpoint, l->leg.body_bytes);
	if (l->leg.head && leg_start(&l->leg) == 0)
		return true;
	leg_failed(l, PD_CAUSE_NO_MEMORY, HEALTH_CLIENT_ERROR);
	return false;
}

/* ---- the stage ---- */

/* A request of one message with one part, in the client's own API. */
static bool envelope(struct encode *e)
{
	const struct request *req = e->pd->req;
	const struct openai_place *m = &req->says.members[OPENAI_MODEL];
	bool responses = span_eq(req->head.path, SPAN("/v1/responses"));
	char model[MODEL_NAME_BYTES_MAX * 6];
	size_t n = 0;

	if (m->end && m->end - m->value < sizeof(model))
		n = body_copy(req->body, m->value, m->end, model, sizeof(model) - 1);
	model[n] = '\0';
	if (!n)
		return false;
	snprintf(e->before, sizeof(e->before),
		 "{\"model\":%s,\"%s\":[{\"role\":\"user\",\"content\":[", model,
		 responses ? "input" : "messages");
	e->after = responses ? "]}],\"max_output_tokens\":1,\"stream\":false}"
			     : "]}],\"max_tokens\":1,\"stream\":false}";
	return true;
}

static void parts_find(struct encode *e)
{
	const struct request *req = e->pd->req;
	const struct openai_place *p = &req->says.members[OPENAI_MESSAGES];
	struct media_part parts[PD_ENCODE_PARTS_MAX];
	uint32_t n;

	if (!p->end)
		p = &req->says.members[OPENAI_INPUT];
	n = p->end ? media_find(req->body, p->value, p->end, parts, PD_ENCODE_PARTS_MAX) : 0;
	if (n > PD_ENCODE_PARTS_MAX) {
		metric_add(M_PD_ENCODE_LEFT, n - PD_ENCODE_PARTS_MAX);
		n = PD_ENCODE_PARTS_MAX;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct encode_leg *l = &e->legs[i];

		memset(l, 0, sizeof(*l));
		l->encode = e;
		l->part = parts[i];
	}
	e->count = n;
}

bool encode_begin(struct disagg *pd)
{
	struct encode *e = encode_new(pd->worker);

	if (!e)
		return false;
	pd->encode = e;
	e->pd = pd;
	e->count = e->running = 0;
	if (envelope(e))
		parts_find(e);
	pd->phase = PD_ENCODE;
	request_show(pd->req, "encoding");
	for (uint32_t i = 0; i < e->count; i++)
		e->running += leg_begin(&e->legs[i]);
	if (e->running)
		return true;
	encode_end(pd);
	return false;
}

/* The inside of each answered object, joined: {"a":{…},"b":{…}}. */
static bool merge_one(struct disagg *pd, const struct encode_leg *l, struct block **last)
{
	struct blocks *blocks = &pd->worker->blocks;
	uint64_t at = l->ec.start + 1, end = l->ec.end - 1;

	if (pd->ec_bytes > 1) {
		(*last)->data[(*last)->end++] = ',';
		pd->ec_bytes++;
	}
	while (at < end) {
		struct block *b = *last;
		/* A byte each for a comma and the last brace. */
		size_t room = block_room(b) > 2 ? block_room(b) - 2 : 0, n;

		if (!room) {
			b->next = block_new(blocks, BLOCK_SMALL);
			if (!b->next)
				return false;
			*last = b->next;
			continue;
		}
		n = body_copy(l->leg.answer, at, end, b->data + b->end, room);
		b->end += (uint32_t)n;
		at += n;
		pd->ec_bytes += n;
	}
	return true;
}

void encode_merge(struct disagg *pd)
{
	struct encode *e = pd->encode;
	struct block *last = NULL;
	bool ok = true;

	for (uint32_t i = 0; ok && i < e->count; i++) {
		const struct encode_leg *l = &e->legs[i];
		char first = 0;

		if (!l->ec.end || l->ec.end - l->ec.start < 3)
			continue;
		body_copy(l->leg.answer, l->ec.start, l->ec.end, &first, 1);
		if (first != '{')
			continue;
		if (!pd->ec) {
			pd->ec = last = block_new(&pd->worker->blocks, BLOCK_SMALL);
			if (!last)
				return;
			last->data[last->end++] = '{';
			pd->ec_bytes = 1;
		}
		ok = merge_one(pd, l, &last);
	}
	if (pd->ec && ok) {
		last->data[last->end++] = '}';
		pd->ec_bytes++;
		return;
	}
	block_free_chain(&pd->worker->blocks, pd->ec);
	pd->ec = NULL;
	pd->ec_bytes = 0;
}

void encode_end(struct disagg *pd)
{
	struct encode *e = pd->encode;

	if (!e)
		return;
	for (uint32_t i = 0; i < e->count; i++) {
		struct encode_leg *l = &e->legs[i];

		leg_cut(&l->leg);
		if (l->leg.worker)
			leg_fini(&l->leg);
		pick_end(l, HEALTH_CLIENT_ERROR, true);
	}
	pd->encode = NULL;
	encode_free(pd->worker, e);
}
