/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass of the request scanner over an answer: it checks the JSON whole and knows where a
 * top-level member's value begins and ends, so that the value can travel byte for byte.
 */
#include "dataplane/disagg/answer.h"

#include <errno.h>
#include <string.h>

int answer_read(const struct block *chain, enum openai_member member, struct answer *ret)
{
	static _Thread_local struct openai_scan scan;
	static _Thread_local struct openai_request says;
	static _Thread_local struct prompt_span spans[PROMPT_SPANS_MAX];
	static _Thread_local struct sse tail;
	const struct openai_place *p = &says.members[member];
	int err = 0;

	memset(&says, 0, sizeof(says));
	memset(&tail, 0, sizeof(tail));
	memset(ret, 0, sizeof(*ret));
	openai_scan_init(&scan, &says, spans);
	for (const struct block *b = chain; !err && b; b = b->next) {
		err = openai_scan_feed(&scan, b->data + b->start, block_used(b));
		usage_read(span_of(b->data + b->start, block_used(b)), &ret->usage);
		sse_json_feed(&tail, b->data + b->start, block_used(b));
	}
	if (!err)
		err = openai_scan_finish(&scan);
	if (!ret->usage.known) { /* it may lie across two blocks */
		sse_json_end(&tail);
		ret->usage = tail.usage;
	}
	if (err)
		return -EBADMSG;
	if (p->end && !p->null) {
		ret->start = p->value;
		ret->end = p->end;
	}
	return 0;
}
