/* SPDX-License-Identifier: Apache-2.0 */
/* How a snapshot is made from what the store knows of each endpoint. Used by store.c and tests. */
#ifndef SLUICE_CONTROLPLANE_STORE_SNAPSHOT_H
#define SLUICE_CONTROLPLANE_STORE_SNAPSHOT_H

#include "base/endpoint.h"
#include "controlplane/store.h"

/* One endpoint that takes part in the snapshot. */
struct snapshot_member {
	struct endpoint *ep; /* the snapshot takes a reference of its own */
	const struct model_name *models;
	unsigned int model_count;
	bool models_known;
};

/* A snapshot with one reference, the caller's; NULL when memory is short. */
struct endpoint_snapshot *snapshot_build(const struct snapshot_member *members, unsigned int count,
					 uint64_t version);

#endif
