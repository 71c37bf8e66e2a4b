/* SPDX-License-Identifier: Apache-2.0 */
/* A Mooncake trace in memory, in order of arrival. */
#ifndef SLUICE_FLEET_TRACE_H
#define SLUICE_FLEET_TRACE_H

#include "sluice-fleet/engine.h"

#define TRACE_IDS_MAX 4096 /* of one row; further ones are dropped */

struct trace {
	struct fleet_request *rows;
	uint32_t count;
};

/* 0, -errno of the file, or -EBADMSG at the row after the last one read. trace_free() it. */
int trace_read(const char *path, struct trace *ret);
/* Arrivals up to jitter_s later, by chance; in order again. */
void trace_jitter(struct trace *t, double jitter_s, uint64_t seed);
void trace_free(struct trace *t);

#endif
