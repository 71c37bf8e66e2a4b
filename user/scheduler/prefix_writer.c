/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix index's writer: inserts, LRU, eviction, forgetting. Runs under the writer's role, so
 * links and counts are plain; only what matchers read (keys, where, passed, bits) goes by atomics.
 * Each call does a bounded amount of work.
 */
#include "scheduler/prefix_table.h"

#define VICTIM_TERM 64 /* evictions before the fullest endpoint is looked for again */
#define HOMES	    3  /* buckets of a walk that are near or emptier: the emptiest of them */
#define LOOK_AHEAD  16 /* pairs, for the group after the one that is being evicted from */
#define SHRINK_STEP 16 /* evictions at once when an endpoint's capacity has become smaller */

#define bump(field, n) figure_write(&(field), (field) + (n))

static struct sluice_affinity_bucket *pair_bucket(struct prefix_index *ix, uint32_t pair)
{
	return &ix->buckets[(pair - 1) / SLUICE_AFFINITY_PAIRS];
}

static uint32_t pair_place(uint32_t pair)
{
	return (pair - 1) % SLUICE_AFFINITY_PAIRS;
}

/* ---- lists ---- */

static void list_push(struct prefix_index *ix, struct pair_list *list, uint32_t pair)
{
	struct sluice_affinity_bucket *b = pair_bucket(ix, pair);
	uint32_t i = pair_place(pair);

	b->newer[i] = NONE;
	b->older[i] = list->newest;
	if (list->newest)
		pair_bucket(ix, list->newest)->newer[pair_place(list->newest)] = pair;
	else
		list->oldest = pair;
	list->newest = pair;
}

static void list_unlink(struct prefix_index *ix, struct pair_list *list, uint32_t pair)
{
	struct sluice_affinity_bucket *b = pair_bucket(ix, pair);
	uint32_t i = pair_place(pair), newer = b->newer[i], older = b->older[i];

	if (newer)
		pair_bucket(ix, newer)->older[pair_place(newer)] = older;
	else
		list->newest = older;
	if (older)
		pair_bucket(ix, older)->newer[pair_place(older)] = newer;
	else
		list->oldest = newer;
}

/* Puts all of `from` behind the oldest of `to`. */
static void list_splice(struct prefix_index *ix, struct pair_list *to, struct pair_list *from)
{
	if (!from->newest)
		return;
	if (to->oldest) {
		pair_bucket(ix, to->oldest)->older[pair_place(to->oldest)] = from->newest;
		pair_bucket(ix, from->newest)->newer[pair_place(from->newest)] = to->oldest;
	} else {
		to->newest = from->newest;
	}
	to->oldest = from->oldest;
	from->newest = from->oldest = NONE;
}

/* ---- places ---- */

/* Free places of a bucket. */
static uint32_t bucket_room(const struct prefix_index *ix, uint64_t bucket)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < SLUICE_AFFINITY_PAIRS; i++)
		n += ix->buckets[bucket].key[i] == 0;
	return n;
}

static void passed_more(struct sluice_affinity_bucket *bucket, uint32_t shift)
{
	if ((bucket->passed >> shift & 15) < 15)
		figure_write(&bucket->passed, bucket->passed + (1u << shift));
}

static void passed_less(struct sluice_affinity_bucket *bucket, uint32_t shift)
{
	if ((bucket->passed >> shift & 15) < 15)
		figure_write(&bucket->passed, bucket->passed - (1u << shift));
}

/*
 * Moves w to the bucket that a new pair goes to; w->d > PROBE_MAX: there is none. While the table
 * is not crowded a pair stays in its window if it can, where its neighbours are; in a crowded one
 * the emptier of two far homes evens the load out.
 */
static void find_room(const struct prefix_index *ix, struct walk *w)
{
	uint32_t enough = ix->pairs * 2 > ix->pairs_max ? SLUICE_AFFINITY_PAIRS - 1 : 1;
	struct walk best = *w;
	uint32_t most = 0;

	for (uint32_t i = 0; i < HOMES; i++, walk_next(ix, w)) {
		uint32_t room = bucket_room(ix, w->bucket);

		if (room > most) {
			most = room;
			best = *w;
		}
		if (most >= enough)
			break;
	}
	if (most) {
		*w = best;
		return;
	}
	while (w->d <= PROBE_MAX && bucket_room(ix, w->bucket) == 0)
		walk_next(ix, w);
}

/* Takes a free place on the walk. NONE: none within PROBE_MAX. */
static uint32_t place_take(struct prefix_index *ix, uint64_t hash, uint64_t key, uint32_t wide)
{
	struct walk w = walk_begin(ix, hash), past = w;
	struct sluice_affinity_bucket *bucket;
	uint32_t i = 0;

	find_room(ix, &w);
	if (w.d > PROBE_MAX)
		return NONE;
	for (; past.d < w.d; walk_next(ix, &past))
		passed_more(&ix->buckets[past.bucket], w.shift);
	bucket = &ix->buckets[w.bucket];
	while (bucket->key[i])
		i++;
	figure_write(&bucket->where[i], wide << 8 | w.d);
	key_write(&bucket->key[i], key);
	bump(ix->pairs, 1);
	return (uint32_t)(w.bucket * SLUICE_AFFINITY_PAIRS + i + 1);
}

static void place_free(struct prefix_index *ix, uint32_t pair)
{
	struct sluice_affinity_bucket *bucket = pair_bucket(ix, pair);
	uint32_t i = pair_place(pair), d = bucket->where[i] & 0xff;
	uint64_t b = (pair - 1) / SLUICE_AFFINITY_PAIRS, tag = key_tag(bucket->key[i]);

	key_write(&bucket->key[i], 0);
	if (d) {
		struct walk w = walk_from(ix, walk_back(ix, b, tag, d), tag);

		for (; w.d < d; walk_next(ix, &w))
			passed_less(&ix->buckets[w.bucket], w.shift);
	}
	bump(ix->pairs, -1);
}

/* ---- wide records ---- */

/* Gives the block a wide record, or 0 when there is none left. Returns its number. */
static uint32_t wide_take(struct prefix_index *ix, uint64_t hash)
{
	uint32_t number = ix->wide_free, marker;
	struct wide *rec;

	if (!number)
		return 0;
	marker = place_take(ix, hash, hash_tag(hash) << 27 | KEY_WIDE, number);
	if (marker == NONE)
		return 0;
	rec = &ix->wides[number - 1];
	ix->wide_free = rec->marker;
	rec->marker = marker;
	rec->count = 0;
	key_write(&rec->hash, hash);
	bump(ix->wide_used, 1);
	return number;
}

static void wide_put(struct prefix_index *ix, uint32_t number)
{
	struct wide *rec = &ix->wides[number - 1];

	key_write(&rec->hash, 0);
	place_free(ix, rec->marker);
	rec->marker = ix->wide_free;
	ix->wide_free = number;
	bump(ix->wide_used, -1);
}

/* ---- pairs ---- */

static struct pair_list *pair_list_of(struct prefix_index *ix, uint64_t key)
{
	struct slot_state *s = &ix->slots[key_slot(key)];

	return key_epoch(key) == epoch_bits(s->list_epoch) ? &s->lru : &ix->graves;
}

/* Removes a pair from everything. */
static void pair_drop(struct prefix_index *ix, uint32_t pair)
{
	struct sluice_affinity_bucket *bucket = pair_bucket(ix, pair);
	uint32_t i = pair_place(pair), wide = bucket->where[i] >> 8;
	uint64_t key = bucket->key[i];
	uint32_t slot = key_slot(key);
	struct pair_list *list = pair_list_of(ix, key);

	list_unlink(ix, list, pair);
	if (list == &ix->graves)
		ix->slots[slot].graves--;
	else
		bump(ix->slots[slot].count, -1);
	if (wide) {
		struct wide *rec = &ix->wides[wide - 1];

		figure_write(&rec->bits[slot / 64], rec->bits[slot / 64] & ~(1ULL << (slot % 64)));
		if (--rec->count == 0)
			wide_put(ix, wide);
	}
	place_free(ix, pair);
}

struct found {
	uint32_t pair;	  /* this endpoint's, or NONE */
	uint32_t holders; /* at home */
	uint32_t wide;	  /* number of the wide record, or 0 */
};

static uint64_t spread_hash(uint64_t hash, uint32_t slot)
{
	return prefix_mix(hash, slot + 1);
}

/* Finds (block, slot) on the walk of `hash`; fills holders and wide by the way. */
static void pair_find(struct prefix_index *ix, uint64_t hash, uint32_t slot, struct found *f)
{
	uint64_t tag = hash_tag(hash);
	struct walk w = walk_begin(ix, hash);

	for (;; walk_next(ix, &w)) {
		struct sluice_affinity_bucket *bucket = &ix->buckets[w.bucket];

		for (uint32_t i = 0; i < SLUICE_AFFINITY_PAIRS; i++) {
			uint64_t key = bucket->key[i];

			if (key_tag(key) != tag || key == 0)
				continue;
			if (key & KEY_WIDE) {
				f->wide = bucket->where[i] >> 8;
				continue;
			}
			f->holders++;
			if (key_slot(key) == slot)
				f->pair = (uint32_t)(w.bucket * SLUICE_AFFINITY_PAIRS + i + 1);
		}
		if (!walk_goes_on(&w, bucket->passed))
			return;
	}
}

static struct found block_find(struct prefix_index *ix, uint64_t hash, uint32_t slot)
{
	struct found f = {0}, spread = {0};

	pair_find(ix, hash, slot, &f);
	if (f.pair || !f.wide || ix->wides[f.wide - 1].hash != hash ||
	    !(ix->wides[f.wide - 1].bits[slot / 64] >> (slot % 64) & 1))
		return f;
	pair_find(ix, spread_hash(hash, slot), slot, &spread);
	f.pair = spread.pair;
	return f;
}

/* ---- making room ---- */

static uint64_t pair_window(const struct prefix_index *ix, uint32_t pair)
{
	return (pair - 1) / SLUICE_AFFINITY_PAIRS / ix->window_buckets;
}

/*
 * Evictions come to a group of blocks, which was sent for when they came to the one before. Sends
 * for the one after: a group's blocks follow each other in the list, the deepest first, and lie in
 * neighbouring buckets of one window.
 */
static void send_for_next_group(struct prefix_index *ix, uint32_t pair)
{
	uint64_t here = pair_window(ix, pair), bucket;

	for (uint32_t i = 0; i < LOOK_AHEAD; i++) {
		pair = pair_bucket(ix, pair)->newer[pair_place(pair)];
		if (!pair)
			return;

		if (pair_window(ix, pair) != here)
			break;
	}
	bucket = (pair - 1) / SLUICE_AFFINITY_PAIRS;
	for (uint32_t i = 0; i <= PREFIX_GROUP_BLOCKS / 2 && i <= bucket; i++)
		__builtin_prefetch(&ix->buckets[bucket - i], 1);
}

static void evict_oldest(struct prefix_index *ix, struct slot_state *s)
{
	uint64_t left = pair_window(ix, s->lru.oldest);

	pair_drop(ix, s->lru.oldest);
	bump(ix->evicted, 1);
	if (s->lru.oldest && pair_window(ix, s->lru.oldest) != left)
		send_for_next_group(ix, s->lru.oldest);
}

/* The table is full: what was forgotten goes first, then the fullest endpoint's oldest. */
static void make_room(struct prefix_index *ix)
{
	if (ix->graves.oldest) {
		pair_drop(ix, ix->graves.oldest);
		bump(ix->forgotten, 1);
		return;
	}
	if (ix->victim_left == 0 || ix->slots[ix->victim].count == 0) {
		ix->victim_left = VICTIM_TERM;
		for (uint32_t i = 0; i < ENDPOINTS_MAX; i++)
			if (ix->slots[i].count > ix->slots[ix->victim].count)
				ix->victim = i;
	}
	ix->victim_left--;
	if (ix->slots[ix->victim].count)
		evict_oldest(ix, &ix->slots[ix->victim]);
}

/* True if something was evicted, so that what was found before may be gone. */
static bool room_for_one(struct prefix_index *ix, struct slot_state *s)
{
	bool evicted = false;

	for (uint32_t i = 0; i < SHRINK_STEP && s->count >= s->capacity; i++) {
		evict_oldest(ix, s);
		evicted = true;
	}
	while (ix->pairs + 2 > ix->pairs_max) { /* a marker may come with the pair */
		make_room(ix);
		evicted = true;
	}
	return evicted;
}

/* ---- learning ---- */

static uint32_t pair_insert(struct prefix_index *ix, uint64_t hash, uint32_t slot,
			    const struct found *f)
{
	uint64_t low = (uint64_t)slot << 16 | epoch_bits(ix->slots[slot].list_epoch);
	uint64_t spread = spread_hash(hash, slot);
	uint32_t wide = f->wide, pair;
	struct wide *rec;

	if (f->holders < INLINE_HOLDERS)
		return place_take(ix, hash, hash_tag(hash) << 27 | low, 0);
	if (!wide)
		wide = wide_take(ix, hash);
	rec = wide ? &ix->wides[wide - 1] : NULL;
	if (!rec || rec->hash != hash) { /* none left, or another block's with the same tag */
		if (f->holders >= CROWDED_HOLDERS)
			return NONE;
		return place_take(ix, hash, hash_tag(hash) << 27 | low, 0);
	}
	pair = place_take(ix, spread, hash_tag(spread) << 27 | low, wide);
	if (pair == NONE) {
		if (rec->count == 0)
			wide_put(ix, wide);
		return NONE;
	}
	rec->count++;
	figure_write(&rec->bits[slot / 64], rec->bits[slot / 64] | 1ULL << (slot % 64));
	return pair;
}

/* The pair is there: makes it the newest; one that was forgotten counts again. */
static void pair_refresh(struct prefix_index *ix, uint32_t slot, uint32_t pair)
{
	struct sluice_affinity_bucket *bucket = pair_bucket(ix, pair);
	uint32_t i = pair_place(pair);
	struct slot_state *s = &ix->slots[slot];
	struct pair_list *list = pair_list_of(ix, bucket->key[i]);

	list_unlink(ix, list, pair);
	if (list == &ix->graves) {
		s->graves--;
		bump(s->count, 1);
		key_write(&bucket->key[i],
			  (bucket->key[i] & ~0xffffULL) | epoch_bits(s->list_epoch));
	}
	list_push(ix, &s->lru, pair);
	bump(ix->refreshed, 1);
	for (i = 0; i < SHRINK_STEP && s->count > s->capacity; i++)
		evict_oldest(ix, s);
}

static void block_learn(struct prefix_index *ix, uint32_t slot, uint64_t hash)
{
	struct slot_state *s = &ix->slots[slot];
	struct found f = block_find(ix, hash, slot);
	uint32_t pair;

	if (f.pair) {
		pair_refresh(ix, slot, f.pair);
		return;
	}
	if (room_for_one(ix, s))
		f = block_find(ix, hash, slot);
	pair = pair_insert(ix, hash, slot, &f);
	if (pair == NONE) {
		bump(ix->refused, 1);
		return;
	}
	list_push(ix, &s->lru, pair);
	bump(s->count, 1);
	bump(ix->inserted, 1);
}

/* ---- forgetting ---- */

static void pending_set(struct prefix_index *ix, uint32_t slot)
{
	atomic_fetch_or(&ix->pending[slot / 64], 1ULL << (slot % 64));
}

/* Moves the list of an endpoint that was forgotten to the graves; O(1). */
static void slot_sync(struct prefix_index *ix, uint32_t slot)
{
	struct slot_state *s = &ix->slots[slot];
	uint32_t epoch = atomic_load(&ix->epochs[slot]);

	if (s->list_epoch == epoch)
		return;
	s->graves += s->count;
	figure_write(&s->count, 0);
	list_splice(ix, &ix->graves, &s->lru);
	s->list_epoch = epoch;
}

/* Sweeps some graves; an endpoint without any left is no longer pending. */
static void sweep(struct prefix_index *ix)
{
	for (uint32_t i = 0; i < SWEEP_PAIRS && ix->graves.oldest; i++) {
		pair_drop(ix, ix->graves.oldest);
		bump(ix->forgotten, 1);
	}
	for (uint32_t w = 0; w < PREFIX_SLOT_WORDS; w++) {
		uint64_t left = atomic_load(&ix->pending[w]);

		for (; left; left &= left - 1) {
			uint32_t slot = w * 64 + (uint32_t)__builtin_ctzll(left);

			slot_sync(ix, slot);
			if (ix->slots[slot].graves)
				continue;
			atomic_fetch_and(&ix->pending[w], ~(1ULL << (slot % 64)));
			if (atomic_load(&ix->epochs[slot]) != ix->slots[slot].list_epoch)
				pending_set(ix, slot); /* forgotten again just now */
		}
	}
}

/* ---- the writer's turn ---- */

/* True if the generation is the slot's owner, maybe as of now. */
static bool slot_own(struct prefix_index *ix, uint32_t slot, uint32_t generation)
{
	uint64_t owner = atomic_load_explicit(&ix->owners[slot], memory_order_relaxed);

	if (owner != (uint64_t)generation + 1) {
		if (owner && (int32_t)(generation - (uint32_t)(owner - 1)) < 0)
			return false; /* a request that outlived its endpoint */
		if (ix->slots[slot].count) {
			pending_set(ix, slot);
			atomic_fetch_add(&ix->epochs[slot], 1);
		}
		atomic_store_explicit(&ix->owners[slot], (uint64_t)generation + 1,
				      memory_order_relaxed);
	}
	slot_sync(ix, slot);
	return true;
}

static uint32_t chunk_apply(struct prefix_index *ix, const struct learn_ring *r, uint64_t *tail)
{
	uint64_t head0 = r->words[*tail % RING_WORDS], head1 = r->words[(*tail + 1) % RING_WORDS];
	uint32_t count = (uint32_t)head0, slot = (uint32_t)(head0 >> 32) % ENDPOINTS_MAX;
	uint32_t capacity = (uint32_t)head1;
	uint64_t first = *tail + CHUNK_HEAD;

	*tail = first + count;
	if (!slot_own(ix, slot, (uint32_t)(head1 >> 32)))
		return count;
	figure_write(&ix->slots[slot].capacity, capacity ? capacity : PREFIX_CAPACITY_DEFAULT);
	for (uint32_t i = 0; i < count; i++)
		__builtin_prefetch(&ix->buckets[hash_home(ix, r->words[(first + i) % RING_WORDS])]);
	for (uint32_t i = count; i-- > 0;)
		block_learn(ix, slot, r->words[(first + i) % RING_WORDS]);
	return count;
}

void prefix_write_some(struct prefix_index *ix)
{
	uint32_t blocks = 0;

	sweep(ix);
	for (uint32_t n = 0; n < ix->workers && blocks < DRAIN_BLOCKS; n++) {
		struct learn_ring *r = &ix->rings[ix->next_ring];
		uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
		uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);

		while (tail != head && blocks < DRAIN_BLOCKS)
			blocks += chunk_apply(ix, r, &tail);
		atomic_store_explicit(&r->tail, tail, memory_order_release);
		if (tail != head)
			break; /* this ring goes on next time */
		ix->next_ring = (ix->next_ring + 1) % ix->workers;
	}
}
