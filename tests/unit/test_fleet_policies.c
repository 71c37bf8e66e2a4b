/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-fleet's rebuilt policies: what each picks of three endpoints, by hand from its rule. */
#include "sched_pool.h"

#include "sluice-fleet/engine.c"
#include "sluice-fleet/policies.c"

struct spot {
	uint32_t own_requests, waiting, running, own_tokens;
	double kv;
	uint16_t hit;
	uint64_t active_blocks;
	double work_s;
};

struct row {
	const char *policy, *what;
	uint32_t tokens, blocks;
	struct spot at[3];
	uint32_t want;
};

/* clang-format off */
static const struct row rows[] = {
	{ "least-requests", "fewest of our own", 0, 0,
	  {{.own_requests = 4}, {.own_requests = 2}, {.own_requests = 3}}, 1 },
	{ "sglang", "the longest match above 0.3", 5120, 10,
	  {{.hit = 4, .own_requests = 60}, {.hit = 3}, {0}}, 0 },
	{ "sglang", "out of balance: fewest requests", 5120, 10,
	  {{.hit = 9, .own_requests = 70}, {.own_requests = 5}, {.own_requests = 6}}, 1 },
	{ "sglang", "66 against 65 more is balanced by the ratio", 5120, 10,
	  {{.hit = 9, .own_requests = 200}, {.own_requests = 135}, {.own_requests = 140}}, 0 },
	/* blocks: (0 + 5120) / 512 + 30 + 10 = 50; (1024 + 5120) / 512 + 20 + 10 = 42; 10 + 30 + 10 */
	{ "dynamo", "prefill and active blocks together", 5120, 10,
	  {{.active_blocks = 30}, {.active_blocks = 20, .own_tokens = 1024, .hit = 5},
	   {.active_blocks = 30}}, 1 },
	/* 5121 x 3 = 15363; (4000 + 1024 + 1) x 4 = 20100; (0 + 2560 + 1) x 7 = 17927 */
	{ "lmetric", "tokens times batch", 5120, 10,
	  {{.own_requests = 2}, {.own_requests = 3, .own_tokens = 4000, .hit = 8},
	   {.own_requests = 6, .hit = 5}}, 0 },
	{ "preble", "more cached than missing: exploit", 5120, 10,
	  {{.hit = 6, .work_s = 10}, {.work_s = 6}, {.work_s = 8}}, 0 },
	{ "preble", "unless it has more than twice the work", 5120, 10,
	  {{.hit = 6, .work_s = 30}, {.work_s = 6}, {.work_s = 8}}, 1 },
	/* work + uncached / 8000: 6 + .64; 6.2 + .32; 8 + .64 */
	{ "preble", "less: least work with its own", 5120, 10,
	  {{.work_s = 6}, {.work_s = 6.2, .hit = 5}, {.work_s = 8}}, 1 },
	/* queue, kv: 1 + .9; 0 + 1; 1 + .5 */
	{ "llm-d-precise", "queue and KV, nothing cached", 5120, 10,
	  {{.kv = 0.1}, {.waiting = 4}, {.kv = 0.5}}, 0 },
};
/* clang-format on */

static const struct engine_model model = {.blocks = 64,
					  .block_tokens = 512,
					  .seqs_max = 8,
					  .chunk_tokens = 2048,
					  .prefill_tokens_per_s = 8000};

static uint32_t pick(const struct row *r, uint64_t seed)
{
	static struct engine engines[3];
	struct sched_candidate c[3];
	struct policy_place places[3];
	struct fleet_request request = {.input = r->tokens};
	struct sched_request req = {0};
	struct prefix_index *index;
	uint64_t rng = seed;
	uint32_t turn = 0, chosen;
	struct sched_view view = {.request = &req,
				  .candidates = c,
				  .count = 3,
				  .rng = &rng,
				  .total_blocks = r->blocks,
				  .prompt_tokens = r->tokens,
				  .block_bytes = 64};
	struct setup *s;
	char *error = NULL;

	assert_int_equal(prefix_index_new(NULL, 1 << 20, 1, &index), 0);
	for (uint32_t i = 0; i < 3; i++) {
		const struct spot *p = &r->at[i];

		assert_int_equal(engine_init(&engines[i], &model, 4), 0);
		places[i] = (struct policy_place){p->active_blocks, p->work_s, 100};
		c[i] = (struct sched_candidate){.endpoint = &pods[i],
						.known = true,
						.hit_blocks = p->hit,
						.waiting = p->waiting,
						.running = p->running,
						.kv_used = (float)p->kv,
						.own_requests = p->own_requests,
						.own_tokens = p->own_tokens};
	}
	policy_world = (struct policy_world){engines, index, &request, places, 100, &turn};
	assert_int_equal(policy_setup(r->policy, &s, &error), 0);
	chosen = s->profiles[0]->profile.picker.type->pick(&view, &s->profiles[0]->profile.picker,
							   NULL);
	setup_free(s);
	prefix_index_free(index);
	for (int i = 0; i < 3; i++)
		engine_fini(&engines[i]);
	return chosen;
}

static void each_policy_picks_by_its_rule(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (uint64_t seed = 1; seed < 20; seed++) {
			uint32_t got = pick(&rows[i], seed * 0x9e3779b97f4a7c15ULL);

			if (got != rows[i].want)
				fail_msg("%s: %s: picked %u, not %u", rows[i].policy, rows[i].what,
					 got, rows[i].want);
		}
}

static void equals_go_by_chance_and_turns_go_round(void **state)
{
	double cost[3] = {1, 1, 1};
	uint64_t rng = 77;
	uint32_t turn = 0;
	unsigned int seen[3] = {0};
	struct sched_candidate c[3] = {{.own_requests = 9}, {.own_requests = 1}, {0}};
	struct sched_view view = {.count = 3, .rng = &rng, .candidates = c};

	(void)state;
	for (int i = 0; i < 3000; i++)
		seen[least(&view, cost)]++;
	for (int i = 0; i < 3; i++)
		assert_in_range(seen[i], 850, 1150);
	policy_world.turn = &turn;
	for (uint32_t i = 0; i < 7; i++)
		assert_int_equal(pick_round_robin(&view, NULL, NULL), i % 3);
	memset(seen, 0, sizeof(seen));
	for (int i = 0; i < 9000; i++)
		seen[pick_power_of_two(&view, NULL, NULL)]++;
	/* The busiest only against itself: 1/9; the middle 3/9; the idle one 5/9. */
	assert_in_range(seen[0], 800, 1200);
	assert_in_range(seen[1], 2700, 3300);
	assert_in_range(seen[2], 4700, 5300);
}

static void every_name_makes_a_scheduler(void **state)
{
	(void)state;
	for (const struct policy *p = policies; p->name; p++) {
		struct setup *s = NULL;
		char *error = NULL;

		assert_true(p->source && *p->source);
		assert_int_equal(policy_setup(p->name, &s, &error), 0);
		assert_non_null(s->profiles[0]->profile.picker.type->pick);
		setup_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(each_policy_picks_by_its_rule),
		T(equals_go_by_chance_and_turns_go_round),
		T(every_name_makes_a_scheduler),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
