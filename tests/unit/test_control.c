/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control thread against engines of our own on loopback: load, models, health, restarts, the
 * watched file, names. A wait is for a condition; its limit is only there to fail. Both the control
 * thread and the engines' are made by pthread_create.
 */
#include "controlplane/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/log.h"

#include "../fake_engine.h"
#include "base/health.h"
#include "base/load.h"
#include "base/metrics.h"

#define HEAD(n) "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: " n "\r\n\r\n"
#define CHUNKED "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

static const char fine[] = HEAD("0");
static const char unwell[] = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
static const char models_one[] = HEAD("40") "{\"data\":[{\"id\":\"tiny\",\"parent\":null}]}  ";
static const char models_two[] = HEAD(
	"65") "{\"data\":[{\"id\":\"tiny\"},{\"id\":\"lora\",\"parent\":\"tiny\"}]}           ";
static const char page_one[] =
	HEAD("103") "vllm:num_requests_waiting 3\nvllm:num_requests_running 4\n"
		    "process_start_time_seconds 1000.25\n            ";
static const char page_two[] = CHUNKED "1e\r\nvllm:num_requests_waiting 50\n\n\r\n"
				       "24\r\nprocess_start_time_seconds 2000.25\n\n\r\n0\r\n\r\n";

static struct sluice_endpoint endpoints_map[ENDPOINTS_MAX];
static struct sluice_endpoint_load load_map[ENDPOINTS_MAX];
static struct fake_engines engines;
static struct fake_engine items[2];
static struct config config;
static struct store *store;
static struct control *control;
static char flags[2][128], *flag_list[2] = {flags[0], flags[1]};

static void engines_start(uint16_t port)
{
	memset(items, 0, sizeof(items));
	for (int i = 0; i < 2; i++) {
		items[i].port = i ? 0 : port;
		items[i].metrics = page_one;
		items[i].models = models_one;
		items[i].health = fine;
	}
	assert_int_equal(fake_start(&engines, items, 2), 0);
}

static void control_begin(unsigned int flag_count, char *file)
{
	char error[256];

	memset(endpoints_map, 0, sizeof(endpoints_map));
	memset(load_map, 0, sizeof(load_map));
	config = (struct config){.endpoints = {flag_list, flag_count},
				 .endpoints_file = file,
				 .scrape_interval_ms = 10,
				 .models_interval_ms = 20,
				 .probe_interval_ms = 20,
				 .connect_timeout_ms = 1000};
	store = store_new(&config, endpoints_map, load_map, NULL);
	assert_int_equal(control_start(&config, store, error, sizeof(error), &control), 0);
}

static void control_end(void)
{
	control_stop(control);
	store_free(store);
}

#define wait_for(condition)                                                                        \
	do {                                                                                       \
		for (int turn_ = 0; !(condition); turn_++) {                                       \
			if (turn_ > 10000)                                                         \
				fail_msg("never: %s", #condition);                                 \
			usleep(1000);                                                              \
		}                                                                                  \
	} while (0)

static bool model_listed(const char *name)
{
	struct endpoint_snapshot *snap = store_snapshot(store);
	bool listed = snapshot_find_model(snap, span_of_str(name)) != NULL;

	snapshot_put(snap);
	return listed;
}

/* The state of the endpoint in view 0, as health says. */
static uint8_t state_now(void)
{
	struct endpoint_snapshot *snap = store_snapshot(store);
	uint8_t state = snap->view_count ? health_state(snap->views[0]) : 0;

	snapshot_put(snap);
	return state;
}

static bool may_pick_now(void)
{
	struct endpoint_snapshot *snap = store_snapshot(store);
	bool may = health_may_pick(snap->views[0]);

	snapshot_put(snap);
	return may;
}

static uint32_t generation_now(void)
{
	struct endpoint_snapshot *snap = store_snapshot(store);
	uint32_t generation = snap->views[0]->generation;

	snapshot_put(snap);
	return generation;
}

static void load_and_models_are_read_and_read_again(void **state)
{
	(void)state;
	engines_start(0);
	snprintf(flags[0], sizeof(flags[0]), "127.0.0.1:%u,name=a", items[0].port);
	snprintf(flags[1], sizeof(flags[1]), "localhost:%u,name=b", items[1].port);
	control_begin(2, NULL);
	wait_for(load_read(load_map[0].waiting) == 3 && load_read(load_map[0].running) == 4);
	wait_for(load_read(load_map[1].waiting) == 3); /* the name was resolved */
	assert_true(load_read(load_map[0].scraped_at_ns) > 0);
	wait_for(model_listed("tiny"));
	assert_false(model_listed("lora"));
	assert_int_equal(generation_now(), 1);
	atomic_store(&items[0].models, models_two);
	wait_for(model_listed("lora"));
	atomic_store(&items[0].metrics, page_two); /* chunked, and another process */
	wait_for(load_read(load_map[0].waiting) == 50);
	wait_for(generation_now() == 2);
	assert_int_equal(load_read(load_map[0].running), 4); /* not said: kept */
	assert_true(model_listed("lora"));
	control_end();
	fake_stop(&engines);
}

static void a_sick_or_dead_engine_leaves_and_comes_back(void **state)
{
	uint16_t port;

	(void)state;
	engines_start(0);
	port = items[0].port;
	snprintf(flags[0], sizeof(flags[0]), "127.0.0.1:%u", port);
	control_begin(1, NULL);
	wait_for(load_read(load_map[0].waiting) == 3);
	assert_int_equal(state_now(), SLUICE_ENDPOINT_READY);
	atomic_store(&items[0].health, unwell);
	wait_for(state_now() == SLUICE_ENDPOINT_OPEN);
	atomic_store(&items[0].health, fine);
	wait_for(may_pick_now());
	fake_stop(&engines);
	wait_for(state_now() == SLUICE_ENDPOINT_OPEN);
	engines_start(port);
	/* The probe is well again: one request may try. */
	struct endpoint_snapshot *snap = store_snapshot(store);

	wait_for(health_may_pick(snap->views[0]));
	assert_true(health_trial_begin(snap->views[0]));
	health_report(snap->views[0], HEALTH_OK);
	wait_for(__atomic_load_n(&endpoints_map[0].state, __ATOMIC_RELAXED) ==
		 SLUICE_ENDPOINT_READY);
	snapshot_put(snap);
	control_end();
	fake_stop(&engines);
}

static void a_silent_or_endless_page_is_given_up_and_health_stays(void **state)
{
	uint64_t stalls = metric_total(M_SCRAPE_STALL), large = metric_total(M_SCRAPE_TOO_LARGE);
	size_t len = METRICS_PAGE_MAX + 100000;
	char *page = malloc(len + 100);
	int n = sprintf(page, "HTTP/1.1 200 OK\r\n\r\n");

	(void)state;
	memset(page + n, '\n', len);
	page[(size_t)n + len] = 0;
	engines_start(0);
	atomic_store(&items[0].metrics, NULL);
	snprintf(flags[0], sizeof(flags[0]), "127.0.0.1:%u", items[0].port);
	control_begin(1, NULL);
	wait_for(metric_total(M_SCRAPE_STALL) > stalls);
	atomic_store(&items[0].metrics, page);
	wait_for(metric_total(M_SCRAPE_TOO_LARGE) > large);
	assert_int_equal(state_now(), SLUICE_ENDPOINT_READY);
	assert_int_equal(load_read(load_map[0].scraped_at_ns), 0);
	control_end();
	fake_stop(&engines);
	free(page);
}

static void an_engine_that_closes_its_connections_is_no_failure(void **state)
{
	uint64_t closed = metric_total(M_SCRAPE_CLOSED), scrapes = metric_total(M_SCRAPES);

	(void)state;
	engines_start(0);
	atomic_store(&items[0].closes, true);
	snprintf(flags[0], sizeof(flags[0]), "127.0.0.1:%u", items[0].port);
	control_begin(1, NULL);
	wait_for(metric_total(M_SCRAPES) >= scrapes + 50);
	assert_int_equal(metric_total(M_SCRAPE_CLOSED), closed);
	assert_int_equal(state_now(), SLUICE_ENDPOINT_READY);
	control_end();
	fake_stop(&engines);
}

static void the_page_is_found_at_its_other_place(void **state)
{
	(void)state;
	engines_start(0);
	atomic_store(&items[0].metrics, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]");
	atomic_store(&items[0].other_metrics, page_one);
	atomic_store(&items[1].metrics, "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n");
	atomic_store(&items[1].other_metrics, page_one);
	snprintf(flags[0], sizeof(flags[0]), "127.0.0.1:%u", items[0].port);
	snprintf(flags[1], sizeof(flags[1]), "127.0.0.1:%u", items[1].port);
	control_begin(2, NULL);
	wait_for(load_read(load_map[0].waiting) == 3 && load_read(load_map[1].waiting) == 3);
	control_end();
	fake_stop(&engines);
}

static void file_write(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static unsigned int view_count(void)
{
	struct endpoint_snapshot *snap = store_snapshot(store);
	unsigned int n = snap->view_count;

	snapshot_put(snap);
	return n;
}

static void file_with(char *out, size_t size, unsigned int count)
{
	size_t n = (size_t)snprintf(out, size, "endpoints:\n");

	for (unsigned int i = 0; i < count; i++)
		n += (size_t)snprintf(out + n, size - n,
				      "- {name: p%u, address: 127.0.0.1, port: \"%u\"}\n", i,
				      1 + i);
}

/* As Kubernetes mounts a ConfigMap: file -> ..data/file, ..data -> a directory, swapped by rename.
 */
static void the_file_is_watched_through_renames_and_symlink_swaps(void **state)
{
	char dir[] = "/tmp/sluice-control-XXXXXX", path[64], real[64], next[64], text[1024];
	uint64_t refused = metric_total(M_SOURCE_REFUSED);

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/pods.yaml", dir);
	snprintf(next, sizeof(next), "%s/next", dir);
	file_with(text, sizeof(text), 1);
	file_write(path, text);
	control_begin(0, path);
	assert_int_equal(view_count(), 1);
	file_with(text, sizeof(text), 2);
	file_write(next, text);
	assert_int_equal(rename(next, path), 0);
	wait_for(view_count() == 2);
	file_write(path, "endpoints: [");
	wait_for(metric_total(M_SOURCE_REFUSED) > refused);
	assert_int_equal(view_count(), 2); /* the old one stays in force */
	for (unsigned int k = 3; k < 5; k++) {
		snprintf(real, sizeof(real), "%s/v%u", dir, k);
		assert_int_equal(mkdir(real, 0700), 0);
		snprintf(real, sizeof(real), "%s/v%u/pods.yaml", dir, k);
		file_with(text, sizeof(text), k);
		file_write(real, text);
		snprintf(real, sizeof(real), "v%u", k);
		assert_int_equal(symlink(real, next), 0);
		snprintf(real, sizeof(real), "%s/..data", dir);
		assert_int_equal(rename(next, real), 0);
		if (k == 3) {
			assert_int_equal(symlink("..data/pods.yaml", next), 0);
			assert_int_equal(rename(next, path), 0);
		}
		wait_for(view_count() == k);
	}
	control_end();
	snprintf(text, sizeof(text), "rm -r %s", dir);
	assert_int_equal(system(text), 0);
}

static void a_bad_start_is_an_error_with_its_cause(void **state)
{
	char error[256], bad[] = "10.0.0.1:8000,weight=3", *list[] = {bad};
	struct config c = {.endpoints = {list, 1}, .scrape_interval_ms = 100};
	struct store *s = store_new(&c, endpoints_map, load_map, NULL);
	struct control *none = NULL;

	(void)state;
	assert_int_not_equal(control_start(&c, s, error, sizeof(error), &none), 0);
	assert_non_null(strstr(error, "unknown option \"weight\""));
	assert_int_not_equal(control_check(&c, error, sizeof(error)), 0);
	c.endpoints.count = 0;
	c.endpoints_file = (char *)"/nonexistent/pods.yaml";
	assert_int_not_equal(control_start(&c, s, error, sizeof(error), &none), 0);
	assert_non_null(strstr(error, "/nonexistent/pods.yaml: No such file"));
	assert_null(none);
	store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(load_and_models_are_read_and_read_again),
		cmocka_unit_test(a_sick_or_dead_engine_leaves_and_comes_back),
		cmocka_unit_test(a_silent_or_endless_page_is_given_up_and_health_stays),
		cmocka_unit_test(an_engine_that_closes_its_connections_is_no_failure),
		cmocka_unit_test(the_page_is_found_at_its_other_place),
		cmocka_unit_test(the_file_is_watched_through_renames_and_symlink_swaps),
		cmocka_unit_test(a_bad_start_is_an_error_with_its_cause),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
