/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane's parts without sockets: timers, blocks and their budget, routes, segments, heads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/blocks.h"
#include "dataplane/request.h"
#include "dataplane/routes.h"
#include "dataplane/timers.h"

/* ---- timers ---- */

static struct timers wheel;
static int fired_count;
static struct timer *again;

static void fired(struct timer *t)
{
	fired_count++;
	if (t == again)
		timer_set(&wheel, t, 50);
}

static void test_timers_fire_once_and_never_early(void **state)
{
	struct timer t = {.fired = fired};

	(void)state;
	for (uint64_t after = 0; after < 250000; after += 6113) {
		uint64_t now = 1234567;

		timers_init(&wheel, now);
		fired_count = 0;
		timer_set(&wheel, &t, after);
		for (; now < 1234567 + after; now += 37) {
			timers_run(&wheel, now);
			assert_int_equal(fired_count, 0);
		}
		timers_run(&wheel, 1234567 + after + 2 * TIMER_SLOT_MS);
		assert_int_equal(fired_count, 1);
		timers_run(&wheel, now + 300000);
		assert_int_equal(fired_count, 1);
	}
}

static void test_timers_clear_and_rearm(void **state)
{
	struct timer a = {.fired = fired}, b = {.fired = fired}, c = {.fired = fired};

	(void)state;
	timers_init(&wheel, 0);
	fired_count = 0;
	timer_set(&wheel, &a, 100);
	timer_set(&wheel, &b, 100);
	timer_set(&wheel, &c, 100);
	timer_clear(&b);
	timer_clear(&b);
	timers_run(&wheel, 1000);
	assert_int_equal(fired_count, 2);
	again = &a;
	timer_set(&wheel, &a, 10);
	timers_run(&wheel, 2000);
	timers_run(&wheel, 3000);
	assert_int_equal(fired_count, 4);
	again = NULL;
	timers_run(&wheel, 9000000); /* a long sleep skips no timer */
	assert_int_equal(fired_count, 5);
}

/* ---- blocks ---- */

static void test_blocks_stay_in_the_budget(void **state)
{
	struct budget budget = {.max = 4 * BLOCK_BIG};
	struct blocks blocks;
	struct block *chain = NULL, *b;
	unsigned int n = 0;

	(void)state;
	assert_int_equal(blocks_init(&blocks, &budget), 0);
	while ((b = block_new(&blocks, n % 2 ? BLOCK_BIG : 100))) {
		assert_true(b->size >= (n % 2 ? BLOCK_BIG : BLOCK_SMALL));
		assert_int_equal(block_used(b), 0);
		memset(b->data, 'x', b->size);
		b->next = chain;
		chain = b;
		n++;
		assert_true(budget.used <= budget.max);
	}
	assert_true(n >= 4);
	b = block_replace(&blocks); /* bytes that have come are kept all the same */
	assert_non_null(b);
	block_free(&blocks, b);
	block_free_chain(&blocks, chain);
	assert_int_equal(budget.used, 0);
	blocks_fini(&blocks);
}

static void test_blocks_grow(void **state)
{
	struct budget budget = {.max = 1 << 20};
	struct blocks blocks;
	struct block *b;

	(void)state;
	assert_int_equal(blocks_init(&blocks, &budget), 0);
	b = block_new(&blocks, 1);
	memcpy(b->data, "hello", 5);
	b->start = 1, b->end = 5;
	assert_int_equal(block_grow(&blocks, &b), 0);
	assert_int_equal(b->size, BLOCK_BIG);
	assert_int_equal(block_used(b), 4);
	assert_memory_equal(b->data + b->start, "ello", 4);
	assert_int_equal(block_grow(&blocks, &b), -EFBIG);
	block_free(&blocks, b);
	block_free(&blocks, NULL);
	assert_int_equal(budget.used, 0);
	blocks_fini(&blocks);
}

/* ---- routes ---- */

static void test_routes(void **state)
{
	static const char *const never[] = {"/",
					    "/metrics",
					    "/v1",
					    "/v1/",
					    "/v1/chat/completions/",
					    "/V1/chat/completions",
					    "/v1/chat/completions/../../metrics",
					    "//v1/models",
					    "/reset_prefix_cache",
					    "/sleep",
					    "/wake_up",
					    "/v1/load_lora_adapter",
					    "/v1/unload_lora_adapter",
					    "/collective_rpc",
					    "/server_info",
					    "/ping",
					    "/docs",
					    "/openapi.json",
					    "/scale_elastic_ep",
					    "/kv_event_sources"};
	const struct route *r = route_find(SPAN("/v1/chat/completions"));

	(void)state;
	assert_non_null(r);
	assert_true(route_takes(r, HTTP1_POST));
	assert_false(route_takes(r, HTTP1_GET));
	assert_false(route_takes(r, HTTP1_OTHER));
	r = route_find(SPAN("/v1/models"));
	assert_true(route_takes(r, HTTP1_GET) && route_takes(r, HTTP1_HEAD));
	assert_false(route_takes(r, HTTP1_POST));
	assert_int_equal(route_find(SPAN("/v1/models/org/name"))->action, ROUTE_MODEL);
	assert_int_equal(route_find(SPAN("/v1/messages"))->api, API_ANTHROPIC);
	assert_int_equal(route_api_of(SPAN("/v1/messages/x")), API_ANTHROPIC);
	assert_int_equal(route_api_of(SPAN("/nope")), API_OPENAI);
	for (size_t i = 0; i < sizeof(never) / sizeof(*never); i++)
		if (route_find(span_of_str(never[i])))
			fail_msg("%s is served", never[i]);
}

/* ---- segments ---- */

static struct request req;
static struct worker worker;
static struct config config;
static struct block pieces[64];

/* A request whose body lies in blocks of `step` bytes. */
static void request_make(const char *body, size_t step)
{
	size_t n = strlen(body), count = 0;

	memset(&req, 0, sizeof(req));
	worker.cfg = &config;
	req.worker = &worker;
	openai_scan_init(&req.scan, &req.says, req.spans);
	assert_int_equal(openai_scan_feed(&req.scan, body, n), 0);
	assert_int_equal(openai_scan_finish(&req.scan), 0);
	req.body_bytes = n;
	for (size_t at = 0; at < n; at += step, count++) {
		size_t len = n - at < step ? n - at : step;

		assert_true(count < 64);
		/* Something else stands before and after, as a head and a next request may. */
		pieces[count] = (struct block){.data = malloc(len + 6)};
		memset(pieces[count].data, '#', len + 6);
		memcpy(pieces[count].data + 3, body + at, len);
		pieces[count].start = 3;
		pieces[count].end = (uint32_t)(3 + len);
		pieces[count].size = (uint32_t)(len + 6);
		if (count)
			pieces[count - 1].next = &pieces[count];
	}
	req.body = pieces;
	req.body_last = &pieces[count - 1];
}

static void request_unmake(void)
{
	for (struct block *b = req.body; b; b = b->next)
		free(b->data);
}

/* The forwarded bytes from `from` on, by iovecs of at most `max` entries a time. */
static void forwarded(uint64_t from, unsigned int max, char *to)
{
	while (from < req.forward_bytes) {
		struct iovec iov[8];
		unsigned int n = segments_fill(&req, from, iov, max);

		assert_true(n > 0 && n <= max);
		for (unsigned int i = 0; i < n; i++) {
			memcpy(to, iov[i].iov_base, iov[i].iov_len);
			to += iov[i].iov_len;
			from += iov[i].iov_len;
		}
	}
	assert_int_equal(from, req.forward_bytes);
	*to = '\0';
}

static void test_segments(void **state)
{
	static const struct {
		const char *body, *want;
	} rows[] = {
		{"{\"model\":\"a\",\"x\":1}", "{\"model\":\"a\",\"x\":1}"},
		{"{\"model\":\"a\",\"kv_transfer_params\":{\"a\":1},\"x\":1}",
		 "{\"model\":\"a\",\"x\":1}"},
		{"{\"kv_transfer_params\":{} , \"x\":1}", "{\"x\":1}"},
		{"{\"x\":1,\"kv_transfer_params\":null}", "{\"x\":1}"},
		{"{ \"kv_transfer_params\":{}}", "{ }"},
		{"{\"bootstrap_host\":\"h\",\"bootstrap_port\":1,\"bootstrap_room\":[2]}", "{}"},
		{"{\"bootstrap_host\":\"h\",\"x\":1,\"bootstrap_port\":1,\"y\":2,"
		 "\"ec_transfer_params\":{}}",
		 "{\"x\":1,\"y\":2}"},
		{"{\"x\":1, \"bootstrap_host\":\"h\" ,\"bootstrap_port\":1}", "{\"x\":1 }"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		for (size_t step = 3; step < 90; step += 7) {
			for (unsigned int max = 1; max < 8; max += 3) {
				char got[256];

				request_make(rows[i].body, step);
				segments_build(&req);
				assert_int_equal(req.forward_bytes, strlen(rows[i].want));
				for (uint64_t from = 0; from <= req.forward_bytes; from++) {
					forwarded(from, max, got);
					assert_string_equal(got, rows[i].want + from);
				}
				request_unmake();
			}
		}
	}
	config.allow_gateway_fields = true;
	request_make(rows[1].body, 5);
	segments_build(&req);
	assert_int_equal(req.forward_bytes, strlen(rows[1].body));
	request_unmake();
	config.allow_gateway_fields = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_timers_fire_once_and_never_early),
		cmocka_unit_test(test_timers_clear_and_rearm),
		cmocka_unit_test(test_blocks_stay_in_the_budget),
		cmocka_unit_test(test_blocks_grow),
		cmocka_unit_test(test_routes),
		cmocka_unit_test(test_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
