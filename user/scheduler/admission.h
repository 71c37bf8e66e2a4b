/* SPDX-License-Identifier: Apache-2.0 */
/*
 * May a request go on? How full the pool is, up to where a priority may fill it, and the admitters
 * of the configuration. Figures are this gateway's own counts wherever the engines' are old.
 */
#ifndef SLUICE_SCHEDULER_ADMISSION_H
#define SLUICE_SCHEDULER_ADMISSION_H

#include "scheduler/config/setup.h"

/*
 * Mean over the pool by the setup's detector, the fuller of the prefill and the decode stage; 1 is
 * full, more is possible. Without an endpoint 1. *ret_ready: endpoints that can be picked.
 */
double admission_saturation(const struct setup *setup, const struct endpoint_snapshot *snap,
			    uint64_t now_ns, uint64_t stale_ns, uint32_t *ret_ready);

/* The bands that exist, as a usage limit sees them. */
struct admission_bands {
	uint32_t rank, count;	     /* 0 is the highest */
	int32_t priority, high, low; /* of this, the highest and the lowest band */
};

/* Up to which saturation the band may dispatch. *calls counts those of the soft policy. */
double admission_ceiling(const struct plugin *limit, const struct admission_bands *bands,
			 double saturation, uint64_t *calls);

/* Do the setup's admitters let the request pass? Its candidates are known by now. */
bool admission_admits(const struct setup *setup, const struct sched_view *view);

/* Reads the figures of an endpoint as a candidate; see plugin.h on what is known and unseen. */
void candidate_read(struct sched_candidate *c, struct endpoint *ep, uint32_t view, uint64_t now_ns,
		    uint64_t stale_ns);

#endif
