/* SPDX-License-Identifier: Apache-2.0 */
/* Pairing heaps of items, rings of flows, and the three ways to be fair. */
#include "dataplane/flow_queue.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROBES 16

/* ---- the heap of a flow ---- */

static bool before(const struct flow_item *a, const struct flow_item *b)
{
	return a->key != b->key ? a->key < b->key : a->sequence < b->sequence;
}

static struct flow_item *meld(struct flow_item *a, struct flow_item *b)
{
	struct flow_item *swap;

	if (!a || !b)
		return a ? a : b;
	if (before(b, a)) {
		swap = a;
		a = b;
		b = swap;
	}
	b->prev = a;
	b->sibling = a->child;
	if (a->child)
		a->child->prev = b;
	a->child = b;
	return a;
}

/* Melds a list of siblings: pairs from the left, then all from the right. */
static struct flow_item *meld_all(struct flow_item *first)
{
	struct flow_item *pairs = NULL, *root = NULL;

	while (first) {
		struct flow_item *a = first, *b = a->sibling, *pair;

		first = b ? b->sibling : NULL;
		a->sibling = a->prev = NULL;
		if (b)
			b->sibling = b->prev = NULL;
		pair = meld(a, b);
		pair->sibling = pairs;
		pairs = pair;
	}
	while (pairs) {
		struct flow_item *next = pairs->sibling;

		pairs->sibling = NULL;
		root = meld(root, pairs);
		pairs = next;
	}
	if (root)
		root->prev = root->sibling = NULL;
	return root;
}

static void heap_remove(struct flow_item **root, struct flow_item *x)
{
	struct flow_item *below = meld_all(x->child);

	if (*root == x) {
		*root = below;
	} else {
		if (x->prev->child == x)
			x->prev->child = x->sibling;
		else
			x->prev->sibling = x->sibling;
		if (x->sibling)
			x->sibling->prev = x->prev;
		*root = meld(*root, below);
	}
	x->child = x->sibling = x->prev = NULL;
}

/* ---- flows ---- */

int flow_queue_init(struct flow_queue *q)
{
	memset(q, 0, sizeof(*q));
	q->flows = calloc(FLOWS_MAX + FLOW_BANDS_MAX, sizeof(*q->flows));
	return q->flows ? 0 : -ENOMEM;
}

void flow_queue_fini(struct flow_queue *q)
{
	free(q->flows);
	q->flows = NULL;
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	return x ^ (x >> 33);
}

static struct flow *flow_find(struct flow_queue *q, uint8_t band, uint64_t tenant, bool make)
{
	uint64_t at = mix(tenant + band) % FLOWS_MAX;
	struct flow *idle = NULL;

	for (unsigned int i = 0; i < PROBES; i++) {
		struct flow *f = &q->flows[(at + i) % FLOWS_MAX];

		if (f->used && f->tenant == tenant && f->band == band)
			return f;
		if (!f->count && (!idle || (idle->used && f->service_ns < idle->service_ns)))
			idle = f;
	}
	if (!make)
		return NULL;
	if (!idle) { /* more tenants than places: these share one flow */
		idle = &q->flows[FLOWS_MAX + band];
		tenant = ~0ULL;
	}
	if (!idle->count)
		*idle = (struct flow){.used = true, .tenant = tenant, .band = band};
	return idle;
}

/* The ring is sorted by tenant, so that turns do not depend on who came first. */
static void ring_add(struct flow_queue_band *b, struct flow *f)
{
	struct flow *at = b->ring;

	if (!at) {
		f->next = f->prev = b->ring = f;
		return;
	}
	do {
		uint64_t low = at->tenant, high = at->next->tenant, t = f->tenant;

		if (low <= high ? low <= t && t < high : t >= low || t < high)
			break;
		at = at->next;
	} while (at != b->ring);
	f->next = at->next;
	f->prev = at;
	at->next->prev = f;
	at->next = f;
}

static void ring_remove(struct flow_queue_band *b, struct flow *f)
{
	if (b->ring == f)
		b->ring = f->next == f ? NULL : f->next;
	f->next->prev = f->prev;
	f->prev->next = f->next;
}

void flow_queue_push(struct flow_queue *q, struct flow_item *item, bool strict)
{
	struct flow_queue_band *b = &q->bands[item->band];
	struct flow *f = flow_find(q, item->band, strict ? 0 : item->tenant, true);

	item->child = item->sibling = item->prev = NULL;
	item->sequence = ++q->sequence;
	item->flow = f;
	f->heap = meld(f->heap, item);
	if (f->count++ == 0)
		ring_add(b, f);
	b->count++;
	q->count++;
}

void flow_queue_remove(struct flow_queue *q, struct flow_item *item)
{
	struct flow *f = item->flow;
	struct flow_queue_band *b = &q->bands[item->band];

	heap_remove(&f->heap, item);
	item->flow = NULL;
	if (--f->count == 0)
		ring_remove(b, f);
	b->count--;
	q->count--;
}

/* ---- fairness ---- */

static struct flow *next_turn(struct flow_queue_band *b)
{
	struct flow *f = b->ring, *least = f;

	do {
		if (f->tenant < least->tenant)
			least = f;
		f = f->next;
	} while (f != b->ring);
	f = least;
	do {
		if (f->tenant > b->last)
			return f;
		f = f->next;
	} while (f != least);
	return least;
}

static double service_of(const struct flow *f, double half_life_s, uint64_t now_ns)
{
	if (f->service <= 0 || now_ns <= f->service_ns)
		return f->service;
	return f->service * exp2(-(double)(now_ns - f->service_ns) / 1e9 / half_life_s);
}

enum las {
	LAS_STRATEGY,
	LAS_TTL,
	LAS_SWEEP,
	LAS_SERVICE,
	LAS_WAIT,
	LAS_HALF_LIFE
};

/* The least served and the longest waiting: service (1 - s / max s) + wait w / max w. */
static struct flow *least_served(struct flow_queue_band *b, const struct plugin *p, uint64_t now_ns)
{
	double most_service = 0, most_wait = 0, best = -1;
	struct flow *f = b->ring, *found = f;

	do {
		most_service = fmax(most_service, service_of(f, p->params[LAS_HALF_LIFE], now_ns));
		most_wait = fmax(most_wait, (double)(now_ns - f->heap->since_ns));
		f = f->next;
	} while (f != b->ring);
	do {
		double s = service_of(f, p->params[LAS_HALF_LIFE], now_ns);
		double w = (double)(now_ns - f->heap->since_ns), score = 0;

		score += p->params[LAS_SERVICE] * (1 - (most_service > 0 ? s / most_service : 0));
		score += p->params[LAS_WAIT] * (most_wait > 0 ? w / most_wait : 0);
		if (score > best) {
			best = score;
			found = f;
		}
		f = f->next;
	} while (f != b->ring);
	return found;
}

static struct flow *best_head(struct flow_queue_band *b)
{
	struct flow *f = b->ring, *best = f;

	for (f = f->next; f != b->ring; f = f->next)
		if (before(f->heap, best->heap))
			best = f;
	return best;
}

struct flow_item *flow_queue_next(struct flow_queue *q, uint8_t band, const struct plugin *fairness,
				  uint64_t now_ns)
{
	struct flow_queue_band *b = &q->bands[band];
	struct flow *f;

	if (!b->ring)
		return NULL;
	if (strcmp(fairness->type->name, "round-robin-fairness-policy") == 0)
		f = next_turn(b);
	else if (strcmp(fairness->type->name, "program-aware-fairness") == 0)
		f = least_served(b, fairness, now_ns);
	else
		f = best_head(b);
	b->last = f->tenant;
	return f->heap;
}

struct flow_item *flow_queue_last(struct flow_queue *q, uint8_t band)
{
	struct flow *f = q->bands[band].ring;
	struct flow_item *x = f ? f->prev->heap : NULL;

	while (x && x->child)
		x = x->child;
	return x;
}

void flow_queue_served(struct flow_queue *q, uint8_t band, uint64_t tenant, double tokens,
		       double half_life_s, uint64_t now_ns)
{
	struct flow *f = flow_find(q, band, tenant, true);

	f->service = service_of(f, half_life_s, now_ns) + tokens;
	f->service_ns = now_ns;
}
