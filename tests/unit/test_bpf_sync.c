/* SPDX-License-Identifier: Apache-2.0 */
/* Maps made, shared, taken over, replaced, and done without. Needs privileges, else it skips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "controlplane/bpf_sync.h"
#include "controlplane/uninstall.h"
#include "sluice/limits.h"

static char dir[128];
static struct config cfg;

static struct bpf_sync *open_or_skip(void)
{
	struct bpf_sync *s = NULL;

	assert_int_equal(bpf_sync_new(&cfg, &s), 0);
	if (bpf_sync_in_kernel(s))
		return s;
	bpf_sync_free(s);
	if (geteuid() == 0 && access("/sys/kernel/btf/vmlinux", R_OK) == 0)
		fail_msg("privileged, with BTF, and yet no maps");
	print_message("skipped: no privileges or no BTF for BPF maps\n");
	skip();
	return NULL;
}

static unsigned int map_id(const char *name)
{
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = bpf_obj_get(path);
	assert_true(fd >= 0);
	assert_int_equal(bpf_obj_get_info_by_fd(fd, &info, &len), 0);
	close(fd);
	return info.id;
}

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/sys/fs/bpf/sluice-test-%d", getpid());
	cfg = (struct config){.bpf = true, .bpffs_dir = dir, .affinity_bytes_max = 1 << 20};
	log_set_level(LOG_WARN);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return uninstall_pins(dir);
}

static void what_is_written_through_mmap_is_in_the_map(void **state)
{
	struct bpf_sync *s = open_or_skip();
	struct sluice_endpoint_load load;
	char path[256];
	__u32 slot = 7;
	size_t bytes;
	int fd;

	(void)state;
	assert_non_null(bpf_sync_affinity(s, &bytes));
	assert_int_equal(bytes, 1 << 20);
	bpf_sync_load(s)[7].waiting = 42;
	snprintf(path, sizeof(path), "%s/endpoint_load", dir);
	fd = bpf_obj_get(path);
	assert_true(fd >= 0);
	assert_int_equal(bpf_map_lookup_elem(fd, &slot, &load), 0);
	assert_int_equal(load.waiting, 42);
	close(fd);
	bpf_sync_free(s);
}

static void read_view(const char *name, char *buf, size_t size)
{
	size_t used = 0;
	char path[256];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/show/%s", dir, name);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	while (used < size - 1 && (n = read(fd, buf + used, size - 1 - used)) > 0)
		used += (size_t)n;
	buf[used] = '\0';
	close(fd);
}

static void the_views_print_used_slots_and_pairs(void **state)
{
	struct bpf_sync *s = open_or_skip();
	struct sluice_endpoint *ep = bpf_sync_endpoints(s);
	struct sluice_affinity_bucket *buckets;
	char text[4096];
	size_t bytes;

	(void)state;
	ep[3].state = SLUICE_ENDPOINT_DRAINING;
	ep[3].generation = 9;
	snprintf(ep[3].name, sizeof(ep[3].name), "pod-three");
	bpf_sync_load(s)[3].kv_used_ppm = 500000;
	bpf_sync_load(s)[3].running = 11;
	buckets = bpf_sync_affinity(s, &bytes);
	buckets[5].key[1] = 0xabcdefULL << 27 | 3ULL << 16 | 2;
	buckets[6].key[0] = 0x123ULL << 27 | 1ULL << 26;
	read_view("endpoints", text, sizeof(text));
	assert_non_null(strstr(text, "slot gen state"));
	assert_non_null(strstr(text, "3    9   draining 0       11      50 "));
	assert_non_null(strstr(text, "pod-three\n"));
	read_view("affinity", text, sizeof(text));
	assert_non_null(strstr(text, "5          0000abcdef 3    2     pod-three\n"));
	assert_non_null(strstr(text, "6          0000000123 many\n"));
	bpf_sync_free(s);
}

static void the_next_process_takes_the_same_maps_over_zeroed(void **state)
{
	struct bpf_sync *s = open_or_skip();
	unsigned int id = map_id("kv_affinity"), load_id = map_id("endpoint_load");

	(void)state;
	bpf_sync_load(s)[1].running = 5;
	bpf_sync_free(s);
	s = open_or_skip();
	assert_int_equal(map_id("kv_affinity"), id);
	assert_int_equal(map_id("endpoint_load"), load_id);
	assert_int_equal(bpf_sync_load(s)[1].running, 0);
	bpf_sync_free(s);
}

static void maps_of_another_size_or_abi_are_replaced(void **state)
{
	struct bpf_sync *s = open_or_skip();
	struct sluice_abi abi = {.version = SLUICE_ABI_VERSION + 1};
	unsigned int id = map_id("kv_affinity"), load_id = map_id("endpoint_load");
	char path[256];
	__u32 key = 0;
	int fd;

	(void)state;
	bpf_sync_free(s);
	cfg.affinity_bytes_max = 2 << 20;
	s = open_or_skip();
	assert_int_not_equal(map_id("kv_affinity"), id);
	assert_int_equal(map_id("endpoint_load"), load_id);
	bpf_sync_free(s);
	snprintf(path, sizeof(path), "%s/abi", dir);
	fd = bpf_obj_get(path);
	assert_int_equal(bpf_map_update_elem(fd, &key, &abi, 0), 0);
	close(fd);
	s = open_or_skip();
	assert_int_not_equal(map_id("endpoint_load"), load_id);
	bpf_sync_free(s);
}

static void a_second_agent_gets_memory_of_its_own(void **state)
{
	struct bpf_sync *s = open_or_skip(), *other;

	(void)state;
	log_set_level(LOG_ERROR);
	assert_int_equal(bpf_sync_new(&cfg, &other), 0);
	assert_false(bpf_sync_in_kernel(other));
	bpf_sync_load(other)[2].running = 1;
	assert_int_equal(bpf_sync_load(s)[2].running, 0);
	bpf_sync_free(other);
	bpf_sync_free(s);
}

static void without_bpf_or_with_an_impossible_directory_it_is_plain_memory(void **state)
{
	struct config plain = cfg, impossible = cfg;
	struct bpf_sync *s;
	void *affinity;
	size_t bytes;

	(void)state;
	log_set_level(LOG_ERROR);
	plain.bpf = false;
	impossible.bpffs_dir = "/nonexistent/dir";
	assert_int_equal(bpf_sync_new(&plain, &s), 0);
	assert_false(bpf_sync_in_kernel(s));
	affinity = bpf_sync_affinity(s, &bytes);
	memset(affinity, 1, bytes);
	memset(bpf_sync_endpoints(s), 1, ENDPOINTS_MAX * sizeof(struct sluice_endpoint));
	bpf_sync_free(s);
	assert_int_equal(bpf_sync_new(&impossible, &s), 0);
	assert_false(bpf_sync_in_kernel(s));
	bpf_sync_free(s);
}

static void uninstall_leaves_nothing(void **state)
{
	(void)state;
	bpf_sync_free(open_or_skip());
	assert_int_equal(access(dir, F_OK), 0);
	assert_int_equal(uninstall_pins(dir), 0);
	assert_int_not_equal(access(dir, F_OK), 0);
	assert_int_equal(uninstall_pins(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_written_through_mmap_is_in_the_map, setup,
						teardown),
		cmocka_unit_test_setup_teardown(the_views_print_used_slots_and_pairs, setup,
						teardown),
		cmocka_unit_test_setup_teardown(the_next_process_takes_the_same_maps_over_zeroed,
						setup, teardown),
		cmocka_unit_test_setup_teardown(maps_of_another_size_or_abi_are_replaced, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_second_agent_gets_memory_of_its_own, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			without_bpf_or_with_an_impossible_directory_it_is_plain_memory, setup,
			teardown),
		cmocka_unit_test_setup_teardown(uninstall_leaves_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
