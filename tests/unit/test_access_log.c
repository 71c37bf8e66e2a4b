/* SPDX-License-Identifier: Apache-2.0 */
/* The access log: whole lines from several threads, drops counted, reopened. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/access_log.h"
#include "base/metrics.h"

#define THREADS 4
#define LINES	20000

static struct access_log *log_under_test;

static void *put_many(void *arg)
{
	unsigned int worker = (unsigned int)(uintptr_t)arg;
	uintptr_t kept = 0;

	for (unsigned int i = 0; i < LINES; i++) {
		struct access_record *r = access_log_begin(log_under_test, worker);

		if (!r)
			continue;
		snprintf(r->request_id, sizeof(r->request_id), "w%u-%u", worker, i);
		access_text(r->path, SPAN("/v1/chat/completions"));
		r->status = 200;
		r->total_us = i;
		access_log_commit(log_under_test, worker);
		kept++;
	}
	return (void *)kept;
}

static void lines_of_all_threads_are_whole_and_in_order(void **state)
{
	char path[] = "/tmp/test_access.XXXXXX", *line = NULL;
	uint64_t dropped = metric_total(M_ACCESS_LOG_DROPPED), kept = 0, lines = 0;
	long last[THREADS] = {-1, -1, -1, -1};
	pthread_t threads[THREADS];
	size_t size = 0;
	FILE *f;

	(void)state;
	close(mkstemp(path));
	assert_int_equal(access_log_new(path, THREADS, &log_under_test), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, put_many, (void *)i), 0);
	for (unsigned int i = 0; i < THREADS; i++) {
		void *n;

		pthread_join(threads[i], &n);
		kept += (uintptr_t)n;
	}
	access_log_free(log_under_test);
	f = fopen(path, "r");
	assert_non_null(f);
	for (; getline(&line, &size, f) > 0; lines++) {
		json_t *o = json_loads(line, 0, NULL);
		unsigned int worker, i;

		assert_non_null(o);
		assert_int_equal(sscanf(json_string_value(json_object_get(o, "request_id")),
					"w%u-%u", &worker, &i),
				 2);
		assert_true(worker < THREADS && (long)i > last[worker]);
		assert_int_equal(json_integer_value(json_object_get(o, "total_us")), i);
		last[worker] = i;
		json_decref(o);
	}
	free(line);
	fclose(f);
	unlink(path);
	assert_int_equal(lines, kept);
	assert_int_equal(metric_total(M_ACCESS_LOG_DROPPED) - dropped + kept, THREADS * LINES);
}

static void *read_all(void *arg)
{
	char sink[4096];

	while (read((int)(intptr_t)arg, sink, sizeof(sink)) > 0)
		;
	return NULL;
}

/* A pipe that nobody reads stops the writer; the worker must go on and count. */
static void a_stuck_file_drops_and_counts_and_never_blocks(void **state)
{
	uint64_t dropped = metric_total(M_ACCESS_LOG_DROPPED);
	char dir[] = "/tmp/test_access.XXXXXX", path[64];
	unsigned int refused = 0;
	pthread_t reader;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	fd = open(path, O_RDONLY | O_NONBLOCK);
	assert_true(fd >= 0);
	assert_int_equal(access_log_new(path, 1, &log_under_test), 0);
	for (unsigned int i = 0; i < 4 * ACCESS_LOG_QUEUE; i++) {
		struct access_record *r = access_log_begin(log_under_test, 0);

		refused += r == NULL;
		if (r)
			access_log_commit(log_under_test, 0);
	}
	assert_true(refused > 0);
	assert_int_equal(metric_total(M_ACCESS_LOG_DROPPED) - dropped, refused);
	fcntl(fd, F_SETFL, 0);
	assert_int_equal(pthread_create(&reader, NULL, read_all, (void *)(intptr_t)fd), 0);
	access_log_free(log_under_test); /* closes the only write end: the reader ends */
	pthread_join(reader, NULL);
	close(fd);
	unlink(path);
	rmdir(dir);
}

static void what_the_file_refuses_is_counted(void **state)
{
	uint64_t dropped = metric_total(M_ACCESS_LOG_DROPPED);

	(void)state;
	assert_int_equal(access_log_new("/dev/full", 1, &log_under_test), 0);
	for (unsigned int i = 0; i < 10; i++) {
		assert_non_null(access_log_begin(log_under_test, 0));
		access_log_commit(log_under_test, 0);
	}
	access_log_free(log_under_test);
	assert_int_equal(metric_total(M_ACCESS_LOG_DROPPED) - dropped, 10);
}

static void hostile_text_stays_json_and_fits(void **state)
{
	char path[] = "/tmp/test_access.XXXXXX", bytes[512], buf[8192];
	struct access_record *r;
	json_error_t e;
	json_t *o;
	ssize_t n;
	int fd;

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i % 3 ? 0x80 + i % 100 : 1);
	fd = mkstemp(path);
	assert_int_equal(access_log_new(path, 1, &log_under_test), 0);
	r = access_log_begin(log_under_test, 0);
	access_text(r->request_id, span_of(bytes, sizeof(bytes)));
	access_text(r->method, SPAN("\"\\\n"));
	access_text(r->path, span_of(bytes, sizeof(bytes)));
	access_text(r->model, span_of(bytes, sizeof(bytes)));
	access_text(r->endpoint, span_of(bytes, sizeof(bytes)));
	access_text(r->error, span_of(bytes, sizeof(bytes)));
	r->usage_known = true;
	r->prompt_tokens = r->completion_tokens = r->cached_tokens = UINT64_MAX;
	r->gateway_us = r->engine_us = r->ttft_us = r->total_us = UINT64_MAX;
	r->bytes_in = r->bytes_out = r->wall_ns = UINT64_MAX;
	access_log_commit(log_under_test, 0);
	access_log_free(log_under_test);
	n = read(fd, buf, sizeof(buf));
	assert_true(n > 0 && buf[n - 1] == '\n');
	o = json_loadb(buf, (size_t)n, JSON_ALLOW_NUL, &e);
	if (o == NULL && strstr(e.text, "big integer") == NULL)
		fail_msg("%s at %d: %.*s", e.text, e.position, (int)n, buf);
	assert_non_null(memmem(buf, (size_t)n, "\"method\":\"\\\"\\\\\\u000a\"", 20));
	assert_non_null(memmem(buf, (size_t)n, "\"error\":\"", 9));
	json_decref(o);
	close(fd);
	unlink(path);
}

static void a_reopened_log_goes_to_the_new_file(void **state)
{
	char dir[] = "/tmp/test_access.XXXXXX", path[64], old[64], buf[4096];
	const struct timespec tick = {.tv_nsec = 1000000};
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
	snprintf(old, sizeof(old), "%s/log.1", dir);
	assert_int_equal(access_log_new(path, 1, &log_under_test), 0);
	assert_int_equal(rename(path, old), 0);
	access_log_reopen(log_under_test);
	while (access(path, F_OK) != 0)
		nanosleep(&tick, NULL);
	assert_non_null(access_log_begin(log_under_test, 0));
	access_log_commit(log_under_test, 0);
	access_log_free(log_under_test);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf)) > 0);
	close(fd);
	unlink(path);
	unlink(old);
	rmdir(dir);
}

static void a_path_that_cannot_be_is_an_error(void **state)
{
	struct access_log *log = NULL;

	(void)state;
	assert_int_equal(access_log_new("/nonexistent/dir/log", 1, &log), -ENOENT);
	assert_null(log);
	assert_null(access_log_begin(NULL, 0));
	access_log_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_of_all_threads_are_whole_and_in_order),
		cmocka_unit_test(a_stuck_file_drops_and_counts_and_never_blocks),
		cmocka_unit_test(what_the_file_refuses_is_counted),
		cmocka_unit_test(hostile_text_stays_json_and_fits),
		cmocka_unit_test(a_reopened_log_goes_to_the_new_file),
		cmocka_unit_test(a_path_that_cannot_be_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
