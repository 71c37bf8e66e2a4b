/* SPDX-License-Identifier: Apache-2.0 */
/* A hash table of block hashes with an LRU list through it; both fixed at start. */
#include <stdlib.h>

#include "sluice-sim/sim.h"

struct node {
	uint64_t hash;
	uint32_t next_hash, newer, older;
};

struct cache {
	uint32_t capacity, limit, used, fresh, free, mask, newest, oldest;
	uint32_t *buckets;
	struct node *nodes; /* 1-based: 0 is none */
	void (*changed)(void *arg, uint64_t hash, bool stored);
	void *arg;
};

struct cache *cache_new(uint32_t blocks)
{
	struct cache *c = calloc(1, sizeof(*c));
	uint32_t size = 16;

	while (size < blocks)
		size *= 2;
	c->capacity = c->limit = blocks;
	c->mask = size - 1;
	c->buckets = calloc(size, sizeof(uint32_t));
	c->nodes = calloc((size_t)blocks + 1, sizeof(struct node));
	return c;
}

void cache_free(struct cache *c)
{
	free(c->buckets);
	free(c->nodes);
	free(c);
}

static uint32_t find(const struct cache *c, uint64_t hash)
{
	uint32_t i = c->buckets[hash & c->mask];

	while (i && c->nodes[i].hash != hash)
		i = c->nodes[i].next_hash;
	return i;
}

static void list_out(struct cache *c, uint32_t i)
{
	struct node *n = &c->nodes[i];

	*(n->newer ? &c->nodes[n->newer].older : &c->newest) = n->older;
	*(n->older ? &c->nodes[n->older].newer : &c->oldest) = n->newer;
}

static void list_in(struct cache *c, uint32_t i)
{
	c->nodes[i].older = c->newest;
	c->nodes[i].newer = 0;
	*(c->newest ? &c->nodes[c->newest].newer : &c->oldest) = i;
	c->newest = i;
}

static void evict(struct cache *c)
{
	uint32_t i = c->oldest, *link = &c->buckets[c->nodes[i].hash & c->mask];

	while (*link != i)
		link = &c->nodes[*link].next_hash;
	*link = c->nodes[i].next_hash;
	list_out(c, i);
	c->used--;
	if (c->changed)
		c->changed(c->arg, c->nodes[i].hash, false);
	c->nodes[i].next_hash = c->free;
	c->free = i;
}

static uint32_t node_take(struct cache *c)
{
	uint32_t i;

	if (c->used >= c->limit)
		evict(c);
	i = c->free;
	if (i)
		c->free = c->nodes[i].next_hash;
	else
		i = ++c->fresh;
	c->used++;
	return i;
}

void cache_limit(struct cache *c, uint32_t blocks)
{
	c->limit = blocks < 1 ? 1 : blocks < c->capacity ? blocks : c->capacity;
	while (c->used > c->limit)
		evict(c);
}

uint32_t cache_match(const struct cache *c, const uint64_t *chain, uint32_t count)
{
	uint32_t n = 0;

	while (n < count && find(c, chain[n]))
		n++;
	return n;
}

void cache_store(struct cache *c, const uint64_t *chain, uint32_t count)
{
	for (uint32_t k = count; k-- > 0;) {
		uint32_t i = find(c, chain[k]);

		if (i) {
			list_out(c, i);
		} else {
			i = node_take(c);
			c->nodes[i].hash = chain[k];
			c->nodes[i].next_hash = c->buckets[chain[k] & c->mask];
			c->buckets[chain[k] & c->mask] = i;
			if (c->changed)
				c->changed(c->arg, chain[k], true);
		}
		list_in(c, i);
	}
}

void cache_observe(struct cache *c, void (*changed)(void *arg, uint64_t hash, bool stored),
		   void *arg)
{
	c->changed = changed;
	c->arg = arg;
}

uint32_t cache_used(const struct cache *c)
{
	return c->used;
}
