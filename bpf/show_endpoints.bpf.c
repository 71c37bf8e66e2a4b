/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `cat /sys/fs/bpf/sluice/show/endpoints`: one row per used slot, joined with its load.
 * Attached to the map `endpoints`; reads, never writes.
 */
#include "maps.h"

#include <bpf/bpf_tracing.h>

#define STATE(n)                                                                                   \
	((n) == SLUICE_ENDPOINT_READY	   ? "ready"                                               \
	 : (n) == SLUICE_ENDPOINT_DRAINING ? "draining"                                            \
	 : (n) == SLUICE_ENDPOINT_OPEN	   ? "open"                                                \
					   : "trial")

SEC("iter/bpf_map_elem")
int show_endpoints(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct sluice_endpoint *ep = ctx->value;
	struct sluice_endpoint_load *load;
	__u32 *key = ctx->key, slot;

	if (ctx->meta->seq_num == 0)
		BPF_SEQ_PRINTF(seq, "slot gen state    waiting running kv%%  inflight tokens   "
				    "picks      name\n");
	if (!key || !ep || ep->state == SLUICE_ENDPOINT_FREE)
		return 0;
	slot = *key;
	load = bpf_map_lookup_elem(&endpoint_load, &slot);
	if (!load)
		return 0;
	BPF_SEQ_PRINTF(seq, "%-4u %-3u %-8s %-7u %-7u %-4u %-8u %-8llu %-10llu %s\n", slot,
		       ep->generation, STATE(ep->state), load->waiting, load->running,
		       load->kv_used_ppm / 10000, load->inflight_requests, load->inflight_tokens,
		       load->requests_total, ep->name);
	return 0;
}

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";
