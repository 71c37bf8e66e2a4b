/* SPDX-License-Identifier: Apache-2.0 */
/* What events say of a candidate goes before what is remembered, unless its answers contradict. */
#include "scheduler/precise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PROMPT "0123456789abcdefghij0123456789abcdefghij!"

static struct kv_index *ix;
static struct kv_trust *trust;
static struct recent recent;
static struct sluice_endpoint_load loads[3];
static struct endpoint endpoints[3];
static struct sched_candidate candidates[3];
static struct kv_match scratch[ENDPOINTS_MAX];
static uint64_t prefix[2], hashes[4] = {11, 22, 33, 44};
static struct kv_prompt prompt = {
	.bytes = PROMPT, .len = sizeof(PROMPT) - 1, .root = 9, .prefix = prefix};
static struct sched_request request = {.kv_prompt = &prompt};
static struct sched_view view;

/* Endpoint 0 holds both blocks of 20 bytes, 1 the first, in CPU memory; 2 is not heard. */
static int begin(void **state)
{
	(void)state;
	assert_int_equal(kv_index_new(1 << 20, 4, &ix), 0);
	trust = calloc(1, sizeof(*trust));
	memset(&recent, 0, sizeof(recent));
	kv_prompt_read(kv_index_hash(ix), &prompt);
	for (uint16_t e = 0; e < 2; e++) {
		struct kv_chain chain;

		kv_index_bind(ix, e, 1);
		kv_index_begin(ix, e, e ? KV_TIER_CPU : KV_TIER_GPU, 9, &chain);
		for (int b = 0; b < 2 - e; b++)
			assert_int_equal(kv_index_add(ix, &chain, 100 + b, 0, &PROMPT[20 * b], 20),
					 0);
	}
	for (uint16_t e = 0; e < 3; e++) {
		endpoints[e].slot = e;
		endpoints[e].generation = 1;
		endpoints[e].load = &loads[e];
		loads[e].block_tokens = 16;
		candidates[e] =
			(struct sched_candidate){.endpoint = &endpoints[e], .hit_blocks = 3};
	}
	view = (struct sched_view){
		.request = &request, .candidates = candidates, .count = 3, .total_blocks = 4};
	return 0;
}

static int end(void **state)
{
	(void)state;
	kv_index_free(ix);
	free(trust);
	return 0;
}

static void match(void)
{
	uint64_t slots[KV_SLOT_WORDS] = {7};
	uint32_t generations[ENDPOINTS_MAX] = {1, 1, 1};

	precise_match(ix, trust, &recent, &view, slots, generations, hashes, scratch);
}

static void events_go_before_memory(void **state)
{
	(void)state;
	match();
	assert_true(candidates[0].precise && candidates[0].trusted);
	assert_int_equal(candidates[0].hit_blocks, 4); /* 40 of 41 bytes of 4 blocks */
	assert_int_equal(candidates[0].precise_tokens, 32);
	assert_int_equal(candidates[1].hit_blocks, 2); /* 20 of 41 bytes at 0.8: 1.56 blocks */
	assert_int_equal(candidates[1].precise_tokens, 16);
	assert_false(candidates[2].precise);
	assert_int_equal(candidates[2].hit_blocks, 3); /* as remembered */
}

static void a_block_in_cpu_memory_is_worth_less(void **state)
{
	(void)state;
	view.total_blocks = 1000;
	match();
	assert_int_equal(candidates[0].hit_blocks, 976); /* 40 / 41 */
	assert_int_equal(candidates[1].hit_blocks, 390); /* 0.8 x 20 / 41 */
}

static void an_endpoint_that_is_not_believed_is_matched_by_memory(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < KV_TRUST_WINDOW; i++)
		kv_trust_note(trust, 0, 1, 32, 0);
	match();
	assert_true(candidates[0].precise);
	assert_false(candidates[0].trusted);
	assert_int_equal(candidates[0].hit_blocks, 3);
	assert_int_equal(candidates[0].precise_tokens, 32); /* still compared with its answers */
}

static void what_is_being_prefilled_counts_already(void **state)
{
	uint32_t number = recent_note(&recent, hashes, 3, 1, 1);

	(void)state;
	match();
	assert_int_equal(candidates[1].hit_blocks, 3);
	assert_true(candidates[1].on_its_way);
	assert_false(candidates[0].on_its_way);
	recent_end(&recent, number); /* its first token: from now on events tell */
	candidates[1].hit_blocks = 3;
	match();
	assert_int_equal(candidates[1].hit_blocks, 2);
	assert_false(candidates[1].on_its_way);
	recent_end(&recent, number);
}

static void what_went_to_another_process_does_not(void **state)
{
	(void)state;
	recent_note(&recent, hashes, 3, 1, 2);
	match();
	assert_int_equal(candidates[1].hit_blocks, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(events_go_before_memory, begin, end),
		cmocka_unit_test_setup_teardown(a_block_in_cpu_memory_is_worth_less, begin, end),
		cmocka_unit_test_setup_teardown(
			an_endpoint_that_is_not_believed_is_matched_by_memory, begin, end),
		cmocka_unit_test_setup_teardown(what_is_being_prefilled_counts_already, begin, end),
		cmocka_unit_test_setup_teardown(what_went_to_another_process_does_not, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
