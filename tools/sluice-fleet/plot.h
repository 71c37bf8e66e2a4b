/* SPDX-License-Identifier: Apache-2.0 */
/* Curves over the load, as one SVG: hit share, TTFT p90 (logarithmic) and goodput by policy. */
#ifndef SLUICE_FLEET_PLOT_H
#define SLUICE_FLEET_PLOT_H

#include "sluice-fleet/fleet.h"

/* results[policy * loads + load]. 0 or -errno of the file. */
int plot_write(const char *path, const char *const *policies, uint32_t policy_count,
	       const double *loads, uint32_t load_count, const struct fleet_result *results);

#endif
