/* SPDX-License-Identifier: Apache-2.0 */
/* A metrics page that was read whole becomes the endpoint's load; restarts are noticed here. */
#ifndef SLUICE_CONTROLPLANE_SCRAPE_H
#define SLUICE_CONTROLPLANE_SCRAPE_H

#include "base/endpoint.h"
#include "controlplane/metrics_parse.h"

/* Writes what the page said; what it did not say stays. The time moves if any load figure came. */
void scrape_apply(struct endpoint *ep, const struct engine_metrics *m, uint64_t now_ns);

/*
 * Is this page another process's than the last one's? A changed start time says so, or a counter
 * that went back. Updates the two memories, 0 meaning never seen.
 */
bool scrape_restarted(const struct engine_metrics *m, double *start_time, double *queries);

#endif
