/* SPDX-License-Identifier: Apache-2.0 */
/* The admin port over real sockets: pages, refusals, bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "controlplane/admin.h"
#include "controlplane/options.h"

static struct config cfg;
static struct admin *admin;
static struct sluice_endpoint_load loads[ENDPOINTS_MAX];
static struct endpoint *endpoints[ENDPOINTS_MAX];
static struct endpoint_snapshot *snap;
static bool is_ready;
static unsigned int page_endpoints = 2;

static struct endpoint_snapshot *op_snapshot(void *arg)
{
	(void)arg;
	return snapshot_get(snap);
}

static bool op_ready(void *arg)
{
	(void)arg;
	return is_ready;
}

static bool op_decision(void *arg, struct span id, FILE *f)
{
	(void)arg;
	if (!span_eq(id, SPAN("req/1 a")))
		return false;
	fputs("{\"request_id\":\"known\"}", f);
	return true;
}

static int op_drain(void *arg, const char *name, bool draining)
{
	(void)arg;
	for (uint32_t i = 0; i < snap->view_count; i++)
		if (strcmp(snap->views[i]->name, name) == 0) {
			snap->views[i]->draining = draining;
			return 0;
		}
	return -ENOENT;
}

static int start(void **state)
{
	const struct admin_ops ops = {.snapshot = op_snapshot,
				      .ready = op_ready,
				      .write_decision = op_decision,
				      .set_draining = op_drain};

	(void)state;
	log_set_level(LOG_ERROR);
	config_init_defaults(&cfg);
	free(cfg.admin);
	cfg.admin = strdup("127.0.0.1:0");
	snap = calloc(1, sizeof(*snap));
	snap->refs = 1;
	snap->view_count = page_endpoints;
	snap->views = calloc(page_endpoints, sizeof(*snap->views));
	memset(loads, 0, sizeof(loads));
	for (unsigned int i = 0; i < page_endpoints; i++) {
		struct endpoint *ep = endpoints[i] = calloc(1, sizeof(*ep));

		ep->refs = 1;
		ep->slot = (uint16_t)i;
		ep->load = &loads[i];
		ep->breaker.state = SLUICE_ENDPOINT_READY;
		snprintf(ep->name, sizeof(ep->name), i == 0 ? "a\"b\\%%s\n" : "pod-%u", i);
		snprintf(ep->address, sizeof(ep->address), "10.0.0.%u:8000", i);
		snap->views[i] = ep;
	}
	loads[1].scraped_at_ns = clock_mono_ns() + 3600 * NS_PER_S;
	loads[1].waiting = 3;
	loads[1].kv_used_ppm = 250000;
	is_ready = true;
	return admin_new(&cfg, &ops, &admin);
}

static int stop(void **state)
{
	(void)state;
	admin_free(admin);
	snapshot_put(snap);
	config_fini(&cfg);
	return 0;
}

static int dial(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
				  .sin_port = htons((uint16_t)admin_port(admin)),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	return fd;
}

/* Everything until the server closes; static so that pages fit. */
static char reply[1 << 21];

static void read_to_end(int fd)
{
	size_t used = 0;
	ssize_t n;

	while ((n = read(fd, reply + used, sizeof(reply) - 1 - used)) > 0)
		used += (size_t)n;
	reply[used] = '\0';
	close(fd);
}

static const char *ask(const char *request)
{
	int fd = dial();

	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	read_to_end(fd);
	return reply;
}

static const char *get(const char *path)
{
	char request[512];
	const char *body;

	snprintf(request, sizeof(request),
		 "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
	body = strstr(ask(request), "\r\n\r\n");
	assert_non_null(body);
	return body + 4;
}

static void pages_answer_as_documented(void **state)
{
	static const struct {
		const char *method, *path, *says;
	} cases[] = {
		{"GET", "/healthz", "HTTP/1.1 200 OK"},
		{"GET", "/readyz", "HTTP/1.1 200 OK"},
		{"GET", "/version", "\"version\":\"" SLUICE_VERSION "\""},
		{"GET", "/state/requests", "{\"requests\":[]}"},
		{"GET", "/state/decisions/req%2F1%20a", "known"},
		{"GET", "/state/decisions/unknown", "HTTP/1.1 404 "},
		{"GET", "/state/decisions/", "HTTP/1.1 400 "},
		{"GET", "/state/decisions/%zz", "HTTP/1.1 400 "},
		{"GET", "/state/decisions/%00", "HTTP/1.1 400 "},
		{"GET", "/state/decisions/%4", "HTTP/1.1 400 "},
		{"GET", "/endpoints/pod-1/drain", "HTTP/1.1 405 "},
		{"GET", "/endpoints/pod-1/drain", "Allow: POST"},
		{"POST", "/endpoints/nobody/drain", "HTTP/1.1 404 "},
		{"POST", "/endpoints//drain", "HTTP/1.1 400 "},
		{"POST", "/endpoints/a/b/drain", "HTTP/1.1 404 "},
		{"POST", "/metrics", "HTTP/1.1 405 "},
		{"GET", "/", "HTTP/1.1 404 "},
		{"GET", "/metricsx", "HTTP/1.1 404 "},
		{"DELETE", "/healthz", "HTTP/1.1 405 "},
	};
	char request[512];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(request, sizeof(request),
			 "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", cases[i].method,
			 cases[i].path);
		if (!strstr(ask(request), cases[i].says))
			fail_msg("%s %s: %s", cases[i].method, cases[i].path, reply);
	}
	is_ready = false;
	get("/readyz");
	assert_non_null(strstr(reply, "HTTP/1.1 503 "));
}

static void drain_reaches_the_endpoint_and_comes_back(void **state)
{
	(void)state;
	ask("POST /endpoints/pod-1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
	    "Connection: close\r\n\r\n{}");
	assert_non_null(strstr(reply, "\"draining\":true"));
	assert_true(endpoints[1]->draining);
	assert_non_null(strstr(get("/state/endpoints"), "\"state\":\"draining\""));
	ask("POST /endpoints/pod-1/undrain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	assert_false(endpoints[1]->draining);
}

static void endpoints_are_json_whatever_their_names(void **state)
{
	json_t *o, *list;

	(void)state;
	o = json_loads(get("/state/endpoints"), 0, NULL);
	assert_non_null(o);
	list = json_object_get(o, "endpoints");
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "name")),
			    "a\"b\\%s\n");
	assert_true(json_is_null(json_object_get(json_array_get(list, 0), "waiting")));
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "waiting")),
			 3);
	json_decref(o);
}

static void stale_load_is_left_out_of_the_metrics(void **state)
{
	const char *page = get("/metrics");

	(void)state;
	assert_non_null(strstr(page, "sluice_endpoint_waiting{endpoint=\"pod-1\"} 3\n"));
	assert_null(strstr(page, "sluice_endpoint_waiting{endpoint=\"a"));
	assert_non_null(strstr(page, "sluice_endpoint_ready{endpoint=\"a\\\"b\\\\%s\\n\"} 1\n"));
	assert_non_null(strstr(page, "sluice_endpoints_stale 1\n"));
	assert_non_null(strstr(page, "llm_d_epp_average_kv_cache_utilization 0.25\n"));
	cfg.llm_d_metrics = false;
	assert_null(strstr(get("/metrics"), "llm_d_epp_"));
}

static void many_endpoints_end_in_other(void **state)
{
	const char *page = get("/metrics"), *p = page;
	unsigned int labels = 0;

	(void)state;
	while ((p = strstr(p, "sluice_endpoint_ready{"))) {
		labels++;
		p++;
	}
	assert_int_equal(labels, LABEL_VALUES_MAX);
	assert_non_null(strstr(page, "sluice_endpoint_ready{endpoint=\"other\"} 25\n"));
}

static int start_many(void **state)
{
	page_endpoints = ENDPOINTS_MAX;
	return start(state);
}

static int stop_many(void **state)
{
	page_endpoints = 2;
	return stop(state);
}

static void a_kept_connection_answers_in_order_and_bytewise(void **state)
{
	static const char text[] = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
				   "HEAD /version HTTP/1.1\r\nHost: x\r\n\r\n"
				   "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	int fd = dial();

	(void)state;
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		assert_int_equal(write(fd, text + i, 1), 1);
	read_to_end(fd);
	assert_non_null(strstr(reply, "ok\nHTTP/1.1 200 OK"));
	assert_non_null(strstr(reply, "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json"));
	assert_non_null(strstr(reply, "\"abi\":"));
}

static void malformed_and_oversized_requests_are_refused(void **state)
{
	static char big[20000];
	int n;

	(void)state;
	assert_non_null(strstr(ask("GET / HTTP/1.1\r\nHost : x\r\n\r\n"), "HTTP/1.1 400 "));
	assert_non_null(strstr(ask("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"),
			       "HTTP/1.1 413 "));
	assert_non_null(
		strstr(ask("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
		       "HTTP/1.1 413 "));
	n = snprintf(big, sizeof(big), "GET / HTTP/1.1\r\nHost: x\r\nA: ");
	memset(big + n, 'a', 8192 - (size_t)n);
	assert_non_null(strstr(ask(big), "HTTP/1.1 431 "));
}

static void one_connection_too_many_is_closed(void **state)
{
	uint64_t refused = metric_total(M_ADMIN_REFUSED);
	int fds[ADMIN_CONNECTIONS_MAX + 1];
	char byte;

	(void)state;
	for (unsigned int i = 0; i <= ADMIN_CONNECTIONS_MAX; i++)
		fds[i] = dial();
	assert_int_equal(read(fds[ADMIN_CONNECTIONS_MAX], &byte, 1), 0);
	assert_int_equal(metric_total(M_ADMIN_REFUSED) - refused, 1);
	for (unsigned int i = 0; i <= ADMIN_CONNECTIONS_MAX; i++)
		close(fds[i]);
}

static void a_unix_socket_serves_and_is_removed(void **state)
{
	const struct admin_ops none = {0};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct admin *other = NULL;
	struct config c;
	int fd;

	(void)state;
	config_init_defaults(&c);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "/tmp/test_admin.%d", getpid());
	free(c.admin);
	assert_true(asprintf(&c.admin, "unix:%s", sun.sun_path) > 0);
	assert_int_equal(admin_new(&c, &none, &other), 0);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_true(write(fd, "GET /metrics HTTP/1.0\r\n\r\n", 25) == 25);
	read_to_end(fd);
	assert_non_null(strstr(reply, "sluice_build_info"));
	admin_free(other);
	assert_int_equal(access(sun.sun_path, F_OK), -1);
	config_fini(&c);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(pages_answer_as_documented),
		WITH_SERVER(drain_reaches_the_endpoint_and_comes_back),
		WITH_SERVER(endpoints_are_json_whatever_their_names),
		WITH_SERVER(stale_load_is_left_out_of_the_metrics),
		WITH_SERVER(a_kept_connection_answers_in_order_and_bytewise),
		WITH_SERVER(malformed_and_oversized_requests_are_refused),
		WITH_SERVER(one_connection_too_many_is_closed),
		WITH_SERVER(a_unix_socket_serves_and_is_removed),
		cmocka_unit_test_setup_teardown(many_endpoints_end_in_other, start_many, stop_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
