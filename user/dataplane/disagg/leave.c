/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a request of several legs, above all when its client has left: legs are cut within the
 * turn, and blocks that a prefill holds for nobody are released by a decode of one token, for which
 * body and decode pod outlive the request.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/health.h"
#include "dataplane/disagg/encode.h"
#include "dataplane/disagg/stages.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

void orphan_free(struct disagg *pd)
{
	struct blocks *blocks = &pd->worker->blocks;

	leg_cut(&pd->leg);
	leg_fini(&pd->leg);
	encode_end(pd);
	answer_drop(pd);
	block_free_chain(blocks, pd->ec);
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
void release_begin(struct disagg *pd)
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
	req->worker->disagg->alone -= pd->alone_counted;
	pd->alone_counted = false;
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
	if (pd->phase == PD_DECODE && pd->answer && pd->connector->releases && req->status >= 500)
		metric_inc(M_PD_STRANDED);
	prefill_end(pd, HEALTH_CLIENT_ERROR, true);
	req->view = NULL;
	req->pd = NULL;
	orphan_free(pd);
}
