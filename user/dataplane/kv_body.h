/* SPDX-License-Identifier: Apache-2.0 */
/* The members of a request's body that make its prompt, as the precise index needs them. */
#ifndef SLUICE_DATAPLANE_KV_BODY_H
#define SLUICE_DATAPLANE_KV_BODY_H

#include "dataplane/request.h"
#include "kv/kv_index.h"

/*
 * The prompt as the engine will see it; *ret borrows the worker's memory until its next request.
 * False: not known for sure.
 */
bool kv_body_read(struct request *req, const struct model *model, struct kv_prompt *ret);

#endif
