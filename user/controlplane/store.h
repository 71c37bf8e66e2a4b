/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The endpoint store: who is in the pool, in which slot of the maps, serving which models. Every
 * change makes a new immutable snapshot (base/endpoint.h), posted to each worker's mailbox.
 *
 * Invariant: a slot goes to another endpoint only when the last reference to its old one is gone,
 * and its generation grows then. An engine that restarted keeps its slot and gets a new generation,
 * so that what was known of its cache is forgotten everywhere by one comparison.
 *
 * Any thread may call; one mutex, never taken by workers.
 */
#ifndef SLUICE_CONTROLPLANE_STORE_H
#define SLUICE_CONTROLPLANE_STORE_H

#include "base/config.h"
#include "base/endpoint.h"

struct store;

/* Called under the store's lock; must not call back into the store. Either may be NULL. */
struct store_hooks {
	void *arg;
	/* The `endpoints` map has a new value at slot (state, name, generation…). */
	void (*endpoint_written)(void *arg, uint32_t slot, const struct sluice_endpoint *value);
	/* The slot's endpoint left or its engine restarted: the old generation's cache is void. */
	void (*endpoint_lost)(void *arg, uint32_t slot, uint32_t old_generation);
};

/* One endpoint as discovery describes it. Strings and labels belong to the caller. */
struct endpoint_spec {
	struct sockaddr_storage addr;
	socklen_t addr_len;
	const char *name; /* "" or NULL: the address */
	uint8_t role;	  /* mask of SLUICE_ROLE_* */
	const struct label *labels;
	unsigned int label_count;
};

/* A model that an endpoint serves, as its /v1/models says. */
struct model_name {
	char name[MODEL_NAME_BYTES_MAX];
	char parent[MODEL_NAME_BYTES_MAX]; /* "" for a base model */
};

/*
 * endpoints_map and load_map have ENDPOINTS_MAX elements (mmaped map or anonymous memory), outlive
 * the store and every endpoint; endpoints_map may be NULL when a hook writes it. hooks may be NULL.
 * NULL when memory is short.
 */
struct store *store_new(const struct config *config, struct sluice_endpoint *endpoints_map,
			struct sluice_endpoint_load *load_map, const struct store_hooks *hooks);
/* Workers and requests must have given their references back. */
void store_free(struct store *store);

/* Posts the present snapshot and every later one to box, which outlives the store. 0 or -ENOSPC. */
int store_attach_worker(struct store *store, struct endpoint_mailbox *box);

/* A reference to the present snapshot; never NULL. Give it back with snapshot_put. */
struct endpoint_snapshot *store_snapshot(struct store *store);

/* No new requests to the endpoint of that name or address / take them again. 0 or -ENOENT. */
int store_drain(struct store *store, const char *name_or_address);
int store_undrain(struct store *store, const char *name_or_address);

/*
 * Makes the pool exactly what specs say: the same address keeps its slot and its knowledge, what is
 * missing drains and leaves. Returns the number that found no slot (counted, logged).
 */
unsigned int store_set_endpoints(struct store *store, const struct endpoint_spec *specs,
				 unsigned int count);

/* What the endpoint in the slot serves now; a new snapshot only when that differs. */
void store_set_models(struct store *store, const struct endpoint *ep, const struct model_name *list,
		      unsigned int count);

/* The engine behind ep is another process now. */
void store_endpoint_restarted(struct store *store, const struct endpoint *ep);

/* Once in a while: frees slots whose last reference is gone, writes changed states to the map. */
void store_housekeep(struct store *store);

#endif
