/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watching: every connection to our ports, and every marked one of ours, leaves in map `legs` what
 * the join will need: handshakes, positions, windows, time stamps, and when the endpoint answered.
 * Packets pass; only our own window, and what our SYN offers, is changed.
 */
#ifndef SLUICE_BPF_SPLICE_WATCH_H
#define SLUICE_BPF_SPLICE_WATCH_H

#include "splice_maps.h"

/* ---- watching legs -----------------------------------------------------------------------------
 */

/* The time stamp of a segment in the usual layout. */
static __always_inline bool timestamp_read(struct __sk_buff *skb, const struct splice_frame *f,
					   __u32 *ret)
{
	const struct splice_word *w = (const void *)(f + 1);

	if (splice_header_bytes(f) < 32 || (void *)(w + 3) > packet_end(skb) ||
	    w[0].be != SPLICE_SWAP32(SPLICE_TS_LAYOUT))
		return false;
	*ret = SPLICE_SWAP32(w[1].be);
	return true;
}

static __always_inline void peer_handshake(struct __sk_buff *skb, struct splice_frame *f,
					   struct sluice_leg *l, __u32 payload)
{
	struct splice_options o = {};
	__u32 isn = SPLICE_SWAP32(f->seq), bytes = splice_header_bytes(f) - 20;
	__u8 flags = f->flags;

	l->ifindex = skb->ifindex;
	l->peer_next = isn + 1 + payload;
	/* of a SYN it asks, of a SYN-ACK it agrees (RFC 3168, 6.1.1) */
	if (flags & SPLICE_ECE)
		l->flags |= SLUICE_LEG_ECN;
	options_read(skb, &o, bytes);
	l->peer = o.said;
	l->peer.isn = isn;
	l->peer_tsval = o.tsval;
	l->flags |= SLUICE_LEG_PEER_SYN;
}

static __always_inline void here_handshake(struct splice_frame *f, struct sluice_leg *l,
					   const struct splice_options *o, __u32 isn, __u8 flags)
{
	l->here = o->said;
	l->here.isn = isn;
	l->here_next = isn + 1;
	l->here_tsval = o->tsval;
	l->here_ts_ns = bpf_ktime_get_ns();
	if (!(flags & SPLICE_ECE)) /* we do not agree */
		l->flags &= ~SLUICE_LEG_ECN;
	l->flags |= SLUICE_LEG_HERE_SYN;
}

static __always_inline int watch_ingress(struct __sk_buff *skb, struct splice_frame *f,
					 const struct sluice_flow_key *k, __u32 payload)
{
	__u8 flags = f->flags;
	struct sluice_leg *l, fresh = {};
	__u32 ack, end, tsval;

	if ((flags & (SPLICE_SYN | SPLICE_ACK)) == SPLICE_SYN) {
		if (!port_is_ours(f->to_port))
			return PASS;
		peer_handshake(skb, f, &fresh, payload);
		bpf_map_update_elem(&legs, k, &fresh, BPF_ANY);
		return PASS;
	}
	l = bpf_map_lookup_elem(&legs, k);
	if (!l)
		return PASS;
	if (flags & SPLICE_SYN) {
		if (!(flags & SPLICE_ECE)) /* it does not agree to what ours asked */
			l->flags &= ~SLUICE_LEG_ECN;
		peer_handshake(skb, f, l, 0);
		return PASS;
	}
	if (flags & SPLICE_RST)
		l->flags |= SLUICE_LEG_RST;
	if (flags & SPLICE_FIN)
		l->flags |= SLUICE_LEG_FIN;
	if (flags & SPLICE_ACK) {
		ack = SPLICE_SWAP32(f->ack);
		if (!l->peer_ack || splice_after(ack, l->peer_ack))
			l->peer_ack = ack;
		end = ack + ((__u32)SPLICE_SWAP16(f->window) << (splice_peer_shift(l) & 15));
		if (!l->peer_right || splice_after(end, l->peer_right))
			l->peer_right = end;
	}
	end = SPLICE_SWAP32(f->seq) + payload + (flags & SPLICE_FIN);
	l->peer_next = splice_later(end, l->peer_next);
	if (payload && !l->next_ns) {
		__u64 now_ns = bpf_ktime_get_ns();

		if (!l->head_ns)
			l->head_ns = now_ns;
		else if (!l->body_ns)
			l->body_ns = now_ns;
		else
			l->next_ns = now_ns;
	}
	if (timestamp_read(skb, f, &tsval))
		l->peer_tsval = splice_later(tsval, l->peer_tsval);
	return PASS;
}

/* Our SYN to an endpoint, marked by the agent: what the client lacks is not offered. */
static __always_inline int watch_connect(struct __sk_buff *skb, struct splice_frame *f,
					 const struct sluice_flow_key *k)
{
	__u32 bytes = splice_header_bytes(f) - 20, isn = SPLICE_SWAP32(f->seq);
	struct splice_options o = {};
	__u8 before[SPLICE_OPTIONS], flags = f->flags;
	__u16 window = f->window, capped;
	struct sluice_leg leg = {.window_cap = window_cap};

	if (bytes < 1 || bytes > SPLICE_OPTIONS || options_read(skb, &o, bytes))
		return PASS;
	__builtin_memcpy(before, o.bytes, SPLICE_OPTIONS);
	if (splice_options_strip(&o, skb->mark) && options_write(skb, before, o.bytes, bytes))
		return DROP;
	if (flags & SPLICE_ECE)
		leg.flags |= SLUICE_LEG_ECN; /* until the answer does not agree */
	here_handshake(f, &leg, &o, isn, flags);
	bpf_map_update_elem(&legs, k, &leg, BPF_ANY);
	capped = SPLICE_SWAP16(splice_window_cap(SPLICE_SWAP16(window), 0, leg.window_cap));
	if (capped == window)
		return PASS;
	f = frame(skb);
	if (!f)
		return DROP;
	f->window = capped;
	return bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, window, capped, 2) ? DROP : PASS;
}

static __always_inline int watch_egress(struct __sk_buff *skb, struct splice_frame *f,
					struct sluice_leg *l, __u32 payload)
{
	__u32 end = SPLICE_SWAP32(f->seq) + payload + (f->flags & SPLICE_FIN), tsval, right;
	__u16 window = f->window, capped;
	__u8 shift = splice_here_shift(l);

	l->here_next = splice_later(end, l->here_next);
	if (payload) {
		l->request_ns = bpf_ktime_get_ns();
		l->head_ns = l->body_ns = l->next_ns = 0;
	}
	if (timestamp_read(skb, f, &tsval) && tsval != l->here_tsval) {
		l->here_tsval = tsval;
		l->here_ts_ns = bpf_ktime_get_ns();
	}
	if (!(f->flags & SPLICE_ACK))
		return PASS;
	capped = splice_window_cap(SPLICE_SWAP16(window), shift, l->window_cap);
	right = SPLICE_SWAP32(f->ack) + ((__u32)capped << (shift & 15));
	if (!l->here_right || splice_after(right, l->here_right))
		l->here_right = right;
	capped = SPLICE_SWAP16(capped);
	if (capped == window)
		return PASS;
	count(SLUICE_SPLICE_CAPPED);
	f->window = capped;
	return bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, window, capped, 2) ? DROP : PASS;
}

#endif
