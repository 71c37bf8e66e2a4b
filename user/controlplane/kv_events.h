/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an engine says about its KV cache: the msgpack payload of one event message, as plain
 * structs. A pure function from bytes to events: no sockets, no heap.
 *
 *   payload = [ts, [event…], rank?] | {"ts", "events", "data_parallel_rank"} | ["LoadStat", …]
 *   event   = [tag, fields in order…] | {"type": tag, field: value…}
 *
 * vLLM 0.10 to 0.32 (arrays until 0.23, maps since), SGLang (arrays), TensorRT-LLM by way of
 * publishers that speak vLLM's form. Fields that are absent, nil or unknown are let pass.
 * Invariant: a message is either well-formed msgpack to its last byte or none of it is applied; an
 * event whose fields contradict each other is refused alone, counted.
 */
#ifndef SLUICE_CONTROLPLANE_KV_EVENTS_H
#define SLUICE_CONTROLPLANE_KV_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "sluice/limits.h"

enum kv_event_kind {
	KV_STORED,
	KV_REMOVED,
	KV_CLEARED,
	KV_LOAD,
};

enum kv_medium {
	KV_GPU,
	KV_CPU,
	KV_OTHER, /* disk and the like: no faster than prefill, as far as we know */
};

struct kv_event {
	enum kv_event_kind kind;
	enum kv_medium medium;
	bool has_parent;
	bool reusable;		/* its group is a prefix that another prompt may reuse */
	uint64_t parent;	/* engine's hash */
	uint32_t block_count;	/* hashes, and extras of a KV_STORED */
	uint32_t block_tokens;	/* tokens in each block */
	uint32_t token_count;	/* 0 (none sent) or block_count x block_tokens */
	const uint64_t *hashes; /* the engine's, 64 bits of them; borrowed until the sink returns */
	const uint64_t *extras; /* per block: what else than tokens tells it apart; 0 nothing */
	const uint32_t *tokens;
	struct span lora_name;	   /* len 0: none */
	uint64_t lora_id;	   /* id + 1 where only that is sent; 0 none */
	uint32_t running, waiting; /* KV_LOAD */
	uint64_t used_tokens, max_tokens;
	int32_t rank; /* data-parallel rank, -1 unsaid */
};

enum kv_refusal {
	KV_REFUSED_MALFORMED, /* no msgpack, or bytes behind its end */
	KV_REFUSED_TOO_LARGE, /* more bytes, blocks or tokens than limits.h allows */
	KV_REFUSED_SHAPE,     /* msgpack, but no batch or event of events */
	KV_REFUSED_COUNTS,    /* blocks x block size is not the number of tokens */
	KV_REFUSED_UNKNOWN,   /* a tag that we do not know: let pass, counted */
	KV_REFUSALS
};

/* Scratch memory and sums of one reader. About 6 MB: one per thread, never on a stack. */
struct kv_decoder {
	uint64_t refused[KV_REFUSALS]; /* totals */
	uint64_t hashes[KV_EVENT_BLOCKS_MAX], extras[KV_EVENT_BLOCKS_MAX];
	uint32_t tokens[KV_EVENT_TOKENS_MAX];
};

typedef void (*kv_sink)(void *arg, const struct kv_event *event);

/*
 * Tells sink each event in order. 0, or -EBADMSG if the message was refused as a whole (no event
 * was told). d is the caller's, zeroed before its first use.
 */
int kv_events_decode(struct kv_decoder *d, const void *payload, size_t n, kv_sink sink, void *arg);

#endif
