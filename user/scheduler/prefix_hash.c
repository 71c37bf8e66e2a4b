/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hashes where the prompt lies. Only a block that spans pieces is gathered, on the stack.
 * One byte, the kind, stands before each piece: ("ab", "c") and ("a", "bc") are different prompts,
 * and a piece that continues in the next receive buffer is still one piece.
 */
#include "scheduler/prefix_hash.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hasher {
	uint64_t chain, group, *out;
	uint32_t count, max, block_bytes, fill;
	char gather[PREFIX_BLOCK_BYTES_MAX];
};

static void hasher_block(struct hasher *h, const char *bytes, size_t len)
{
	h->chain = prefix_mix(h->chain, XXH3_64bits(bytes, len));
	if (h->count % PREFIX_GROUP_BLOCKS == 0)
		h->group = h->chain;
	h->out[h->count] = prefix_grouped(h->group, h->chain, h->count % PREFIX_GROUP_BLOCKS);
	h->count++;
}

static void hasher_add(struct hasher *h, const char *bytes, size_t len)
{
	while (len && h->count < h->max) {
		size_t take = h->block_bytes - h->fill;

		if (h->fill == 0 && len >= h->block_bytes) {
			hasher_block(h, bytes, take);
			bytes += take;
			len -= take;
			continue;
		}
		if (take > len)
			take = len;
		memcpy(h->gather + h->fill, bytes, take);
		h->fill += (uint32_t)take;
		bytes += take;
		len -= take;
		if (h->fill == h->block_bytes) {
			hasher_block(h, h->gather, h->fill);
			h->fill = 0;
		}
	}
}

static uint64_t seed_of(const struct sched_request *req)
{
	uint64_t model = XXH3_64bits(req->model_name.ptr, req->model_name.len);
	uint64_t salt = 0;

	if (req->cache_salt.len)
		salt = XXH3_64bits(req->cache_salt.ptr, req->cache_salt.len);
	return prefix_mix(model, salt);
}

uint32_t prefix_hash(const struct sched_request *req, uint32_t block_bytes, uint64_t *ret_hashes,
		     uint32_t max, uint64_t *ret_bytes)
{
	struct hasher h;
	uint64_t bytes = 0;

	h.chain = seed_of(req);
	h.out = ret_hashes;
	h.count = 0;
	h.max = max;
	h.block_bytes = block_bytes;
	h.fill = 0;
	for (uint32_t i = 0; i < req->piece_count; i++) {
		const struct sched_piece *p = &req->pieces[i];
		char kind = (char)p->kind;

		bytes += p->bytes.len;
		if (!p->continued)
			hasher_add(&h, &kind, 1);
		hasher_add(&h, p->bytes.ptr, p->bytes.len);
	}
	if (h.fill && h.count < h.max)
		hasher_block(&h, h.gather, h.fill);
	*ret_bytes = bytes;
	return h.count;
}
