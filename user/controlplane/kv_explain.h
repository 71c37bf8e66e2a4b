/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds how much of a prompt, and why not more: for people, on the admin port's thread. */
#ifndef SLUICE_CONTROLPLANE_KV_EXPLAIN_H
#define SLUICE_CONTROLPLANE_KV_EXPLAIN_H

#include <stdio.h>

#include "base/endpoint.h"
#include "kv/kv_index.h"
#include "kv/kv_models.h"
#include "kv/kv_trust.h"

struct kv_explainer {
	struct kv_index *index; /* NULL: no events are heard */
	struct kv_models *models;
	const struct kv_trust *trust;
};

/*
 * body: a request's, of any API. Writes a JSON object to f: the model's state, and each endpoint
 * that serves it with what it holds and one sentence. -EBADMSG: the body is no JSON object.
 */
int kv_explain(const struct kv_explainer *x, const struct endpoint_snapshot *snap, struct span body,
	       FILE *f);

#endif
