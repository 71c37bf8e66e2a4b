/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer's side of the precise index. Words never move; a word whose holders are gone but that
 * says how its block goes on stays as a ghost until its place is needed, because children may
 * outlive their parent and be reached again when the parent is stored anew.
 */
#include <errno.h>
#include <string.h>

#include "kv/kv_table.h"

/* ---- pairs ---- */

static uint64_t pair_key(uint16_t owner, uint64_t hash)
{
	return kv_mix(hash) >> 19 << 11 | owner;
}

static uint64_t key_of(const struct kv_pair *p)
{
	return p->key_low | (uint64_t)p->key_mid << 32 | (uint64_t)p->key_high << 48;
}

static uint64_t key_home(const struct kv_index *ix, uint64_t key)
{
	return kv_scale(kv_mix(key), ix->pair_slots);
}

/* The pair, or the free place where it would stand. */
static struct kv_pair *pair_place(const struct kv_index *ix, uint64_t key)
{
	uint64_t i = key_home(ix, key);

	for (;; i = i + 1 < ix->pair_slots ? i + 1 : 0) {
		struct kv_pair *p = &ix->pairs[i];

		if (!p->state || (p->key_low == (uint32_t)key && key_of(p) == key))
			return p;
	}
}

static struct kv_pair *pair_find(const struct kv_index *ix, uint64_t key)
{
	struct kv_pair *p = pair_place(ix, key);

	return p->state ? p : NULL;
}

static void pair_put(struct kv_pair *place, uint64_t key, uint64_t state)
{
	*place = (struct kv_pair){.state = state,
				  .key_low = (uint32_t)key,
				  .key_mid = (uint16_t)(key >> 32),
				  .key_high = (uint8_t)(key >> 48)};
}

static uint64_t distance(const struct kv_index *ix, uint64_t from, uint64_t to)
{
	return to >= from ? to - from : to + ix->pair_slots - from;
}

/* Takes it out and closes the gap (Knuth's algorithm R). */
static void pair_take_out(struct kv_index *ix, uint64_t hole)
{
	uint64_t i = hole;

	for (;;) {
		i = i + 1 < ix->pair_slots ? i + 1 : 0;
		if (!ix->pairs[i].state)
			break;
		if (distance(ix, key_home(ix, key_of(&ix->pairs[i])), i) < distance(ix, hole, i))
			continue;
		ix->pairs[hole] = ix->pairs[i];
		hole = i;
	}
	ix->pairs[hole].state = 0;
}

/* ---- words ---- */

static void passed_add(struct kv_index *ix, uint64_t line, uint32_t shift, int by)
{
	uint64_t passed = ix->lines[line].passed, n = passed >> shift & 255;

	if (n == 255) /* full: it stays, and some walks are longer than they need be */
		return;
	passed &= ~(255ULL << shift);
	figure_write(&ix->lines[line].passed, passed | (n + (uint64_t)by) << shift);
}

/* The walk of a word that stands at line, d lines behind its home. */
static struct kv_walk walk_back(const struct kv_index *ix, uint64_t line, uint64_t word)
{
	uint32_t tag = word_tag(word), d = word_d(word);
	struct kv_walk w = {.offset = kv_scale(tag * 0x9e3779b97f4a7c15ULL, ix->line_count),
			    .step = (tag & 63) * 2 + 1,
			    .tag = tag,
			    .shift = (tag >> 6 & 7) * 8};
	uint64_t back = d ? w.offset + (d - 1) * w.step : 0;

	back %= ix->line_count;
	w.line = line >= back ? line - back : line + ix->line_count - back;
	return w;
}

static void word_free(struct kv_index *ix, uint64_t line, uint64_t *word)
{
	uint64_t old = *word;
	struct kv_walk w = walk_back(ix, line, old);

	word_write(word, 0);
	for (uint32_t d = word_d(old); d; d--) {
		passed_add(ix, w.line, w.shift, -1);
		kv_walk_next(ix, &w);
	}
}

static uint64_t *word_find(struct kv_index *ix, uint64_t h, uint32_t place, uint64_t *ret_line)
{
	struct kv_walk w = kv_walk_begin(ix, h);

	for (;; kv_walk_next(ix, &w)) {
		struct kv_line *line = &ix->lines[w.line];

		for (unsigned int i = 0; i < LINE_WORDS; i++)
			if (word_tag(line->word[i]) == w.tag && line->word[i] &&
			    word_place(line->word[i]) == place) {
				*ret_line = w.line;
				return &line->word[i];
			}
		if (!kv_walk_goes_on(ix, &w))
			return NULL;
	}
}

static unsigned int line_free(const struct kv_line *line)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < LINE_WORDS; i++)
		n += !line->word[i];
	return n;
}

/* A free place on the line, if need be a ghost's. */
static uint64_t *line_room(struct kv_index *ix, uint64_t at)
{
	struct kv_line *line = &ix->lines[at];

	for (unsigned int i = 0; i < LINE_WORDS; i++)
		if (!line->word[i])
			return &line->word[i];
	for (unsigned int i = 0; i < LINE_WORDS; i++)
		if (!word_holders(line->word[i])) {
			word_free(ix, at, &line->word[i]);
			return &line->word[i];
		}
	return NULL;
}

/* The word of a block and place, made if there is none. NULL: no room on its whole walk. */
static uint64_t *word_make(struct kv_index *ix, uint64_t h, uint32_t place)
{
	struct kv_walk w = kv_walk_begin(ix, h), back;
	uint64_t line, *word = word_find(ix, h, place, &line);

	if (word)
		return word;
	if (line_free(&ix->lines[w.line]) < 3) { /* crowded: the second home, if it is not */
		kv_walk_next(ix, &w);
		if (line_free(&ix->lines[w.line]) < 4)
			w = kv_walk_begin(ix, h);
	}
	for (;; kv_walk_next(ix, &w)) {
		word = line_room(ix, w.line);
		if (word)
			break;
		if (w.d + 1 == PROBE_MAX)
			return NULL;
	}
	back = kv_walk_begin(ix, h);
	for (uint32_t d = 0; d < w.d; d++) {
		passed_add(ix, back.line, back.shift, 1);
		kv_walk_next(ix, &back);
	}
	/* no holders yet: the caller sets the first before anybody else may take the place */
	word_write(word, (uint64_t)w.tag << 32 | (uint64_t)w.d << 28 | (uint64_t)place << 8);
	return word;
}

static uint32_t place_of(uint16_t owner)
{
	return (uint32_t)(owner & (OWNERS - 1)) / 8 | (owner & OWNER_CPU ? GROUPS : 0);
}

static uint64_t holder_bit(uint16_t owner)
{
	return 1ULL << (owner & 7);
}

/* ---- doubles ---- */

static struct kv_double *double_find(struct kv_index *ix, uint64_t h, uint16_t owner, bool room)
{
	uint32_t at = (uint32_t)kv_mix(h + owner);

	for (uint32_t i = 0; i < 32; i++) {
		struct kv_double *d = &ix->doubles[(at + i) % DOUBLES_MAX];

		if (room ? d->count == 0 : d->count && d->h == h && d->owner == owner)
			return d;
	}
	return NULL;
}

static void double_add(struct kv_index *ix, uint64_t h, uint16_t owner)
{
	struct kv_double *d = double_find(ix, h, owner, false);

	if (!d) {
		d = double_find(ix, h, owner, true);
		if (!d) /* the first removal hides the block: too little is expected, not more */
			return;
		*d = (struct kv_double){.h = h, .owner = owner};
		figure_add(&ix->stats.doubles, 1);
	}
	d->count += d->count < UINT16_MAX;
}

static bool double_take(struct kv_index *ix, uint64_t h, uint16_t owner)
{
	struct kv_double *d = ix->stats.doubles ? double_find(ix, h, owner, false) : NULL;

	if (!d)
		return false;
	if (--d->count == 0)
		figure_add(&ix->stats.doubles, -1ULL);
	return true;
}

/* ---- what events do ---- */

static bool owner_get(const struct kv_index *ix, uint16_t slot, enum kv_tier tier,
		      uint16_t *ret_owner)
{
	uint64_t owner = atomic_load_explicit(&ix->owner_of[slot], memory_order_relaxed);

	*ret_owner = (uint16_t)((owner - 1) | (tier == KV_TIER_CPU ? OWNER_CPU : 0));
	return owner != 0;
}

static int unknown(struct kv_index *ix)
{
	figure_add(&ix->stats.unknown, 1);
	return -ENOENT;
}

int kv_index_begin(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t root,
		   struct kv_chain *ret)
{
	ret->h = root;
	ret->word = NULL;
	ret->root = true;
	return owner_get(ix, slot, tier, &ret->owner) ? 0 : unknown(ix);
}

int kv_index_after(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t parent,
		   struct kv_chain *ret)
{
	uint16_t owner;
	const struct kv_pair *p;
	uint64_t line;

	if (!owner_get(ix, slot, tier, &ret->owner))
		return unknown(ix);
	owner = ret->owner;
	p = pair_find(ix, pair_key(owner, parent));
	if (!p) {
		owner ^= OWNER_CPU;
		p = pair_find(ix, pair_key(owner, parent));
	}
	if (!p)
		return unknown(ix);
	ret->h = state_h(p->state);
	ret->root = false;
	ret->word = word_find(ix, ret->h, place_of(owner), &line);
	return 0;
}

/* The block of this word goes on with one of that length. */
static void next_set(struct kv_index *ix, uint64_t *word, uint64_t h, uint32_t length,
		     const void *bytes)
{
	uint64_t w = *word;
	uint32_t next = word_next(w);

	if (next == length && next != NEXT_MANY)
		return;
	if (next == 0 && length < NEXT_MANY) {
		word_write(word, w | (uint64_t)length << 16);
		return;
	}
	if (next && next != NEXT_MANY)
		kv_lengths_add(ix, h, next, NULL);
	kv_lengths_add(ix, h, length, bytes);
	if (next != NEXT_MANY)
		word_write(word, w | (uint64_t)NEXT_MANY << 16);
}

/* A pair that was not there, at its free place. */
static int pair_new(struct kv_index *ix, struct kv_pair *place, uint16_t owner, uint64_t key,
		    uint64_t h, uint64_t **ret_word)
{
	uint64_t *word = NULL;

	if (ix->stats.pairs < ix->stats.pairs_max)
		word = word_make(ix, h, place_of(owner));
	if (!word) {
		figure_add(&ix->stats.refused, 1);
		return -ENOSPC;
	}
	if (*word & holder_bit(owner))
		double_add(ix, h, owner);
	word_write(word, *word | holder_bit(owner));
	pair_put(place, key, h | 1ULL << KV_HASH_BITS);
	figure_add(&ix->stats.pairs, 1);
	figure_add(&ix->owner_pairs[owner & (OWNERS - 1)], 1);
	*ret_word = word;
	return 0;
}

int kv_index_add(struct kv_index *ix, struct kv_chain *c, uint64_t hash, uint64_t extra,
		 const void *bytes, size_t n)
{
	uint64_t h = extra && !c->root ? kv_hash_part(&ix->hash, c->h, extra) : c->h;
	uint64_t key = pair_key(c->owner, hash), line, *word = NULL;
	struct kv_pair *p;
	int err = n ? 0 : -EINVAL;

	figure_add(&ix->writes, 1);
	if (ix->dying)
		kv_index_sweep(ix, 4); /* moves pairs */
	__builtin_prefetch(&ix->pairs[key_home(ix, key)]);
	h = kv_hash_add(&ix->hash, h, bytes, n);
	__builtin_prefetch(&ix->lines[kv_walk_begin(ix, h).line]);
	p = pair_place(ix, key);
	if (p->state && !err) {
		if (state_h(p->state) != h)
			figure_add(&ix->stats.conflicts, 1);
		h = state_h(p->state);
		if (state_count(p->state) < COUNT_MAX)
			p->state += 1ULL << KV_HASH_BITS;
		figure_add(&ix->stats.again, 1);
		word = word_find(ix, h, place_of(c->owner), &line);
	} else if (!err) {
		err = pair_new(ix, p, c->owner, key, h, &word);
	}
	if (err)
		return err;
	figure_add(&ix->stats.stored, 1);
	if (c->root)
		kv_lengths_add(ix, c->h, (uint32_t)n, bytes);
	else if (c->word && !extra)
		next_set(ix, c->word, c->h, (uint32_t)n, bytes);
	c->h = h;
	c->word = word;
	c->root = false;
	return 0;
}

int kv_index_copy(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t hash)
{
	uint16_t owner;
	uint64_t *word;
	struct kv_pair *own, *other;

	if (!owner_get(ix, slot, tier, &owner))
		return unknown(ix);
	own = pair_place(ix, pair_key(owner, hash));
	other = pair_find(ix, pair_key(owner ^ OWNER_CPU, hash));
	figure_add(&ix->writes, 1);
	if (own->state) {
		if (state_count(own->state) < COUNT_MAX)
			own->state += 1ULL << KV_HASH_BITS;
		figure_add(&ix->stats.again, 1);
	} else if (!other) {
		return unknown(ix);
	} else {
		uint64_t line, h = state_h(other->state);
		uint64_t *there = word_find(ix, h, place_of(owner ^ OWNER_CPU), &line);
		uint32_t next = there ? word_next(*there) : 0;
		int err = pair_new(ix, own, owner, pair_key(owner, hash), h, &word);

		if (err)
			return err;
		if (next && !word_next(*word)) /* it must still go on when the other word is gone */
			word_write(word, *word | (uint64_t)next << 16);
	}
	figure_add(&ix->stats.stored, 1);
	return 0;
}

static void pair_drop(struct kv_index *ix, struct kv_pair *p)
{
	uint64_t h = state_h(p->state), line, *word;
	uint16_t owner = key_of(p) & 2047;
	uint32_t who = owner & (OWNERS - 1);

	if (!double_take(ix, h, owner)) {
		word = word_find(ix, h, place_of(owner), &line);
		if (word) {
			word_write(word, *word & ~holder_bit(owner));
			if (!word_holders(*word) && !word_next(*word))
				word_free(ix, line, word);
		}
	}
	pair_take_out(ix, (uint64_t)(p - ix->pairs));
	figure_add(&ix->stats.pairs, -1ULL);
	figure_add(&ix->owner_pairs[who], -1ULL);
	if (ix->owner_pairs[who] == 0 && ix->owner_state[who] == OWNER_DYING) {
		ix->owner_state[who] = OWNER_FREE;
		ix->dying--;
	}
}

void kv_index_prefetch(const struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t hash)
{
	uint16_t owner;

	if (owner_get(ix, slot, tier, &owner))
		__builtin_prefetch(&ix->pairs[key_home(ix, pair_key(owner, hash))]);
}

void kv_index_prefetch_word(const struct kv_index *ix, uint16_t slot, enum kv_tier tier,
			    uint64_t hash)
{
	const struct kv_pair *p;
	uint16_t owner;

	if (!owner_get(ix, slot, tier, &owner))
		return;
	p = pair_find(ix, pair_key(owner, hash));
	if (p)
		__builtin_prefetch(&ix->lines[kv_walk_begin(ix, state_h(p->state)).line]);
}

int kv_index_remove(struct kv_index *ix, uint16_t slot, enum kv_tier tier, uint64_t hash)
{
	uint16_t owner;
	struct kv_pair *p;

	figure_add(&ix->writes, 1);
	if (ix->dying)
		kv_index_sweep(ix, 4);
	if (!owner_get(ix, slot, tier, &owner))
		return unknown(ix);
	p = pair_find(ix, pair_key(owner, hash));
	if (!p)
		return unknown(ix);
	figure_add(&ix->stats.removed, 1);
	if (state_count(p->state) > 1)
		p->state -= 1ULL << KV_HASH_BITS;
	else
		pair_drop(ix, p);
	return 0;
}

void kv_index_sweep(struct kv_index *ix, uint32_t n)
{
	while (ix->dying && n--) {
		struct kv_pair *p = &ix->pairs[ix->sweep_at];

		if (p->state && ix->owner_state[key_of(p) & (OWNERS - 1)] == OWNER_DYING) {
			pair_drop(ix, p); /* the next one may have moved here */
			figure_add(&ix->stats.swept, 1);
			continue;
		}
		if (++ix->sweep_at == ix->pair_slots)
			ix->sweep_at = 0;
	}
}
