/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why prompts are not in the cache of the endpoint that they went to, by model: bytes of prompt,
 * split by cause at the moment of each pick. Any thread adds; relaxed figures.
 */
#ifndef SLUICE_KV_KV_LOSSES_H
#define SLUICE_KV_KV_LOSSES_H

#include <stdatomic.h>

#include "kv/kv_index.h"

enum kv_loss {
	KV_LOSS_NONE,	 /* in the chosen endpoint's cache */
	KV_LOSS_ROUTED,	 /* another candidate held more: passed over, for its load or otherwise */
	KV_LOSS_EVICTED, /* the next block was held once, by whomever */
	KV_LOSS_DIFFERS, /* others went on with another text */
	KV_LOSS_COLD,	 /* nobody ever came so far */
	KV_LOSSES
};

struct kv_losses {
	_Atomic uint64_t prompts, bytes[KV_LOSSES];
	_Atomic uint64_t differing, differs_at; /* prompts; sum of offsets where they part */
};

/* best, chosen: bytes that the candidate holding most, and the chosen one, hold. */
void kv_losses_note(struct kv_losses *l, const struct kv_index *ix, const struct kv_prompt *prompt,
		    uint32_t best, uint32_t chosen);

extern const char *const kv_loss_names[KV_LOSSES];

#endif
