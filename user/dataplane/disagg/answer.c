/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass of the request scanner over an answer: it checks the JSON whole and knows where a
 * top-level member's value begins and ends, so that the value can travel byte for byte.
 */
#include "dataplane/disagg/answer.h"

#include <errno.h>
#include <string.h>

#include "dataplane/body.h"

#define USAGE_BYTES_MAX 1024

/* "usage" lies whole in one of windows that overlap by more than its length. */
static void usage_find(const struct block *chain, uint64_t bytes, struct usage *ret)
{
	char text[4096];
	size_t step = sizeof(text) - USAGE_BYTES_MAX;

	for (uint64_t at = 0; at < bytes; at += step)
		usage_read(span_of(text, body_copy(chain, at, bytes, text, sizeof(text))), ret);
}

int answer_read(const struct block *chain, enum openai_member member, struct answer *ret)
{
	static _Thread_local struct openai_scan scan;
	static _Thread_local struct openai_request says;
	static _Thread_local struct prompt_span spans[PROMPT_SPANS_MAX];
	const struct openai_place *p = &says.members[member];
	uint64_t bytes = 0;
	int err = 0;

	memset(ret, 0, sizeof(*ret));
	openai_scan_init(&scan, &says, spans);
	for (const struct block *b = chain; !err && b; b = b->next) {
		err = openai_scan_feed(&scan, b->data + b->start, block_used(b));
		bytes += block_used(b);
	}
	if (err || openai_scan_finish(&scan))
		return -EBADMSG;
	usage_find(chain, bytes, &ret->usage);
	if (p->end && !p->null) {
		ret->start = p->value;
		ret->end = p->end;
	}
	return 0;
}
