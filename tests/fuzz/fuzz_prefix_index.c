/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations on a small prefix index from bytes, beside a naive reference of 12 endpoints and 64
 * blocks: what an endpoint was last told to hold is what it holds, to the block.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"

#define SLOTS	 12
#define UNIVERSE 64
#define CAPACITY 24

struct reference {
	uint32_t used[SLOTS][UNIVERSE], clock, held[SLOTS];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ref_learn(struct reference *r, uint32_t s, uint32_t b)
{
	if (!r->used[s][b] && r->held[s] == CAPACITY) {
		uint32_t oldest = UNIVERSE;

		for (uint32_t i = 0; i < UNIVERSE; i++)
			if (r->used[s][i] &&
			    (oldest == UNIVERSE || r->used[s][i] < r->used[s][oldest]))
				oldest = i;
		r->used[s][oldest] = 0;
		r->held[s]--;
	}
	r->held[s] += !r->used[s][b];
	r->used[s][b] = ++r->clock;
}

static void compare(const struct prefix_index *ix, const struct reference *r)
{
	static uint32_t generations[ENDPOINTS_MAX];
	static uint16_t hits[ENDPOINTS_MAX];
	uint64_t slots[PREFIX_SLOT_WORDS] = {(1 << SLOTS) - 1};

	for (uint32_t b = 0; b < UNIVERSE; b++) {
		uint64_t hash = prefix_mix(b, 1);

		prefix_index_match(ix, &hash, 1, slots, generations, hits);
		for (uint32_t s = 0; s < SLOTS; s++)
			assert(hits[s] == (r->used[s][b] != 0));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reference r = {0};
	struct prefix_index *ix;

	if (prefix_index_new(NULL, 64 * 1024, 1, &ix))
		return 0;
	for (size_t i = 0; i + 1 < size && i < 4000; i += 2) {
		uint32_t s = data[i] % SLOTS, b = data[i + 1] % UNIVERSE;
		uint64_t hash = prefix_mix(b, 1);

		if (data[i] >= 250) {
			prefix_index_forget(ix, (uint16_t)s);
			memset(r.used[s], 0, sizeof(r.used[s]));
			r.held[s] = 0;
		} else {
			prefix_index_learn(ix, 0, (uint16_t)s, 0, CAPACITY, &hash, 1);
			ref_learn(&r, s, b);
		}
	}
	for (int i = 0; i < 32; i++)
		prefix_index_tick(ix);
	compare(ix, &r);
	prefix_index_free(ix);
	return 0;
}
