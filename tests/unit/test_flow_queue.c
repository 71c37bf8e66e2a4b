/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of waiting requests against a plain list, over random pushes, removals and turns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/flow_queue.h"

#define ITEMS 400
#define NS    1000000000ULL

static struct plugin strict, turns, las;
static struct flow_queue q;

static int setup(void **state)
{
	(void)state;
	plugin_init(&strict, plugin_find("global-strict-fairness-policy", 29));
	plugin_init(&turns, plugin_find("round-robin-fairness-policy", 27));
	plugin_init(&las, plugin_find("program-aware-fairness", 22));
	return flow_queue_init(&q);
}

static int teardown(void **state)
{
	(void)state;
	flow_queue_fini(&q);
	return 0;
}

static uint64_t rng = 0x9e3779b97f4a7c15ULL;

static uint32_t below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)(rng >> 33) % n;
}

static const struct flow_item *least_of(const struct flow_item *items, uint8_t band)
{
	const struct flow_item *best = NULL;

	for (int i = 0; i < ITEMS; i++)
		if (items[i].flow && items[i].band == band &&
		    (!best || items[i].key < best->key ||
		     (items[i].key == best->key && items[i].sequence < best->sequence)))
			best = &items[i];
	return best;
}

static void the_least_key_comes_first_whatever_left_before(void **state)
{
	static struct flow_item items[ITEMS];
	uint32_t waiting = 0;

	(void)state;
	for (int step = 0; step < 200000; step++) {
		struct flow_item *x = &items[below(ITEMS)];
		uint8_t band = (uint8_t)below(3);

		if (!x->flow) {
			*x = (struct flow_item){.key = below(50), .tenant = below(5), .band = band};
			flow_queue_push(&q, x, below(2));
			waiting++;
		} else if (below(2)) {
			flow_queue_remove(&q, x);
			waiting--;
		}
		assert_int_equal(q.count, waiting);
		assert_ptr_equal(flow_queue_next(&q, band, &strict, 0), least_of(items, band));
	}
	for (int i = 0; i < ITEMS; i++)
		if (items[i].flow)
			flow_queue_remove(&q, &items[i]);
	for (int b = 0; b < 3; b++) {
		assert_null(q.bands[b].ring);
		assert_int_equal(q.bands[b].count, 0);
		assert_null(flow_queue_last(&q, (uint8_t)b));
	}
}

static void turns_go_round_the_sorted_tenants(void **state)
{
	struct flow_item items[7] = {{.tenant = 30}, {.tenant = 10}, {.tenant = 10}, {.tenant = 20},
				     {.tenant = 10}, {.tenant = 30}, {.tenant = 10}};
	static const uint64_t want[] = {10, 20, 30, 10, 30, 10, 10};

	(void)state;
	for (int i = 0; i < 7; i++)
		flow_queue_push(&q, &items[i], false);
	for (int i = 0; i < 7; i++) {
		struct flow_item *x = flow_queue_next(&q, 0, &turns, 0);

		assert_int_equal(x->tenant, want[i]);
		flow_queue_remove(&q, x);
	}
}

static void the_least_served_comes_first_and_service_fades(void **state)
{
	struct flow_item a = {.tenant = 1, .since_ns = 100 * NS};
	struct flow_item b = {.tenant = 2, .since_ns = 100 * NS};

	(void)state;
	flow_queue_push(&q, &a, false);
	flow_queue_push(&q, &b, false);
	flow_queue_served(&q, 0, 1, 1000, 60, 100 * NS);
	flow_queue_served(&q, 0, 2, 400, 60, 100 * NS);
	assert_ptr_equal(flow_queue_next(&q, 0, &las, 101 * NS), &b);
	/* Two half-lives later 2 has had 400 more: 500 against 250. */
	flow_queue_served(&q, 0, 2, 400, 60, 220 * NS);
	assert_ptr_equal(flow_queue_next(&q, 0, &las, 220 * NS), &a);
	/* Equal service: who has waited longer. 0.8 (1 - 1) + 0.2 x wait. */
	flow_queue_served(&q, 0, 1, 250, 60, 220 * NS);
	flow_queue_remove(&q, &b);
	b.since_ns = 90 * NS;
	flow_queue_push(&q, &b, false);
	assert_ptr_equal(flow_queue_next(&q, 0, &las, 220 * NS), &b);
	flow_queue_remove(&q, &a);
	flow_queue_remove(&q, &b);
}

static void more_tenants_than_places_share_one_turn(void **state)
{
	struct flow_item *items = calloc(FLOWS_MAX * 3, sizeof(*items));
	uint32_t served = 0;

	(void)state;
	for (uint32_t i = 0; i < FLOWS_MAX * 3; i++) {
		items[i].tenant = i * 0x9e3779b97f4a7c15ULL;
		flow_queue_push(&q, &items[i], false);
	}
	for (struct flow_item *x; (x = flow_queue_next(&q, 0, &turns, 0)); served++)
		flow_queue_remove(&q, x);
	assert_int_equal(served, FLOWS_MAX * 3);
	free(items);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_least_key_comes_first_whatever_left_before),
		T(turns_go_round_the_sorted_tenants),
		T(the_least_served_comes_first_and_service_fades),
		T(more_tenants_than_places_share_one_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
