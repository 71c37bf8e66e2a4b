/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One engine's events, applied to the precise index: tokens become bytes, blocks become pairs.
 * No sockets: what a message means, not how it came. On the thread that hears events.
 */
#ifndef SLUICE_CONTROLPLANE_KV_APPLY_H
#define SLUICE_CONTROLPLANE_KV_APPLY_H

#include "controlplane/kv_events.h"
#include "kv/kv_index.h"
#include "kv/vocab.h"

struct sluice_endpoint_load;

/* What one endpoint's events did, totals. */
struct kv_applied {
	uint64_t stored, removed, cleared;
	uint64_t ignored;	 /* groups and media that are no prefix in memory */
	uint64_t orphans;	 /* blocks behind one that we never saw */
	uint64_t unknown_tokens; /* blocks with a token that the vocabulary has not */
	uint64_t unlearned;	 /* of those: with a token that may still be learned */
	uint64_t no_room;	 /* blocks that the index refused */
	uint64_t loads;
};

struct kv_applier {
	struct kv_index *index;
	struct vocab *vocab;
	uint16_t slot;
	uint32_t generation;
	struct sluice_endpoint_load *load; /* for LoadStat; may be NULL */
	uint64_t now_ns;
	uint32_t block_tokens; /* as last said; 0 unknown */
	struct kv_applied applied;
};

/* A kv_sink; arg is a struct kv_applier whose slot is bound in the index. */
void kv_apply(void *arg, const struct kv_event *e);

#endif
