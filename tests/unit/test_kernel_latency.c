/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's latency map as histograms: sums over CPUs, bounds, slots that change hands. */
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
#include <bpf/libbpf.h>
#include <unistd.h>

#include "../../bpf/latency.h"
#include "controlplane/kernel_latency.h"

static struct endpoint eps[2] = {{.slot = 3, .name = "a"}, {.slot = 5, .name = "b\"q"}};
static struct endpoint *views[] = {&eps[0], &eps[1]};
static struct endpoint_snapshot snap = {.view_count = 2, .views = views};
static char *text;

static FILE *text_open(void)
{
	static size_t len;

	free(text);
	text = NULL;
	return open_memstream(&text, &len);
}

static void has(const char *line)
{
	if (!strstr(text, line))
		fail_msg("no \"%s\" in:\n%s", line, text);
}

static uint64_t total_of(const __u64 *buckets)
{
	uint64_t n = 0;

	for (int i = 0; i < SLUICE_LATENCY_BUCKETS; i++)
		n += buckets[i];
	return n;
}

static void rows_of_all_cpus_are_summed(void **state)
{
	static struct sluice_latency rows[3], sum;

	(void)state;
	for (int i = 0; i < 3; i++) {
		rows[i].gaps[4] = 10 + (unsigned int)i;
		rows[i].ttft[SLUICE_TTFT_NEXT][27] = 1;
		rows[i].bytes = 100;
	}
	kernel_latency_sum(rows, 3, &sum);
	assert_int_equal(sum.gaps[4], 33);
	assert_int_equal(sum.ttft[SLUICE_TTFT_NEXT][27], 3);
	assert_int_equal(sum.bytes, 300);
	assert_int_equal(sum.stalls, 0);
}

static void buckets_are_told_with_the_kernels_own_bounds(void **state)
{
	struct sluice_latency rows[2] = {{.stalls = 2, .gaps_ns = 1500000000}};
	FILE *f = text_open();

	(void)state;
	rows[0].gaps[0] = 1;
	rows[0].gaps[1] = 2;
	rows[0].gaps[SLUICE_LATENCY_BUCKETS - 1] = 4;
	rows[1].ttft[SLUICE_TTFT_BODY][10] = 3;
	rows[1].ttft_ns[SLUICE_TTFT_BODY] = 2500000;
	kernel_latency_print(rows, &snap, f);
	fclose(f);
	has("sluice_kernel_gap_seconds_bucket{endpoint=\"a\",le=\"1.024e-06\"} 1\n");
	has("sluice_kernel_gap_seconds_bucket{endpoint=\"a\",le=\"2.048e-06\"} 3\n");
	has("sluice_kernel_gap_seconds_bucket{endpoint=\"a\",le=\"68.7194767\"} 3\n");
	has("sluice_kernel_gap_seconds_bucket{endpoint=\"a\",le=\"+Inf\"} 7\n");
	has("sluice_kernel_gap_seconds_sum{endpoint=\"a\"} 1.500000000\n");
	has("sluice_kernel_gap_seconds_count{endpoint=\"a\"} 7\n");
	has("sluice_kernel_stalls_total{endpoint=\"a\"} 2\n");
	has("sluice_kernel_ttft_seconds_bucket{endpoint=\"b\\\"q\",packet=\"body\",le=\"0."
	    "000524288\"} "
	    "0\n");
	has("sluice_kernel_ttft_seconds_bucket{endpoint=\"b\\\"q\",packet=\"body\",le=\"0."
	    "001048576\"} "
	    "3\n");
	has("sluice_kernel_ttft_seconds_count{endpoint=\"b\\\"q\",packet=\"body\"} 3\n");
	assert_null(strstr(text, "gap_seconds_count{endpoint=\"b"));
	assert_null(strstr(text, "packet=\"next\""));
}

static void buckets_are_powers_of_two_of_a_kibi_nanosecond(void **state)
{
	static const struct {
		uint64_t ns;
		unsigned int bucket;
	} rows[] = {{0, 0},	      {1023, 0},	{1024, 1},	  {2047, 1},
		    {2048, 2},	      {1000000, 10},	{1048576, 11},	  {1000000000, 20},
		    {1ULL << 36, 27}, {1ULL << 37, 27}, {1ULL << 42, 27}, {UINT64_MAX, 27}};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (latency_bucket(rows[i].ns) != rows[i].bucket)
			fail_msg("%llu ns: %u", (unsigned long long)rows[i].ns,
				 latency_bucket(rows[i].ns));
}

static void first_packets_are_told_once_wherever_they_came(void **state)
{
	struct sluice_latency row = {0};
	uint32_t due = latency_due(1000, 0, 0);

	(void)state;
	assert_int_equal(latency_due(0, 0, 0), 0); /* no request was seen */
	assert_int_equal(latency_due(1000, 5, 6), 0);
	assert_int_equal(latency_due(1000, 5, 0), LATENCY_DUE(SLUICE_TTFT_NEXT));
	latency_packet(&row, 100, 3001000, 0, 1000, &due);
	assert_int_equal(row.ttft_ns[SLUICE_TTFT_BODY], 3000000);
	assert_int_equal(row.ttft_ns[SLUICE_TTFT_NEXT], 0);
	latency_packet(&row, 200, 5001000, 3001000, 1000, &due);
	assert_int_equal(row.ttft_ns[SLUICE_TTFT_NEXT], 5000000);
	assert_int_equal(due, 0);
	latency_packet(&row, 300, 5001000 + 2 * LATENCY_STALL_NS, 5001000, 1000, &due);
	assert_int_equal(total_of(row.ttft[SLUICE_TTFT_BODY]), 1);
	assert_int_equal(total_of(row.ttft[SLUICE_TTFT_NEXT]), 1);
	assert_int_equal(total_of(row.gaps), 2); /* the first packet has none before it */
	assert_int_equal(row.stalls, 1);
	assert_int_equal(row.bytes, 600);
	assert_int_equal(row.gaps_ns, 2000000 + 2 * LATENCY_STALL_NS);
}

static void without_a_map_nothing_is_said(void **state)
{
	FILE *f = text_open();

	(void)state;
	kernel_latency_write("/sys/fs/bpf/sluice-nobody/latency", &snap, f);
	fclose(f);
	assert_string_equal(text, "");
}

static void a_slot_that_goes_to_another_endpoint_begins_anew(void **state)
{
	int cpus = libbpf_num_possible_cpus(), fd;
	struct sluice_latency *rows = calloc((size_t)cpus, sizeof(*rows));
	char path[128];
	__u32 slot = 3;
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "/sys/fs/bpf/sluice-test-latency-%d", getpid());
	fd = bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "latency", 4, sizeof(*rows), ENDPOINTS_MAX,
			    NULL);
	if (fd < 0 || bpf_obj_pin(fd, path)) {
		print_message("no BPF here: %s\n", strerror(errno));
		free(rows);
		skip();
	}
	for (int i = 0; i < cpus; i++)
		rows[i].gaps[2] = 5;
	assert_int_equal(bpf_map_update_elem(fd, &slot, rows, 0), 0);
	f = text_open();
	kernel_latency_write(path, &snap, f);
	fclose(f);
	has("gap_seconds_count{endpoint=\"a\"}");
	snprintf(eps[0].name, sizeof(eps[0].name), "new");
	f = text_open();
	kernel_latency_write(path, &snap, f);
	fclose(f);
	assert_null(strstr(text, "gap_seconds_count"));
	assert_int_equal(bpf_map_lookup_elem(fd, &slot, rows), 0);
	assert_int_equal(rows[0].gaps[2], 0);
	unlink(path);
	close(fd);
	free(rows);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_of_all_cpus_are_summed),
		cmocka_unit_test(buckets_are_told_with_the_kernels_own_bounds),
		cmocka_unit_test(buckets_are_powers_of_two_of_a_kibi_nanosecond),
		cmocka_unit_test(first_packets_are_told_once_wherever_they_came),
		cmocka_unit_test(without_a_map_nothing_is_said),
		cmocka_unit_test(a_slot_that_goes_to_another_endpoint_begins_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
