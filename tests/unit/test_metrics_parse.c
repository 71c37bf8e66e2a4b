/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics parser against real pages, split everywhere, and against pages that lie. */
#include "controlplane/metrics_parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>

#include "base/endpoint.h"
#include "controlplane/scrape.h"

static struct metrics_parser parser;

static const struct engine_metrics *parse(const char *page, size_t len, size_t split, size_t step)
{
	metrics_parser_reset(&parser);
	metrics_parser_feed(&parser, page, split);
	for (size_t at = split; at < len; at += step)
		metrics_parser_feed(&parser, page + at, len - at < step ? len - at : step);
	metrics_parser_finish(&parser);
	return &parser.found;
}

static const struct engine_metrics *parse_text(const char *page)
{
	return parse(page, strlen(page), strlen(page), 1);
}

static char *page_read(const char *name, size_t *ret_len)
{
	char path[128], *bytes = malloc(1 << 20);
	FILE *f;

	snprintf(path, sizeof(path), "tests/data/vllm/%s", name);
	f = fopen(path, "r");
	assert_non_null(f);
	*ret_len = fread(bytes, 1, 1 << 20, f);
	fclose(f);
	return bytes;
}

/* Every split point; each piece in a block of its own, so that reading past it is seen by ASan. */
static void same_at_every_split(const char *page, size_t len, size_t stride)
{
	struct engine_metrics whole = *parse(page, len, len, 1);

	for (size_t split = 0; split <= len; split += stride) {
		char *a = malloc(split ? split : 1), *b = malloc(len - split ? len - split : 1);

		memcpy(a, page, split);
		memcpy(b, page + split, len - split);
		metrics_parser_reset(&parser);
		metrics_parser_feed(&parser, a, split);
		metrics_parser_feed(&parser, b, len - split);
		metrics_parser_finish(&parser);
		assert_memory_equal(&parser.found, &whole, sizeof(whole));
		free(a);
		free(b);
	}
	for (size_t step = 1; step < 40; step++)
		assert_memory_equal(parse(page, len, 0, step), &whole, sizeof(whole));
}

static void a_page_at_rest_says_zero_and_knows_its_blocks(void **state)
{
	size_t len;
	char *page = page_read("metrics_idle.txt", &len);
	const struct engine_metrics *m = parse(page, len, len, 1);

	(void)state;
	assert_int_equal(m->seen, SERIES_WAITING | SERIES_RUNNING | SERIES_KV_USAGE |
					  SERIES_BLOCK_TOKENS | SERIES_BLOCKS | SERIES_START_TIME |
					  SERIES_QUERIES | SERIES_HITS);
	assert_true(m->waiting == 0 && m->running == 0 && m->kv_usage == 0);
	assert_int_equal(m->block_tokens, 32);
	assert_int_equal(m->blocks, 32768);
	assert_true(m->start_time > 1795456123.78 && m->start_time < 1795456123.80);
	same_at_every_split(page, len, 97);
	free(page);
}

static void a_page_under_load_is_the_same_at_every_split(void **state)
{
	size_t len;
	char *page = page_read("metrics_load.txt", &len);
	const struct engine_metrics *m = parse(page, len, len, 1);

	(void)state;
	assert_true(m->waiting == 6 && m->running == 2 && m->queries == 355);
	assert_true(m->kv_usage > 0.35897 && m->kv_usage < 0.35898);
	assert_int_equal(m->blocks, 40);
	same_at_every_split(page, len, 1);
	free(page);
}

static void data_parallel_ranks_are_summed_and_usage_is_the_fullest(void **state)
{
	size_t len;
	char *page = page_read("metrics_dp2.txt", &len);
	const struct engine_metrics *m = parse(page, len, len, 1);

	(void)state;
	assert_true(m->running == 6 && m->waiting == 0 && m->queries == 694);
	assert_true(m->kv_usage > 0.3333 && m->kv_usage < 0.3334);
	assert_int_equal(m->blocks, 256);
	assert_int_equal(m->block_tokens, 32);
	same_at_every_split(page, len, 1);
	free(page);
}

static void the_newest_lora_series_wins(void **state)
{
	size_t len;
	char *page = page_read("metrics_lora.txt", &len);
	const struct engine_metrics *m = parse(page, len, len, 1);
	uint64_t a = (uint64_t)XXH32("lora-a", 6, 0) << 2;

	(void)state;
	assert_true(m->seen & SERIES_LORA);
	assert_int_equal(m->max_lora, 2);
	assert_int_equal(m->adapter_count, 0); /* the newest of the page has none */
	same_at_every_split(page, len, 1);
	free(page);
	m = parse_text("vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"lora-a, x\","
		       "waiting_lora_adapters=\"lora-a,y\"} 2e9\n"
		       "vllm:lora_requests_info{max_lora=\"1\",running_lora_adapters=\"\","
		       "waiting_lora_adapters=\"\"} 1.5e9\n");
	assert_int_equal(m->max_lora, 4);
	assert_int_equal(m->adapter_count, 3);
	assert_int_equal(m->adapters[0], a | ADAPTER_RUNNING | ADAPTER_WAITING);
}

static void other_engines_and_old_names_are_understood(void **state)
{
	const struct engine_metrics *m;

	(void)state;
	m = parse_text("sglang:num_queue_reqs{model_name=\"m\",tp_rank=\"0\"} 3.0\n"
		       "sglang:num_running_reqs{model_name=\"m\"} 4.0\nsglang:token_usage{} 0.25\n"
		       "sglang:cache_config_info{page_size=\"16\",num_pages=\"1000\"} 1.0\n");
	assert_true(m->waiting == 3 && m->running == 4 && m->kv_usage == 0.25);
	assert_true(m->block_tokens == 16 && m->blocks == 1000);
	m = parse_text("trtllm_num_requests_waiting 7\r\ntrtllm_num_requests_running 8\r\n"
		       "trtllm_kv_cache_utilization 5e-1\r\ntrtllm_kv_cache_tokens_per_block 32\r\n"
		       "trtllm_kv_cache_max_blocks 1e3");
	assert_true(m->waiting == 7 && m->running == 8 && m->kv_usage == 0.5);
	assert_true(m->block_tokens == 32 && m->blocks == 1000);
	m = parse_text("vllm:gpu_cache_usage_perc{model_name=\"a b\"} 0.75 1700000000000\n");
	assert_true(m->seen == SERIES_KV_USAGE && m->kv_usage == 0.75);
}

static void lines_that_only_look_alike_or_are_malformed_change_nothing(void **state)
{
	static const char *const lines[] = {
		"vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 5.0\n",
		"vllm:prefix_cache_queries_created 1.7e9\n",
		"# vllm:num_requests_waiting 5\n",
		"vllm:num_requests_waiting NaN\n",
		"vllm:num_requests_waiting +Inf\n",
		"vllm:num_requests_waiting -1\n",
		"vllm:num_requests_waiting\n",
		"vllm:num_requests_waiting 5x\n",
		"vllm:num_requests_waiting 1e\n",
		"vllm:num_requests_waiting 1e999\n",
		"vllm:num_requests_waiting .\n",
		"vllm:num_requests_waiting{a=\"1\" 5\n",
		"vllm:num_requests_waiting{a=\"1\n",
		"vllm:num_requests_waiting{a=\"\\\"} 5\n",
		"vllm:num_requests_waiting{a=1} 5\n",
		"vllm:cache_config_info{hash_block_size=\"8\",num_gpu_blocks=\"None\"} 1.0\n",
		"xvllm:num_requests_waiting 5\n",
		"\n\n \n",
		"v",
		"",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (parse_text(lines[i])->seen)
			fail_msg("taken: %s", lines[i]);
}

static void a_quoted_brace_or_quote_is_part_of_the_label(void **state)
{
	(void)state;
	assert_true(parse_text("vllm:num_requests_waiting{m=\"a\\\"} 9\",n=\"}\"} 5\n")->waiting ==
		    5);
}

static void a_line_without_end_is_passed_over_and_counted(void **state)
{
	size_t len = METRICS_LINE_MAX * 3;
	char *page = malloc(len + 64);
	const struct engine_metrics *m;

	(void)state;
	memset(page, 'a', len);
	memcpy(page, "vllm:lora_requests_info{", 24);
	strcpy(page + len, "\nvllm:num_requests_waiting 5\n");
	m = parse(page, len + 29, 0, 1000);
	assert_int_equal(m->lines_too_long, 1);
	assert_true(m->waiting == 5);
	free(page);
}

static void a_restart_shows_in_the_start_time_or_in_a_counter_that_fell(void **state)
{
	struct engine_metrics m = {.seen = SERIES_START_TIME | SERIES_QUERIES};
	double start = 0, queries = 0;

	(void)state;
	m.start_time = 1000, m.queries = 50;
	assert_false(scrape_restarted(&m, &start, &queries));
	m.queries = 60;
	assert_false(scrape_restarted(&m, &start, &queries));
	m.start_time = 1010, m.queries = 70;
	assert_true(scrape_restarted(&m, &start, &queries));
	assert_false(scrape_restarted(&m, &start, &queries));
	m.queries = 1;
	assert_true(scrape_restarted(&m, &start, &queries));
	m.seen = 0, m.queries = 0, m.start_time = 0;
	assert_false(scrape_restarted(&m, &start, &queries));
}

static void what_a_page_does_not_say_keeps_its_value(void **state)
{
	struct sluice_endpoint_load load = {.waiting = 9, .blocks_total = 7};
	struct endpoint *ep = calloc(1, sizeof(*ep));
	struct engine_metrics m = {.seen = SERIES_RUNNING | SERIES_KV_USAGE};

	(void)state;
	ep->load = &load;
	m.running = 3;
	m.kv_usage = 1.25;
	scrape_apply(ep, &m, 77);
	assert_true(load.waiting == 9 && load.running == 3 && load.blocks_total == 7);
	assert_int_equal(load.kv_used_ppm, 1000000);
	assert_int_equal(load.scraped_at_ns, 77);
	m.seen = SERIES_START_TIME;
	scrape_apply(ep, &m, 88);
	assert_int_equal(load.scraped_at_ns, 77); /* a page without load does not refresh it */
	free(ep);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_at_rest_says_zero_and_knows_its_blocks),
		cmocka_unit_test(a_page_under_load_is_the_same_at_every_split),
		cmocka_unit_test(data_parallel_ranks_are_summed_and_usage_is_the_fullest),
		cmocka_unit_test(the_newest_lora_series_wins),
		cmocka_unit_test(other_engines_and_old_names_are_understood),
		cmocka_unit_test(lines_that_only_look_alike_or_are_malformed_change_nothing),
		cmocka_unit_test(a_quoted_brace_or_quote_is_part_of_the_label),
		cmocka_unit_test(a_line_without_end_is_passed_over_and_counted),
		cmocka_unit_test(a_restart_shows_in_the_start_time_or_in_a_counter_that_fell),
		cmocka_unit_test(what_a_page_does_not_say_keeps_its_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
