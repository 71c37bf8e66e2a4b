/* SPDX-License-Identifier: Apache-2.0 */
/* The steer path's decisions: the word of a flow, the credit, the gaps; and its slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../../bpf/steer.h"
#include "dataplane/steer_slots.h"
#include "sluice/limits.h"

static void a_word_counts_and_says_which_way(void **state)
{
	__u64 word = steer_settled_word(1000, 234);

	(void)state;
	assert_false(steer_is_redirected(word));
	assert_true(steer_is_redirected(word | SLUICE_STEER_REDIRECT));
	assert_int_equal(steer_sent(word | SLUICE_STEER_REDIRECT), 1234);
	/* A terabyte later it still does. */
	assert_int_equal(steer_sent((word + (1ULL << 40)) | SLUICE_STEER_REDIRECT),
			 1234 + (1ULL << 40));
}

static void credit_is_what_is_not_acknowledged(void **state)
{
	struct sluice_steer_flow f = {.base = 700, .redirected = 300, .acked = 1000, .credit = 500};

	(void)state;
	assert_true(steer_has_credit(&f, 500));
	assert_false(steer_has_credit(&f, 501));
	f.redirected += 400;
	assert_true(steer_has_credit(&f, 100));
	assert_false(steer_has_credit(&f, 101));
	f.acked += 400;
	assert_true(steer_has_credit(&f, 500));
	f.acked += 9999; /* newer than our own count: nothing is under way */
	assert_true(steer_has_credit(&f, 500));
	assert_false(steer_has_credit(&f, 501));
	f.credit = 0; /* before the agent has set it */
	assert_false(steer_has_credit(&f, 1));
}

static void gaps_fall_into_powers_of_two(void **state)
{
	static const struct {
		__u64 ns;
		__u32 bucket;
	} rows[] = {
		{0, 0},		  {999, 0},	    {1000, 0},	  {2000, 1},
		{3999, 1},	  {4000, 2},	    {1023999, 9}, {1024000, 10},
		{1000000000, 19}, {1ULL << 50, 31}, /* 13 days of us need 40 bits: the last one
						       takes all */
	};

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(steer_gap_bucket(rows[i].ns), rows[i].bucket);
	assert_in_range(steer_gap_bucket(1ULL << 50), 0, SLUICE_STEER_GAPS - 1);
}

static void loopback_is_known_in_both_families(void **state)
{
	static const __u8 v4[16] = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1};
	static const __u8 v4_far[16] = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1};
	static const __u8 v6[16] = {[15] = 1};
	static const __u8 v6_far[16] = {[0] = 0xfd, [15] = 1};

	(void)state;
	assert_true(steer_is_loopback(v4));
	assert_true(steer_is_loopback(v6));
	assert_false(steer_is_loopback(v4_far));
	assert_false(steer_is_loopback(v6_far));
}

static void a_slot_is_given_out_again_only_when_its_endpoint_has_closed(void **state)
{
	struct sluice_steer_flow *flows = calloc(STEER_FLOWS_MAX, sizeof(*flows));
	const int each = STEER_FLOWS_MAX / 2;
	int slot;

	(void)state;
	assert_int_equal(steer_slots_init(flows, 2), 0);
	for (int i = 0; i < each; i++) {
		slot = steer_slot_take(1);
		assert_in_range(slot, each, 2 * each - 1);
		flows[slot].word = 77;
		flows[slot].state = SLUICE_STEER_SEEN;
	}
	assert_false(steer_slots_left(1));
	assert_int_equal(steer_slot_take(1), -ENOSPC);
	assert_true(steer_slots_left(0)); /* another worker's are its own */
	for (int i = each; i < 2 * each; i++)
		steer_slot_give(1, (uint32_t)i);
	steer_slots_sweep(1);
	assert_int_equal(steer_slot_take(1), -ENOSPC); /* every endpoint may still send */
	flows[each + 5].state |= SLUICE_STEER_CLOSED;
	for (int i = 0; i < each; i++)
		steer_slots_sweep(1);
	assert_int_equal(steer_slot_take(1), each + 5);
	assert_int_equal(flows[each + 5].word, 0);
	assert_int_equal(steer_slot_take(1), -ENOSPC);
	steer_slot_give(1, (uint32_t)each + 5); /* never seen this time: free at once */
	assert_int_equal(steer_slot_take(1), each + 5);
	steer_slots_fini();
	free(flows);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_word_counts_and_says_which_way),
		cmocka_unit_test(credit_is_what_is_not_acknowledged),
		cmocka_unit_test(gaps_fall_into_powers_of_two),
		cmocka_unit_test(loopback_is_known_in_both_families),
		cmocka_unit_test(a_slot_is_given_out_again_only_when_its_endpoint_has_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
