/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoint store: slots and generations, snapshots, draining, and many threads at once. */
#include "controlplane/store.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"

static struct sluice_endpoint endpoints_map[ENDPOINTS_MAX];
static struct sluice_endpoint_load load_map[ENDPOINTS_MAX];
static unsigned int written, lost;
static uint32_t lost_generation;

static void on_written(void *arg, uint32_t slot, const struct sluice_endpoint *value)
{
	(void)arg;
	assert_memory_equal(value, &endpoints_map[slot], sizeof(*value));
	written++;
}

static void on_lost(void *arg, uint32_t slot, uint32_t generation)
{
	(void)arg;
	(void)slot;
	lost++;
	lost_generation = generation;
}

static struct store *store_make(void)
{
	static const struct store_hooks hooks = {NULL, on_written, on_lost};
	static const struct config config;
	struct store *s;

	memset(endpoints_map, 0, sizeof(endpoints_map));
	memset(load_map, 0, sizeof(load_map));
	written = lost = 0;
	s = store_new(&config, endpoints_map, load_map, &hooks);
	assert_non_null(s);
	return s;
}

static struct endpoint_spec spec(unsigned int n)
{
	struct endpoint_spec s = {.addr_len = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (void *)&s.addr;

	in->sin_family = AF_INET;
	in->sin_port = htons(8000);
	in->sin_addr.s_addr = htonl(0x0a000000 + n);
	return s;
}

/* The pool becomes 10.0.0.from … 10.0.0.(from + count - 1). */
static void pool_set(struct store *s, unsigned int from, unsigned int count)
{
	struct endpoint_spec specs[64];

	for (unsigned int i = 0; i < count; i++)
		specs[i] = spec(from + i);
	assert_int_equal(store_set_endpoints(s, specs, count), 0);
}

static void a_change_makes_a_snapshot_and_no_change_makes_none(void **state)
{
	struct store *s = store_make();
	struct endpoint_mailbox box = {0};
	struct endpoint_snapshot *held = NULL, *first;

	(void)state;
	assert_int_equal(store_attach_worker(s, &box), 0);
	endpoint_mailbox_take(&box, &held);
	assert_int_equal(held->view_count, 0);
	pool_set(s, 1, 3);
	endpoint_mailbox_take(&box, &held);
	assert_int_equal(held->view_count, 3);
	assert_int_equal(held->unlisted_count, 3);
	assert_string_equal(held->views[0]->address, "10.0.0.1:8000");
	assert_string_equal(held->views[0]->name, "10.0.0.1:8000");
	assert_int_equal(endpoints_map[0].state, SLUICE_ENDPOINT_READY);
	assert_int_equal(endpoints_map[0].addr[15], 1);
	assert_int_equal(endpoints_map[0].port, 8000);
	assert_int_equal(written, 3);
	first = held;
	pool_set(s, 1, 3);
	endpoint_mailbox_take(&box, &held);
	assert_ptr_equal(held, first);
	snapshot_put(held);
	store_free(s);
}

static void a_slot_is_reused_only_when_its_last_reference_is_gone(void **state)
{
	struct store *s = store_make();
	struct endpoint_snapshot *snap;
	struct endpoint *ep;

	(void)state;
	pool_set(s, 1, 1);
	snap = store_snapshot(s);
	ep = endpoint_get(snap->views[0]); /* a running request */
	snapshot_put(snap);
	load_map[0].inflight_requests = 1;
	pool_set(s, 2, 1);
	store_housekeep(s);
	assert_true(atomic_load(&ep->draining));
	assert_int_equal(endpoints_map[0].state, SLUICE_ENDPOINT_DRAINING);
	assert_int_equal(endpoints_map[1].addr[15], 2); /* not slot 0 */
	assert_int_equal(load_map[0].inflight_requests, 1);
	endpoint_put(ep);
	store_housekeep(s);
	assert_int_equal(endpoints_map[0].state, SLUICE_ENDPOINT_FREE);
	assert_int_equal(load_map[0].inflight_requests, 0);
	assert_int_equal(lost, 1);
	pool_set(s, 2, 2);
	assert_int_equal(endpoints_map[0].addr[15], 3);
	assert_int_equal(endpoints_map[0].generation, 2);
	store_free(s);
}

static void an_endpoint_that_comes_back_while_draining_keeps_its_slot(void **state)
{
	struct store *s = store_make();
	struct endpoint_snapshot *snap = NULL;

	(void)state;
	pool_set(s, 1, 1);
	pool_set(s, 2, 0);
	pool_set(s, 1, 1);
	snap = store_snapshot(s);
	assert_int_equal(snap->view_count, 1);
	assert_int_equal(snap->views[0]->slot, 0);
	assert_int_equal(snap->views[0]->generation, 1);
	assert_false(atomic_load(&snap->views[0]->draining));
	snapshot_put(snap);
	store_free(s);
}

static void new_labels_make_a_new_object_in_the_same_slot(void **state)
{
	struct label labels[] = {{(char *)"zone", (char *)"a"}};
	struct store *s = store_make();
	struct endpoint_snapshot *before, *after;
	struct endpoint_spec one = spec(1);

	(void)state;
	store_set_endpoints(s, &one, 1);
	before = store_snapshot(s);
	one.labels = labels;
	one.label_count = 1;
	one.name = "pod";
	one.role = SLUICE_ROLE_DECODE;
	store_set_endpoints(s, &one, 1);
	after = store_snapshot(s);
	assert_ptr_not_equal(before->views[0], after->views[0]);
	assert_int_equal(after->views[0]->slot, 0);
	assert_int_equal(after->views[0]->generation, 1);
	assert_string_equal(endpoint_label(after->views[0], "zone"), "a");
	assert_null(endpoint_label(before->views[0], "zone"));
	assert_string_equal(endpoints_map[0].name, "pod");
	assert_int_equal(endpoints_map[0].role, SLUICE_ROLE_DECODE);
	snapshot_put(before);
	snapshot_put(after);
	store_free(s);
}

static void a_restarted_engine_gets_a_new_generation_and_keeps_its_load(void **state)
{
	struct store *s = store_make();
	struct endpoint_snapshot *before, *after;

	(void)state;
	pool_set(s, 1, 2);
	before = store_snapshot(s);
	store_endpoint_restarted(s, before->views[1]);
	after = store_snapshot(s);
	assert_int_equal(after->views[1]->generation, 2);
	assert_ptr_equal(after->views[1]->load, before->views[1]->load);
	assert_ptr_equal(after->views[0], before->views[0]);
	assert_int_equal(lost, 1);
	assert_int_equal(lost_generation, 1);
	/* News of the old process no longer counts. */
	store_endpoint_restarted(s, before->views[1]);
	assert_int_equal(lost, 1);
	snapshot_put(before);
	snapshot_put(after);
	store_free(s);
}

static void drain_goes_by_name_or_address_and_survives_a_reload(void **state)
{
	struct store *s = store_make();
	struct endpoint_spec one = spec(1);
	struct endpoint_snapshot *snap;

	(void)state;
	one.name = "pod-a";
	store_set_endpoints(s, &one, 1);
	assert_int_equal(store_drain(s, "nobody"), -ENOENT);
	assert_int_equal(store_drain(s, "pod-a"), 0);
	assert_int_equal(endpoints_map[0].state, SLUICE_ENDPOINT_DRAINING);
	one.name = "pod-b";
	store_set_endpoints(s, &one, 1);
	snap = store_snapshot(s);
	assert_true(atomic_load(&snap->views[0]->draining));
	assert_int_equal(store_undrain(s, "10.0.0.1:8000"), 0);
	assert_false(atomic_load(&snap->views[0]->draining));
	snapshot_put(snap);
	store_free(s);
}

static void models_are_found_by_name_with_the_views_that_serve_them(void **state)
{
	struct model_name *lists = calloc(200, sizeof(*lists));
	struct store *s = store_make();
	struct endpoint_snapshot *snap, *same;
	const struct model *m;

	(void)state;
	pool_set(s, 1, 3);
	snap = store_snapshot(s);
	strcpy(lists[0].name, "base");
	store_set_models(s, snap->views[0], lists, 1);
	for (int i = 1; i < 200; i++) {
		snprintf(lists[i].name, sizeof(lists[i].name), "lora-%d", i);
		strcpy(lists[i].parent, "base");
	}
	store_set_models(s, snap->views[2], lists, 200);
	snapshot_put(snap);
	snap = store_snapshot(s);
	assert_int_equal(snap->model_count, 200);
	assert_int_equal(snap->unlisted_count, 1);
	m = snapshot_find_model(snap, SPAN("base"));
	assert_non_null(m);
	assert_int_equal(m->views[0], 5);
	for (int i = 1; i < 200; i++) {
		m = snapshot_find_model(snap, span_of_str(lists[i].name));
		assert_non_null(m);
		assert_string_equal(m->name, lists[i].name);
		assert_string_equal(m->parent, "base");
		assert_int_equal(m->views[0], 4);
	}
	assert_null(snapshot_find_model(snap, SPAN("lora-0")));
	assert_null(snapshot_find_model(snap, SPAN("")));
	store_set_models(s, snap->views[2], lists, 200);
	same = store_snapshot(s);
	assert_ptr_equal(same, snap); /* nothing new: no new snapshot */
	snapshot_put(same);
	snapshot_put(snap);
	store_free(s);
	free(lists);
}

static void more_models_than_a_snapshot_holds_are_counted_not_kept(void **state)
{
	struct model_name *list = calloc(MODELS_MAX, sizeof(*list));
	struct store *s = store_make();
	struct endpoint_snapshot *snap;

	(void)state;
	pool_set(s, 1, 2);
	snap = store_snapshot(s);
	for (int k = 0; k < 2; k++) {
		for (int i = 0; i < MODELS_MAX; i++)
			snprintf(list[i].name, sizeof(list[i].name), "m-%d-%d", k, i);
		store_set_models(s, snap->views[k], list, MODELS_MAX);
	}
	snapshot_put(snap);
	snap = store_snapshot(s);
	assert_int_equal(snap->model_count, MODELS_MAX);
	snapshot_put(snap);
	store_free(s);
	free(list);
}

static void maps_of_an_agent_that_is_gone_are_emptied_and_generations_go_on(void **state)
{
	struct store *s = store_make();

	(void)state;
	pool_set(s, 1, 2);
	load_map[1].waiting = 9;
	store_free(s); /* the maps stay, as pins do */
	s = store_new(NULL, endpoints_map, load_map, NULL);
	assert_int_equal(endpoints_map[1].state, SLUICE_ENDPOINT_FREE);
	assert_int_equal(endpoints_map[1].name[0], 0);
	assert_int_equal(load_map[1].waiting, 0);
	pool_set(s, 7, 1);
	assert_int_equal(endpoints_map[0].generation, 2);
	assert_int_equal(endpoints_map[0].addr[15], 7);
	store_free(s);
}

static void an_endpoint_beyond_the_last_slot_is_refused(void **state)
{
	struct endpoint_spec *specs = calloc(ENDPOINTS_MAX + 2, sizeof(*specs));
	struct store *s = store_make();

	(void)state;
	for (unsigned int i = 0; i < ENDPOINTS_MAX + 2; i++)
		specs[i] = spec(i + 1);
	assert_int_equal(store_set_endpoints(s, specs, ENDPOINTS_MAX + 2), 2);
	store_free(s);
	free(specs);
}

#define THREADS 3
static _Atomic bool stop;
static _Atomic unsigned int working; /* workers that hold a request */

/* A worker: takes snapshots, holds endpoints as requests would, reads what the store writes. */
static void *worker_main(void *arg)
{
	struct endpoint_mailbox *box = arg;
	struct endpoint_snapshot *held = NULL;
	struct endpoint *requests[8] = {NULL};
	unsigned int turn = 0, seen = 0;

	while (!atomic_load(&stop)) {
		endpoint_mailbox_take(box, &held);
		if (!held || !held->view_count)
			continue;
		if (turn++ == 0)
			atomic_fetch_add(&working, 1);
		endpoint_put(requests[turn % 8]);
		requests[turn % 8] = endpoint_get(held->views[turn % held->view_count]);
		seen += requests[turn % 8]->generation +
			atomic_load(&requests[turn % 8]->draining) +
			(snapshot_find_model(held, SPAN("m")) != NULL);
	}
	for (int i = 0; i < 8; i++)
		endpoint_put(requests[i]);
	snapshot_put(held);
	return seen ? arg : NULL; /* so that the reads are not left out */
}

static void workers_and_the_store_share_snapshots_without_a_race(void **state)
{
	struct endpoint_mailbox boxes[THREADS] = {0};
	struct store *s = store_make();
	struct model_name list = {.name = "m"};
	struct endpoint_snapshot *snap;
	pthread_t threads[THREADS];
	void *worked;

	(void)state;
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(store_attach_worker(s, &boxes[i]), 0);
		pthread_create(&threads[i], NULL, worker_main, &boxes[i]);
	}
	for (unsigned int round = 0; round < 400 || atomic_load(&working) < THREADS; round++) {
		pool_set(s, 1 + round % 7, 1 + round % 5);
		snap = store_snapshot(s);
		store_set_models(s, snap->views[0], &list, 1);
		if (round % 3 == 0)
			store_endpoint_restarted(s, snap->views[0]);
		store_drain(s, snap->views[0]->address);
		store_undrain(s, snap->views[0]->address);
		snapshot_put(snap);
		store_housekeep(s);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &worked);
		assert_non_null(worked);
	}
	pool_set(s, 100, 1);
	store_housekeep(s);
	for (int i = 0; i < THREADS; i++) {
		snap = NULL;
		endpoint_mailbox_take(&boxes[i], &snap);
		snapshot_put(snap);
	}
	store_housekeep(s);
	for (unsigned int i = 0, busy = 0; i < ENDPOINTS_MAX; i++) {
		busy += endpoints_map[i].state != SLUICE_ENDPOINT_FREE;
		assert_true(busy <= 1); /* every other slot came free */
	}
	store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_change_makes_a_snapshot_and_no_change_makes_none),
		cmocka_unit_test(a_slot_is_reused_only_when_its_last_reference_is_gone),
		cmocka_unit_test(an_endpoint_that_comes_back_while_draining_keeps_its_slot),
		cmocka_unit_test(new_labels_make_a_new_object_in_the_same_slot),
		cmocka_unit_test(a_restarted_engine_gets_a_new_generation_and_keeps_its_load),
		cmocka_unit_test(drain_goes_by_name_or_address_and_survives_a_reload),
		cmocka_unit_test(models_are_found_by_name_with_the_views_that_serve_them),
		cmocka_unit_test(more_models_than_a_snapshot_holds_are_counted_not_kept),
		cmocka_unit_test(maps_of_an_agent_that_is_gone_are_emptied_and_generations_go_on),
		cmocka_unit_test(an_endpoint_beyond_the_last_slot_is_refused),
		cmocka_unit_test(workers_and_the_store_share_snapshots_without_a_race),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
