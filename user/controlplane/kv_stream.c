/* SPDX-License-Identifier: Apache-2.0 */
/* Times tell a restarted engine from a message that lost its way: an engine's own clock goes on. */
#include "controlplane/kv_stream.h"

enum kv_verdict kv_stream_judge(const struct kv_stream *s, uint64_t seq, double ts)
{
	if (!s->begun || seq == s->next)
		return KV_APPLY;
	if (seq > s->next)
		return KV_GAP;
	return ts > s->last_ts ? KV_RESTART : KV_LATE;
}

void kv_stream_applied(struct kv_stream *s, uint64_t seq, double ts)
{
	s->begun = true;
	s->next = seq + 1;
	s->last_ts = ts > 0 ? ts : s->last_ts; /* a load alone tells no time */
}

void kv_stream_reset(struct kv_stream *s)
{
	*s = (struct kv_stream){0};
}
