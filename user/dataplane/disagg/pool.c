/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed memory for requests of several legs, and the tables from causes to counters. */
#include "dataplane/disagg/encode.h"
#include "dataplane/disagg/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler/config/setup.h"

static const char *connector_name(const struct config *cfg)
{
	return cfg->pd ? cfg->pd : "auto";
}

int disagg_check(const struct config *cfg, char *error, size_t size)
{
	const char *name = connector_name(cfg);
	const char *decider = cfg->pd_decider ? cfg->pd_decider : "sluice";

	if (strcmp(name, "off") && strcmp(name, "auto") && !pd_connector_find(name)) {
		snprintf(error, size,
			 "--pd %.40s: known are auto, off, nixlv2, sglang, mooncake, offloading, "
			 "shared-storage, moriio, sidecar",
			 name);
		return -EINVAL;
	}
	if (!pd_decider_find(decider)) {
		snprintf(error, size,
			 "--pd-decider %.40s: known are prefix, always, multimodal, sluice, never",
			 decider);
		return -EINVAL;
	}
	return 0;
}

/*
 * An EndpointPickerConfig decides, as far as it has a disagg handler; without one it asked for no
 * second leg, and only an explicit --pd makes one.
 */
static void decider_choose(struct disagg_pool *pool, const struct config *cfg,
			   const struct setup *setup)
{
	const char *name = cfg->pd_decider ? cfg->pd_decider : "sluice";

	if (setup->from_file)
		pool->encode_never = setup->handler != HANDLER_DISAGG ||
				     setup->encode == SETUP_NONE || !setup->has_encode_decider;
	if (setup->from_file && setup->handler == HANDLER_DISAGG) {
		name = setup->prefill_first && setup->prefill != SETUP_NONE ? "always" : "never";
		if (setup->prefill != SETUP_NONE && setup->has_prefill_decider) {
			pool->decider = setup->prefill_decider;
			return;
		}
	} else if (setup->from_file && pool->automatic) {
		pool->connector = NULL;
	}
	pd_decider_init(&pool->decider, pd_decider_find(name));
	if (strcmp(pool->decider.type->word, "prefix") == 0)
		pool->decider.params[0] = (double)cfg->pd_uncached_min;
}

/* Without pages until touched. */
static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int disagg_init(struct worker *w)
{
	const struct config *cfg = w->cfg;
	const char *name = connector_name(cfg);
	struct disagg_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	w->disagg = pool;
	pool->automatic = strcmp(name, "auto") == 0;
	pool->off = strcmp(name, "off") == 0;
	pool->connector = pd_connector_find(pool->automatic ? "nixlv2" : name);
	decider_choose(pool, cfg, scheduler_worker_setup(w->sched));
	pool->version = ~0ULL;
	pool->count = (uint32_t)cfg->connections_max * 2; /* those whose client left linger */
	pool->items = reserve(pool->count * sizeof(*pool->items));
	pool->encodes = reserve(pool->count / 2 * sizeof(*pool->encodes));
	return pool->items && pool->encodes ? 0 : -ENOMEM;
}

void disagg_fini(struct worker *w)
{
	struct disagg_pool *pool = w->disagg;

	if (!pool)
		return;
	if (pool->items)
		munmap(pool->items, pool->count * sizeof(*pool->items));
	if (pool->encodes)
		munmap(pool->encodes, pool->count / 2 * sizeof(*pool->encodes));
	free(pool);
	w->disagg = NULL;
}

struct disagg *disagg_new(struct worker *w)
{
	struct disagg_pool *pool = w->disagg;
	struct disagg *pd = pool->free;

	if (pd)
		pool->free = pd->next_free;
	else if (pool->fresh < pool->count)
		pd = &pool->items[pool->fresh++];
	else
		return NULL;
	memset(pd, 0, sizeof(*pd));
	pd->worker = w;
	pd->connector = pool->connector ? pool->connector : &pd_nixlv2; /* encode alone */
	return pd;
}

void disagg_free(struct disagg *pd)
{
	struct disagg_pool *pool = pd->worker->disagg;

	pd->next_free = pool->free;
	pool->free = pd;
}

/* Roles of the snapshot, looked at once for each. */
static void roles_read(struct disagg_pool *pool, const struct endpoint_snapshot *snap)
{
	bool prefill = false, decode = false;

	if (pool->version == snap->version)
		return;
	pool->encoders = false;
	for (uint32_t i = 0; i < snap->view_count; i++) {
		uint8_t role = snap->views[i]->role;

		prefill |= role & SLUICE_ROLE_PREFILL && !(role & SLUICE_ROLE_DECODE);
		decode |= role & SLUICE_ROLE_DECODE && !(role & SLUICE_ROLE_PREFILL);
		pool->encoders |= (role & SLUICE_ROLE_ENCODE) != 0;
	}
	pool->version = snap->version;
	pool->both_roles = prefill && decode;
}

bool disagg_wanted(struct worker *w)
{
	struct disagg_pool *pool = w->disagg;

	if (!pool->connector || !w->snapshot)
		return false;
	if (!pool->automatic)
		return true;
	roles_read(pool, w->snapshot);
	return pool->both_roles;
}

bool disagg_encoders(struct worker *w)
{
	struct disagg_pool *pool = w->disagg;

	if (pool->off || pool->encode_never || !w->snapshot)
		return false;
	roles_read(pool, w->snapshot);
	return pool->encoders;
}

struct encode *encode_new(struct worker *w)
{
	struct disagg_pool *pool = w->disagg;
	struct encode *e = pool->encodes_free;

	if (e)
		pool->encodes_free = e->next_free;
	else if (pool->encodes_fresh < pool->count / 2)
		e = &pool->encodes[pool->encodes_fresh++];
	return e;
}

void encode_free(struct worker *w, struct encode *e)
{
	e->next_free = w->disagg->encodes_free;
	w->disagg->encodes_free = e;
}

void disagg_count_decision(enum pd_reason reason)
{
	static const enum metric_counter counters[PD_REASONS] = {
		[PD_BECAUSE_ALWAYS] = M_PD_DECISION_ALWAYS,
		[PD_BECAUSE_NEVER] = M_PD_DECISION_NEVER,
		[PD_BECAUSE_UNCACHED] = M_PD_DECISION_UNCACHED,
		[PD_BECAUSE_CACHED] = M_PD_DECISION_CACHED,
		[PD_BECAUSE_SHORT] = M_PD_DECISION_SHORT,
		[PD_BECAUSE_MEDIA] = M_PD_DECISION_MEDIA,
		[PD_BECAUSE_NO_MEDIA] = M_PD_DECISION_NO_MEDIA,
		[PD_BECAUSE_GAIN] = M_PD_DECISION_GAIN,
		[PD_BECAUSE_NO_GAIN] = M_PD_DECISION_NO_GAIN,
		[PD_BECAUSE_NO_PREFILL] = M_PD_DECISION_NO_PREFILL,
	};

	metric_inc(counters[reason]);
}

#define CAUSES(prefix)                                                                             \
	{                                                                                          \
		[PD_CAUSE_NONE] = prefix##_STATUS,                                                 \
		[PD_CAUSE_REFUSED] = prefix##_REFUSED,                                             \
		[PD_CAUSE_RESET] = prefix##_RESET,                                                 \
		[PD_CAUSE_TIMEOUT] = prefix##_TIMEOUT,                                             \
		[PD_CAUSE_STATUS] = prefix##_STATUS,                                               \
		[PD_CAUSE_NO_PARAMS] = prefix##_NO_PARAMS,                                         \
		[PD_CAUSE_TOO_LARGE] = prefix##_TOO_LARGE,                                         \
		[PD_CAUSE_MALFORMED] = prefix##_MALFORMED,                                         \
		[PD_CAUSE_NO_MEMORY] = prefix##_NO_MEMORY,                                         \
		[PD_CAUSE_TRANSFER] = prefix##_TRANSFER,                                           \
		[PD_CAUSE_NO_POD] = prefix##_NO_POD,                                               \
	}

void disagg_count_prefill_failure(enum pd_cause cause)
{
	static const enum metric_counter counters[PD_CAUSES] = CAUSES(M_PD_PREFILL);

	metric_inc(counters[cause]);
}

void disagg_count_decode_failure(enum pd_cause cause)
{
	static const enum metric_counter counters[PD_CAUSES] = CAUSES(M_PD_DECODE);

	metric_inc(counters[cause]);
}

void disagg_count_encode_failure(enum pd_cause cause)
{
	static const enum metric_counter counters[PD_CAUSES] = CAUSES(M_PD_ENCODE);

	metric_inc(counters[cause]);
}

void disagg_count_alone(enum pd_cause cause)
{
	static const enum metric_counter counters[PD_CAUSES] = CAUSES(M_PD_ALONE);

	metric_inc(counters[cause]);
}
