/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts that are being prefilled right now: their blocks will be in that endpoint's cache soon,
 * but its events do not say so yet. Without this a burst of one new prompt would spread over the
 * pool. One worker's own memory, of fixed size: older rows give way to newer ones.
 */
#ifndef SLUICE_SCHEDULER_RECENT_H
#define SLUICE_SCHEDULER_RECENT_H

#include <stdatomic.h>
#include <stdint.h>

#define RECENT_ROWS	4096
#define RECENT_REQUESTS 1024

struct recent {
	struct recent_row {
		uint64_t hash;
		uint32_t request, generation;
		uint16_t slot;
	} rows[RECENT_ROWS];
	_Atomic uint32_t running[RECENT_REQUESTS]; /* by number: the number itself, or 0 */
	uint32_t last;
};

/* These blocks of a prompt (prefix_hash()) are on their way to the endpoint. The request's number.
 */
uint32_t recent_note(struct recent *r, const uint64_t *hashes, uint32_t count, uint16_t slot,
		     uint32_t generation);

/* Its first token came, or it failed. Any thread. 0 is fine. */
void recent_end(struct recent *r, uint32_t request);

/* Leading blocks that are on their way, more than `least` and at most `most`; else 0. */
uint32_t recent_find(const struct recent *r, const uint64_t *hashes, uint32_t least, uint32_t most,
		     uint16_t slot, uint32_t generation);

#endif
