/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `sluiced --probe-machine` tries in namespaces of its own, to find out what this kernel can
 * do. The smallest programs that use what the paths use; they never see anybody's traffic.
 */
#include <vmlinux.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "sluice/probe.h"

#define TC_PASS	    0
#define ETH_IPV4    0x0800
#define IP_HEAD	    20
#define RTT_CB_FLAG 8 /* BPF_SOCK_OPS_RTT_CB_FLAG, an enum of no name */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sluice_probe);
} probe_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} probe_sockets SEC(".maps");

static __always_inline struct sluice_probe *state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&probe_state, &zero);
}

/* Rewrites one port with its checksum, as the splice rewrites a head. */
static __always_inline void port_exchange(struct __sk_buff *skb, __u32 offset, __u16 from, __u16 to)
{
	const __u32 tcp = ETH_HLEN_ + IP_HEAD;
	__be16 was, is = bpf_htons(to);

	if (bpf_skb_load_bytes(skb, tcp + offset, &was, 2) || was != bpf_htons(from))
		return;
	bpf_l4_csum_replace(skb, tcp + 16, was, is, 2);
	bpf_skb_store_bytes(skb, tcp + offset, &is, 2, 0);
}

/* A wire from one interface to the other: near's packets to asked go on to answering. */
SEC("tc")
int on_wire(struct __sk_buff *skb)
{
	struct sluice_probe *s = state();
	__u8 protocol = 0;

	if (!s)
		return TC_PASS;
	if (skb->protocol == bpf_htons(ETH_IPV4))
		bpf_skb_load_bytes(skb, ETH_HLEN_ + 9, &protocol, 1);
	if (skb->ingress_ifindex == s->near_ifindex) {
		if (protocol == IPPROTO_TCP)
			port_exchange(skb, 2, s->asked_port, s->answering_port);
		return bpf_redirect(s->far_ifindex, 0);
	}
	if (protocol == IPPROTO_TCP)
		port_exchange(skb, 0, s->answering_port, s->asked_port);
	return bpf_redirect(s->near_ifindex, 0);
}

SEC("xdp")
int on_frame(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

/* Everything that a member sends leaves by the socket of key 0. */
SEC("sk_msg")
int on_message(struct sk_msg_md *msg)
{
	__u32 zero = 0;

	return bpf_msg_redirect_hash(msg, &probe_sockets, &zero, 0);
}

SEC("sockops")
int on_socket(struct bpf_sock_ops *ops)
{
	struct sluice_probe *s = state();

	if (!s)
		return 1;
	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB ||
	    ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		__sync_fetch_and_add(&s->sockets, 1);
		bpf_sock_ops_cb_flags_set(ops, RTT_CB_FLAG);
	} else if (ops->op == BPF_SOCK_OPS_RTT_CB) {
		__sync_fetch_and_add(&s->acknowledged, ops->bytes_acked);
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
