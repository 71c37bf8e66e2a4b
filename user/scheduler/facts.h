/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all workers remember of earlier picks besides the prefix index: when an endpoint was last
 * given a cold prompt, and which media items it was sent. Fixed memory, no lock: each word is a
 * fact of its own, and losing one costs a cache hit, nothing else.
 */
#ifndef SLUICE_SCHEDULER_FACTS_H
#define SLUICE_SCHEDULER_FACTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/endpoint.h"

#define MEDIA_TABLE_ITEMS (1 << 18)
#define MEDIA_WAYS	  4
#define MEDIA_ITEMS_MAX	  64 /* of one request; further ones are not looked at */

struct shared_facts {
	_Atomic uint64_t cold_clock;
	_Atomic uint64_t cold_at[ENDPOINTS_MAX]; /* by slot: cold_clock of its last cold pick */
	_Atomic uint64_t media[MEDIA_TABLE_ITEMS];
};

struct sched_request;

/* Fills ret with the hashes of the request's distinct media items, at most MEDIA_ITEMS_MAX. */
uint32_t facts_media_items(const struct sched_request *req, uint64_t *ret);

/* The endpoint was given a prompt that nobody had cached. Any thread. */
void facts_cold_pick(struct shared_facts *f, const struct endpoint *ep);

/* Was the item sent to the endpoint lately? Note that it was now. Any thread. */
bool facts_media_held(const struct shared_facts *f, const struct endpoint *ep, uint64_t item);
void facts_media_sent(struct shared_facts *f, const struct endpoint *ep, uint64_t item);

#endif
