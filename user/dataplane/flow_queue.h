/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The waiting requests of one worker: bands by priority, in each the tenants' flows, in each the
 * requests by the band's order. Memory is fixed; each operation is O(log n) of the flow.
 *
 *   band (priority) --ring of flows that have something--> flow (tenant) --pairing heap--> item
 *
 * An item lies in its request and can leave from anywhere at any time. Knows nothing of sockets.
 */
#ifndef SLUICE_DATAPLANE_FLOW_QUEUE_H
#define SLUICE_DATAPLANE_FLOW_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/timers.h"
#include "scheduler/config/setup.h"
#include "sluice/limits.h"

struct flow;

struct flow_item {
	struct flow_item *child, *sibling, *prev; /* heap: prev is the parent or the left one */
	struct flow *flow;			  /* NULL: not waiting */
	uint64_t key, sequence;			  /* order: the least first */
	uint64_t since_ns, bytes, tenant;
	struct timer timer; /* its time to live */
	int32_t priority;
	uint8_t band;
	bool running;					/* dispatched, and may be evicted */
	struct flow_item *next_running, **link_running; /* of the worker's evictable ones */
};

struct flow {
	uint64_t tenant;
	struct flow_item *heap;
	uint32_t count;
	uint8_t band;
	bool used;
	struct flow *next, *prev; /* ring of the band's flows with waiting items, by tenant */
	double service;		  /* decayed; program-aware fairness */
	uint64_t service_ns;
};

struct flow_queue_band {
	struct flow *ring; /* any flow of the ring; NULL: nothing waits */
	uint64_t last;	   /* tenant served last */
	uint32_t count;
};

struct flow_queue {
	struct flow_queue_band bands[FLOW_BANDS_MAX];
	struct flow *flows; /* FLOWS_MAX, then one of each band for tenants without a place */
	uint32_t count;
	uint64_t sequence;
};

/* 0 or -ENOMEM. */
int flow_queue_init(struct flow_queue *q);
void flow_queue_fini(struct flow_queue *q);

/* item: key, tenant, band, since_ns are set. strict: all tenants are one flow. */
void flow_queue_push(struct flow_queue *q, struct flow_item *item, bool strict);
/* Out from wherever it stands. */
void flow_queue_remove(struct flow_queue *q, struct flow_item *item);
/* The next one of the band by the fairness policy, still in the queue. NULL: nothing waits. */
struct flow_item *flow_queue_next(struct flow_queue *q, uint8_t band, const struct plugin *fairness,
				  uint64_t now_ns);
/* Any item of the band that would be served late: for displacing. NULL: nothing waits. */
struct flow_item *flow_queue_last(struct flow_queue *q, uint8_t band);
/* The tenant had this much service (tokens): program-aware fairness remembers, decaying. */
void flow_queue_served(struct flow_queue *q, uint8_t band, uint64_t tenant, double tokens,
		       double half_life_s, uint64_t now_ns);

#endif
