/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The noun "endpoint" and the immutable snapshot in which requests see all of them.
 *
 *   store (control plane) --publishes--> mailbox[w] --taken at the top of a loop turn--> worker w
 *
 * A snapshot never changes once published. A worker owns one reference to the snapshot it holds; a
 * running request owns one reference to its endpoint, so both outlive their removal.
 */
#ifndef SLUICE_BASE_ENDPOINT_H
#define SLUICE_BASE_ENDPOINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/span.h"
#include "sluice/abi.h"
#include "sluice/limits.h"

struct label {
	char *key, *value; /* owned by the endpoint */
};

/* Circuit breaker; the fields are health.c's, everybody else calls its functions. */
struct breaker {
	_Atomic uint32_t state;	       /* enum sluice_endpoint_state: READY, OPEN, TRIAL */
	_Atomic uint32_t failures;     /* in a row */
	_Atomic uint64_t reopen_at_ns; /* when OPEN may become TRIAL */
	_Atomic uint32_t trial_taken;  /* 1 while the one trial request runs */
};

/*
 * LoRA adapters as the engine's metrics name them, hash of the name << 2 | ADAPTER_*, 0 unused.
 * Each word is a figure of its own: a reader that sees half of an update sees a slightly old truth.
 */
#define ADAPTER_RUNNING 1
#define ADAPTER_WAITING 2
struct adapters {
	_Atomic uint32_t max;	/* max_lora, 0 unknown */
	_Atomic uint32_t count; /* of known: all before it are valid */
	_Atomic uint64_t known[ADAPTERS_MAX];
};

struct endpoint {
	_Atomic uint32_t refs;
	uint32_t generation; /* as in the `endpoints` map */
	uint16_t slot;	     /* index in the maps, < ENDPOINTS_MAX */
	uint8_t role;	     /* mask of SLUICE_ROLE_*, 0 without a label */
	uint8_t label_count;
	struct sockaddr_storage addr;
	socklen_t addr_len;
	char name[ENDPOINT_NAME_MAX];
	char address[64]; /* "10.0.0.1:8000", "[::1]:8000" */
	struct label labels[LABELS_MAX];
	struct sluice_endpoint_load *load; /* in the mmaped map; use atomics from base/load.h */
	_Atomic bool draining;		   /* by sluicectl drain or removal */
	_Atomic bool probe_failed;	   /* the last /health probe or connect failed */
	struct breaker breaker;
	struct adapters adapters;
	/* the engine's own sums of tokens, as its last page said */
	_Atomic uint64_t page_query_tokens, page_hit_tokens;
};

/* A model or LoRA adapter and the views that serve it. */
struct model {
	char name[MODEL_NAME_BYTES_MAX];
	char parent[MODEL_NAME_BYTES_MAX];  /* base model of an adapter, else "" */
	uint32_t hash;			    /* of the name */
	uint64_t views[ENDPOINTS_MAX / 64]; /* bit i: snapshot->views[i] serves it */
};

struct endpoint_snapshot {
	_Atomic uint32_t refs;
	uint64_t version;
	uint32_t view_count, model_count;
	uint32_t unlisted_count; /* views whose /v1/models has not been read yet */
	struct endpoint **views; /* each with a reference of the snapshot's */
	struct model *models;
	uint16_t
		*model_table; /* open addressing by hash, UINT16_MAX empty; NULL: models in a row */
	uint32_t model_mask;  /* slots of the table - 1, a power of two - 1 */
};

/* Takes / gives back a reference. The last put frees. Any thread. */
struct endpoint *endpoint_get(struct endpoint *ep);
void endpoint_put(struct endpoint *ep);
struct endpoint_snapshot *snapshot_get(struct endpoint_snapshot *snap);
void snapshot_put(struct endpoint_snapshot *snap);

/* The model of that name, or NULL. O(1) expected. The result lives as long as the snapshot. */
const struct model *snapshot_find_model(const struct endpoint_snapshot *snap, struct span name);

/* The label's value, or NULL. */
const char *endpoint_label(const struct endpoint *ep, const char *key);

/* ADAPTER_RUNNING, ADAPTER_WAITING or 0: what ep does with the adapter of that name hash (XXH32).
 */
unsigned int endpoint_adapter(const struct endpoint *ep, uint32_t hash);

/* One worker's mailbox. The worker calls endpoint_mailbox_take at the top of each loop turn. */
struct endpoint_mailbox {
	_Atomic(struct endpoint_snapshot *) next;
};

/* Replaces *held by the newest published snapshot, if there is one. Never blocks. */
void endpoint_mailbox_take(struct endpoint_mailbox *box, struct endpoint_snapshot **held);
/* Store side: leaves snap (the caller's reference goes along), dropping an older unread one. */
void endpoint_mailbox_post(struct endpoint_mailbox *box, struct endpoint_snapshot *snap);

#endif
