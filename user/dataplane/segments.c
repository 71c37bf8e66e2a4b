/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Body offsets and where they lie. The body is a chain of blocks; what is forwarded of it is that
 * chain with a few edits, and what is prompt in it goes to the scheduler; nothing is copied.
 */
#include "dataplane/request.h"

void segments_build(struct request *req)
{
	struct body_edit edits[OPENAI_BOOTSTRAP_ROOM - OPENAI_KV_TRANSFER_PARAMS + 2];
	bool strip = !req->worker->cfg->allow_gateway_fields, stripped = false;
	uint32_t n = 0;

	for (int m = OPENAI_KV_TRANSFER_PARAMS; strip && m <= OPENAI_BOOTSTRAP_ROOM; m++) {
		edits[n++] = (struct body_edit){.kind = BODY_CUT, .member = (enum openai_member)m};
		stripped |= req->says.members[m].end != 0;
	}
	if (req->rewritten.len)
		edits[n++] = (struct body_edit){
			.kind = BODY_REPLACE, .member = OPENAI_MODEL, .value.span = req->rewritten};
	if (stripped)
		metric_inc(M_GATEWAY_FIELDS_STRIPPED);
	/* A handful of edits make fewer parts than there is room for. */
	(void)body_build(&req->own, req->body, req->body_bytes, &req->says, edits, n);
	req->forward_bytes = req->own.bytes;
}

unsigned int segments_fill(const struct request *req, uint64_t from, struct iovec *iov,
			   unsigned int max)
{
	return body_fill(req->view ? req->view : &req->own, from, iov, max);
}

static uint8_t piece_kind(uint8_t kind)
{
	static const uint8_t kinds[] = {
		[PROMPT_TEXT] = SCHED_PIECE_TEXT,   [PROMPT_ROLE] = SCHED_PIECE_ROLE,
		[PROMPT_TOOLS] = SCHED_PIECE_TOOLS, [PROMPT_TOKENS] = SCHED_PIECE_TOKENS,
		[PROMPT_MEDIA] = SCHED_PIECE_MEDIA,
	};

	return kinds[kind];
}

uint32_t segments_pieces(const struct request *req, struct sched_piece *pieces, uint32_t max)
{
	const struct block *b = req->body;
	uint64_t at = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < req->says.span_count && n < max; i++) {
		struct prompt_span span = req->spans[i];
		bool continued = false;

		if (span.start < at) /* members may stand in any order, spans rise within each */
			b = req->body, at = 0;
		while (b && span.start < span.end && n < max) {
			uint64_t used = block_used(b), end;

			if (span.start >= at + used) {
				at += used;
				b = b->next;
				continue;
			}
			end = span.end < at + used ? span.end : at + used;
			pieces[n].bytes =
				span_of(b->data + b->start + (span.start - at), end - span.start);
			pieces[n].kind = piece_kind(span.kind);
			pieces[n++].continued = continued;
			continued = true;
			span.start = end;
		}
	}
	return n;
}
