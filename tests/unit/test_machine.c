/* SPDX-License-Identifier: Apache-2.0 */
/* Which paths follow from what the self-tests found. The tests themselves run in e2e/test_path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/machine.h"
#include "controlplane/machine.h"

static void all_are(enum machine_state state)
{
	for (int i = 0; i < MACHINE_FEATURES; i++)
		machine_feature_set((enum machine_feature)i, state);
}

static void a_path_needs_all_of_its_features_as_a_table(void **state)
{
	static const struct {
		enum machine_feature feature;
		enum machine_state is, steer, splice;
	} rows[] = {
		{MACHINE_KERNEL, MACHINE_NO, MACHINE_NO, MACHINE_NO},
		{MACHINE_CAPABILITIES, MACHINE_NO, MACHINE_NO, MACHINE_NO},
		{MACHINE_LOAD, MACHINE_NO, MACHINE_NO, MACHINE_NO},
		{MACHINE_RING_BUFFER, MACHINE_NO, MACHINE_YES, MACHINE_NO},
		{MACHINE_TC_REDIRECT, MACHINE_NO, MACHINE_YES, MACHINE_NO},
		{MACHINE_TC_REDIRECT, MACHINE_UNKNOWN, MACHINE_YES, MACHINE_UNKNOWN},
		{MACHINE_TCX, MACHINE_NO, MACHINE_YES, MACHINE_NO},
		{MACHINE_CLSACT, MACHINE_NO, MACHINE_YES, MACHINE_YES},
		{MACHINE_SK_MSG, MACHINE_NO, MACHINE_NO, MACHINE_YES},
		{MACHINE_SOCK_OPS, MACHINE_UNKNOWN, MACHINE_UNKNOWN, MACHINE_YES},
		{MACHINE_XDP_GENERIC, MACHINE_NO, MACHINE_YES, MACHINE_YES},
		{MACHINE_XDP_NATIVE_VETH, MACHINE_NO, MACHINE_YES, MACHINE_YES},
		{MACHINE_BPFFS, MACHINE_NO, MACHINE_YES, MACHINE_YES},
	};
	enum machine_feature lacks;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		all_are(MACHINE_YES);
		machine_feature_set(rows[i].feature, rows[i].is);
		if (machine_steer(&lacks) != rows[i].steer ||
		    (rows[i].steer != MACHINE_YES && lacks != rows[i].feature))
			fail_msg("steer, %s", machine_feature_name(rows[i].feature));
		if (machine_splice(&lacks) != rows[i].splice ||
		    (rows[i].splice != MACHINE_YES && lacks != rows[i].feature))
			fail_msg("splice, %s", machine_feature_name(rows[i].feature));
	}
}

static void a_no_says_more_than_an_unknown(void **state)
{
	enum machine_feature lacks;

	(void)state;
	all_are(MACHINE_UNKNOWN);
	assert_int_equal(machine_splice(&lacks), MACHINE_UNKNOWN);
	machine_feature_set(MACHINE_TC_REDIRECT, MACHINE_NO);
	assert_int_equal(machine_splice(&lacks), MACHINE_NO);
	assert_int_equal(lacks, MACHINE_TC_REDIRECT);
}

static void without_bpf_nothing_is_tried_and_that_is_said(void **state)
{
	struct config cfg = {.bpf = false};
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	(void)state;
	all_are(MACHINE_UNKNOWN);
	assert_null(machine_new(&cfg));
	assert_true(machine_is_known());
	machine_write_json(NULL, NULL, f);
	machine_write_metrics(f);
	fclose(f);
	assert_non_null(strstr(text, "\"name\":\"splice\",\"available\":\"unknown\",\"why\":"
				     "\"kernel: could not be tested\""));
	assert_non_null(strstr(text, "sluice_path_available{path=\"relay\"} 1\n"));
	assert_non_null(strstr(text, "sluice_path_available{path=\"steer\"} -1\n"));
	assert_non_null(strstr(text, "sluice_machine_feature{feature=\"tcx\"} -1\n"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_path_needs_all_of_its_features_as_a_table),
		cmocka_unit_test(a_no_says_more_than_an_unknown),
		cmocka_unit_test(without_bpf_nothing_is_tried_and_that_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
