/* SPDX-License-Identifier: Apache-2.0 */
/* References to endpoints and snapshots, the mailbox between store and workers, look-ups. */
#include "base/endpoint.h"

#include <stdlib.h>
#include <xxhash.h>

struct endpoint *endpoint_get(struct endpoint *ep)
{
	atomic_fetch_add_explicit(&ep->refs, 1, memory_order_relaxed);
	return ep;
}

void endpoint_put(struct endpoint *ep)
{
	if (!ep || atomic_fetch_sub_explicit(&ep->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned int i = 0; i < ep->label_count; i++) {
		free(ep->labels[i].key);
		free(ep->labels[i].value);
	}
	free(ep);
}

struct endpoint_snapshot *snapshot_get(struct endpoint_snapshot *snap)
{
	atomic_fetch_add_explicit(&snap->refs, 1, memory_order_relaxed);
	return snap;
}

void snapshot_put(struct endpoint_snapshot *snap)
{
	if (!snap || atomic_fetch_sub_explicit(&snap->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned int i = 0; i < snap->view_count; i++)
		endpoint_put(snap->views[i]);
	free(snap->views);
	free(snap->models);
	free(snap->model_table);
	free(snap);
}

const struct model *snapshot_find_model(const struct endpoint_snapshot *snap, struct span name)
{
	uint32_t hash = XXH32(name.ptr, name.len, 0);

	if (snap->model_table) {
		/* The table is at most half full, so the walk ends. */
		for (uint32_t i = hash & snap->model_mask; snap->model_table[i] != UINT16_MAX;
		     i = (i + 1) & snap->model_mask) {
			const struct model *m = &snap->models[snap->model_table[i]];

			if (m->hash == hash && span_eq(span_of_str(m->name), name))
				return m;
		}
		return NULL;
	}
	for (unsigned int i = 0; i < snap->model_count; i++)
		if (snap->models[i].hash == hash &&
		    span_eq(span_of_str(snap->models[i].name), name))
			return &snap->models[i];
	return NULL;
}

const char *endpoint_label(const struct endpoint *ep, const char *key)
{
	for (unsigned int i = 0; i < ep->label_count; i++)
		if (strcmp(ep->labels[i].key, key) == 0)
			return ep->labels[i].value;
	return NULL;
}

unsigned int endpoint_adapter(const struct endpoint *ep, uint32_t hash)
{
	const struct adapters *a = &ep->adapters;
	uint32_t count = atomic_load_explicit(&a->count, memory_order_relaxed);
	uint64_t known;

	for (uint32_t i = 0; i < count && i < ADAPTERS_MAX; i++) {
		known = atomic_load_explicit(&a->known[i], memory_order_relaxed);
		if (known >> 2 == hash)
			return (unsigned int)(known & 3);
	}
	return 0;
}

void endpoint_mailbox_take(struct endpoint_mailbox *box, struct endpoint_snapshot **held)
{
	struct endpoint_snapshot *next;

	if (!atomic_load_explicit(&box->next, memory_order_relaxed))
		return;
	next = atomic_exchange_explicit(&box->next, NULL, memory_order_acq_rel);
	if (!next)
		return;
	snapshot_put(*held);
	*held = next;
}

void endpoint_mailbox_post(struct endpoint_mailbox *box, struct endpoint_snapshot *snap)
{
	snapshot_put(atomic_exchange_explicit(&box->next, snap, memory_order_acq_rel));
}
