/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The endpoint store: slots, generations, snapshots, draining. One mutex guards all of it; workers
 * only ever see published snapshots and the atomics of struct endpoint.
 * Invariant: slot->ep and each of slot->previous hold one reference of the store's, and the slot is
 * free only when those are the last ones. Left to others: where endpoints come from (discovery),
 * how they fare (scrape, health).
 */
#include "controlplane/store.h"

#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/health.h"
#include "base/load.h"
#include "base/log.h"
#include "base/metrics.h"
#include "controlplane/store_snapshot.h"

/* An object that was replaced in its slot while requests still hold it. */
struct previous {
	struct endpoint *ep;
	struct previous *next;
};

struct slot {
	struct endpoint *ep; /* NULL: free */
	struct previous *previous;
	uint32_t generation;
	bool removed, drained, models_known;
	struct model_name *models;
	unsigned int model_count;
	struct sluice_endpoint written;
};

struct store {
	pthread_mutex_t lock;
	struct sluice_endpoint *endpoints_map;
	struct sluice_endpoint_load *load_map;
	struct store_hooks hooks;
	struct slot slots[ENDPOINTS_MAX];
	struct endpoint_snapshot *current;
	struct endpoint_mailbox *boxes[WORKERS_MAX];
	unsigned int box_count;
	uint64_t version;
};

/* Field by field, because the map is open to readers at any time. */
static void load_clear(struct sluice_endpoint_load *load)
{
	load_write(load->waiting, 0);
	load_write(load->running, 0);
	load_write(load->kv_used_ppm, 0);
	load_write(load->block_tokens, 0);
	load_write(load->blocks_total, 0);
	load_write(load->inflight_requests, 0);
	load_write(load->inflight_tokens, 0);
	load_write(load->scraped_at_ns, 0);
	load_write(load->ttft_us, 0);
	load_write(load->itl_us, 0);
	load_write(load->requests_total, 0);
	load_write(load->cached_tokens_total, 0);
	load_write(load->prompt_tokens_total, 0);
	load_write(load->inflight_at_scrape, 0);
	load_write(load->ttft_error_mean_ppm, 0);
	load_write(load->ttft_error_p90_ppm, 0);
	load_write(load->itl_error_mean_ppm, 0);
	load_write(load->itl_error_p90_ppm, 0);
}

/*
 * The maps may be pins of an agent that is gone: nothing of it is true any more, but generations
 * go on, so that what was kept under an old one is never taken for a new endpoint's.
 */
static void maps_take_over(struct store *s)
{
	for (unsigned int i = 0; i < ENDPOINTS_MAX; i++) {
		struct slot *slot = &s->slots[i];

		load_clear(&s->load_map[i]);
		if (!s->endpoints_map)
			continue;
		slot->generation = s->endpoints_map[i].generation;
		slot->written = (struct sluice_endpoint){.generation = slot->generation};
		s->endpoints_map[i] = slot->written;
	}
}

struct store *store_new(const struct config *config, struct sluice_endpoint *endpoints_map,
			struct sluice_endpoint_load *load_map, const struct store_hooks *hooks)
{
	struct store *s = calloc(1, sizeof(*s));

	(void)config;
	if (!s)
		return NULL;
	pthread_mutex_init(&s->lock, NULL);
	s->endpoints_map = endpoints_map;
	s->load_map = load_map;
	if (hooks)
		s->hooks = *hooks;
	maps_take_over(s);
	s->current = snapshot_build(NULL, 0, 0);
	if (!s->current) {
		free(s);
		return NULL;
	}
	return s;
}

static void previous_free(struct slot *slot, bool all)
{
	struct previous **link = &slot->previous, *p;

	while ((p = *link)) {
		if (!all && atomic_load_explicit(&p->ep->refs, memory_order_acquire) != 1) {
			link = &p->next;
			continue;
		}
		*link = p->next;
		endpoint_put(p->ep);
		free(p);
	}
}

void store_free(struct store *s)
{
	if (!s)
		return;
	for (unsigned int i = 0; i < s->box_count; i++)
		endpoint_mailbox_post(s->boxes[i], NULL);
	snapshot_put(s->current);
	for (unsigned int i = 0; i < ENDPOINTS_MAX; i++) {
		previous_free(&s->slots[i], true);
		endpoint_put(s->slots[i].ep);
		free(s->slots[i].models);
	}
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Writes the slot's value to the map where it differs from the last one. */
static void slot_write(struct store *s, uint32_t i)
{
	struct slot *slot = &s->slots[i];
	struct sluice_endpoint value = {.generation = slot->generation};
	struct endpoint *ep = slot->ep;

	if (ep) {
		if (ep->addr.ss_family == AF_INET6) {
			const struct sockaddr_in6 *in6 = (const void *)&ep->addr;

			memcpy(value.addr, &in6->sin6_addr, 16);
			value.port = ntohs(in6->sin6_port);
		} else {
			const struct sockaddr_in *in = (const void *)&ep->addr;

			value.addr[10] = value.addr[11] = 0xff;
			memcpy(value.addr + 12, &in->sin_addr, 4);
			value.port = ntohs(in->sin_port);
		}
		value.state = health_state(ep);
		value.role = ep->role;
		memcpy(value.name, ep->name, sizeof(value.name));
	}
	if (memcmp(&value, &slot->written, sizeof(value)) == 0)
		return;
	slot->written = value;
	if (s->endpoints_map)
		s->endpoints_map[i] = value;
	if (s->hooks.endpoint_written)
		s->hooks.endpoint_written(s->hooks.arg, i, &value);
}

/* Makes the snapshot of the present slots and posts it. Short of memory: the old one stays. */
static void publish(struct store *s)
{
	struct snapshot_member *members = calloc(ENDPOINTS_MAX, sizeof(*members));
	struct endpoint_snapshot *snap = NULL;
	unsigned int count = 0;

	for (unsigned int i = 0; members && i < ENDPOINTS_MAX; i++) {
		const struct slot *slot = &s->slots[i];

		if (slot->ep && !slot->removed)
			members[count++] = (struct snapshot_member){
				slot->ep, slot->models, slot->model_count, slot->models_known};
	}
	if (members)
		snap = snapshot_build(members, count, s->version + 1);
	free(members);
	if (!snap) {
		log_error("no memory for a new snapshot of the endpoints; the old one stays");
		return;
	}
	s->version++;
	metric_inc(M_SNAPSHOTS);
	snapshot_put(s->current);
	s->current = snap;
	for (unsigned int i = 0; i < s->box_count; i++)
		endpoint_mailbox_post(s->boxes[i], snapshot_get(snap));
}

int store_attach_worker(struct store *s, struct endpoint_mailbox *box)
{
	int err = 0;

	pthread_mutex_lock(&s->lock);
	if (s->box_count == WORKERS_MAX) {
		err = -ENOSPC;
	} else {
		s->boxes[s->box_count++] = box;
		endpoint_mailbox_post(box, snapshot_get(s->current));
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

struct endpoint_snapshot *store_snapshot(struct store *s)
{
	struct endpoint_snapshot *snap;

	pthread_mutex_lock(&s->lock);
	snap = snapshot_get(s->current);
	pthread_mutex_unlock(&s->lock);
	return snap;
}

static int drain_set(struct store *s, const char *name, bool drained)
{
	int err = -ENOENT;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < ENDPOINTS_MAX; i++) {
		struct slot *slot = &s->slots[i];

		if (!slot->ep || slot->removed ||
		    (strcmp(slot->ep->name, name) && strcmp(slot->ep->address, name)))
			continue;
		slot->drained = drained;
		atomic_store(&slot->ep->draining, drained);
		slot_write(s, i);
		log_info("endpoint %s %s", name, drained ? "drains" : "takes requests again");
		err = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

int store_drain(struct store *s, const char *name_or_address)
{
	return drain_set(s, name_or_address, true);
}

int store_undrain(struct store *s, const char *name_or_address)
{
	return drain_set(s, name_or_address, false);
}

static bool addr_eq(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;

	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET6)
		return a6->sin6_port == b6->sin6_port && a6->sin6_scope_id == b6->sin6_scope_id &&
		       memcmp(&a6->sin6_addr, &b6->sin6_addr, 16) == 0;
	return a4->sin_port == b4->sin_port && a4->sin_addr.s_addr == b4->sin_addr.s_addr;
}

static void address_write(const struct sockaddr_storage *addr, char out[64])
{
	char ip[INET6_ADDRSTRLEN];

	if (addr->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)addr;

		inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof(ip));
		snprintf(out, 64, "[%s]:%u", ip, ntohs(in6->sin6_port));
	} else {
		const struct sockaddr_in *in = (const void *)addr;

		inet_ntop(AF_INET, &in->sin_addr, ip, sizeof(ip));
		snprintf(out, 64, "%s:%u", ip, ntohs(in->sin_port));
	}
}

/* An endpoint object for the slot, one reference. Labels are copied. NULL: no memory. */
static struct endpoint *endpoint_new(struct store *s, uint32_t i, const struct endpoint_spec *spec)
{
	struct endpoint *ep = calloc(1, sizeof(*ep));

	if (!ep)
		return NULL;
	atomic_init(&ep->refs, 1);
	ep->slot = (uint16_t)i;
	ep->generation = s->slots[i].generation;
	ep->role = spec->role;
	ep->addr = spec->addr;
	ep->addr_len = spec->addr_len;
	ep->load = &s->load_map[i];
	atomic_init(&ep->breaker.state, SLUICE_ENDPOINT_READY);
	atomic_init(&ep->draining, s->slots[i].drained);
	address_write(&ep->addr, ep->address);
	snprintf(ep->name, sizeof(ep->name), "%s",
		 spec->name && *spec->name ? spec->name : ep->address);
	for (unsigned int k = 0; k < spec->label_count && k < LABELS_MAX; k++) {
		ep->labels[k].key = strdup(spec->labels[k].key);
		ep->labels[k].value = strdup(spec->labels[k].value);
		ep->label_count++;
		if (!ep->labels[k].key || !ep->labels[k].value) {
			endpoint_put(ep);
			return NULL;
		}
	}
	return ep;
}

static bool same_description(const struct endpoint *ep, const struct endpoint_spec *spec)
{
	const char *name = spec->name && *spec->name ? spec->name : ep->address;

	if (strcmp(ep->name, name) || ep->role != spec->role ||
	    ep->label_count != spec->label_count)
		return false;
	for (unsigned int i = 0; i < spec->label_count; i++)
		if (strcmp(ep->labels[i].key, spec->labels[i].key) ||
		    strcmp(ep->labels[i].value, spec->labels[i].value))
			return false;
	return true;
}

/* Puts a new object in the slot's place; the old one stays known until nobody holds it. */
static bool slot_replace(struct store *s, uint32_t i, const struct endpoint_spec *spec)
{
	struct slot *slot = &s->slots[i];
	struct previous *p = calloc(1, sizeof(*p));
	struct endpoint *ep = p ? endpoint_new(s, i, spec) : NULL;

	if (!ep) {
		free(p);
		log_error("no memory for endpoint %s; it stays as it was", slot->ep->name);
		return false;
	}
	atomic_store(&ep->probe_failed, atomic_load(&slot->ep->probe_failed));
	p->ep = slot->ep;
	p->next = slot->previous;
	slot->previous = p;
	slot->ep = ep;
	return true;
}

static void slot_lost(struct store *s, uint32_t i)
{
	if (s->hooks.endpoint_lost)
		s->hooks.endpoint_lost(s->hooks.arg, i, s->slots[i].generation);
}

/* A free slot gets the endpoint. False: none is free, or no memory. */
static bool slot_fill(struct store *s, const struct endpoint_spec *spec)
{
	for (uint32_t i = 0; i < ENDPOINTS_MAX; i++) {
		struct slot *slot = &s->slots[i];

		if (slot->ep)
			continue;
		slot->generation++;
		slot->removed = slot->drained = slot->models_known = false;
		load_clear(&s->load_map[i]);
		slot->ep = endpoint_new(s, i, spec);
		if (slot->ep)
			log_info("endpoint %s joins at %s", slot->ep->name, slot->ep->address);
		slot_write(s, i);
		return slot->ep != NULL;
	}
	return false;
}

/* The spec's slot is brought up to it. Returns whether the snapshot must change. */
static bool slot_update(struct store *s, uint32_t i, const struct endpoint_spec *spec)
{
	struct slot *slot = &s->slots[i];
	bool changed = slot->removed;

	if (slot->removed) {
		slot->removed = false;
		atomic_store(&slot->ep->draining, slot->drained);
		log_info("endpoint %s is back", slot->ep->name);
	}
	if (!same_description(slot->ep, spec))
		changed |= slot_replace(s, i, spec);
	slot_write(s, i);
	return changed;
}

static bool slots_remove_unmarked(struct store *s, const uint64_t *keep)
{
	bool changed = false;

	for (uint32_t i = 0; i < ENDPOINTS_MAX; i++) {
		struct slot *slot = &s->slots[i];

		if (!slot->ep || slot->removed || keep[i / 64] >> (i % 64) & 1)
			continue;
		slot->removed = changed = true;
		atomic_store(&slot->ep->draining, true);
		log_info("endpoint %s leaves: no new requests, running ones finish",
			 slot->ep->name);
		slot_write(s, i);
	}
	return changed;
}

static int slot_of_addr(const struct store *s, const struct sockaddr_storage *addr)
{
	for (int i = 0; i < ENDPOINTS_MAX; i++)
		if (s->slots[i].ep && addr_eq(&s->slots[i].ep->addr, addr))
			return i;
	return -1;
}

unsigned int store_set_endpoints(struct store *s, const struct endpoint_spec *specs,
				 unsigned int count)
{
	uint64_t keep[ENDPOINTS_MAX / 64] = {0};
	unsigned int refused = 0;
	bool changed = false;

	pthread_mutex_lock(&s->lock);
	for (unsigned int k = 0; k < count; k++) {
		int i = slot_of_addr(s, &specs[k].addr);

		if (i >= 0 && keep[i / 64] >> (i % 64) & 1)
			continue; /* said twice: the first one counts */
		if (i >= 0) {
			changed |= slot_update(s, (uint32_t)i, &specs[k]);
		} else if (slot_fill(s, &specs[k])) {
			changed = true;
			i = slot_of_addr(s, &specs[k].addr);
		} else {
			refused++;
			continue;
		}
		keep[i / 64] |= 1ULL << (i % 64);
	}
	changed |= slots_remove_unmarked(s, keep);
	if (changed)
		publish(s);
	pthread_mutex_unlock(&s->lock);
	if (refused) {
		metric_add(M_ENDPOINTS_REFUSED, refused);
		log_error("%u endpoints found no slot: at most %d are served", refused,
			  ENDPOINTS_MAX);
	}
	return refused;
}

/* The slot that still has ep as its present object, or NULL. */
static struct slot *slot_of(struct store *s, const struct endpoint *ep)
{
	struct slot *slot = &s->slots[ep->slot];

	return slot->ep && slot->generation == ep->generation && addr_eq(&slot->ep->addr, &ep->addr)
		       ? slot
		       : NULL;
}

void store_set_models(struct store *s, const struct endpoint *ep, const struct model_name *list,
		      unsigned int count)
{
	struct model_name *copy = NULL;
	struct slot *slot;

	pthread_mutex_lock(&s->lock);
	slot = slot_of(s, ep);
	if (!slot || (slot->models_known && slot->model_count == count &&
		      (!count || memcmp(slot->models, list, count * sizeof(*list)) == 0)))
		goto unlock;
	if (count) {
		copy = malloc(count * sizeof(*list));
		if (!copy)
			goto unlock;
		memcpy(copy, list, count * sizeof(*list));
	}
	free(slot->models);
	slot->models = copy;
	slot->model_count = count;
	slot->models_known = true;
	if (!slot->removed)
		publish(s);
unlock:
	pthread_mutex_unlock(&s->lock);
}

void store_endpoint_restarted(struct store *s, const struct endpoint *ep)
{
	struct slot *slot;

	pthread_mutex_lock(&s->lock);
	slot = slot_of(s, ep);
	if (slot) {
		struct endpoint *now = slot->ep;
		struct endpoint_spec spec = {now->addr, now->addr_len, now->name,
					     now->role, now->labels,   now->label_count};

		slot_lost(s, ep->slot);
		slot->generation++;
		if (!slot_replace(s, ep->slot, &spec))
			slot->generation--;
		atomic_store(&slot->ep->draining, slot->drained || slot->removed);
		metric_inc(M_ENDPOINT_RESTARTS);
		log_info("endpoint %s: its engine restarted, its cache is empty", now->name);
		slot_write(s, ep->slot);
		if (!slot->removed)
			publish(s);
	}
	pthread_mutex_unlock(&s->lock);
}

static void slot_free(struct store *s, uint32_t i)
{
	struct slot *slot = &s->slots[i];

	log_info("endpoint %s is gone", slot->ep->name);
	slot_lost(s, i);
	endpoint_put(slot->ep);
	slot->ep = NULL;
	free(slot->models);
	slot->models = NULL;
	slot->model_count = 0;
	slot->models_known = slot->removed = slot->drained = false;
	load_clear(&s->load_map[i]);
}

void store_housekeep(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	for (uint32_t i = 0; i < ENDPOINTS_MAX; i++) {
		struct slot *slot = &s->slots[i];

		if (!slot->ep)
			continue;
		previous_free(slot, false);
		if (slot->removed && !slot->previous &&
		    atomic_load_explicit(&slot->ep->refs, memory_order_acquire) == 1)
			slot_free(s, i);
		slot_write(s, i);
	}
	pthread_mutex_unlock(&s->lock);
}
