/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix index against a naive reference, at its caps, under forgetting and with threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"

static uint64_t rng_state = 88172645463325252ULL;

static uint32_t rnd(uint32_t n)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)((rng_state >> 16) % n);
}

/* The block of a small universe, well spread. */
static uint64_t block(uint32_t i)
{
	return prefix_mix(i, 77);
}

static uint32_t match_one(const struct prefix_index *ix, const uint64_t *hashes, uint32_t n,
			  uint16_t slot, uint32_t generation)
{
	static uint32_t generations[ENDPOINTS_MAX];
	static uint16_t hits[ENDPOINTS_MAX];
	uint64_t slots[PREFIX_SLOT_WORDS] = {0};

	slots[slot / 64] = 1ULL << (slot % 64);
	generations[slot] = generation;
	prefix_index_match(ix, hashes, n, slots, generations, hits);
	return hits[slot];
}

static void settle(struct prefix_index *ix)
{
	for (int i = 0; i < 2000; i++)
		prefix_index_tick(ix);
}

/* ---- a reference: per endpoint, blocks with the time of their last use ---- */

#define UNIVERSE 600
#define SLOTS	 24

struct reference {
	uint64_t used[SLOTS][UNIVERSE]; /* 0: not held */
	uint64_t clock;
	uint32_t held[SLOTS];
	uint32_t capacity[SLOTS], generation[SLOTS];
};

static void ref_learn_one(struct reference *r, uint32_t s, uint32_t b)
{
	if (!r->used[s][b]) {
		while (r->held[s] >= r->capacity[s]) {
			uint32_t oldest = UNIVERSE;

			for (uint32_t i = 0; i < UNIVERSE; i++)
				if (r->used[s][i] &&
				    (oldest == UNIVERSE || r->used[s][i] < r->used[s][oldest]))
					oldest = i;
			r->used[s][oldest] = 0;
			r->held[s]--;
		}
		r->held[s]++;
	}
	r->used[s][b] = ++r->clock;
}

static void ref_forget(struct reference *r, uint32_t s)
{
	memset(r->used[s], 0, sizeof(r->used[s]));
	r->held[s] = 0;
}

static uint32_t ref_match(const struct reference *r, uint32_t s, const uint32_t *blocks, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!r->used[s][blocks[i]])
			return i;
	return n;
}

static void compare_all(const struct prefix_index *ix, const struct reference *r)
{
	uint32_t blocks[8], generations[ENDPOINTS_MAX];
	uint64_t hashes[8], slots[PREFIX_SLOT_WORDS] = {0};
	uint16_t hits[ENDPOINTS_MAX];
	uint32_t n = 1 + rnd(8);

	for (uint32_t i = 0; i < n; i++) {
		blocks[i] = rnd(rnd(2) ? UNIVERSE : 20);
		hashes[i] = block(blocks[i]);
	}
	for (uint32_t s = 0; s < SLOTS; s++) {
		slots[0] |= 1ULL << s;
		generations[s] = r->generation[s];
	}
	prefix_index_match(ix, hashes, n, slots, generations, hits);
	for (uint32_t s = 0; s < SLOTS; s++)
		assert_int_equal(hits[s], ref_match(r, s, blocks, n));
}

static void random_learn(struct prefix_index *ix, struct reference *r)
{
	uint32_t s = rnd(SLOTS), n = 1 + rnd(10), blocks[10];
	uint64_t hashes[10];

	for (uint32_t i = 0; i < n; i++) {
		blocks[i] = rnd(rnd(2) ? UNIVERSE : 20); /* 20 blocks are popular: wide */
		hashes[i] = block(blocks[i]);
	}
	prefix_index_learn(ix, rnd(2), (uint16_t)s, r->generation[s], r->capacity[s], hashes, n);
	for (uint32_t i = n; i-- > 0;)
		ref_learn_one(r, s, blocks[i]);
}

static void index_and_naive_reference_agree_after_any_operations(void **state)
{
	static struct reference r;
	struct prefix_index *ix;
	struct prefix_index_stats stats;

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 4 << 20, 2, &ix), 0);
	for (uint32_t s = 0; s < SLOTS; s++) {
		r.capacity[s] = 20 + s * 11;
		r.generation[s] = s;
	}
	for (uint32_t op = 0; op < 1000000; op++) {
		uint32_t what = rnd(1000), s = rnd(SLOTS);

		if (what == 0) {
			prefix_index_forget(ix, (uint16_t)s);
			ref_forget(&r, s);
		} else if (what == 1) { /* another endpoint takes the slot */
			r.generation[s]++;
			ref_forget(&r, s);
		} else if (what < 700) {
			random_learn(ix, &r);
		}
		if (op % 4096 == 0)
			settle(ix); /* now and then everything forgotten is swept */
		/* While an endpoint is being swept its wide blocks read as misses: settle first. */
		if (op % 32 == 0) {
			prefix_index_tick(ix);
			prefix_index_tick(ix);
			prefix_index_tick(ix);
			prefix_index_tick(ix);
			prefix_index_tick(ix);
			compare_all(ix, &r);
		}
	}
	settle(ix);
	prefix_index_read_stats(ix, &stats);
	uint64_t held = 0;
	for (uint32_t s = 0; s < SLOTS; s++) {
		held += r.held[s];
		assert_int_equal(prefix_index_endpoint_pairs(ix, (uint16_t)s), r.held[s]);
	}
	assert_int_equal(stats.pairs, held + stats.wide_used);
	assert_true(stats.wide_used > 0 && stats.wide_used <= UNIVERSE);
	assert_int_equal(stats.refused_blocks, 0);
	assert_int_equal(stats.dropped_blocks, 0);
	/* All forgotten: the table is empty again, to the last marker. */
	for (uint32_t s = 0; s < SLOTS; s++)
		prefix_index_forget(ix, (uint16_t)s);
	settle(ix);
	prefix_index_read_stats(ix, &stats);
	assert_int_equal(stats.pairs, 0);
	assert_int_equal(stats.wide_used, 0);
	prefix_index_free(ix);
}

static void table_never_holds_more_than_its_limit(void **state)
{
	static uint64_t mem[64 * 1024 / 8] __attribute__((aligned(64)));
	struct prefix_index_stats stats;
	struct prefix_index *ix;
	uint64_t hash;

	(void)state;
	assert_int_equal(prefix_index_new(mem, sizeof(mem), 1, &ix), 0);
	for (uint32_t i = 0; i < 200000; i++) {
		hash = block(rnd(1000000));
		prefix_index_learn(ix, 0, (uint16_t)rnd(ENDPOINTS_MAX), 1, 0, &hash, 1);
		prefix_index_read_stats(ix, &stats);
		assert_true(stats.pairs <= stats.pairs_max);
	}
	assert_true(stats.pairs + 4 > stats.pairs_max); /* and it is used up to there */
	assert_true(stats.evicted > 100000);
	assert_true(stats.refused_blocks < 200);
	prefix_index_free(ix);
}

static void endpoint_never_holds_more_than_its_capacity(void **state)
{
	struct prefix_index *ix;
	uint64_t hashes[300];

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 1 << 20, 1, &ix), 0);
	for (uint32_t i = 0; i < 300; i++)
		hashes[i] = block(i);
	prefix_index_learn(ix, 0, 5, 1, 100, hashes, 300);
	assert_int_equal(prefix_index_endpoint_pairs(ix, 5), 100);
	/* What stays is the beginning of the prompt. */
	assert_int_equal(match_one(ix, hashes, 300, 5, 1), 100);
	/* A smaller capacity is reached by and by. */
	for (uint32_t i = 0; i < 40; i++)
		prefix_index_learn(ix, 0, 5, 1, 10, hashes, 1);
	assert_int_equal(prefix_index_endpoint_pairs(ix, 5), 10);
	prefix_index_free(ix);
}

static void unsaid_capacity_is_the_default(void **state)
{
	struct prefix_index *ix;
	uint64_t hashes[1000];

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 4 << 20, 1, &ix), 0);
	for (uint32_t n = 0; n < 40; n++) {
		for (uint32_t i = 0; i < 1000; i++)
			hashes[i] = block(n * 1000 + i);
		prefix_index_learn(ix, 0, 7, 1, 0, hashes, 1000);
		settle(ix);
	}
	assert_int_equal(prefix_index_endpoint_pairs(ix, 7), PREFIX_CAPACITY_DEFAULT);
	prefix_index_free(ix);
}

static void forgotten_endpoint_matches_nothing_from_that_moment_on(void **state)
{
	struct prefix_index *ix;
	uint64_t hashes[500];

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 4 << 20, 1, &ix), 0);
	for (uint32_t i = 0; i < 500; i++)
		hashes[i] = block(i);
	for (uint16_t s = 0; s < 12; s++) /* from the 7th holder on, blocks are wide */
		prefix_index_learn(ix, 0, s, 1, 0, hashes, 500);
	settle(ix);
	for (uint16_t s = 0; s < 12; s++) {
		assert_int_equal(match_one(ix, hashes, 500, s, 1), 500);
		prefix_index_endpoint_lost(ix, s, 0); /* another one's end is not its own */
		assert_int_equal(match_one(ix, hashes, 500, s, 1), 500);
		prefix_index_endpoint_lost(ix, s, 1);
		assert_int_equal(match_one(ix, hashes, 500, s, 1), 0);
	}
	/* What it learns afterwards counts, whether or not the old blocks are swept yet. */
	prefix_index_learn(ix, 0, 2, 1, 0, hashes, 200);
	settle(ix);
	assert_int_equal(match_one(ix, hashes, 500, 2, 1), 200);
	assert_int_equal(match_one(ix, hashes, 500, 3, 1), 0);
	prefix_index_free(ix);
}

static void crowded_block_without_a_wide_record_stays_at_home(void **state)
{
	struct prefix_index_stats stats;
	struct prefix_index *ix;
	uint64_t hash;

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 64 * 1024, 1, &ix), 0); /* 32 wide records */
	for (uint32_t b = 0; b < 40; b++)
		for (uint16_t s = 0; s < 10; s++) {
			hash = block(b);
			prefix_index_learn(ix, 0, s, 1, 0, &hash, 1);
		}
	for (uint32_t b = 0; b < 40; b++)
		for (uint16_t s = 0; s < 10; s++) {
			hash = block(b);
			assert_int_equal(match_one(ix, &hash, 1, s, 1), 1);
		}
	prefix_index_read_stats(ix, &stats);
	assert_int_equal(stats.wide_used, 32);
	assert_int_equal(stats.refused_blocks, 0);
	prefix_index_free(ix);
}

static void another_endpoint_in_the_slot_starts_empty(void **state)
{
	struct prefix_index *ix;
	uint64_t hashes[3] = {block(1), block(2), block(3)};

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 1 << 20, 1, &ix), 0);
	prefix_index_learn(ix, 0, 9, 4, 0, hashes, 3);
	assert_int_equal(match_one(ix, hashes, 3, 9, 4), 3);
	assert_int_equal(match_one(ix, hashes, 3, 9, 5), 0);
	prefix_index_learn(ix, 0, 9, 5, 0, hashes, 1);
	assert_int_equal(match_one(ix, hashes, 3, 9, 5), 1);
	/* A request that outlived the old endpoint says nothing about the new one. */
	prefix_index_learn(ix, 0, 9, 4, 0, hashes, 3);
	assert_int_equal(match_one(ix, hashes, 3, 9, 5), 1);
	prefix_index_free(ix);
}

static void block_that_every_endpoint_holds_is_found_for_all(void **state)
{
	static uint32_t generations[ENDPOINTS_MAX];
	static uint16_t hits[ENDPOINTS_MAX];
	uint64_t slots[PREFIX_SLOT_WORDS], hashes[2] = {block(1), block(2)};
	struct prefix_index_stats stats;
	struct prefix_index *ix;

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 1 << 20, 1, &ix), 0);
	memset(slots, 0xff, sizeof(slots));
	for (uint16_t s = 0; s < ENDPOINTS_MAX; s++)
		prefix_index_learn(ix, 0, s, 0, 0, hashes, 1 + s % 2);
	prefix_index_match(ix, hashes, 2, slots, generations, hits);
	for (uint16_t s = 0; s < ENDPOINTS_MAX; s++)
		assert_int_equal(hits[s], 1 + s % 2);
	prefix_index_read_stats(ix, &stats);
	assert_int_equal(stats.wide_used, 2);
	prefix_index_free(ix);
}

/* ---- threads ---- */

static struct prefix_index *shared;
static _Atomic bool stop;

static void *learner(void *arg)
{
	unsigned int number = (unsigned int)(uintptr_t)arg;
	uint64_t hashes[64], state = number + 1;

	for (int n = 0; n < 4000; n++) {
		state = prefix_mix(state, number);
		for (uint32_t i = 0; i < 64; i++)
			hashes[i] = block((uint32_t)(state % 50) * (i > 3) + i);
		prefix_index_learn(shared, number, (uint16_t)(state >> 20 & 15), 1, 200, hashes,
				   64);
		if (n % 500 == 0)
			prefix_index_forget(shared, (uint16_t)(state >> 24 & 15));
	}
	return NULL;
}

static void *matcher(void *arg)
{
	static _Thread_local uint32_t generations[ENDPOINTS_MAX];
	static _Thread_local uint16_t hits[ENDPOINTS_MAX];
	uint64_t slots[PREFIX_SLOT_WORDS] = {0xffff}, hashes[64], most = 0;

	for (uint32_t i = 0; i < 64; i++)
		hashes[i] = block(i);
	for (uint32_t i = 0; i < 16; i++)
		generations[i] = 1;
	while (!atomic_load(&stop)) {
		prefix_index_match(shared, hashes, 64, slots, generations, hits);
		for (uint32_t i = 0; i < 16; i++)
			if (hits[i] > most)
				most = hits[i];
	}
	*(uint64_t *)arg = most;
	return NULL;
}

static void learners_and_matchers_share_the_index(void **state)
{
	pthread_t learners[3], readers[2];
	uint64_t most[2] = {0};
	struct prefix_index_stats stats;

	(void)state;
	assert_int_equal(prefix_index_new(NULL, 1 << 18, 3, &shared), 0);
	atomic_store(&stop, false);
	for (int i = 0; i < 2; i++)
		pthread_create(&readers[i], NULL, matcher, &most[i]);
	for (uintptr_t i = 0; i < 3; i++)
		pthread_create(&learners[i], NULL, learner, (void *)i);
	for (int i = 0; i < 3; i++)
		pthread_join(learners[i], NULL);
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	settle(shared);
	prefix_index_read_stats(shared, &stats);
	/* Every block went somewhere: nothing is lost without a count. */
	assert_int_equal(stats.inserted + stats.refreshed + stats.dropped_blocks +
				 stats.refused_blocks,
			 3 * 4000 * 64);
	uint64_t held = stats.wide_used;
	for (uint16_t s = 0; s < 16; s++) {
		assert_true(prefix_index_endpoint_pairs(shared, s) <= 200);
		held += prefix_index_endpoint_pairs(shared, s);
	}
	assert_int_equal(stats.pairs, held);
	prefix_index_free(shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(index_and_naive_reference_agree_after_any_operations),
		cmocka_unit_test(table_never_holds_more_than_its_limit),
		cmocka_unit_test(endpoint_never_holds_more_than_its_capacity),
		cmocka_unit_test(unsaid_capacity_is_the_default),
		cmocka_unit_test(forgotten_endpoint_matches_nothing_from_that_moment_on),
		cmocka_unit_test(crowded_block_without_a_wide_record_stays_at_home),
		cmocka_unit_test(another_endpoint_in_the_slot_starts_empty),
		cmocka_unit_test(block_that_every_endpoint_holds_is_found_for_all),
		cmocka_unit_test(learners_and_matchers_share_the_index),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
