/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pick among 100 endpoints for a 6,900-token prompt (27.6 KB), and the prefix index alone.
 * The goal of 20 us covers hashing, matching, scoring, counting and noting the decision.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "scheduler/prefix_hash.h"
#include "scheduler/prefix_index.h"
#include "scheduler/scheduler.h"

#define ENDPOINTS    100
#define PROMPT_BYTES 27600
#define SYSTEM_BYTES 2048 /* the part that all prompts share */
#define PICKS	     100000
#define SESSIONS     4000
#define GOAL_US	     20.0
#define GOAL_BYTES   28.0

static struct endpoint_snapshot snap;
static uint64_t times_ns[PICKS];

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double percentile_us(double p)
{
	return (double)times_ns[(size_t)(p * (PICKS - 1))] / 1000;
}

static void make_pool(void)
{
	struct sluice_endpoint_load *loads = aligned_alloc(128, ENDPOINTS * sizeof(*loads));

	memset(loads, 0, ENDPOINTS * sizeof(*loads));
	snap.views = calloc(ENDPOINTS, sizeof(*snap.views));
	snap.view_count = ENDPOINTS;
	for (uint16_t i = 0; i < ENDPOINTS; i++) {
		struct endpoint *ep = calloc(1, sizeof(*ep));

		ep->slot = i;
		ep->generation = 1;
		ep->load = &loads[i];
		ep->breaker.state = SLUICE_ENDPOINT_READY;
		snprintf(ep->address, sizeof(ep->address), "10.0.0.%u:8000", i);
		ep->load->waiting = i % 7;
		ep->load->running = 10 + i % 13;
		ep->load->kv_used_ppm = 300000 + 5000u * i;
		ep->load->block_tokens = 16;
		ep->load->blocks_total = 32768;
		snap.views[i] = ep;
	}
}

static char *prompt_of(uint32_t session)
{
	static char prompt[PROMPT_BYTES];

	for (uint32_t i = SYSTEM_BYTES; i < PROMPT_BYTES; i++)
		prompt[i] = (char)('a' + (prefix_mix(session, i / 64) + i) % 26);
	return prompt;
}

/* 128 blocks as prefix_hash() would name them: a shared beginning, then the prompt's own. */
static void prompt_hashes(uint32_t prompt, uint64_t *hashes)
{
	uint64_t group = 0;

	for (uint32_t i = 0; i < 128; i++) {
		uint64_t chain = prefix_mix(i < 8 ? 0 : prompt + 1, i);

		if (i % PREFIX_GROUP_BLOCKS == 0)
			group = chain;
		hashes[i] = prefix_grouped(group, chain, (uint32_t)i % PREFIX_GROUP_BLOCKS);
	}
}

static void report(const char *what, double p50, double p99, double goal_us)
{
	printf("%-44s p50 %7.2f us  p99 %7.2f us%s\n", what, p50, p99,
	       goal_us == 0	? ""
	       : p99 <= goal_us ? "  goal 20 us met"
				: "  goal 20 us MISSED");
}

static void bench_pick(struct sched_worker *w, bool hashing, bool warm_up)
{
	struct sched_piece piece = {.kind = SCHED_PIECE_TEXT};
	struct sched_request req = {.model_name = SPAN("m"), .pieces = &piece, .piece_count = 1};
	struct sched_pick pick;

	for (uint32_t n = 0; n < PICKS; n++) {
		char id[32];
		uint64_t start, end;

		piece.bytes =
			span_of(prompt_of(n % 17 ? (uint32_t)(prefix_mix(n, 3) % SESSIONS) : n),
				hashing ? PROMPT_BYTES : 0);
		req.request_id = span_of(id, (size_t)snprintf(id, sizeof(id), "request-%u", n));
		req.prompt_tokens = PROMPT_BYTES / 4;
		req.now_ns = clock_mono_ns();
		for (uint32_t i = 0; i < ENDPOINTS; i++)
			snap.views[i]->load->scraped_at_ns = req.now_ns;
		start = clock_mono_ns();
		if (scheduler_pick(w, &snap, &req, &pick))
			abort();
		end = clock_mono_ns();
		times_ns[n] = end - start;
		scheduler_learn(w, &pick);
		scheduler_done(w, &pick, &(struct sched_outcome){.now_ns = end});
	}
	if (warm_up)
		return;
	qsort(times_ns, PICKS, sizeof(times_ns[0]), by_value);
	report(hashing ? "pick, 100 endpoints, 27.6 KB prompt, hashed"
		       : "pick, 100 endpoints, no prompt",
	       percentile_us(0.5), percentile_us(0.99), hashing ? GOAL_US : 0);
}

static void bench_hash(void)
{
	struct sched_piece piece = {.bytes = span_of(prompt_of(1), PROMPT_BYTES), .kind = 1};
	struct sched_request req = {.model_name = SPAN("m"), .pieces = &piece, .piece_count = 1};
	uint64_t hashes[PROMPT_BLOCKS_MAX], bytes;

	for (uint32_t n = 0; n < PICKS; n++) {
		uint64_t start = clock_mono_ns();

		prefix_hash(&req, PROMPT_BLOCK_BYTES, hashes, PROMPT_BLOCKS_MAX, &bytes);
		times_ns[n] = clock_mono_ns() - start;
	}
	qsort(times_ns, PICKS, sizeof(times_ns[0]), by_value);
	report("hashing alone, 27.6 KB", percentile_us(0.5), percentile_us(0.99), 0);
}

static void bench_match(const struct prefix_index *ix)
{
	struct sched_piece piece = {.kind = 1};
	struct sched_request req = {.model_name = SPAN("m"), .pieces = &piece, .piece_count = 1};
	static uint32_t generations[ENDPOINTS_MAX];
	static uint16_t hits[ENDPOINTS_MAX];
	uint64_t hashes[PROMPT_BLOCKS_MAX], bytes, slots[PREFIX_SLOT_WORDS] = {0};

	for (uint32_t i = 0; i < ENDPOINTS; i++) {
		slots[i / 64] |= 1ULL << (i % 64);
		generations[i] = 1;
	}
	for (uint32_t n = 0; n < PICKS; n++) {
		uint64_t start;
		uint32_t count;

		piece.bytes =
			span_of(prompt_of((uint32_t)(prefix_mix(n, 5) % SESSIONS)), PROMPT_BYTES);
		count = prefix_hash(&req, PROMPT_BLOCK_BYTES, hashes, PROMPT_BLOCKS_MAX, &bytes);
		start = clock_mono_ns();
		prefix_index_match(ix, hashes, count, slots, generations, hits);
		times_ns[n] = clock_mono_ns() - start;
	}
	qsort(times_ns, PICKS, sizeof(times_ns[0]), by_value);
	report("match alone, 108 blocks, 100 endpoints", percentile_us(0.5), percentile_us(0.99),
	       0);
}

/* Prompts of 128 blocks that are in a table at its fill limit. */
static void bench_match_full(const struct prefix_index *ix, uint32_t newest)
{
	static uint32_t generations[ENDPOINTS_MAX];
	static uint16_t hits[ENDPOINTS_MAX];
	uint64_t hashes[128], slots[PREFIX_SLOT_WORDS] = {0}, found = 0;

	for (uint32_t i = 0; i < ENDPOINTS; i++) {
		slots[i / 64] |= 1ULL << (i % 64);
		generations[i] = 1;
	}
	for (uint32_t n = 0; n < PICKS; n++) {
		uint32_t prompt = newest - (uint32_t)(prefix_mix(n, 9) % 10000);
		uint64_t start;

		prompt_hashes(prompt, hashes);
		start = clock_mono_ns();
		prefix_index_match(ix, hashes, 128, slots, generations, hits);
		times_ns[n] = clock_mono_ns() - start;
		found += hits[prompt % ENDPOINTS];
	}
	qsort(times_ns, PICKS, sizeof(times_ns[0]), by_value);
	printf("%-44s %.1f of 128 blocks found\n", "match, full table", (double)found / PICKS);
	report("match, full table, 128 blocks, 100 endpoints", percentile_us(0.5),
	       percentile_us(0.99), 0);
}

static void bench_index_ops(void)
{
	struct prefix_index *ix;
	struct prefix_index_stats stats;
	uint64_t hashes[128], start, ops = 0;
	double seconds;

	if (prefix_index_new(NULL, 64 << 20, 1, &ix))
		abort();
	for (int round = 0; round < 2; round++) {
		start = clock_mono_ns();
		ops = 0;
		for (uint32_t n = 0; n < 40000; n++) {
			prompt_hashes(n, hashes);
			prefix_index_learn(ix, 0, (uint16_t)(n % ENDPOINTS), 1, 0, hashes, 128);
			ops += 128;
		}
		seconds = (double)(clock_mono_ns() - start) / 1e9;
	}
	bench_match_full(ix, 39999);
	prefix_index_read_stats(ix, &stats);
	printf("%-44s %.1f M blocks/s (with LRU and eviction)\n", "index writer, one core",
	       (double)ops / seconds / 1e6);
	printf("%-44s %.1f bytes at the fill limit of 85 %%, goal %.0f %s\n",
	       "index, per (block, endpoint) pair", (double)stats.bytes / (double)stats.pairs_max,
	       GOAL_BYTES,
	       (double)stats.bytes / (double)stats.pairs_max <= GOAL_BYTES ? "met" : "MISSED");
	printf("%-44s %lu of %lu pairs, %lu refused, %lu wide\n", "index, held", stats.pairs,
	       stats.pairs_max, stats.refused_blocks, stats.wide_used);
	prefix_index_free(ix);
}

int main(void)
{
	struct config cfg = {.weight_queue = 2,
			     .weight_kv = 2,
			     .weight_prefix = 3,
			     .decisions_max = DECISIONS_MAX};
	struct prefix_index *ix;
	struct scheduler *sched;
	char *error;

	make_pool();
	if (prefix_index_new(NULL, AFFINITY_BYTES_MAX, 1, &ix) ||
	    scheduler_new(&cfg, ix, 1, &sched, &error))
		return 1;
	bench_hash();
	bench_pick(scheduler_worker(sched, 0), true, true);
	bench_pick(scheduler_worker(sched, 0), true, false);
	bench_match(ix);
	bench_pick(scheduler_worker(sched, 0), false, false);
	bench_index_ops();
	scheduler_free(sched);
	prefix_index_free(ix);
	return 0;
}
