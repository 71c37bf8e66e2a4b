/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building a snapshot: views in the order of slots, the union of their models with a bit for each
 * view that serves one, a hash table over the names.
 * Invariant: nothing here is shared until the caller publishes it.
 */
#include "controlplane/store_snapshot.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/metrics.h"

/* The place of the name in the table: a model's, or the empty one where it belongs. */
static uint32_t table_place(const struct endpoint_snapshot *snap, const char *name, uint32_t hash)
{
	uint32_t i = hash & snap->model_mask;

	while (snap->model_table[i] != UINT16_MAX) {
		const struct model *m = &snap->models[snap->model_table[i]];

		if (m->hash == hash && strcmp(m->name, name) == 0)
			break;
		i = (i + 1) & snap->model_mask;
	}
	return i;
}

static void model_add(struct endpoint_snapshot *snap, const struct model_name *name,
		      unsigned int view)
{
	uint32_t hash = XXH32(name->name, strlen(name->name), 0);
	uint32_t place = table_place(snap, name->name, hash);
	struct model *m;

	if (snap->model_table[place] == UINT16_MAX) {
		if (snap->model_count == MODELS_MAX) {
			metric_inc(M_MODELS_REFUSED);
			return;
		}
		snap->model_table[place] = (uint16_t)snap->model_count;
		m = &snap->models[snap->model_count++];
		memcpy(m->name, name->name, sizeof(m->name));
		memcpy(m->parent, name->parent, sizeof(m->parent));
		m->hash = hash;
	}
	m = &snap->models[snap->model_table[place]];
	m->views[view / 64] |= 1ULL << (view % 64);
}

struct endpoint_snapshot *snapshot_build(const struct snapshot_member *members, unsigned int count,
					 uint64_t version)
{
	struct endpoint_snapshot *snap = calloc(1, sizeof(*snap));
	unsigned int models = 0, table = 64;

	if (!snap)
		return NULL;
	atomic_init(&snap->refs, 1);
	for (unsigned int i = 0; i < count; i++)
		models += members[i].model_count;
	if (models > MODELS_MAX)
		models = MODELS_MAX;
	while (table < 2 * models + 2)
		table *= 2;
	snap->version = version;
	snap->views = calloc(count ? count : 1, sizeof(snap->views[0]));
	snap->models = calloc(models ? models : 1, sizeof(snap->models[0]));
	snap->model_table = malloc(table * sizeof(snap->model_table[0]));
	snap->model_mask = table - 1;
	if (!snap->views || !snap->models || !snap->model_table) {
		snapshot_put(snap);
		return NULL;
	}
	memset(snap->model_table, 0xff, table * sizeof(snap->model_table[0]));
	for (unsigned int i = 0; i < count; i++) {
		snap->views[snap->view_count++] = endpoint_get(members[i].ep);
		snap->unlisted_count += !members[i].models_known;
		for (unsigned int k = 0; k < members[i].model_count; k++)
			model_add(snap, &members[i].models[k], i);
	}
	return snap;
}
