/* SPDX-License-Identifier: Apache-2.0 */
/* Packets between two processes of an upgrade: what arrives, and that no descriptor is lost. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd_pass.h"
#include "base/inherited.h"

static int ends[2];

static int setup(void **state)
{
	(void)state;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
}

static int teardown(void **state)
{
	(void)state;
	close(ends[0]);
	close(ends[1]);
	return 0;
}

static unsigned int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void a_record_and_its_descriptors_arrive(void **state)
{
	struct fd_pass sent = {.kind = FD_PASS_LISTEN, .value = 7, .text = "[::]:8080"}, got;
	int pipes[2], fds[FD_PASS_MAX];
	unsigned int count;
	char c = 0;

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), -EAGAIN);
	assert_int_equal(fd_pass_send(ends[0], &sent, pipes, 2), 0);
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(got.kind, FD_PASS_LISTEN);
	assert_int_equal(got.value, 7);
	assert_string_equal(got.text, "[::]:8080");
	assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(read(pipes[0], &c, 1), 1);
	assert_int_equal(c, 'x');
	for (int i = 0; i < 2; i++) {
		close(pipes[i]);
		close(fds[i]);
	}
}

static void as_many_descriptors_as_a_packet_holds(void **state)
{
	int all[FD_PASS_MAX + 1], fds[FD_PASS_MAX];
	struct fd_pass record = {.kind = FD_PASS_CLIENT}, got;
	unsigned int before = open_fds(), count;

	(void)state;
	for (int i = 0; i <= FD_PASS_MAX; i++)
		all[i] = ends[0];
	assert_int_equal(fd_pass_send(ends[0], &record, all, FD_PASS_MAX + 1), -E2BIG);
	assert_int_equal(fd_pass_send(ends[0], &record, all, FD_PASS_MAX), 0);
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), 0);
	assert_int_equal(count, FD_PASS_MAX);
	while (count)
		close(fds[--count]);
	assert_int_equal(open_fds(), before);
}

static void what_is_none_of_ours_is_refused_and_its_descriptors_are_closed(void **state)
{
	struct fd_pass record = {.kind = FD_PASS_CLIENT}, got;
	unsigned int before = open_fds(), count;
	int fds[FD_PASS_MAX];

	(void)state;
	assert_int_equal(send(ends[0], "hello", 5, 0), 5);
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), -EBADMSG);
	assert_int_equal(fd_pass_send(ends[0], &record, ends, 2), 0);
	record.magic = 1;
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), 0);
	while (count)
		close(fds[--count]);
	assert_int_equal(send(ends[0], &record, sizeof(record), 0), sizeof(record));
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), -EBADMSG);
	assert_int_equal(open_fds(), before);
}

static void the_end_of_the_peer_is_told(void **state)
{
	struct fd_pass record = {.kind = FD_PASS_END}, got;
	int fds[FD_PASS_MAX];
	unsigned int count;

	(void)state;
	assert_int_equal(fd_pass_send(ends[0], &record, NULL, 0), 0);
	close(ends[0]);
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), 0);
	assert_int_equal(fd_pass_receive(ends[1], &got, fds, &count), -EPIPE);
	assert_int_equal(fd_pass_send(ends[1], &record, NULL, 0), -EPIPE);
}

static void a_full_queue_asks_for_another_try(void **state)
{
	struct fd_pass record = {.kind = FD_PASS_CLIENT};
	int err = 0;

	(void)state;
	for (int i = 0; i < 100000 && !err; i++)
		err = fd_pass_send(ends[0], &record, &ends[1], 1);
	assert_true(err == -EAGAIN || err == -ETOOMANYREFS);
}

static void inherited_sockets_are_found_by_address_in_order(void **state)
{
	static struct inherited set;
	unsigned int before = open_fds();

	(void)state;
	assert_int_equal(inherited_add(&set, "0.0.0.0:80", dup(0)), 0);
	assert_int_equal(inherited_add(&set, "unix:/x", dup(0)), 0);
	assert_int_equal(inherited_add(&set, "0.0.0.0:80", dup(0)), 0);
	assert_int_equal(inherited_count(&set, "0.0.0.0:80"), 2);
	assert_int_equal(inherited_count(&set, "0.0.0.0:81"), 0);
	assert_ptr_equal(inherited_at(&set, "0.0.0.0:80", 1), &set.sockets[2]);
	assert_null(inherited_at(&set, "0.0.0.0:80", 2));
	inherited_at(&set, "unix:/x", 0)->taken = true;
	close(set.sockets[1].fd);
	inherited_close_rest(&set);
	assert_int_equal(open_fds(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_record_and_its_descriptors_arrive, setup,
						teardown),
		cmocka_unit_test_setup_teardown(as_many_descriptors_as_a_packet_holds, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			what_is_none_of_ours_is_refused_and_its_descriptors_are_closed, setup,
			teardown),
		cmocka_unit_test_setup_teardown(the_end_of_the_peer_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_queue_asks_for_another_try, setup, teardown),
		cmocka_unit_test(inherited_sockets_are_found_by_address_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
