/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page at /metrics: the tabled metrics, gauges of each endpoint, of the process, and the names
 * that dashboards for llm-d's endpoint picker already use.
 */
#ifndef SLUICE_CONTROLPLANE_EXPORTER_H
#define SLUICE_CONTROLPLANE_EXPORTER_H

#include <stdio.h>

#include "base/config.h"
#include "base/endpoint.h"

/* snap may be NULL. Engine figures older than cfg->load_stale_ms are left out: unknown, not 0. */
void exporter_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap);

/* "ready", "draining", "open" or "trial". */
const char *endpoint_state_name(const struct endpoint *ep);
/* True if the engine's figures are fresh at now_ns. */
bool endpoint_load_is_fresh(const struct config *cfg, const struct endpoint *ep, uint64_t now_ns);
/* pool_metrics.c: load by role. */
void pool_metrics_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap,
			uint64_t now_ns);

#endif
