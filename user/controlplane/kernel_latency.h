/* SPDX-License-Identifier: Apache-2.0 */
/* The map `latency` of the kernel paths as histograms of the exporter. */
#ifndef SLUICE_CONTROLPLANE_KERNEL_LATENCY_H
#define SLUICE_CONTROLPLANE_KERNEL_LATENCY_H

#include <stdio.h>

#include "base/endpoint.h"
#include "sluice/latency.h"

/*
 * Appends sluice_kernel_ttft_seconds{endpoint,packet}, sluice_kernel_gap_seconds{endpoint} and
 * sluice_kernel_stalls_total{endpoint} of every endpoint in snap that has any, from the map pinned
 * at path. Nothing without a map. A slot that went to another endpoint begins at 0. The admin's
 * thread.
 */
void kernel_latency_write(const char *path, const struct endpoint_snapshot *snap, FILE *f);

/* One CPU's row after another, as a lookup gives them, summed. */
void kernel_latency_sum(const struct sluice_latency *rows, unsigned int cpus,
			struct sluice_latency *ret);
/* The same text from rows that are summed already; rows[i] is of snap->views[i]. */
void kernel_latency_print(const struct sluice_latency *rows, const struct endpoint_snapshot *snap,
			  FILE *f);

#endif
