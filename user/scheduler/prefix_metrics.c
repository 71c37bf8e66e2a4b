/* SPDX-License-Identifier: Apache-2.0 */
/* The prefix index at /metrics: under our names and those of llm-d's endpoint picker. */
#include "scheduler/prefix_index.h"

static void one(FILE *f, const char *name, const char *type, const char *help, uint64_t v)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name,
		(unsigned long long)v);
}

void prefix_index_write_metrics(const struct prefix_index *ix, bool llm_d, FILE *f)
{
	struct prefix_index_stats s;

	prefix_index_read_stats(ix, &s);
	one(f, "sluice_affinity_pairs", "gauge", "Block and endpoint pairs in the prefix index",
	    s.pairs);
	one(f, "sluice_affinity_pairs_max", "gauge", "Pairs that the prefix index has room for",
	    s.pairs_max);
	one(f, "sluice_affinity_bytes", "gauge", "Memory of the prefix index", s.bytes);
	one(f, "sluice_affinity_wide", "gauge", "Blocks that many endpoints hold", s.wide_used);
	one(f, "sluice_affinity_inserted_total", "counter", "Pairs learned", s.inserted);
	one(f, "sluice_affinity_evicted_total", "counter", "Pairs dropped as least recently used",
	    s.evicted);
	one(f, "sluice_affinity_forgotten_total", "counter",
	    "Pairs dropped because their endpoint was lost", s.forgotten);
	one(f, "sluice_affinity_dropped_total", "counter", "Blocks not learned: a ring was full",
	    s.dropped_blocks);
	if (!llm_d)
		return;
	one(f, "llm_d_epp_prefix_indexer_size", "gauge", "Entries of the prefix index", s.pairs);
	one(f, "llm_d_epp_kv_cache_index_admissions_total", "counter", "Entries added", s.inserted);
	one(f, "llm_d_epp_kv_cache_index_evictions_total", "counter", "Entries evicted", s.evicted);
}
