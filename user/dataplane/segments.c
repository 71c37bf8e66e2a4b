/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Body offsets and where they lie. The body is a chain of blocks; what is forwarded of it is a few
 * segments; nothing is copied.
 */
#include <string.h>

#include "dataplane/disagg/body.h"
#include "dataplane/request.h"

static void segment_add(struct request *req, uint64_t start, uint64_t end)
{
	if (end <= start)
		return;
	req->segments[req->segment_count++] = (struct segment){start, end};
	req->forward_bytes += end - start;
}

/* Members that only gateways may send. One before the first kept member takes the comma after it
 * along, a later one the comma before it. */
void segments_build(struct request *req)
{
	uint64_t from = 0;

	req->segment_count = 0;
	req->forward_bytes = 0;
	for (int round = 0; round < OPENAI_MEMBER_COUNT; round++) {
		const struct openai_place *next = NULL;

		for (int m = OPENAI_KV_TRANSFER_PARAMS; m <= OPENAI_BOOTSTRAP_ROOM; m++) {
			const struct openai_place *p = &req->says.members[m];

			if (p->end && p->key >= from && (!next || p->key < next->key))
				next = p;
		}
		if (!next || req->worker->cfg->allow_gateway_fields)
			break;
		if (next->key > req->says.first_kept) {
			segment_add(req, from, next->comma);
			from = next->end;
		} else {
			segment_add(req, from, next->key);
			from = req->says.first_kept == ~0ULL ? req->says.close
							     : req->says.first_kept;
		}
	}
	if (from)
		metric_inc(M_GATEWAY_FIELDS_STRIPPED);
	segment_add(req, from, req->body_bytes);
}

unsigned int segments_fill(const struct request *req, uint64_t from, struct iovec *iov,
			   unsigned int max)
{
	unsigned int n = 0;
	uint64_t out = 0; /* position in the forwarded body */

	if (req->view)
		return body_fill(req->view, from, iov, max);
	for (uint32_t i = 0; i < req->segment_count && n < max; i++) {
		struct segment seg = req->segments[i];
		uint64_t at = 0; /* offset of the block in the body */

		if (out + seg.end - seg.start <= from) {
			out += seg.end - seg.start;
			continue;
		}
		if (from > out)
			seg.start += from - out, out = from;
		for (struct block *b = req->body; b && n < max && seg.start < seg.end;
		     b = b->next) {
			uint64_t used = block_used(b), take;

			if (seg.start < at + used) {
				take = (seg.end < at + used ? seg.end : at + used) - seg.start;
				iov[n++] =
					(struct iovec){b->data + b->start + (seg.start - at), take};
				seg.start += take;
				out += take;
				from = out;
			}
			at += used;
		}
	}
	return n;
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
