/* SPDX-License-Identifier: Apache-2.0 */
/* Paths by name: the flag, the refusals' table and its counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/metrics.h"
#include "base/path.h"
#include "dataplane/path.h"

static void flag_names_the_paths_it_allows(void **state)
{
	static const struct {
		const char *flag;
		unsigned int mask;
	} cases[] = {
		{NULL, 1 << PATH_STEER | 1 << PATH_SPLICE},
		{"auto", 1 << PATH_STEER | 1 << PATH_SPLICE},
		{"relay", 0},
		{"splice", 1 << PATH_SPLICE},
		{"steer", 1 << PATH_STEER},
	};
	unsigned int mask = 77;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(path_parse(cases[i].flag, &mask), 0);
		assert_int_equal(mask, cases[i].mask);
	}
	mask = 77;
	assert_true(path_parse("fast", &mask) < 0);
	assert_int_equal(mask, 77);
}

static void every_refusal_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (unsigned int i = 1; i < PATH_REFUSALS; i++) {
		assert_true(strlen(path_refusal_name(i)) > 1);
		assert_true(strlen(path_refusal_text(i)) > 5);
		for (unsigned int k = 1; k < i; k++)
			assert_string_not_equal(path_refusal_name(i), path_refusal_name(k));
	}
	assert_string_equal(path_refusal_name(PATH_NO_NO_TUPLE), "no-tuple");
	assert_string_equal(path_refusal_name(PATH_REFUSALS), "");
	assert_string_equal(path_name(PATH_SPLICE), "splice");
	assert_string_equal(path_name(PATHS), "");
}

static void counters_stand_in_the_order_of_the_refusals(void **state)
{
	(void)state;
	assert_int_equal(M_PATH_STEER_ENDED_FIRST - M_PATH_STEER_DISABLED,
			 PATH_NO_ENDED_FIRST - PATH_NO_DISABLED);
	assert_int_equal(M_PATH_SPLICE_NO_TUPLE - M_PATH_SPLICE_DISABLED,
			 PATH_NO_NO_TUPLE - PATH_NO_DISABLED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flag_names_the_paths_it_allows),
		cmocka_unit_test(every_refusal_has_a_name_of_its_own),
		cmocka_unit_test(counters_stand_in_the_order_of_the_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
