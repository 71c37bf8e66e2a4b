/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of one source's messages: what to do with a sequence number. Pure: no sockets.
 *
 *              seq = next                gap               replay ends or times out
 *   FRESH ---------------> LIVE ------------------> GAP ---------------------------> LIVE
 *     first message: next     ^                      | (live messages wait unread)
 *     = seq + 1               '--- restart: seq back to 0, or older numbers with newer times
 */
#ifndef SLUICE_CONTROLPLANE_KV_STREAM_H
#define SLUICE_CONTROLPLANE_KV_STREAM_H

#include <stdbool.h>
#include <stdint.h>

struct kv_stream {
	bool begun;	/* a message was applied */
	uint64_t next;	/* sequence number expected */
	double last_ts; /* the engine's clock at the last message applied */
};

enum kv_verdict {
	KV_APPLY,
	KV_LATE,    /* twice, or behind what a replay brought: drop */
	KV_GAP,	    /* messages [next, seq) are missing */
	KV_RESTART, /* another engine process: forget, then apply */
};

/* What a message of that number and time means now. */
enum kv_verdict kv_stream_judge(const struct kv_stream *s, uint64_t seq, double ts);
/* It was applied. */
void kv_stream_applied(struct kv_stream *s, uint64_t seq, double ts);
/* Nothing of before counts. */
void kv_stream_reset(struct kv_stream *s);

#endif
