/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage 0: before TCP sees it. Deny list, then a budget per source, for packets to our ports only;
 * everything else passes untouched. parse (guard.h) -> decide -> count -> act. The same decision
 * runs as XDP and, where XDP cannot be had, at tc ingress.
 */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

#include "guard.h"
#include "sluice/limits.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, GUARD_PREFIXES_MAX);
	__type(key, struct sluice_guard_prefix);
	__type(value, __u32);
} guard_deny SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, GUARD_SOURCES_MAX);
	__type(key, struct sluice_guard_source);
	__type(value, struct sluice_guard_debt);
} guard_budget SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sluice_guard_settings);
} guard_settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLUICE_GUARD_VERDICTS);
	__type(key, __u32);
	__type(value, struct sluice_guard_count);
} guard_counts SEC(".maps");

static __always_inline enum sluice_guard_verdict decide_budget(struct guard_packet *packet,
							       struct sluice_guard_settings *s)
{
	struct sluice_guard_debt fresh = {}, *debt;
	__u64 now_ns = bpf_ktime_get_ns();
	enum sluice_guard_verdict verdict;

	guard_source_key(packet);
	debt = bpf_map_lookup_elem(&guard_budget, &packet->source);
	if (debt)
		return guard_spend(debt, packet->opens, now_ns, s);
	verdict = guard_spend(&fresh, packet->opens, now_ns, s);
	bpf_map_update_elem(&guard_budget, &packet->source, &fresh, BPF_ANY);
	return verdict;
}

static __always_inline enum sluice_guard_verdict decide(const void *data, const void *end,
							struct sluice_guard_settings *s)
{
	struct sluice_guard_prefix prefix = {.bits = 128};
	struct guard_packet packet;
	enum guard_kind kind = guard_parse(data, end, &packet);
	__u32 *action;

	if (kind == GUARD_KIND_OTHER || !guard_port_is_ours(s, packet.port))
		return SLUICE_GUARD_OTHER;
	if (kind == GUARD_KIND_MALFORMED)
		return SLUICE_GUARD_MALFORMED;
	__builtin_memcpy(prefix.addr, packet.source.addr, sizeof(prefix.addr));
	action = bpf_map_lookup_elem(&guard_deny, &prefix);
	if (action)
		return *action == SLUICE_GUARD_DENY ? SLUICE_GUARD_DENIED : SLUICE_GUARD_EXEMPT;
	if (!s->syn_interval_ns && !s->packet_interval_ns)
		return SLUICE_GUARD_PASSED;
	return decide_budget(&packet, s);
}

/* True if the packet is to be dropped. */
static __always_inline bool guard(const void *data, const void *end)
{
	__u32 zero = 0, verdict;
	struct sluice_guard_settings *s = bpf_map_lookup_elem(&guard_settings, &zero);
	struct sluice_guard_count *count;

	if (!s)
		return false;
	verdict = decide(data, end, s);
	count = bpf_map_lookup_elem(&guard_counts, &verdict);
	if (!count)
		return false;
	count->packets++;
	count->bytes += (__u64)(end - data);
	if (!guard_drops(verdict))
		return false;
	count->dry_run_packets += s->dry_run;
	return !s->dry_run;
}

SEC("xdp")
int on_packet(struct xdp_md *ctx)
{
	return guard((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_DROP : XDP_PASS;
}

/* TC_ACT_SHOT is 2; TC_ACT_UNSPEC (-1) lets later programs and the stack go on. */
SEC("tc")
int on_ingress(struct __sk_buff *skb)
{
	return guard((void *)(long)skb->data, (void *)(long)skb->data_end) ? 2 : -1;
}

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";
