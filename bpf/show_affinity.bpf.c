/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `cat /sys/fs/bpf/sluice/show/affinity`: one row per pair (prompt block, endpoint) of the prefix
 * index. A block with many holders shows as "many". Attached to the map `kv_affinity`.
 */
#include "maps.h"

#include <bpf/bpf_tracing.h>

#define KEY_TAG(k)   ((k) >> 27)
#define KEY_WIDE(k)  ((k) >> 26 & 1)
#define KEY_SLOT(k)  ((__u32)((k) >> 16) & 1023)
#define KEY_EPOCH(k) ((__u32)(k) & 65535)

SEC("iter/bpf_map_elem")
int show_affinity(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct sluice_affinity_bucket *bucket = ctx->value;
	__u32 *index = ctx->key, slot;
	struct sluice_endpoint *ep;

	if (ctx->meta->seq_num == 0)
		BPF_SEQ_PRINTF(seq, "bucket     block      slot epoch endpoint\n");
	if (!index || !bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < SLUICE_AFFINITY_PAIRS; i++) {
		__u64 key = bucket->key[i];

		if (!key)
			continue;
		if (KEY_WIDE(key)) {
			BPF_SEQ_PRINTF(seq, "%-10u %010llx many\n", *index, KEY_TAG(key));
			continue;
		}
		slot = KEY_SLOT(key);
		ep = bpf_map_lookup_elem(&endpoints, &slot);
		if (!ep)
			continue;
		BPF_SEQ_PRINTF(seq, "%-10u %010llx %-4u %-5u %s\n", *index, KEY_TAG(key), slot,
			       KEY_EPOCH(key), ep->name);
	}
	return 0;
}

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";
