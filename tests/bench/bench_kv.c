/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The precise index beside a plain hash-map index over liburcu's lock-free hash table, on the
 * Mooncake conversation trace as 64 engines of 4,096 blocks would emit it (each request goes where
 * most of it is cached, or to the least used engine; the trace is repeated with other prompts).
 *   operations: stores and removals of one writer, text of the blocks fingerprinted on the way
 *   matching:   the trace's prompts against 100 endpoints, alone and while a writer is at work;
 *               held as the trace leaves them, and, harder, each by four endpoints
 */
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <urcu-qsbr.h>

#include <urcu/rculfhash.h>

#include "base/clock.h"
#include "kv/kv_index.h"

#define ENGINES	    64
#define MATCHED	    100 /* endpoints asked for */
#define BLOCKS	    4096
#define OPS_MAX	    1000000
#define IDS_MAX	    (1 << 20)
#define POOL_BYTES  (256 * 1024)
#define PROMPT_MAX  (1 << 20)
#define MATCHES	    20000
#define INDEX_BYTES (12 << 20) /* room for what 64 such engines hold, and half as much again */
#define PACE	    1000000    /* blocks a second while matching */
#define GOAL_OPS    5e6
#define GOAL_US	    10.0
#define GOAL_BYTES  28.0

struct op {
	uint32_t id, parent; /* block + 1; 0: none */
	uint16_t engine;
	bool store;
};

static struct op *ops;
static size_t op_count;
static uint32_t (*rows)[512], row_len[1024], row_count, id_count;
static char pool[POOL_BYTES + 4096];
static uint64_t times_ns[MATCHES];

/* ---- the trace, and what engines would emit ---- */

struct lru {
	uint32_t newer, older; /* id + 1 */
};

static struct lru *lists[ENGINES]; /* [0] is the head */
static uint32_t used[ENGINES];

static void trace_read(void)
{
	FILE *f = fopen("tests/data/mooncake_conversation_800.jsonl", "r");
	char *line = NULL;
	size_t size = 0;

	rows = calloc(1024, sizeof(*rows));
	while (f && getline(&line, &size, f) > 0 && row_count < 1024) {
		json_t *row = json_loads(line, 0, NULL), *ids = json_object_get(row, "hash_ids");
		uint32_t n = (uint32_t)json_array_size(ids);

		for (uint32_t i = 0; i < n && i < 512; i++) {
			rows[row_count][i] = (uint32_t)json_integer_value(json_array_get(ids, i));
			if (rows[row_count][i] >= id_count)
				id_count = rows[row_count][i] + 1;
		}
		row_len[row_count++] = n < 512 ? n : 512;
		json_decref(row);
	}
	if (f)
		fclose(f);
	free(line);
}

static void list_out(struct lru *l, uint32_t i)
{
	l[l[i].newer].older = l[i].older;
	l[l[i].older].newer = l[i].newer;
	l[i] = (struct lru){0};
}

static void list_in(struct lru *l, uint32_t i)
{
	uint32_t first = l[0].older;

	l[i] = (struct lru){.newer = 0, .older = first};
	l[first].newer = i;
	l[0].older = i;
}

static bool cached(int e, uint32_t i)
{
	return lists[e][i].newer || lists[e][i].older || lists[e][0].older == i;
}

static void emit(bool store, int e, uint32_t id, uint32_t parent)
{
	if (op_count < OPS_MAX)
		ops[op_count++] = (struct op){id, parent, (uint16_t)e, store};
}

/* The first blocks stay the freshest: what an engine gives up first is the end of a prefix. */
static void serve(int e, const uint32_t *ids, uint32_t n)
{
	for (uint32_t i = n; i-- > 0;) {
		if (cached(e, ids[i])) {
			list_out(lists[e], ids[i]);
		} else if (used[e]++ >= BLOCKS) {
			uint32_t last = lists[e][0].newer;

			list_out(lists[e], last);
			used[e]--;
			emit(false, e, last, 0);
		}
		list_in(lists[e], ids[i]);
	}
}

static void request(uint32_t row, uint32_t pass)
{
	uint32_t ids[512], n = row_len[row], hits = 0, best = 0;
	int e = (int)((row + pass * 7) % ENGINES);

	for (uint32_t i = 0; i < n; i++)
		ids[i] = 1 + (rows[row][i] ? rows[row][i] + pass * id_count : 0);
	for (int k = 0; k < ENGINES; k++) {
		for (hits = 0; hits < n && cached(k, ids[hits]); hits++)
			;
		if (hits > best + 1) { /* more than the system prompt */
			best = hits;
			e = k;
		}
	}
	for (hits = 0; hits < n && cached(e, ids[hits]); hits++)
		;
	for (uint32_t i = hits; i < n; i++)
		if (!cached(e, ids[i]))
			emit(true, e, ids[i], i ? ids[i - 1] : 0);
	serve(e, ids, n);
}

static void ops_make(void)
{
	ops = malloc(OPS_MAX * sizeof(*ops));
	for (int e = 0; e < ENGINES; e++)
		lists[e] = calloc(IDS_MAX, sizeof(struct lru));
	for (uint32_t pass = 0; op_count < OPS_MAX && (pass + 2) * id_count < IDS_MAX; pass++)
		for (uint32_t r = 0; r < row_count; r++)
			request(r, pass);
	for (int e = 0; e < ENGINES; e++)
		free(lists[e]);
}

static const char *text_of(uint32_t id, uint32_t tokens, size_t *ret_len)
{
	uint64_t x = (uint64_t)id * 0x9e3779b97f4a7c15ULL;

	*ret_len = tokens * 4 - tokens / 8 + x % (tokens / 4 + 1);
	return pool + (x >> 20) % POOL_BYTES;
}

static uint64_t name_of(uint32_t id)
{
	return id * 0xd1342543de82ef95ULL;
}

/* ---- ours ---- */

/* Stores that follow each other are one event, as an engine would send them: one chain. */
static void ours_apply(struct kv_index *ix, size_t i, struct kv_chain *chain, uint32_t tokens)
{
	const struct op *o = &ops[i], *before = i ? &ops[i - 1] : NULL;
	size_t len;
	const char *text;
	int err = 0;

	if (i + 8 < op_count && !ops[i + 8].store)
		kv_index_prefetch(ix, ops[i + 8].engine, KV_TIER_GPU, name_of(ops[i + 8].id));
	if (i + 4 < op_count && !ops[i + 4].store)
		kv_index_prefetch_word(ix, ops[i + 4].engine, KV_TIER_GPU, name_of(ops[i + 4].id));
	if (!o->store) {
		kv_index_remove(ix, o->engine, KV_TIER_GPU, name_of(o->id));
		return;
	}
	if (!o->parent)
		err = kv_index_begin(ix, o->engine, KV_TIER_GPU, 7, chain);
	else if (!before || !before->store || before->engine != o->engine ||
		 before->id != o->parent)
		err = kv_index_after(ix, o->engine, KV_TIER_GPU, name_of(o->parent), chain);
	text = text_of(o->id, tokens, &len);
	if (!err)
		kv_index_add(ix, chain, name_of(o->id), 0, text, len);
}

static struct kv_index *ours_new(size_t bytes, unsigned int endpoints)
{
	struct kv_index *ix;

	if (kv_index_new(bytes, 1, &ix))
		exit(1);
	for (uint16_t e = 0; e < endpoints; e++)
		kv_index_bind(ix, e, 0);
	return ix;
}

/* CPU time of this thread: what others do on the machine is not ours. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static double ours_ops(uint32_t tokens, struct kv_index **ret)
{
	struct kv_index *ix = ours_new(INDEX_BYTES, ENGINES);
	struct kv_chain chain = {0};
	uint64_t began = cpu_ns();

	for (size_t i = 0; i < op_count; i++)
		ours_apply(ix, i, &chain, tokens);
	*ret = ix;
	return (double)op_count / ((double)(cpu_ns() - began) / 1e9);
}

/* ---- the yardstick: nodes by fingerprint with a bit an endpoint, pairs by (engine, hash) ---- */

struct map_node {
	struct cds_lfht_node link;
	uint64_t h, holders[ENDPOINTS_MAX / 64];
	uint32_t refs;
};

struct map_pair {
	struct cds_lfht_node link;
	uint64_t name, h;
	uint16_t engine;
};

struct map {
	struct cds_lfht *nodes, *pairs;
	struct kv_hash hash;
	size_t bytes;
};

static int node_is(struct cds_lfht_node *n, const void *key)
{
	return caa_container_of(n, struct map_node, link)->h == *(const uint64_t *)key;
}

static int pair_is(struct cds_lfht_node *n, const void *key)
{
	const struct map_pair *p = caa_container_of(n, struct map_pair, link), *want = key;

	return p->name == want->name && p->engine == want->engine;
}

static struct map_pair *pair_get(struct map *m, uint16_t engine, uint64_t name)
{
	struct map_pair key = {.name = name, .engine = engine};
	struct cds_lfht_iter it;

	cds_lfht_lookup(m->pairs, name ^ engine * 0x9e3779b9u, pair_is, &key, &it);
	return it.node ? caa_container_of(it.node, struct map_pair, link) : NULL;
}

static struct map_node *node_get(struct map *m, uint64_t h)
{
	struct cds_lfht_iter it;

	cds_lfht_lookup(m->nodes, h, node_is, &h, &it);
	return it.node ? caa_container_of(it.node, struct map_node, link) : NULL;
}

static void map_store(struct map *m, size_t i, uint32_t tokens)
{
	static struct map_pair *parent; /* the one before, in one event */
	const struct op *o = &ops[i], *before = i ? &ops[i - 1] : NULL;
	struct map_pair *p;
	struct map_node *n;
	size_t len;
	const char *text = text_of(o->id, tokens, &len);

	if (!o->parent)
		parent = NULL;
	else if (!before || !before->store || before->engine != o->engine ||
		 before->id != o->parent)
		parent = pair_get(m, o->engine, name_of(o->parent));
	if (o->parent && !parent)
		return;
	p = calloc(1, sizeof(*p));
	p->name = name_of(o->id);
	p->engine = o->engine;
	p->h = kv_hash_add(&m->hash, parent ? parent->h : 7, text, len);
	cds_lfht_add(m->pairs, p->name ^ p->engine * 0x9e3779b9u, &p->link);
	n = node_get(m, p->h);
	if (!n) {
		n = calloc(1, sizeof(*n));
		n->h = p->h;
		cds_lfht_add(m->nodes, n->h, &n->link);
		m->bytes += sizeof(*n) + 16;
	}
	n->holders[o->engine / 64] |= 1ULL << (o->engine % 64);
	n->refs++;
	m->bytes += sizeof(*p) + 16;
	parent = p;
}

static void map_remove(struct map *m, const struct op *o)
{
	struct map_pair *p = pair_get(m, o->engine, name_of(o->id));
	struct map_node *n = p ? node_get(m, p->h) : NULL;

	if (!n)
		return;
	n->holders[o->engine / 64] &= ~(1ULL << (o->engine % 64));
	if (--n->refs == 0) {
		cds_lfht_del(m->nodes, &n->link);
		m->bytes -= sizeof(*n) + 16;
		free(n); /* no reader runs in this part */
	}
	cds_lfht_del(m->pairs, &p->link);
	m->bytes -= sizeof(*p) + 16;
	free(p);
}

static double map_ops(uint32_t tokens, double *ret_bytes, const struct kv_index *ix)
{
	struct map m = {.hash = *kv_index_hash(ix)};
	struct kv_index_stats stats;
	uint64_t began;

	m.nodes = cds_lfht_new(1 << 20, 1 << 20, 1 << 20, 0, NULL);
	m.pairs = cds_lfht_new(1 << 20, 1 << 20, 1 << 20, 0, NULL);
	began = cpu_ns();
	for (size_t i = 0; i < op_count; i++) {
		if (ops[i].store)
			map_store(&m, i, tokens);
		else
			map_remove(&m, &ops[i]);
	}
	began = cpu_ns() - began;
	kv_index_read_stats(ix, &stats);
	*ret_bytes = ((double)m.bytes + 2 * 8 * (1 << 20)) / (double)stats.pairs;
	return (double)op_count / ((double)began / 1e9);
}

/* ---- memory: one holder a block, until nothing more goes in ---- */

static void memory_print(void)
{
	struct kv_index *ix = ours_new(64 << 20, 1);
	struct kv_index_stats s;
	uint64_t n = 0, refused = 0;
	int err;

	kv_index_read_stats(ix, &s);
	while (s.pairs < s.pairs_max &&
	       refused < s.pairs_max / 100) { /* prompts of 64 blocks each */
		struct kv_chain chain;

		kv_index_begin(ix, 0, KV_TIER_GPU, 7, &chain);
		err = 0;
		for (unsigned int i = 0; i < 64 && !err; i++, n++) {
			char text[72];

			snprintf(text, sizeof(text), "%016llx and some more text",
				 (unsigned long long)n * 0x9e3779b97f4a7c15ULL);
			err = kv_index_add(ix, &chain, n, 0, text, 40 + n % 20);
		}
		refused += err != 0;
		kv_index_read_stats(ix, &s);
	}
	kv_index_read_stats(ix, &s);
	printf("memory, one holder a block: %.2f B a pair where room ends (%llu pairs, %.1f %% of "
	       "the "
	       "places for them; goal %.0f at 85 %%)%s\n",
	       (double)s.bytes / (double)s.pairs, (unsigned long long)s.pairs,
	       85.0 * (double)s.pairs / (double)s.pairs_max, GOAL_BYTES,
	       (double)s.bytes / (double)s.pairs <= GOAL_BYTES ? "" : "  MISSED");
	kv_index_free(ix);
}

/* ---- matching ---- */

static struct kv_index *shared;
static _Atomic bool stop;
static _Atomic uint64_t applied;

/* Stores and removes as the engines would, over and over, at the pace. */
static void *writer(void *arg)
{
	uint64_t began = clock_mono_ns(), done = 0;
	struct kv_chain chain = {0};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(1, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	(void)arg;
	while (!stop) {
		ours_apply(shared, done % op_count, &chain,
			   16); /* short blocks: as many as one core can */
		if (++done % 64 == 0)
			while (!stop && (clock_mono_ns() - began) * (PACE / 1000) / 1000000 < done)
				;
		atomic_store_explicit(&applied, done, memory_order_relaxed);
	}
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint32_t prompt_make(uint32_t row, char *bytes)
{
	uint32_t len = 0;

	for (uint32_t i = 0; i < row_len[row] && len + 4096 < PROMPT_MAX; i++) {
		size_t n;
		const char *text = text_of(1 + rows[row][i], 512, &n);

		memcpy(bytes + len, text, n);
		len += (uint32_t)n;
	}
	return len;
}

static void pool_add(struct kv_index *ix, uint16_t slot, uint32_t row)
{
	struct kv_chain chain;

	kv_index_begin(ix, slot, KV_TIER_GPU, 7, &chain);
	for (uint32_t i = 0; i < row_len[row]; i++) {
		size_t n;
		const char *text = text_of(1 + rows[row][i], 512, &n);

		if (kv_index_add(ix, &chain, name_of(1 + rows[row][i]), 0, text, n))
			break;
	}
}

/*
 * Who holds which prompts, at[row] one of them. copies 1: as the trace leaves it where each request
 * goes to the endpoint that holds most of it; 4: row r is held by all that are r modulo 25.
 */
static void pool_fill(struct kv_index *ix, uint16_t first, unsigned int copies, uint16_t *at)
{
	static uint16_t last[IDS_MAX]; /* who holds a block, the newest; + 1 */

	memset(last, 0, sizeof(last));
	for (uint32_t r = 0; r < row_count; r++) {
		at[r] = (uint16_t)(r % 25);
		if (copies == 1) {
			at[r] = (uint16_t)(r % MATCHED);
			for (uint32_t i = 1; i < row_len[r] && last[rows[r][i]]; i++)
				at[r] = last[rows[r][i]] - 1;
		}
		for (uint32_t i = 0; i < row_len[r]; i++)
			last[rows[r][i]] = at[r] + 1;
		for (uint16_t e = at[r]; e < MATCHED; e += copies == 1 ? MATCHED : 25)
			pool_add(ix, first + e, r);
		at[r] += first;
	}
}

static void matches_time(const char *what, const uint16_t *at, bool judged)
{
	struct kv_match *got = calloc(ENDPOINTS_MAX, sizeof(*got));
	uint32_t *generations = calloc(ENDPOINTS_MAX, sizeof(*generations));
	uint64_t *prefix = malloc((PROMPT_MAX / KV_CELL_BYTES + 1) * sizeof(*prefix));
	struct kv_hints *hints = aligned_alloc(64, sizeof(*hints));
	char *bytes = malloc(PROMPT_MAX);
	uint64_t slots[KV_SLOT_WORDS] = {0}, bytes_sum = 0, read_ns = 0, blocks = 0;
	double p99;

	memset(hints, 0, sizeof(*hints));
	for (unsigned int e = ENGINES; e < ENGINES + MATCHED; e++)
		slots[e / 64] |= 1ULL << (e % 64);
	for (uint32_t i = 0; i < MATCHES; i++) {
		struct kv_prompt prompt = {.bytes = bytes,
					   .len = prompt_make(i % row_count, bytes),
					   .root = 7,
					   .prefix = prefix,
					   .hints = hints};
		uint64_t t0 = cpu_ns(), t1;

		kv_prompt_read(kv_index_hash(shared), &prompt);
		t1 = cpu_ns();
		kv_index_match(shared, &prompt, slots, generations, got);
		times_ns[i] = cpu_ns() - t1;
		read_ns += t1 - t0;
		bytes_sum += prompt.len;
		blocks += got[at[i % row_count]].blocks;
	}
	qsort(times_ns, MATCHES, sizeof(*times_ns), by_value);
	p99 = (double)times_ns[MATCHES / 100 * 99] / 1000;
	printf("%s: match p50 %.2f us, p99 %.2f us%s, %.1f blocks matched on average; "
	       "fingerprints beforehand %.1f GB/s (%.1f us a prompt of %.0f KB)\n",
	       what, (double)times_ns[MATCHES / 2] / 1000, p99,
	       !judged		? ""
	       : p99 <= GOAL_US ? " (goal 10)"
				: " (goal 10)  MISSED",
	       (double)blocks / MATCHES, (double)bytes_sum / (double)read_ns,
	       (double)read_ns / MATCHES / 1000, (double)bytes_sum / MATCHES / 1000);
	free(got);
	free(generations);
	free(prefix);
	free(hints);
	free(bytes);
}

/*
 * The yardstick: a lookup a block, until nobody is left. It is told where blocks end (a plain map
 * cannot know), and reads the same fingerprints.
 */
static void map_matches_time(const uint16_t *at)
{
	struct map m = {.hash = *kv_index_hash(shared)};
	uint64_t *prefix = malloc((PROMPT_MAX / KV_CELL_BYTES + 1) * sizeof(*prefix));
	char *bytes = malloc(PROMPT_MAX);
	uint64_t blocks = 0;

	m.nodes = cds_lfht_new(1 << 16, 1 << 16, 1 << 20, 0, NULL);
	for (uint32_t r = 0; r < row_count; r++) {
		uint64_t h = 7;

		for (uint32_t i = 0; i < row_len[r]; i++) {
			size_t n;
			const char *text = text_of(1 + rows[r][i], 512, &n);
			struct map_node *node;

			h = kv_hash_add(&m.hash, h, text, n);
			node = node_get(&m, h);
			if (!node) {
				node = calloc(1, sizeof(*node));
				node->h = h;
				cds_lfht_add(m.nodes, h, &node->link);
			}
			node->holders[at[r] / 64] |= 1ULL << (at[r] % 64);
		}
	}
	for (uint32_t i = 0; i < MATCHES; i++) {
		uint32_t r = i % row_count, pos = 0, depth[ENDPOINTS_MAX / 64] = {0};
		struct kv_prompt prompt = {
			.bytes = bytes, .len = prompt_make(r, bytes), .root = 7, .prefix = prefix};
		uint64_t alive[ENDPOINTS_MAX / 64], any = 1, t0;

		kv_prompt_read(&m.hash, &prompt);
		memset(alive, 0xff, sizeof(alive));
		t0 = cpu_ns();
		for (uint32_t b = 0; any && b < row_len[r]; b++) {
			struct map_node *node;
			size_t n;

			text_of(1 + rows[r][b], 512, &n);
			pos += (uint32_t)n;
			if (pos >= prompt.len)
				break;
			node = node_get(&m, kv_prompt_at(&m.hash, &prompt, pos));
			any = 0;
			for (unsigned int k = 0; node && k < ENDPOINTS_MAX / 64; k++) {
				alive[k] &= node->holders[k];
				any |= alive[k];
				depth[k] += alive[k] != 0;
			}
		}
		times_ns[i] = cpu_ns() - t0;
		blocks += depth[at[r] / 64];
	}
	qsort(times_ns, MATCHES, sizeof(*times_ns), by_value);
	printf("  plain hash map, told where blocks end, nobody writes: p50 %.2f us, p99 %.2f us, "
	       "%.1f "
	       "blocks matched on average\n",
	       (double)times_ns[MATCHES / 2] / 1000, (double)times_ns[MATCHES / 100 * 99] / 1000,
	       (double)blocks / MATCHES);
	free(prefix);
	free(bytes);
}

static void matching(unsigned int copies)
{
	static uint16_t at[1024];
	char what[64];
	pthread_t thread;
	uint64_t began;

	shared = ours_new(2 * INDEX_BYTES, ENGINES + MATCHED);
	pool_fill(shared, ENGINES, copies, at);
	snprintf(what, sizeof(what), "100 endpoints, %u hold%s a prompt, nobody writes", copies,
		 copies == 1 ? "s" : "");
	matches_time(what, at, copies == 1);
	if (copies == 1)
		map_matches_time(at);
	stop = false;
	applied = 0;
	pthread_create(&thread, NULL, writer, NULL);
	began = clock_mono_ns();
	snprintf(what, sizeof(what), "100 endpoints, %u hold%s a prompt, events arrive", copies,
		 copies == 1 ? "s" : "");
	matches_time(what, at, copies == 1);
	began = clock_mono_ns() - began;
	printf("  meanwhile %.2f M block operations a second were applied (goal 1)\n",
	       (double)applied / ((double)began / 1e9) / 1e6);
	stop = true;
	pthread_join(thread, NULL);
	kv_index_free(shared);
}

int main(void)
{
	static const uint32_t sizes[] = {512, 16};
	struct kv_index *ix;

	setlinebuf(stdout);
	trace_read();
	for (size_t i = 0; i < sizeof(pool); i++)
		pool[i] = (char)('a' + (i * 2654435761u >> 13) % 26);
	rcu_register_thread();
	ops_make();
	printf("%zu operations of %d engines, Mooncake conversation\n", op_count, ENGINES);
	for (unsigned int i = 0; i < 2; i++) {
		double best = 0, map_bytes, map = 0;
		struct kv_index_stats s;

		for (unsigned int round = 0; round < 3; round++) {
			double rate = ours_ops(sizes[i], &ix),
			       theirs = map_ops(sizes[i], &map_bytes, ix);

			best = rate > best ? rate : best;
			map = theirs > map ? theirs : map;
			kv_index_read_stats(ix, &s);
			kv_index_free(ix);
		}
		printf("blocks of %u tokens: %.2f M operations/s (goal %.0f)%s; plain hash map "
		       "%.2f M/s, "
		       "%.0f B a pair; %llu pairs, refused %llu, forks lost %llu\n",
		       sizes[i], best / 1e6, GOAL_OPS / 1e6, best >= GOAL_OPS ? "" : "  MISSED",
		       map / 1e6, map_bytes, (unsigned long long)s.pairs,
		       (unsigned long long)s.refused,
		       (unsigned long long)(s.lengths_refused + s.lengths_dropped));
	}
	memory_print();
	matching(1);
	matching(4);
	rcu_unregister_thread();
	return 0;
}
