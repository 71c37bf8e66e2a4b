/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract between the agent, the BPF programs and whoever reads the maps with bpftool.
 * Both sides include it. A change of any struct here is a new SLUICE_ABI_VERSION: pins of
 * another version are replaced, never reinterpreted.
 */
#ifndef SLUICE_ABI_H
#define SLUICE_ABI_H

#ifndef __bpf__
#include <linux/types.h>
#include <assert.h>
#endif

#define SLUICE_ABI_VERSION 2

/* Map `abi`: one element, what the other pinned maps are laid out by. */
struct sluice_abi {
	__u32 version; /* SLUICE_ABI_VERSION */
	__u32 reserved;
};

enum sluice_endpoint_state {
	SLUICE_ENDPOINT_FREE = 0,     /* slot unused */
	SLUICE_ENDPOINT_READY = 1,    /* takes new requests */
	SLUICE_ENDPOINT_DRAINING = 2, /* running requests finish, no new ones */
	SLUICE_ENDPOINT_OPEN = 3,     /* circuit open: no requests */
	SLUICE_ENDPOINT_TRIAL = 4,    /* half-open: one request at a time */
};

/* Roles are a mask; 0 means the pod has no role label and serves everything. */
#define SLUICE_ROLE_PREFILL 1
#define SLUICE_ROLE_DECODE  2
#define SLUICE_ROLE_ENCODE  4

/* Map `endpoints`: one element per slot. IPv4 addresses are v4-mapped. */
struct sluice_endpoint {
	__u8 addr[16];
	__u16 port;	  /* host order */
	__u8 state;	  /* enum sluice_endpoint_state */
	__u8 role;	  /* mask of SLUICE_ROLE_* */
	__u32 generation; /* grows each time the slot is given to another endpoint */
	char name[64];
};

/*
 * Map `endpoint_load`: one element per slot, mmaped. Engine figures are written by the scraper;
 * inflight_* by the workers, at the moment of the pick and at the end. Times are CLOCK_MONOTONIC
 * ns.
 */
struct sluice_endpoint_load {
	__u32 waiting;		   /* requests in the engine's queue */
	__u32 running;		   /* requests in the engine's batch */
	__u32 kv_used_ppm;	   /* KV cache in use, millionths */
	__u32 block_tokens;	   /* engine's block size, 0 unknown */
	__u32 blocks_total;	   /* engine's KV blocks, 0 unknown */
	__u32 inflight_requests;   /* sent by this gateway, not finished */
	__u64 inflight_tokens;	   /* of those: prompt tokens yet to be prefilled */
	__u64 scraped_at_ns;	   /* 0 never */
	__u32 ttft_us;		   /* moving average, measured here */
	__u32 itl_us;		   /* moving average, measured here */
	__u64 requests_total;	   /* picks */
	__u64 cached_tokens_total; /* as reported by the engine in usage */
	__u64 prompt_tokens_total; /* as reported by the engine in usage */
	__u32 ttft_error_mean_ppm; /* of the latency model here: |predicted - measured| / measured
				    */
	__u32 ttft_error_p90_ppm;
	__u32 itl_error_mean_ppm;
	__u32 itl_error_p90_ppm;
	__u32 inflight_at_scrape; /* inflight_requests when the engine's were read, + 1; 0 unknown
				   */
	__u32 reserved_word;
	__u64 reserved[4];
};

/*
 * Map `kv_affinity`: the prefix index, an open-addressing table of these. A pair (prompt block,
 * endpoint) is one word, so that a reader never sees half of it:
 *   key = tag << 27 | wide << 26 | slot << 16 | epoch     0: free
 * tag is the low 37 bits of the block's chain hash; wide marks the entry that stands for a block
 * with many holders (its slot and epoch are 0). The rest is the writer's own.
 */
#define SLUICE_AFFINITY_PAIRS 3
struct sluice_affinity_bucket {
	__u64 key[SLUICE_AFFINITY_PAIRS];
	__u32 newer[SLUICE_AFFINITY_PAIRS]; /* LRU of the endpoint: pair number + 1, 0 none */
	__u32 older[SLUICE_AFFINITY_PAIRS];
	__u32 where[SLUICE_AFFINITY_PAIRS]; /* (wide record + 1) << 8 | buckets past its first home
					     */
	__u32 passed; /* 8 counters of 4 bits: pairs that had to go past this bucket */
};

#ifndef __bpf__
static_assert(sizeof(struct sluice_affinity_bucket) == 64, "kv_affinity map value");
static_assert(sizeof(struct sluice_endpoint) == 88, "endpoints map value");
static_assert(sizeof(struct sluice_endpoint_load) == 128, "endpoint_load map value");
#endif

#endif
