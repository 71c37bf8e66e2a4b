/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long the blocks behind a fork are. A record holds LENGTHS_EACH lengths of one place; once it
 * is full, further children are found by what they have in common for the next 4, 12, … bytes.
 * Records are advice: a reader that sees a stale one tries a length in vain; when a set has no
 * room the record that was written or read longest ago goes, counted.
 */
#include "kv/kv_table.h"

static const uint16_t splits[LENGTH_LEVELS] = {0, 4, 12, 32, 128};

static struct kv_lengths *set_of(const struct kv_index *ix, uint64_t key)
{
	return &ix->lengths[kv_scale(kv_mix(key), ix->length_sets) * LENGTHS_WAYS];
}

static struct kv_lengths *find(const struct kv_index *ix, uint64_t key)
{
	struct kv_lengths *set = set_of(ix, key);

	for (unsigned int i = 0; i < LENGTHS_WAYS; i++)
		if (state_h(figure_read(&set[i].key)) == key)
			return &set[i];
	return NULL;
}

/* Coarse time of writes, in 6 bits. */
static uint64_t age_now(const struct kv_index *ix)
{
	return figure_read(&ix->writes) >> 16 & 63;
}

static struct kv_lengths *make(struct kv_index *ix, uint64_t key)
{
	struct kv_lengths *set = set_of(ix, key), *oldest = &set[0];
	uint64_t most = 0;

	for (unsigned int i = 0; i < LENGTHS_WAYS; i++) {
		uint64_t old = figure_read(&set[i].key);
		uint64_t age = old ? (age_now(ix) - (old >> KV_HASH_BITS)) & 63 : 64;

		if (age >= most) {
			most = age;
			oldest = &set[i];
		}
	}
	if (figure_read(&oldest->key))
		figure_add(&ix->stats.lengths_dropped, 1);
	figure_write(&oldest->key, 0);
	for (unsigned int i = 0; i < LENGTHS_EACH; i++)
		figure_write(&oldest->length[i], 0);
	word_write(&oldest->key, key | age_now(ix) << KV_HASH_BITS);
	return oldest;
}

/* True if the record holds the length now; false: it is full. */
static bool put(struct kv_index *ix, struct kv_lengths *r, uint16_t length)
{
	uint64_t old = figure_read(&r->key); /* readers make it younger */
	uint64_t key = state_h(old) | age_now(ix) << KV_HASH_BITS;

	if (old != key)
		word_write(&r->key, key);
	for (unsigned int i = 0; i < LENGTHS_EACH; i++) {
		if (r->length[i] == length)
			return true;
		if (r->length[i])
			continue;
		figure_write(&r->length[i], length);
		return true;
	}
	return false;
}

static uint64_t level_key(const struct kv_index *ix, uint64_t h, unsigned int level)
{
	uint64_t key = level ? state_h(kv_mix(h + level)) : h;

	(void)ix;
	return key ? key : 1;
}

void kv_lengths_add(struct kv_index *ix, uint64_t h, uint32_t length, const void *bytes)
{
	for (unsigned int level = 0; level < LENGTH_LEVELS && length <= UINT16_MAX; level++) {
		struct kv_lengths *r;
		uint64_t key;

		if (level && (!bytes || length <= splits[level]))
			break;
		key = level_key(ix, level ? kv_hash_add(&ix->hash, h, bytes, splits[level]) : h,
				level);
		r = find(ix, key);
		if (put(ix, r ? r : make(ix, key), (uint16_t)length))
			return;
	}
	figure_add(&ix->stats.lengths_refused, 1);
}

/*
 * A record that a prompt came by is worth as much as one that was written: it becomes young again.
 * Readers do that without waiting; if the writer just changed the record, it stays as it is.
 */
static void touch(const struct kv_index *ix, const struct kv_lengths *r, uint64_t key)
{
	uint64_t old = figure_read(&r->key);
	uint64_t young = key | age_now(ix) << KV_HASH_BITS;

	if (old != young && state_h(old) == key)
		__atomic_compare_exchange_n((uint64_t *)&r->key, &old, young, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

uint32_t kv_lengths_get(const struct kv_index *ix, const struct kv_prompt *prompt, uint32_t pos,
			uint64_t h, uint16_t ret[KV_LENGTHS_MAX])
{
	uint32_t n = 0;

	for (unsigned int level = 0; level < LENGTH_LEVELS; level++) {
		const struct kv_lengths *r;
		unsigned int i = 0;

		if (splits[level] > prompt->len - pos)
			break;
		if (level)
			h = kv_prompt_at(&ix->hash, prompt, pos + splits[level]);
		r = find(ix, level_key(ix, h, level));
		if (r)
			touch(ix, r, level_key(ix, h, level));
		for (; r && i < LENGTHS_EACH; i++) {
			ret[n] = figure_read(&r->length[i]);
			if (!ret[n])
				break;
			n++;
		}
		if (!r || i < LENGTHS_EACH)
			break;
	}
	return n;
}
