/* SPDX-License-Identifier: Apache-2.0 */
/* How full one pod is by the rule of a saturation detector: 1 is full, more is possible. */
#ifndef SLUICE_SCHEDULER_SATURATION_H
#define SLUICE_SCHEDULER_SATURATION_H

#include "scheduler/plugin.h"

/* max(waiting / queueDepthThreshold, kv / kvCacheUtilThreshold); stale: own requests / 100. */
double saturation_utilization(const struct plugin *p, const struct sched_candidate *c);
/* Own requests or tokens in flight against the maximum, or the larger of both. */
double saturation_concurrency(const struct plugin *p, const struct sched_candidate *c);

#endif
