/* SPDX-License-Identifier: Apache-2.0 */
/* Figures by model: one row a pair of names, a cap, sums over threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "base/model_metrics.h"

static char *page(bool llm_d)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	model_metrics_write(f, llm_d);
	fclose(f);
	return text;
}

static void assert_on_page(bool llm_d, const char *line, bool want)
{
	char *text = page(llm_d);

	if (!!strstr(text, line) != want)
		fail_msg("%s on the page: %s", want ? "missing" : "unexpected", line);
	free(text);
}

static void *count_here(void *arg)
{
	for (int i = 0; i < 1000; i++)
		model_count(model_row(SPAN("shared"), SPAN("shared")), MODEL_STARTED, 1);
	return arg;
}

static void threads_count_in_one_series(void **state)
{
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_here, NULL), 0);
	free(page(true)); /* reading meanwhile harms nobody */
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_on_page(
		false,
		"\nsluice_model_requests_total{model=\"shared\",target_model=\"shared\"} 4000\n",
		true);
}

static void the_same_name_for_another_target_is_another_series(void **state)
{
	(void)state;
	assert_ptr_equal(model_row(SPAN("a"), SPAN("a")), model_row(SPAN("a"), SPAN("a")));
	assert_ptr_not_equal(model_row(SPAN("a"), SPAN("a")), model_row(SPAN("a"), SPAN("b")));
}

static void a_histogram_is_cumulative_and_in_the_metrics_unit(void **state)
{
	struct model_row *row = model_row(SPAN("h"), SPAN("h"));
	const char *labels = "model_name=\"h\",target_model_name=\"h\"";
	char line[256];

	(void)state;
	model_count(row, MODEL_STARTED, 1);
	model_observe(row, MODEL_TTFT, 2000);	    /* microseconds: <= 2048 */
	model_observe(row, MODEL_TTFT, 2049);	    /* <= 4096 */
	model_observe(row, MODEL_TTFT, 1ULL << 40); /* beyond all */
	snprintf(line, sizeof(line), "ttft_seconds_bucket{%s,le=\"0.002048\"} 1\n", labels);
	assert_on_page(true, line, true);
	snprintf(line, sizeof(line), "ttft_seconds_bucket{%s,le=\"0.004096\"} 2\n", labels);
	assert_on_page(true, line, true);
	snprintf(line, sizeof(line), "ttft_seconds_bucket{%s,le=\"+Inf\"} 3\n", labels);
	assert_on_page(true, line, true);
	snprintf(line, sizeof(line), "ttft_seconds_count{%s} 3\n", labels);
	assert_on_page(true, line, true);
}

static void without_llm_d_its_names_are_absent(void **state)
{
	(void)state;
	assert_on_page(true, "llm_d_epp_request_total", true);
	assert_on_page(false, "llm_d_epp_", false);
}

static void a_name_with_any_bytes_stays_on_its_line(void **state)
{
	(void)state;
	model_count(model_row(SPAN("x\"\\\n\xff"), SPAN("t")), MODEL_STARTED, 1);
	assert_on_page(false, "{model=\"x\\\"\\\\\\n?\",target_model=\"t\"} 1\n", true);
}

/* The last test: it fills the table. */
static void beyond_the_cap_everything_is_other(void **state)
{
	uint64_t capped = metric_total(M_LABEL_VALUES_CAPPED);
	char name[32];

	(void)state;
	for (int i = 0; i < LABEL_VALUES_MAX + 500; i++) {
		snprintf(name, sizeof(name), "model-%d", i);
		model_count(model_row(span_of_str(name), span_of_str(name)), MODEL_STARTED, 1);
	}
	assert_true(metric_total(M_LABEL_VALUES_CAPPED) > capped + 499);
	assert_ptr_equal(model_row(SPAN("one"), SPAN("more")),
			 model_row(SPAN("and"), SPAN("more")));
	assert_on_page(false, "{model=\"other\",target_model=\"other\"} 50", true);
	assert_on_page(false, "model-1499", false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_count_in_one_series),
		cmocka_unit_test(the_same_name_for_another_target_is_another_series),
		cmocka_unit_test(a_histogram_is_cumulative_and_in_the_metrics_unit),
		cmocka_unit_test(without_llm_d_its_names_are_absent),
		cmocka_unit_test(a_name_with_any_bytes_stays_on_its_line),
		cmocka_unit_test(beyond_the_cap_everything_is_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
