/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the pinned map and writes histograms. The kernel's buckets are powers of two of 1,024 ns;
 * the bounds are told as they are, so that nothing is rounded.
 */
#include "controlplane/kernel_latency.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json_write.h"
#include "base/span.h"

#define UNIT_NS 1024.0

/* Who had each slot when it was read last; its figures are another's otherwise. */
static char names[ENDPOINTS_MAX][ENDPOINT_NAME_MAX];

void kernel_latency_sum(const struct sluice_latency *rows, unsigned int cpus,
			struct sluice_latency *ret)
{
	__u64 *to = (__u64 *)ret;

	memset(ret, 0, sizeof(*ret));
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		const __u64 *from = (const __u64 *)&rows[cpu];

		for (size_t i = 0; i < sizeof(*ret) / sizeof(*to); i++)
			to[i] += from[i];
	}
}

static uint64_t total(const __u64 *buckets)
{
	uint64_t n = 0;

	for (int i = 0; i < SLUICE_LATENCY_BUCKETS; i++)
		n += buckets[i];
	return n;
}

/* name{labels…}: the series of one histogram. */
static void histogram_print(const char *name, const char *labels, const __u64 *buckets,
			    uint64_t sum_ns, FILE *f)
{
	uint64_t n = 0;

	for (int i = 0; i < SLUICE_LATENCY_BUCKETS - 1; i++) {
		n += buckets[i];
		fprintf(f, "%s_bucket{%s,le=\"%.9g\"} %llu\n", name, labels,
			UNIT_NS * (double)(1ULL << i) / 1e9, (unsigned long long)n);
	}
	n += buckets[SLUICE_LATENCY_BUCKETS - 1];
	fprintf(f, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, (unsigned long long)n);
	fprintf(f, "%s_sum{%s} %.9f\n", name, labels, (double)sum_ns / 1e9);
	fprintf(f, "%s_count{%s} %llu\n", name, labels, (unsigned long long)n);
}

/* endpoint="…" with what a label must not hold escaped. */
static void label_make(char *to, size_t size, const struct endpoint *ep, const char *more)
{
	FILE *f = fmemopen(to, size, "w");

	if (!f)
		return;
	fputs("endpoint=", f);
	json_string_write(f, span_of_str(ep->name));
	fputs(more, f);
	fclose(f);
}

static void ttft_print(const struct sluice_latency *rows, const struct endpoint_snapshot *snap,
		       FILE *f)
{
	static const char *const packets[] = {",packet=\"body\"", ",packet=\"next\""};

	fputs("# HELP sluice_kernel_ttft_seconds As the kernel saw packets, not tokens: from the "
	      "request's last byte to the first data packet after the head's (body), or to the one "
	      "after that (next)\n# TYPE sluice_kernel_ttft_seconds histogram\n",
	      f);
	for (uint32_t v = 0; v < snap->view_count; v++)
		for (int t = 0; t < SLUICE_TTFTS; t++) {
			char labels[256] = "";

			if (!total(rows[v].ttft[t]))
				continue;
			label_make(labels, sizeof(labels), snap->views[v], packets[t]);
			histogram_print("sluice_kernel_ttft_seconds", labels, rows[v].ttft[t],
					rows[v].ttft_ns[t], f);
		}
}

void kernel_latency_print(const struct sluice_latency *rows, const struct endpoint_snapshot *snap,
			  FILE *f)
{
	char labels[256] = "";

	ttft_print(rows, snap, f);
	fputs("# HELP sluice_kernel_gap_seconds Between two data packets of a stream on a kernel "
	      "path; a packet is not a token\n# TYPE sluice_kernel_gap_seconds histogram\n",
	      f);
	for (uint32_t v = 0; v < snap->view_count; v++) {
		if (!total(rows[v].gaps))
			continue;
		label_make(labels, sizeof(labels), snap->views[v], "");
		histogram_print("sluice_kernel_gap_seconds", labels, rows[v].gaps, rows[v].gaps_ns,
				f);
	}
	fputs("# HELP sluice_kernel_stalls_total Gaps over one second, as the kernel saw them\n"
	      "# TYPE sluice_kernel_stalls_total counter\n",
	      f);
	for (uint32_t v = 0; v < snap->view_count; v++) {
		if (!total(rows[v].gaps))
			continue;
		label_make(labels, sizeof(labels), snap->views[v], "");
		fprintf(f, "sluice_kernel_stalls_total{%s} %llu\n", labels,
			(unsigned long long)rows[v].stalls);
	}
}

/* The row of one endpoint; zeroed if it counted for another one before. */
static void row_read(int fd, const struct endpoint *ep, struct sluice_latency *scratch,
		     unsigned int cpus, struct sluice_latency *ret)
{
	__u32 slot = ep->slot;

	memset(ret, 0, sizeof(*ret));
	if (names[slot][0] && strcmp(names[slot], ep->name) != 0) {
		memset(scratch, 0, cpus * sizeof(*scratch));
		bpf_map_update_elem(fd, &slot, scratch, BPF_ANY);
	}
	snprintf(names[slot], sizeof(names[slot]), "%s", ep->name);
	if (bpf_map_lookup_elem(fd, &slot, scratch) == 0)
		kernel_latency_sum(scratch, cpus, ret);
}

void kernel_latency_write(const char *path, const struct endpoint_snapshot *snap, FILE *f)
{
	int cpus = libbpf_num_possible_cpus(), fd __cleanup(fd_close) = bpf_obj_get(path);
	struct sluice_latency *scratch __cleanup(mem_free) = NULL;
	struct sluice_latency *rows __cleanup(mem_free) = NULL;
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);

	if (fd < 0 || cpus <= 0 || !snap->view_count || bpf_obj_get_info_by_fd(fd, &info, &len) ||
	    info.value_size != sizeof(*rows))
		return;
	scratch = calloc((size_t)cpus, sizeof(*scratch));
	rows = calloc(snap->view_count, sizeof(*rows));
	if (!scratch || !rows)
		return;
	for (uint32_t v = 0; v < snap->view_count; v++)
		row_read(fd, snap->views[v], scratch, (unsigned int)cpus, &rows[v]);
	kernel_latency_print(rows, snap, f);
}
