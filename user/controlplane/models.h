/* SPDX-License-Identifier: Apache-2.0 */
/* An engine's answer to GET /v1/models, as the list that the store keeps. */
#ifndef SLUICE_CONTROLPLANE_MODELS_H
#define SLUICE_CONTROLPLANE_MODELS_H

#include "controlplane/store.h"

/*
 * Reads {"data": [{"id", "parent"}…]}. Ids that are empty or too long are passed over; at most
 * MODELS_MAX are taken. 0 with *ret_list (free it) and *ret_count, or -EBADMSG, -ENOMEM.
 */
int models_parse(const char *bytes, size_t len, struct model_name **ret_list,
		 unsigned int *ret_count);

#endif
