/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes: an event message is told whole or not at all, within its limits, and what our reader
 * accepts as msgpack a library accepts too.
 */
#include <assert.h>
#include <msgpack.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/msgpack.h"
#include "controlplane/kv_events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sum;

static void see(void *arg, const struct kv_event *e)
{
	(*(unsigned int *)arg)++;
	assert(e->block_count <= KV_EVENT_BLOCKS_MAX && e->token_count <= KV_EVENT_TOKENS_MAX);
	assert(!e->token_count || e->token_count == (uint64_t)e->block_count * e->block_tokens);
	for (uint32_t i = 0; i < e->block_count; i++)
		sum += e->hashes[i] + (e->extras ? e->extras[i] : 0);
	for (uint32_t i = 0; i < e->token_count; i++)
		sum += e->tokens[i];
	for (size_t i = 0; i < e->lora_name.len; i++)
		sum += (uint8_t)e->lora_name.ptr[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct kv_decoder *d;
	struct msgpack m = msgpack_of(data, size);
	unsigned int told = 0;
	int err;

	if (!d)
		d = calloc(1, sizeof(*d));
	assert(d);
	err = kv_events_decode(d, data, size, see, &told);
	assert(err == 0 || told == 0);
	if (msgpack_skip(&m) == 0) {
		msgpack_unpacked tree;
		size_t off = 0;

		msgpack_unpacked_init(&tree);
		assert(msgpack_unpack_next(&tree, (const char *)data, size, &off) ==
		       MSGPACK_UNPACK_SUCCESS);
		assert(off == (size_t)(m.at - data));
		msgpack_unpacked_destroy(&tree);
	} else {
		assert(err);
	}
	return 0;
}
