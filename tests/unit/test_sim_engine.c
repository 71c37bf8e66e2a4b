/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated engine's clock, driven by hand: when which token comes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../tools/sluice-sim/cache.c"
#include "../../tools/sluice-sim/engine.c"

#define TOKENS_MAX 4096

static struct sim_options opt;
static struct engine engine;
static double now_ms;
static struct {
	struct seq *seq;
	double at_ms;
} made[TOKENS_MAX];
static unsigned int made_count;

static void token_seen(struct seq *s)
{
	assert_true(made_count < TOKENS_MAX);
	made[made_count].seq = s;
	made[made_count++].at_ms = now_ms;
}

static int start(void **state)
{
	(void)state;
	opt = (struct sim_options){.max_num_seqs = 4,
				   .max_waiting = 100,
				   .block_size = 16,
				   .kv_blocks = 1000,
				   .time_scale = 1,
				   .step_ms = 6,
				   .step_ms_per_seq = 0.5,
				   .prefill_tokens_per_s = 8000,
				   .chunk_tokens = 2048,
				   .max_loras = 1,
				   .time_factor = 1,
				   .cache = true};
	engine_init(&engine, &opt, token_seen);
	now_ms = 1000;
	made_count = 0;
	return 0;
}

static int stop(void **state)
{
	(void)state;
	engine_fini(&engine);
	return 0;
}

/* A prompt whose blocks are named by `family`: equal families share a prefix. */
static struct seq *submit(uint32_t prompt_tokens, uint32_t max_tokens, uint64_t family)
{
	struct seq *s = calloc(1, sizeof(*s));

	s->prompt_tokens = prompt_tokens;
	s->max_tokens = max_tokens;
	s->chain_count = prompt_tokens / opt.block_size;
	s->chain = calloc(s->chain_count + 1, sizeof(uint64_t));
	for (uint32_t i = 0; i < s->chain_count; i++)
		s->chain[i] = family << 32 | (i + 1);
	assert_int_equal(engine_submit(&engine, s, now_ms), 0);
	return s;
}

/* Runs until nothing is due any more, jumping from one event to the next. */
static void run_out(void)
{
	double next;

	while ((next = engine_run(&engine, now_ms)) >= 0)
		now_ms += next;
}

static void seq_drop(struct seq *s)
{
	free(s->chain);
	free(s);
}

static void assert_near(double got, double want)
{
	if (fabs(got - want) > 1e-6)
		fail_msg("%.6f is not %.6f", got, want);
}

static void a_step_takes_its_length_by_what_runs_in_it(void **state)
{
	struct seq *s = submit(800, 3, 1);

	(void)state;
	run_out();
	assert_int_equal(made_count, 3);
	assert_near(made[0].at_ms - 1000, 6 + 0.5 + 100); /* 800 tokens at 8,000 a second */
	assert_near(made[1].at_ms - made[0].at_ms, 6.5);
	assert_near(made[2].at_ms - made[1].at_ms, 6.5);
	seq_drop(s);
}

static void a_long_prompt_is_computed_in_chunks(void **state)
{
	struct seq *s = submit(5000, 1, 1);

	(void)state;
	run_out();
	/* 2,048 + 2,048 + 904 tokens: three steps */
	assert_near(made[0].at_ms - 1000, 3 * 6.5 + 5000 / 8.0);
	seq_drop(s);
}

static void what_is_cached_needs_no_time(void **state)
{
	struct seq *first = submit(800, 1, 1), *second;
	double began;

	(void)state;
	run_out();
	began = now_ms;
	second = submit(800, 1, 1);
	run_out();
	assert_int_equal(second->cached_tokens, 784); /* the last token is always computed */
	assert_near(made[1].at_ms - began, 6.5 + 16 / 8.0);
	seq_drop(first);
	seq_drop(second);
}

static void nobody_runs_beyond_the_batch(void **state)
{
	struct seq *s[6];

	(void)state;
	for (int i = 0; i < 6; i++)
		s[i] = submit(16, 2, (uint64_t)i + 1);
	engine_run(&engine, now_ms + 9); /* the first one's step is over */
	assert_int_equal(engine.running_count, 4);
	assert_int_equal(engine.waiting_count, 2);
	run_out();
	assert_int_equal(made_count, 12);
	for (int i = 0; i < 6; i++)
		seq_drop(s[i]);
}

static void the_youngest_is_preempted_and_still_makes_all_its_tokens(void **state)
{
	struct seq *old, *young;

	(void)state;
	opt.kv_blocks = 12;
	engine_fini(&engine);
	engine_init(&engine, &opt, token_seen);
	old = submit(80, 64, 1);
	young = submit(80, 64, 2);
	run_out();
	assert_true(engine.preemptions > 0);
	assert_int_equal(old->made, 64);
	assert_int_equal(young->made, 64);
	assert_ptr_equal(made[made_count - 1].seq, young);
	assert_int_equal(engine.held, 0);
	seq_drop(old);
	seq_drop(young);
}

static void constant_latencies_are_exact(void **state)
{
	struct seq *s;

	(void)state;
	opt.constant = true;
	opt.ttft_ms = 50;
	opt.itl_ms = 10;
	s = submit(1000, 4, 1);
	run_out();
	for (int i = 0; i < 4; i++)
		assert_near(made[i].at_ms - 1000, 50 + 10 * i);
	seq_drop(s);
}

static void per_token_latency_counts_what_is_not_cached(void **state)
{
	struct seq *first, *second;
	double began;

	(void)state;
	opt.constant = true;
	opt.prefill_overhead_ms = 5;
	opt.prefill_ms_per_token = 0.25;
	first = submit(320, 1, 1);
	run_out();
	assert_near(made[0].at_ms - 1000, 5 + 80);
	began = now_ms;
	second = submit(320, 1, 1);
	run_out();
	assert_near(made[1].at_ms - began, 5 + 16 * 0.25);
	seq_drop(first);
	seq_drop(second);
}

/* 1 + (f - 1)(running - 1)/(max_num_seqs - 1) */
static void a_full_batch_is_slower_by_the_factor(void **state)
{
	struct seq *s[4];

	(void)state;
	opt.constant = true;
	opt.ttft_ms = 50;
	opt.time_factor = 4;
	for (int i = 0; i < 4; i++)
		s[i] = submit(16, 1, (uint64_t)i + 1);
	run_out();
	for (int i = 0; i < 4; i++) {
		assert_ptr_equal(made[i].seq, s[i]);
		assert_near(made[i].at_ms - 1000, 50 * (1 + 3 * i / 3.0));
		seq_drop(s[i]);
	}
}

static void samples_stay_near_their_mean_and_a_seed_repeats_them(void **state)
{
	double first[200], sum = 0, low = 1e9, high = 0;
	struct engine other;

	(void)state;
	for (int i = 0; i < 200; i++) {
		first[i] = engine_sample(&engine, 100, 1000); /* 30 at most */
		sum += first[i];
		low = fmin(low, first[i]);
		high = fmax(high, first[i]);
	}
	assert_true(low >= 30 && high <= 170 && low < 80 && high > 120);
	assert_true(sum / 200 > 90 && sum / 200 < 110);
	engine_init(&other, &opt, token_seen);
	for (int i = 0; i < 200; i++)
		assert_near(engine_sample(&other, 100, 1000), first[i]);
	assert_near(engine_sample(&other, 100, 0), 100);
	engine_fini(&other);
}

static void one_adapter_waits_for_another_where_one_fits(void **state)
{
	struct seq *a, *b, *c;

	(void)state;
	engine_run(&engine, now_ms);
	a = submit(16, 8, 1);
	a->adapter = "ada";
	b = submit(16, 8, 2);
	b->adapter = "bob";
	c = submit(16, 8, 3); /* base model: behind bob, in order */
	run_out();
	assert_ptr_equal(made[7].seq, a);
	assert_ptr_equal(made[8].seq, b);
	assert_int_equal(made_count, 24);
	seq_drop(a);
	seq_drop(b);
	seq_drop(c);
}

static void a_cancelled_sequence_gives_everything_back(void **state)
{
	struct seq *s = submit(800, 100, 1), *waiting[5];

	(void)state;
	for (int i = 0; i < 5; i++)
		waiting[i] = submit(16, 1, (uint64_t)i + 2);
	engine_run(&engine, now_ms + 1);
	engine_cancel(&engine, waiting[4]);
	engine_cancel(&engine, s);
	run_out();
	assert_int_equal(engine.held, 0);
	assert_int_equal(engine.running_count + engine.waiting_count, 0);
	assert_int_equal(made_count, 4);
	seq_drop(s);
	for (int i = 0; i < 5; i++)
		seq_drop(waiting[i]);
}

static void a_full_queue_refuses(void **state)
{
	struct seq *s[8], extra = {.prompt_tokens = 1, .max_tokens = 1};

	(void)state;
	opt.max_waiting = 2;
	for (int i = 0; i < 6; i++) {
		s[i] = submit(16, 1, (uint64_t)i + 1);
		if (i == 0)
			engine_run(&engine, now_ms);
		if (engine_full(&engine)) {
			assert_int_equal(engine_submit(&engine, &extra, now_ms), -EBUSY);
			run_out();
		}
	}
	run_out();
	assert_int_equal(made_count, 6);
	for (int i = 0; i < 6; i++)
		seq_drop(s[i]);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(a_step_takes_its_length_by_what_runs_in_it),
		TEST(a_long_prompt_is_computed_in_chunks),
		TEST(what_is_cached_needs_no_time),
		TEST(nobody_runs_beyond_the_batch),
		TEST(the_youngest_is_preempted_and_still_makes_all_its_tokens),
		TEST(constant_latencies_are_exact),
		TEST(per_token_latency_counts_what_is_not_cached),
		TEST(a_full_batch_is_slower_by_the_factor),
		TEST(samples_stay_near_their_mean_and_a_seed_repeats_them),
		TEST(one_adapter_waits_for_another_where_one_fits),
		TEST(a_cancelled_sequence_gives_everything_back),
		TEST(a_full_queue_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
