/* SPDX-License-Identifier: Apache-2.0 */
/* The table of running requests: rows come and go, readers never see half of one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/live.h"

static struct live_table table;

static struct live_info info_of(uint64_t n)
{
	struct live_info info = {.begin_ns = n, .prompt_bytes = n, .attempts = (uint32_t)n};

	memset(info.id, (int)('a' + n % 26), sizeof(info.id) - 1);
	memset(info.endpoint, (int)('a' + n % 26), sizeof(info.endpoint) - 1);
	return info;
}

static void test_rows(void **state)
{
	struct live_row *rows[LIVE_ROWS_MAX];
	struct live_info got, info = info_of(7);

	(void)state;
	for (int i = 0; i < LIVE_ROWS_MAX; i++) {
		rows[i] = live_take(&table);
		assert_non_null(rows[i]);
		assert_false(live_read(rows[i], &got));
	}
	assert_null(live_take(&table));
	live_write(NULL, &info);
	live_release(NULL);
	live_write(rows[3], &info);
	assert_true(live_read(rows[3], &got));
	assert_memory_equal(&got, &info, sizeof(got));
	live_release(rows[3]);
	assert_false(live_read(rows[3], &got));
	assert_ptr_equal(live_take(&table), rows[3]);
	for (int i = 0; i < LIVE_ROWS_MAX; i++)
		live_release(rows[i]);
}

static void test_json(void **state)
{
	struct live_info info = {.begin_ns = 1000000, .model = "a\"b\\c\n\xff", .id = "r"};
	struct live_row *row = live_take(&table);
	bool first = true;
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	(void)state;
	assert_non_null(f);
	live_write(row, &info);
	live_write_json(&table, 5000000, &first, f);
	fclose(f);
	assert_false(first);
	assert_non_null(strstr(text, "\"model\":\"a\\\"b\\\\c\\u000a\\u00ff\""));
	assert_non_null(strstr(text, "\"age_ms\":4,"));
	free(text);
	live_release(row);
}

static _Atomic bool stop;

static void *writer(void *arg)
{
	struct live_row *row = arg;

	for (uint64_t n = 1; !stop; n++) {
		struct live_info info = info_of(n);

		live_write(row, &info);
	}
	return NULL;
}

static void test_torn(void **state)
{
	struct live_row *row = live_take(&table);
	struct live_info got;
	pthread_t thread;
	int seen = 0;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, writer, row), 0);
	while (seen < 1000) {
		if (!live_read(row, &got))
			continue;
		seen++;
		assert_int_equal(got.begin_ns, got.prompt_bytes);
		assert_int_equal(got.attempts, (uint32_t)got.begin_ns);
		assert_int_equal(got.id[0], 'a' + (int)(got.begin_ns % 26));
		assert_string_equal(got.id, got.endpoint);
	}
	stop = true;
	pthread_join(thread, NULL);
	live_release(row);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_torn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
