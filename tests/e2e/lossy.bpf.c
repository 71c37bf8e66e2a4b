/* SPDX-License-Identifier: Apache-2.0 */
/* A bad network for tests: loses, doubles and reorders packets at an interface's two tc hooks. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MARK 0x10550000 /* been here before */
#define PASS (-1)
#define DROP 2

/* Per million; set by tests/e2e/lossy.py. */
const volatile __u32 loss_ppm, double_ppm, reorder_ppm;

static __always_inline int chance(__u32 ppm)
{
	return ppm && bpf_get_prandom_u32() % 1000000 < ppm;
}

SEC("tc")
int on_arrival(struct __sk_buff *skb)
{
	if (skb->mark == MARK)
		return PASS;
	if (chance(loss_ppm))
		return DROP;
	if (chance(double_ppm)) {
		skb->mark = MARK;
		bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	} else if (chance(reorder_ppm)) { /* to the end of this CPU's backlog */
		skb->mark = MARK;
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	}
	return PASS;
}

SEC("tc")
int on_departure(struct __sk_buff *skb)
{
	if (skb->mark == MARK)
		return PASS;
	if (chance(loss_ppm))
		return DROP;
	if (chance(double_ppm)) {
		skb->mark = MARK;
		bpf_clone_redirect(skb, skb->ifindex, 0);
	}
	return PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
