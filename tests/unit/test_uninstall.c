/* SPDX-License-Identifier: Apache-2.0 */
/* --uninstall: whatever is pinned goes, attached programs too; nothing else is touched. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controlplane/uninstall.h"

static char dir[128];

static const char *at(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

/* A program that passes every packet. */
static int program_load(void)
{
	struct bpf_insn body[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K,
		 .dst_reg = BPF_REG_0,
		 .imm = 2 /* XDP_PASS */},
		{.code = BPF_JMP | BPF_EXIT},
	};

	return bpf_prog_load(BPF_PROG_TYPE_XDP, "test_pass", "GPL", body, 2, NULL);
}

static bool attached(void)
{
	int other = program_load(), link = bpf_link_create(other, 1, BPF_XDP, NULL);
	bool busy = link < 0 && errno == EBUSY;

	close(link);
	close(other);
	return busy;
}

static void pins_of_any_depth_go_and_their_programs_are_detached(void **state)
{
	int map, prog, link;

	(void)state;
	if (mkdir(dir, 0700) || unshare(CLONE_NEWNET)) {
		print_message("no bpffs or no network namespace here: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(mkdir(at("a"), 0700), 0);
	assert_int_equal(mkdir(at("a/b"), 0700), 0);
	map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "test_map", 4, 8, 1, NULL);
	prog = program_load();
	if (map < 0 || prog < 0) {
		print_message("no BPF here: %s\n", strerror(errno));
		uninstall_pins(dir);
		skip();
	}
	link = bpf_link_create(prog, 1, BPF_XDP, NULL); /* lo of our own namespace */
	assert_true(link >= 0);
	assert_int_equal(bpf_obj_pin(map, at("map")), 0);
	assert_int_equal(bpf_obj_pin(prog, at("a/prog")), 0);
	assert_int_equal(bpf_obj_pin(link, at("a/b/zlink")), 0);
	close(map);
	close(link);
	assert_true(attached());
	assert_int_equal(uninstall_pins(dir), 0);
	for (int i = 0; attached() && i < 1000; i++) /* the kernel lets go of links in its time */
		usleep(10000);
	assert_false(attached());
	assert_int_not_equal(access(dir, F_OK), 0);
	assert_int_equal(uninstall_pins(dir), 0); /* nothing there any more */
	close(prog);
}

static void a_directory_that_is_no_bpffs_is_left_alone(void **state)
{
	char tmp[] = "/tmp/sluice-uninstall-XXXXXX", file[64];

	(void)state;
	assert_non_null(mkdtemp(tmp));
	snprintf(file, sizeof(file), "%s/keep", tmp);
	fclose(fopen(file, "w"));
	assert_int_equal(uninstall_pins(tmp), -ENOTSUP);
	assert_int_equal(access(file, F_OK), 0);
	unlink(file);
	rmdir(tmp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pins_of_any_depth_go_and_their_programs_are_detached),
		cmocka_unit_test(a_directory_that_is_no_bpffs_is_left_alone),
	};

	snprintf(dir, sizeof(dir), "/sys/fs/bpf/sluice-test-uninstall-%d", getpid());
	return cmocka_run_group_tests(tests, NULL, NULL);
}
