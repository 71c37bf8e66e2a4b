/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-fleet's engine model, its times worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "sluice-fleet/engine.c"

static const struct engine_model model = {
	.blocks = 8,
	.block_tokens = 512,
	.seqs_max = 2,
	.chunk_tokens = 2048,
	.prefill_tokens_per_s = 8000,
	.step_base_ms = 6,
	.step_decode_ms = 0.35,
};
static struct engine engine;
static int firsts, ends;

static void on_first(void *arg, struct fleet_request *r, double now_s)
{
	(void)arg;
	(void)r;
	(void)now_s;
	firsts++;
}

static void on_end(void *arg, struct fleet_request *r, double now_s)
{
	(void)arg;
	(void)r;
	(void)now_s;
	ends++;
}

static int set_up(void **state)
{
	(void)state;
	firsts = ends = 0;
	return engine_init(&engine, &model, 16);
}

static int tear_down(void **state)
{
	(void)state;
	engine_fini(&engine);
	return 0;
}

static void run_dry(void)
{
	while (engine.step_end_s != INFINITY)
		engine_step(&engine, on_first, on_end, NULL);
}

static void assert_near(double a, double b)
{
	if (fabs(a - b) > 1e-9)
		fail_msg("%.9f is not %.9f", a, b);
}

static void long_prompt_is_prefilled_in_chunks(void **state)
{
	static const uint32_t ids[] = {1, 2, 3, 4, 5, 6};
	struct fleet_request r = {.input = 3072, .output = 3, .ids = ids, .id_count = 6};

	(void)state;
	engine_submit(&engine, &r, 10);
	run_dry();
	/* 2,048 tokens: 6 + 256 ms; 1,024: 6 + 128 ms; then two steps of 6.35 ms */
	assert_near(r.first_s, 10 + 0.262 + 0.134);
	assert_near(r.end_s, r.first_s + 2 * 0.00635);
	assert_int_equal(r.cached, 0);
	assert_true(firsts == 1 && ends == 1);
	assert_near(engine.work_tokens, 3072);
}

static void prefix_seen_before_is_not_computed_again(void **state)
{
	static const uint32_t a[] = {1, 2, 3}, b[] = {1, 2, 9};
	struct fleet_request first = {.input = 1536, .output = 1, .ids = a, .id_count = 3};
	struct fleet_request second = {.input = 1536, .output = 1, .ids = b, .id_count = 3};
	struct fleet_request same = {.input = 1536, .output = 1, .ids = a, .id_count = 3};

	(void)state;
	engine_submit(&engine, &first, 0);
	run_dry();
	engine_submit(&engine, &second, 1);
	run_dry();
	assert_int_equal(second.cached, 1024);
	assert_near(second.first_s, 1 + 0.006 + 512 / 8000.0);
	engine_submit(&engine, &same, 2);
	run_dry();
	assert_int_equal(same.cached, 1535); /* the last token is always computed */
	assert_near(same.first_s, 2 + 0.006 + 1 / 8000.0);
}

static void block_used_least_recently_leaves_first(void **state)
{
	static const uint32_t a[] = {1, 2, 3, 4}, b[] = {11, 12, 13, 14}, c[] = {21};
	struct fleet_request ra = {.input = 2048, .output = 1, .ids = a, .id_count = 4};
	struct fleet_request rb = {.input = 2048, .output = 1, .ids = b, .id_count = 4};
	struct fleet_request rc = {.input = 512, .output = 1, .ids = c, .id_count = 1};
	struct fleet_request again = {.input = 2048, .output = 1, .ids = a, .id_count = 4};

	(void)state;
	engine_submit(&engine, &ra, 0);
	run_dry();
	engine_submit(&engine, &rb, 1);
	run_dry(); /* the pool of 8 is full */
	engine_submit(&engine, &rc, 2);
	run_dry(); /* takes the place of the deepest block of a */
	engine_submit(&engine, &again, 3);
	run_dry();
	assert_int_equal(again.cached, 3 * 512);
}

static void third_request_waits_for_a_seat(void **state)
{
	struct fleet_request r[3] = {{.input = 100, .output = 2},
				     {.input = 100, .output = 2},
				     {.input = 100, .output = 1}};

	(void)state;
	for (int i = 0; i < 3; i++)
		engine_submit(&engine, &r[i], 0);
	assert_int_equal(engine.waiting_count, 2); /* the first began a step alone */
	engine_step(&engine, on_first, on_end, NULL);
	assert_int_equal(engine.running_count, 2);
	assert_int_equal(engine.waiting_count, 1);
	run_dry();
	assert_true(r[2].first_s > r[0].end_s);
	assert_int_equal(ends, 3);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static void steps_taken_at_once_are_cut_by_a_request(void **state)
{
	static const uint32_t a[] = {1}, b[] = {2};
	struct fleet_request first = {.input = 512, .output = 101, .ids = a, .id_count = 1};
	struct fleet_request second = {.input = 512, .output = 1, .ids = b, .id_count = 1};

	(void)state;
	engine_submit(&engine, &first, 0); /* its first token after 6 + 64 ms */
	engine_step(&engine, on_first, on_end, NULL);
	assert_near(first.first_s, 0.070);
	assert_int_equal(engine.bulk, 100); /* all the rest */
	assert_near(engine.step_end_s, 0.070 + 100 * 0.00635);
	engine_submit(&engine, &second, 0.1); /* in the fifth of them, which ends at 101.75 ms */
	assert_near(engine.step_end_s, 0.070 + 5 * 0.00635);
	run_dry();
	/* One step decodes one and prefills 512: 6 + 0.35 + 64 ms. */
	assert_near(second.first_s, 0.10175 + 0.07035);
	assert_near(first.end_s, second.first_s + 94 * 0.00635);
}

static int lost;

static void on_lost(void *arg, struct fleet_request *r, double now_s)
{
	(void)arg;
	(void)r;
	(void)now_s;
	lost++;
}

static void a_dead_engine_gives_back_its_requests_and_forgets(void **state)
{
	static const uint32_t ids[] = {1, 2};
	struct fleet_request r[4] = {{.input = 1024, .output = 9, .ids = ids, .id_count = 2}};

	(void)state;
	for (int i = 1; i < 4; i++)
		r[i] = r[0];
	engine_submit(&engine, &r[0], 0);
	run_dry();
	assert_int_equal(engine_cached_blocks(&engine, &r[0]), 2);
	for (int i = 1; i < 4; i++) /* two seats, one waits */
		engine_submit(&engine, &r[i], 1);
	lost = 0;
	engine_fail(&engine, on_lost, NULL, 1.001);
	assert_int_equal(lost, 3);
	assert_int_equal(engine_cached_blocks(&engine, &r[0]), 0);
	assert_true(engine.step_end_s == INFINITY && engine.kv_tokens == 0);
	engine_submit(&engine, &r[1], 2); /* and it works again */
	run_dry();
	assert_near(r[1].first_s, 2 + 0.006 + 1024 / 8000.0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(long_prompt_is_prefilled_in_chunks),
		T(prefix_seen_before_is_not_computed_again),
		T(block_used_least_recently_leaves_first),
		T(third_request_waits_for_a_seat),
		T(steps_taken_at_once_are_cut_by_a_request),
		T(a_dead_engine_gives_back_its_requests_and_forgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
