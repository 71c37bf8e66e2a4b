/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hears KV events: a thread with a ZeroMQ socket for each source, the one writer of the precise
 * index.
 *
 *   store's snapshot, learned sources --sync--> streams
 *   SUB (a source) --message--> order (kv_stream) --in order--> decode --> apply --> index
 *                                   '-- gap --> DEALER to the replay endpoint, SUB rests meanwhile
 *   SUB (bound, --kv-events-bind): engines connect to us and say in the topic who they are
 *
 * Invariant: an endpoint's blocks are in the index only while every message since it was bound (or
 * since its engine started) was applied in order; else it is forgotten and begun anew.
 */
#ifndef SLUICE_CONTROLPLANE_KV_LISTENER_H
#define SLUICE_CONTROLPLANE_KV_LISTENER_H

#include <pthread.h>
#include <stdio.h>

#include "base/config.h"
#include "controlplane/kv_sources.h"
#include "controlplane/store.h"
#include "kv/kv_index.h"
#include "kv/kv_models.h"

/* Written by the learner, read by the listener, under lock. By slot. */
struct kv_known {
	uint32_t generation;
	bool told; /* sources hold for that generation */
	unsigned int count;
	struct kv_source sources[KV_RANKS_MAX];
};

struct kv_shared {
	const struct config *config;
	struct store *store;
	struct kv_index *index;
	struct kv_models *models;
	pthread_mutex_t lock;
	uint64_t version; /* of known */
	struct kv_known known[ENDPOINTS_MAX];
	_Atomic uint64_t next[ENDPOINTS_MAX]; /* by slot: the message expected, for metrics */
};

/* The model, with a tokenizer, that an endpoint of the snapshot serves; NULL: none. */
struct kv_model *kv_endpoint_model(struct kv_models *models, const struct endpoint_snapshot *snap,
				   uint32_t view);

struct kv_listener;

/* Starts the thread. -errno (also when config's kv_events_bind cannot be bound). */
int kv_listener_start(struct kv_shared *shared, struct kv_listener **ret);
void kv_listener_stop(struct kv_listener *l);

#endif
