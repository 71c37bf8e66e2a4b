/* SPDX-License-Identifier: Apache-2.0 */
/* A row for each hash, where its low bits say; it counts as long as its request runs. */
#include "scheduler/recent.h"

uint32_t recent_note(struct recent *r, const uint64_t *hashes, uint32_t count, uint16_t slot,
		     uint32_t generation)
{
	uint32_t request = ++r->last ? r->last : ++r->last;

	for (uint32_t i = 0; i < count; i++)
		r->rows[hashes[i] % RECENT_ROWS] =
			(struct recent_row){hashes[i], request, generation, slot};
	atomic_store_explicit(&r->running[request % RECENT_REQUESTS], request,
			      memory_order_relaxed);
	return request;
}

void recent_end(struct recent *r, uint32_t request)
{
	uint32_t expected = request;

	if (request)
		atomic_compare_exchange_strong_explicit(&r->running[request % RECENT_REQUESTS],
							&expected, 0, memory_order_relaxed,
							memory_order_relaxed);
}

uint32_t recent_find(const struct recent *r, const uint64_t *hashes, uint32_t least, uint32_t most,
		     uint16_t slot, uint32_t generation)
{
	for (uint32_t n = most; n > least; n--) {
		const struct recent_row *row = &r->rows[hashes[n - 1] % RECENT_ROWS];

		if (row->hash == hashes[n - 1] && row->slot == slot &&
		    row->generation == generation &&
		    atomic_load_explicit(&r->running[row->request % RECENT_REQUESTS],
					 memory_order_relaxed) == row->request)
			return n;
	}
	return 0;
}
