/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rings of decisions. Positions are virtual: they only grow, and a record lies at its position
 * modulo the ring's bytes. A record is whole as long as the writer's announced position is at most
 * one ring further; the writer announces before it writes, readers check after they copied.
 */
#include "scheduler/decisions.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "scheduler/decisions_ring.h"

#define WORKER_SHIFT 40 /* decision id: worker + 1 above, sequence below; exact as a double */

static int ring_init(struct decision_ring *r, uint64_t entries)
{
	r->entry_count = entries;
	r->bytes = entries * DECISION_BYTES_MEAN;
	if (r->bytes < decision_bytes(ENDPOINTS_MAX))
		r->bytes = (decision_bytes(ENDPOINTS_MAX) + 7) / 8 * 8;
	r->entries = calloc(entries, sizeof(*r->entries));
	r->words = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->words == MAP_FAILED)
		r->words = NULL;
	return r->entries && r->words ? 0 : -ENOMEM;
}

void decisions_profile(struct decisions *set, unsigned int i, const char *const *scorers,
		       const double *weights, unsigned int scorer_count)
{
	struct decision_profile *p = &set->profiles[i % DECISION_PROFILES_MAX];

	p->scorer_count = scorer_count < DECISION_SCORERS_MAX ? scorer_count : DECISION_SCORERS_MAX;
	for (unsigned int k = 0; k < p->scorer_count; k++) {
		p->scorers[k] = scorers[k];
		p->weights[k] = weights[k];
	}
}

int decisions_new(uint64_t count, unsigned int workers, struct decisions **ret)
{
	struct decisions *set = calloc(1, sizeof(*set) + workers * sizeof(set->rings[0]));

	if (!set)
		return -ENOMEM;
	set->workers = workers;
	for (unsigned int i = 0; count && i < workers; i++) {
		if (ring_init(&set->rings[i], (count + workers - 1) / workers) == 0)
			continue;
		decisions_free(set);
		return -ENOMEM;
	}
	*ret = set;
	return 0;
}

void decisions_free(struct decisions *set)
{
	if (!set)
		return;
	for (unsigned int i = 0; i < set->workers; i++) {
		free(set->rings[i].entries);
		if (set->rings[i].words)
			munmap(set->rings[i].words, set->rings[i].bytes);
	}
	free(set);
}

size_t decision_bytes(unsigned int candidates)
{
	return (sizeof(struct decision) + candidates * sizeof(struct decision_candidate) + 7) / 8 *
	       8;
}

/* Where the next record goes: a lap ends when the ring's bytes or its entries are used up. */
static uint64_t ring_reserve(struct decision_ring *r, size_t bytes)
{
	uint64_t offset = r->position % r->bytes;

	if (r->lap_entries == r->entry_count || offset + bytes > r->bytes) {
		if (offset)
			r->position += r->bytes - offset;
		r->lap_entries = 0;
	}
	r->lap_entries++;
	return r->position;
}

uint64_t decisions_put(struct decisions *set, unsigned int worker, struct decision *d)
{
	struct decision_ring *r = &set->rings[worker];
	size_t bytes = decision_bytes(d->candidate_count);
	struct decision_entry *e;
	uint64_t *to, position, word;

	if (!r->entry_count)
		return 0;
	position = ring_reserve(r, bytes);
	r->position = position + bytes;
	atomic_store_explicit(&r->announced, r->position, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	d->id = (uint64_t)(worker + 1) << WORKER_SHIFT | r->sequence;
	d->id_hash = XXH3_64bits(d->request_id, strnlen(d->request_id, DECISION_ID_BYTES));
	to = r->words + position % r->bytes / 8;
	for (size_t i = 0; i < bytes / 8; i++) {
		memcpy(&word, (const char *)d + i * 8, 8);
		__atomic_store_n(&to[i], word, __ATOMIC_RELAXED);
	}
	e = &r->entries[r->sequence % r->entry_count];
	atomic_store_explicit(&e->id_hash, d->id_hash, memory_order_relaxed);
	atomic_store_explicit(&e->bytes, bytes, memory_order_relaxed);
	atomic_store_explicit(&e->position, position, memory_order_release);
	r->sequence++;
	atomic_store_explicit(&r->written, r->sequence, memory_order_release);
	return d->id;
}

static bool ring_intact(struct decision_ring *r, uint64_t position)
{
	return atomic_load_explicit(&r->announced, memory_order_relaxed) <= position + r->bytes;
}

/* Where the outcome of the worker's own record lies, or NULL. */
static uint64_t *outcome_place(struct decisions *set, unsigned int worker, uint64_t id)
{
	struct decision_ring *r = &set->rings[worker];
	uint64_t sequence = id & ((1ULL << WORKER_SHIFT) - 1), position;

	if (id >> WORKER_SHIFT != worker + 1 || r->sequence - sequence > r->entry_count)
		return NULL;
	position = atomic_load_explicit(&r->entries[sequence % r->entry_count].position,
					memory_order_relaxed);
	if (!ring_intact(r, position))
		return NULL;
	return r->words + (position % r->bytes + offsetof(struct decision, done)) / 8;
}

void decisions_note_path(struct decisions *set, unsigned int worker, uint64_t id,
			 const struct path_choice *path)
{
	uint64_t *to = outcome_place(set, worker, id), word;
	struct decision_outcome outcome = {.path = *path};
	size_t last = sizeof(outcome) / 8 - 1;

	if (!to)
		return;
	memcpy(&word, (const char *)&outcome + last * 8, 8);
	__atomic_store_n(&to[last], word, __ATOMIC_RELEASE);
}

void decisions_finish(struct decisions *set, unsigned int worker, uint64_t id,
		      const struct decision_outcome *outcome)
{
	uint64_t *to = outcome_place(set, worker, id), word;

	if (!to)
		return;
	for (size_t i = sizeof(*outcome) / 8; i-- > 0;) { /* `done`, in the first, comes last */
		memcpy(&word, (const char *)outcome + i * 8, 8);
		__atomic_store_n(&to[i], word, __ATOMIC_RELEASE);
	}
}

/* A copy of the record of that sequence number, or NULL if it was overwritten. */
static struct decision *ring_copy(struct decision_ring *r, uint64_t sequence)
{
	struct decision_entry *e = &r->entries[sequence % r->entry_count];
	uint64_t position = atomic_load_explicit(&e->position, memory_order_acquire);
	uint64_t bytes = atomic_load_explicit(&e->bytes, memory_order_relaxed), word;
	const uint64_t *from = r->words + position % r->bytes / 8;
	struct decision *copy;

	if (bytes < sizeof(struct decision) || position % r->bytes + bytes > r->bytes)
		return NULL;
	copy = calloc(1, bytes);
	if (!copy)
		return NULL;
	for (size_t i = 0; i < bytes / 8; i++) {
		word = __atomic_load_n(&from[i], __ATOMIC_ACQUIRE);
		memcpy((char *)copy + i * 8, &word, 8);
	}
	atomic_thread_fence(memory_order_acquire);
	if (ring_intact(r, position) && decision_bytes(copy->candidate_count) == bytes)
		return copy;
	free(copy);
	return NULL;
}

static struct decision *newer_of(struct decision *a, struct decision *b)
{
	if (!a || (b && b->now_ns > a->now_ns)) {
		free(a);
		return b;
	}
	free(b);
	return a;
}

static bool helps(uint16_t role)
{
	return role == SLUICE_ROLE_PREFILL || role == SLUICE_ROLE_ENCODE;
}

/* role 0: of the leg that answers. */
static struct decision *ring_find(struct decision_ring *r, uint64_t id_hash, uint16_t role)
{
	uint64_t written = atomic_load_explicit(&r->written, memory_order_acquire);
	uint64_t count = written < r->entry_count ? written : r->entry_count;

	for (uint64_t i = 1; i <= count; i++) {
		struct decision_entry *e = &r->entries[(written - i) % r->entry_count];
		struct decision *d;

		if (atomic_load_explicit(&e->id_hash, memory_order_relaxed) != id_hash)
			continue;
		d = ring_copy(r, written - i);
		if (d && d->id_hash == id_hash && (helps(d->role) ? d->role : 0) == role)
			return d;
		free(d);
	}
	return NULL;
}

struct decision *decisions_find(struct decisions *set, struct span request_id)
{
	return decisions_find_leg(set, request_id, 0);
}

struct decision *decisions_find_leg(struct decisions *set, struct span request_id, uint16_t role)
{
	size_t len =
		request_id.len < DECISION_ID_BYTES - 1 ? request_id.len : DECISION_ID_BYTES - 1;
	uint64_t id_hash = XXH3_64bits(request_id.ptr, len);
	struct decision *found = NULL;

	for (unsigned int i = 0; i < set->workers; i++)
		if (set->rings[i].entry_count)
			found = newer_of(found, ring_find(&set->rings[i], id_hash, role));
	return found;
}

unsigned int decisions_recent(struct decisions *set, struct decision **ret, unsigned int max)
{
	uint64_t taken[WORKERS_MAX] = {0};
	struct decision *heads[WORKERS_MAX] = {NULL};
	unsigned int n = 0;

	while (n < max) {
		int best = -1;

		for (unsigned int i = 0; i < set->workers; i++) {
			struct decision_ring *r = &set->rings[i];
			uint64_t written = atomic_load_explicit(&r->written, memory_order_acquire);

			if (!heads[i] && taken[i] < written && taken[i] < r->entry_count)
				heads[i] = ring_copy(r, written - ++taken[i]);
			if (heads[i] && (best < 0 || heads[i]->now_ns > heads[best]->now_ns))
				best = (int)i;
		}
		if (best < 0)
			break;
		ret[n++] = heads[best];
		heads[best] = NULL;
	}
	for (unsigned int i = 0; i < set->workers; i++)
		free(heads[i]);
	return n;
}
