/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The precise index against a naive one: after any sequence of stores, removals, copies between
 * tiers and restarts, both say the same of any prompt. SLUICE_KV_OPS=100000000 is the long form.
 */
#include "kv/kv_index.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NODES	  400
#define ENDPOINTS 12
#define BYTES_MAX 1500
#define LEN_MAX	  BYTES_MAX
#define BLOCK_MAX 150

/* A tree of blocks. Names differ, bytes may not: then two nodes have one canonical end. */
struct node {
	int parent; /* -1: a root's first block */
	int root;
	uint32_t len, end; /* of the block; of everything up to its end */
	char *bytes;	   /* all of them, from the root */
	int canon;
	int prefixes[NODES]; /* canonical ends along its bytes, shortest first */
	int prefix_count;
};

static struct node nodes[NODES];
static bool edge[NODES + 2][BLOCK_MAX + 1];   /* (end or root, length) that was ever stored */
static uint32_t counts[ENDPOINTS][2][NODES];  /* by name */
static uint32_t holders[ENDPOINTS][2][NODES]; /* names held, by canonical end */
static struct kv_index *ix;
static uint64_t rng;

static uint64_t random_below(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % n;
}

static uint64_t name_of(int node)
{
	return 0x123456789abcdefULL * (uint64_t)(node + 1);
}

static uint64_t root_of(int root)
{
	return kv_hash_root(kv_index_hash(ix), root ? SPAN("lora") : SPAN(""), 0);
}

static void node_make(int n)
{
	struct node *x = &nodes[n];
	uint32_t begin;

	do
		x->parent = n < 8 ? -1 : (int)random_below((uint64_t)n + 1) - 1;
	while (x->parent >= 0 && nodes[x->parent].end + BLOCK_MAX > BYTES_MAX);
	x->root = x->parent < 0 ? (int)random_below(2) : nodes[x->parent].root;
	/* few lengths and letters, so that the same bytes are cut differently here and there */
	x->len = (uint32_t)random_below(4) * 10 + 20 + (random_below(5) == 0);
	begin = x->parent < 0 ? 0 : nodes[x->parent].end;
	x->end = begin + x->len;
	x->bytes = malloc(x->end);
	if (begin)
		memcpy(x->bytes, nodes[x->parent].bytes, begin);
	for (uint32_t i = begin; i < x->end; i++)
		x->bytes[i] = "ab"[random_below(16) == 0];
	x->canon = n;
	for (int k = n - 1; k >= 0; k--)
		if (nodes[k].root == x->root && nodes[k].end == x->end &&
		    memcmp(nodes[k].bytes, x->bytes, x->end) == 0)
			x->canon = nodes[k].canon;
}

static void tree_make(void)
{
	for (int n = 0; n < NODES; n++)
		node_make(n);
	for (int n = 0; n < NODES; n++) {
		struct node *x = &nodes[n];

		x->prefix_count = 0;
		for (uint32_t end = 1; end <= x->end; end++)
			for (int k = 0; k < NODES; k++)
				if (nodes[k].canon == k && nodes[k].end == end &&
				    nodes[k].root == x->root &&
				    memcmp(nodes[k].bytes, x->bytes, end) == 0)
					x->prefixes[x->prefix_count++] = k;
	}
}

/* What the naive index expects of a prompt: node's bytes and one more. */
static uint16_t naive_match(int e, const struct node *x)
{
	uint16_t depth[NODES], best = 0;

	for (int j = 0; j < x->prefix_count; j++) {
		const struct node *to = &nodes[x->prefixes[j]];
		int canon = x->prefixes[j];

		depth[j] = 0;
		if (!holders[e][0][canon] && !holders[e][1][canon])
			continue;
		if (to->end <= BLOCK_MAX && edge[NODES + x->root][to->end])
			depth[j] = 1;
		for (int i = 0; i < j; i++) {
			const struct node *from = &nodes[x->prefixes[i]];

			if (depth[i] && to->end - from->end <= BLOCK_MAX &&
			    edge[x->prefixes[i]][to->end - from->end] && depth[i] >= depth[j])
				depth[j] = depth[i] + 1;
		}
		best = depth[j] > best ? depth[j] : best;
	}
	return best;
}

static void check_match(int node, bool exact)
{
	static struct kv_match got[ENDPOINTS_MAX];
	static uint32_t generations[ENDPOINTS_MAX];
	static char bytes[BYTES_MAX + 1];
	static struct kv_hints hints; /* stale ones, too: other seeds' and evicted blocks' */
	uint64_t prefix[BYTES_MAX / KV_CELL_BYTES + 2], slots[KV_SLOT_WORDS] = {0};
	const struct node *x = &nodes[node];
	struct kv_prompt prompt = {.bytes = bytes,
				   .len = x->end + 1,
				   .root = root_of(x->root),
				   .prefix = prefix,
				   .hints = &hints};

	memcpy(bytes, x->bytes, x->end);
	bytes[x->end] = '!';
	kv_prompt_read(kv_index_hash(ix), &prompt);
	slots[0] = (1 << ENDPOINTS) - 1;
	kv_index_match(ix, &prompt, slots, generations, got);
	for (int e = 0; e < ENDPOINTS; e++) {
		uint16_t want = naive_match(e, x);

		assert_true(got[e].known);
		if (exact)
			assert_int_equal(got[e].blocks, want);
		else
			assert_true(got[e].blocks <= want);
		assert_true(got[e].bytes <= x->end && got[e].cpu_blocks <= x->end);
	}
}

static int op_add(int e, enum kv_tier tier, int node)
{
	struct node *x = &nodes[node];
	uint64_t first = random_below(2);
	struct kv_chain chain;
	bool had = false;
	int err;

	if (x->parent < 0) {
		err = kv_index_begin(ix, (uint16_t)e, tier, root_of(x->root), &chain);
	} else {
		err = kv_index_after(ix, (uint16_t)e, tier, name_of(x->parent), &chain);
		had = counts[e][0][x->parent] || counts[e][1][x->parent];
		assert_int_equal(err, had ? 0 : -ENOENT);
	}
	(void)first;
	if (err)
		return err;
	err = kv_index_add(ix, &chain, name_of(node), 0, x->bytes + x->end - x->len, x->len);
	if (err)
		return err;
	if (counts[e][tier][node] < 63 && counts[e][tier][node]++ == 0)
		holders[e][tier][x->canon]++;
	edge[x->parent < 0 ? NODES + x->root : nodes[x->parent].canon][x->len] = true;
	return 0;
}

static void op_remove(int e, enum kv_tier tier, int node)
{
	int err = kv_index_remove(ix, (uint16_t)e, tier, name_of(node));

	assert_int_equal(err, counts[e][tier][node] ? 0 : -ENOENT);
	if (!err && --counts[e][tier][node] == 0)
		holders[e][tier][nodes[node].canon]--;
}

static void op_copy(int e, enum kv_tier tier, int node)
{
	bool known = counts[e][0][node] || counts[e][1][node];
	int err = kv_index_copy(ix, (uint16_t)e, tier, name_of(node));

	if (err == -ENOSPC)
		return;
	assert_int_equal(err, known ? 0 : -ENOENT);
	if (!err && counts[e][tier][node] < 63 && counts[e][tier][node]++ == 0)
		holders[e][tier][nodes[node].canon]++;
}

static void op_restart(int e)
{
	kv_index_bind(ix, (uint16_t)e, 0);
	memset(counts[e], 0, sizeof(counts[e]));
	memset(holders[e], 0, sizeof(holders[e]));
}

static void begin(size_t bytes, uint64_t seed)
{
	rng = seed * 0x9e3779b97f4a7c15ULL | 1;
	assert_int_equal(kv_index_new(bytes, seed, &ix), 0);
	memset(edge, 0, sizeof(edge));
	for (int e = 0; e < ENDPOINTS; e++)
		op_restart(e);
	tree_make();
}

static void end(void)
{
	for (int n = 0; n < NODES; n++)
		free(nodes[n].bytes);
	kv_index_free(ix);
}

/* One random operation. A whole path of stores is most of what engines do. */
static uint64_t op(bool exact)
{
	int e = (int)random_below(ENDPOINTS), node = (int)random_below(NODES), path[NODES];
	enum kv_tier tier = random_below(4) == 0 ? KV_TIER_CPU : KV_TIER_GPU;
	uint64_t what = random_below(1000), done = 0;
	int n = 0;

	if (what < 450) {
		for (int k = node; k >= 0; k = nodes[k].parent)
			path[n++] = k;
		while (n && op_add(e, tier, path[--n]) == 0)
			done++;
		return done;
	}
	if (what < 960)
		for (; done < 4; done++)
			op_remove(e, tier, (int)random_below(NODES));
	else if (what < 979)
		op_copy(e, tier, node);
	else if (what < 980)
		op_restart(e);
	else
		check_match(node, exact);
	return done ? done : 1;
}

static uint64_t ops_wanted(uint64_t usually)
{
	const char *text = getenv("SLUICE_KV_OPS");

	return text ? strtoull(text, NULL, 10) : usually;
}

static void it_agrees_with_a_naive_index_after_any_operations(void **state)
{
	uint64_t total = ops_wanted(400000);
	struct kv_index_stats stats;

	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		begin(4 << 20, seed);
		for (uint64_t done = 0; done < total / 4;)
			done += op(true);
		for (int n = 0; n < NODES; n++)
			check_match(n, true);
		kv_index_read_stats(ix, &stats);
		assert_int_equal(stats.refused + stats.lengths_refused + stats.conflicts, 0);
		assert_true(stats.doubles > 0 && stats.again > 0 && stats.unknown > 0);
		end();
	}
}

/* With room for 1,024 pairs and more wanted: never beyond the cap, never more than is true. */
static void a_full_index_refuses_and_never_overstates(void **state)
{
	struct kv_index_stats stats;

	(void)state;
	begin(1, 7);
	for (uint64_t done = 0; done < 400000;) {
		done += op(false);
		kv_index_read_stats(ix, &stats);
		assert_true(stats.pairs <= stats.pairs_max);
	}
	assert_int_equal(stats.pairs_max, 1024);
	assert_true(stats.refused > 100);
	end();
}

static void forgotten_endpoints_are_swept_out(void **state)
{
	struct kv_index_stats stats;

	(void)state;
	begin(4 << 20, 9);
	for (unsigned int round = 0; round < 3000; round++) { /* more than there are owners */
		struct kv_chain chain;

		assert_int_equal(kv_index_begin(ix, 3, KV_TIER_GPU, root_of(0), &chain), 0);
		assert_int_equal(kv_index_add(ix, &chain, round, 0, "abc", 3), 0);
		assert_int_equal(kv_index_add(ix, &chain, round + 5000, 0, "defg", 4), 0);
		kv_index_bind(ix, 3, round);
		assert_int_equal(kv_index_endpoint_pairs(ix, 3), 0);
		kv_index_sweep(ix, 2000); /* as the thread does between messages */
	}
	kv_index_sweep(ix, 1 << 30);
	kv_index_read_stats(ix, &stats);
	assert_int_equal(stats.pairs, 0);
	assert_int_equal(stats.swept, 6000);
	end();
}

static void another_generation_matches_nothing(void **state)
{
	struct kv_chain chain;
	struct kv_match got[ENDPOINTS_MAX];
	uint64_t prefix[1], slots[KV_SLOT_WORDS] = {1 << 3};
	uint32_t generations[ENDPOINTS_MAX] = {[3] = 8};
	struct kv_prompt prompt = {.bytes = "abcd", .len = 4, .root = 0, .prefix = prefix};

	(void)state;
	begin(1 << 20, 3);
	prompt.root = root_of(0);
	kv_prompt_read(kv_index_hash(ix), &prompt);
	kv_index_bind(ix, 3, 8);
	kv_index_begin(ix, 3, KV_TIER_GPU, root_of(0), &chain);
	assert_int_equal(kv_index_add(ix, &chain, 1, 0, "abc", 3), 0);
	kv_index_match(ix, &prompt, slots, generations, got);
	assert_true(got[3].known);
	assert_int_equal(got[3].blocks, 1);
	assert_int_equal(got[3].bytes, 3);
	generations[3] = 9;
	kv_index_match(ix, &prompt, slots, generations, got);
	assert_false(got[3].known);
	assert_int_equal(got[3].blocks, 0);
	end();
}

/* The last token of a prompt is always computed: its block cannot be reused whole. */
static void a_block_that_ends_with_the_prompt_does_not_count(void **state)
{
	struct kv_chain chain;
	struct kv_match got[ENDPOINTS_MAX];
	uint64_t prefix[1], slots[KV_SLOT_WORDS] = {1};
	uint32_t generations[ENDPOINTS_MAX] = {0};
	struct kv_prompt prompt = {.bytes = "abcdef", .len = 3, .root = 0, .prefix = prefix};

	(void)state;
	begin(1 << 20, 3);
	prompt.root = root_of(0);
	kv_index_begin(ix, 0, KV_TIER_CPU, root_of(0), &chain);
	assert_int_equal(kv_index_add(ix, &chain, 1, 0, "abc", 3), 0);
	assert_int_equal(kv_index_add(ix, &chain, 2, 0, "de", 2), 0);
	kv_prompt_read(kv_index_hash(ix), &prompt);
	kv_index_match(ix, &prompt, slots, generations, got);
	assert_int_equal(got[0].blocks, 0);
	prompt.len = 6;
	kv_index_match(ix, &prompt, slots, generations, got);
	assert_int_equal(got[0].blocks, 2);
	assert_int_equal(got[0].cpu_blocks, 2);
	end();
}

/* Thousands of first blocks of many lengths: a fork wider than a record is still walked. */
static void a_wide_fork_is_walked(void **state)
{
	static char text[4000][260];
	struct kv_match got[ENDPOINTS_MAX];
	uint64_t slots[KV_SLOT_WORDS] = {2}, prefix[4];
	uint32_t generations[ENDPOINTS_MAX] = {0};
	struct kv_index_stats stats;
	unsigned int found = 0;

	(void)state;
	begin(256 << 20, 5);
	for (unsigned int i = 0; i < 4000; i++) {
		struct kv_chain chain;
		size_t n = 20 + random_below(200);

		for (size_t k = 0; k < sizeof(text[i]); k++)
			text[i][k] = (char)('a' + random_below(26));
		kv_index_begin(ix, 1, KV_TIER_GPU, root_of(0), &chain);
		assert_int_equal(kv_index_add(ix, &chain, i, 0, text[i], n), 0);
	}
	for (unsigned int i = 0; i < 4000; i++) {
		struct kv_prompt prompt = {.bytes = text[i],
					   .len = sizeof(text[i]),
					   .root = root_of(0),
					   .prefix = prefix};

		kv_prompt_read(kv_index_hash(ix), &prompt);
		kv_index_match(ix, &prompt, slots, generations, got);
		found += got[1].blocks == 1;
	}
	kv_index_read_stats(ix, &stats);
	assert_int_equal(stats.lengths_refused, 0);
	assert_int_equal(found, 4000);
	end();
}

static void fingerprints_go_on_from_any_byte(void **state)
{
	char text[700];
	struct kv_hash k;
	uint64_t prefix[8], whole;
	struct kv_prompt prompt = {
		.bytes = text, .len = sizeof(text), .root = 99, .prefix = prefix};

	(void)state;
	rng = 77;
	for (uint64_t seed = 0; seed < 20; seed++) {
		kv_hash_init(&k, seed);
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = (char)random_below(256);
		whole = kv_hash_add(&k, 99, text, sizeof(text));
		assert_true(whole < k.prime && k.prime >> 57 == 1);
		kv_prompt_read(&k, &prompt);
		for (uint32_t at = 0; at <= sizeof(text); at++) {
			uint64_t h = kv_hash_add(&k, 99, text, at);
			unsigned __int128 slow = 99;

			for (uint32_t i = 0; i < at; i++)
				slow = (slow * 256 + (uint8_t)text[i]) % k.prime;
			assert_true(h == (uint64_t)slow);
			assert_true(kv_prompt_at(&k, &prompt, at) == h);
			assert_true(kv_hash_add(&k, h, text + at, sizeof(text) - at) == whole);
		}
	}
}

/* ---- threads ---- */

static _Atomic bool stop;
static _Atomic uint64_t matches;

static void *reader(void *arg)
{
	struct kv_match *got = calloc(ENDPOINTS_MAX, sizeof(*got));
	uint32_t *generations = calloc(ENDPOINTS_MAX, sizeof(*generations));
	struct kv_hints *hints = aligned_alloc(64, sizeof(*hints));
	uint64_t prefix[BYTES_MAX / KV_CELL_BYTES + 2], slots[KV_SLOT_WORDS] = {0}, n = 0;

	(void)arg;
	slots[0] = (1 << ENDPOINTS) - 1;
	while (!stop) {
		const struct node *x = &nodes[n++ % NODES];
		struct kv_prompt prompt = {.bytes = x->bytes,
					   .len = x->end,
					   .root = root_of(x->root),
					   .prefix = prefix,
					   .hints = hints};

		kv_prompt_read(kv_index_hash(ix), &prompt);
		kv_index_match(ix, &prompt, slots, generations, got);
		for (int e = 0; e < ENDPOINTS; e++)
			if (got[e].bytes > x->end || got[e].blocks > x->prefix_count)
				abort();
		matches++;
	}
	free(got);
	free(generations);
	free(hints);
	return NULL;
}

static void readers_never_see_what_never_was(void **state)
{
	pthread_t threads[2];

	(void)state;
	begin(16 << 20, 11);
	stop = false;
	matches = 0;
	for (unsigned int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, reader, NULL);
	for (uint64_t done = 0; done < 100000 || matches < 2000;)
		done += op(true); /* the writer itself always reads what it wrote */
	stop = true;
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fingerprints_go_on_from_any_byte),
		cmocka_unit_test(it_agrees_with_a_naive_index_after_any_operations),
		cmocka_unit_test(a_full_index_refuses_and_never_overstates),
		cmocka_unit_test(forgotten_endpoints_are_swept_out),
		cmocka_unit_test(another_generation_matches_nothing),
		cmocka_unit_test(a_block_that_ends_with_the_prompt_does_not_count),
		cmocka_unit_test(a_wide_fork_is_walked),
		cmocka_unit_test(readers_never_see_what_never_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
