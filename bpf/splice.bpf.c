/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Splice: at tc, packets of a client's connection become packets of an endpoint's and the other way
 * round, past the gateway's TCP. on_ingress and on_egress watch handshakes (legs) until the agent
 * joins two of them by on_control; from then on on_ingress translates and redirects (flows).
 *
 * Rules, each of which cost a stream once:
 *   - client payload after the switch is dropped, always: no second request reaches an endpoint
 *   - until the switch the endpoint is offered at most window_cap bytes
 *   - an element may be reused under a packet: its own key is checked
 *   - nothing is deleted here but by on_control, which the agent calls after the grace time
 */
#include "splice_watch.h"

/* ---- carrying flows ----------------------------------------------------------------------------
 */

/* Tells the agent once that a flow is over. */
static __always_inline void tell_end(struct sluice_flow *x, struct sluice_flow *y)
{
	struct sluice_flow *endpoint = x->direction == SLUICE_FROM_ENDPOINT ? x : y;
	struct sluice_flow_event *e;

	if (__sync_fetch_and_or(&endpoint->flags, SLUICE_FLOW_TOLD) & SLUICE_FLOW_TOLD)
		return;
	endpoint->end_ns = bpf_ktime_get_ns();
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) { /* the agent finds it when it looks at the map */
		count(SLUICE_SPLICE_EVENT_LOST);
		return;
	}
	e->endpoint = endpoint->key;
	e->flags = x->flags | y->flags;
	e->cookie = endpoint->cookie;
	e->now_ns = endpoint->end_ns;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void note_end(struct sluice_flow *x, __u8 flags)
{
	struct sluice_flow *y;

	if (flags & SPLICE_FIN)
		__sync_fetch_and_or(&x->flags, SLUICE_FLOW_FIN);
	if (flags & SPLICE_RST)
		__sync_fetch_and_or(&x->flags, SLUICE_FLOW_RST);
	y = bpf_map_lookup_elem(&flows, &x->peer);
	if (y && splice_is_over(x->flags, y->flags))
		tell_end(x, y);
}

/* The client has acknowledged all that our stack ever sent and got: only the splice speaks now. */
static __always_inline void promote(struct sluice_flow *x, __u32 ack)
{
	struct sluice_leg *endpoint = bpf_map_lookup_elem(&legs, &x->peer);
	struct sluice_flow *y;

	if (!endpoint || !splice_promotes(ack, x->ack_delta, endpoint->peer_next))
		return;
	y = bpf_map_lookup_elem(&flows, &x->peer);
	if (!y)
		return;
	y->state = SLUICE_FLOW_SPLICED;
	x->state = SLUICE_FLOW_SPLICED;
	count(SLUICE_SPLICE_PROMOTED);
}

/*
 * A client's packet while our stack still has something to say. Acknowledgements of what the stack
 * has sent are the stack's; later ones are both's, the stack's copy clamped.
 * Returns 0 to go on to the splice.
 */
static __always_inline int drain_from_client(struct __sk_buff *skb, struct splice_frame *f,
					     const struct sluice_flow_key *k, struct sluice_flow *x,
					     __u32 payload)
{
	struct sluice_leg *l;
	__u32 be = f->ack, next_be, change;
	__u64 sum = 0;

	if (f->flags & SPLICE_ACK)
		promote(x, SPLICE_SWAP32(be));
	if (x->state == SLUICE_FLOW_SPLICED || f->flags & SPLICE_RST)
		return 0;
	if (payload || f->flags & SPLICE_FIN) { /* it comes again after the drain */
		count(SLUICE_SPLICE_DRAIN_CLIENT);
		return DROP;
	}
	l = bpf_map_lookup_elem(&legs, k);
	if (!l || !splice_after(SPLICE_SWAP32(be), l->here_next))
		return PASS;
	count(SLUICE_SPLICE_DRAIN_CLONED);
	next_be = SPLICE_SWAP32(l->here_next);
	f->ack = next_be;
	splice_sum(&sum, be, next_be);
	change = splice_fold32(sum);
	bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, 0, change, 0);
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	f = frame(skb);
	if (!f)
		return DROP;
	f->ack = be;
	sum = 0;
	splice_sum(&sum, next_be, be);
	change = splice_fold32(sum);
	bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, 0, change, 0);
	return 0;
}

/* The endpoint's pace, by its data packets. */
static __always_inline void measure(struct sluice_flow *x, __u32 payload, __u64 now_ns)
{
	__u32 slot = x->endpoint;
	struct sluice_latency *row = bpf_map_lookup_elem(&latency, &slot);

	if (row)
		latency_packet(row, payload, now_ns, x->last_ns, x->request_ns, &x->ttft_due);
}

/* The first packets that came before the two were joined. */
static __always_inline void measure_leg(struct sluice_flow *x, const struct sluice_leg *endpoint)
{
	__u32 slot = x->endpoint;
	struct sluice_latency *row = bpf_map_lookup_elem(&latency, &slot);

	x->request_ns = endpoint->request_ns;
	x->ttft_due = latency_due(endpoint->request_ns, endpoint->body_ns, endpoint->next_ns);
	if (!row || !endpoint->request_ns)
		return;
	if (endpoint->body_ns)
		latency_ttft(row, SLUICE_TTFT_BODY, endpoint->body_ns - endpoint->request_ns);
	if (endpoint->next_ns)
		latency_ttft(row, SLUICE_TTFT_NEXT, endpoint->next_ns - endpoint->request_ns);
}

/* The packet becomes the other connection's and leaves. */
static __always_inline int carry(struct __sk_buff *skb, struct sluice_flow *x, __u32 payload)
{
	struct splice_frame *f = frame(skb);
	enum splice_work work;
	__u32 change, header;
	__u64 now_ns;

	if (!f)
		return DROP;
	header = SPLICE_TCP_AT + splice_header_bytes(f);
	if (packet(skb) + header > packet_end(skb)) {
		if (header > SPLICE_FRAME_BYTES + SPLICE_OPTIONS || bpf_skb_pull_data(skb, header))
			return DROP;
		f = frame(skb);
		if (!f)
			return DROP;
	}
	if (f->ttl <= 1) {
		count(SLUICE_SPLICE_TTL);
		return DROP;
	}
	now_ns = bpf_ktime_get_ns();
	if (payload && x->direction == SLUICE_FROM_ENDPOINT)
		measure(x, payload, now_ns);
	splice_count(x, f, payload, now_ns);
	if (f->flags & (SPLICE_FIN | SPLICE_RST)) {
		note_end(x, f->flags);
		if (!x->last_ns)
			x->last_ns = bpf_ktime_get_ns();
	}
	header = splice_header_bytes(f) - 20;
	work = splice_translate(f, packet_end(skb), x, &change);
	if (bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, 0, x->address_change, BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, 0, change, 0))
		return DROP;
	if (work == SPLICE_OPTIONS_LEFT) {
		count(SLUICE_SPLICE_SLOW_OPTIONS);
		work = options_translate(skb, x, header) ? SPLICE_BROKEN : SPLICE_DONE;
	}
	if (work != SPLICE_DONE) {
		count(SLUICE_SPLICE_BAD_OPTIONS);
		return DROP;
	}
	count(x->direction == SLUICE_FROM_CLIENT ? SLUICE_SPLICE_TO_ENDPOINT
						 : SLUICE_SPLICE_TO_CLIENT);
	return (int)bpf_redirect_neigh(x->ifindex, NULL, 0, 0);
}

/* A SYN on the tuple of a flow: the peer uses the port anew if the flow is over. */
static __always_inline int syn_on_flow(struct sluice_flow *x)
{
	struct sluice_flow *y = bpf_map_lookup_elem(&flows, &x->peer);

	if (!y || !splice_is_over(x->flags, y->flags)) {
		count(SLUICE_SPLICE_SYN_DROPPED);
		return DROP;
	}
	count(SLUICE_SPLICE_SYN_REUSE);
	x->state = y->state = SLUICE_FLOW_CLOSED;
	return PASS;
}

static __always_inline int on_flow(struct __sk_buff *skb, struct splice_frame *f,
				   const struct sluice_flow_key *k, struct sluice_flow *x,
				   __u32 payload)
{
	int verdict;

	if (x->direction == SLUICE_FROM_CLIENT && x->state == SLUICE_FLOW_DRAIN) {
		verdict = drain_from_client(skb, f, k, x, payload);
		if (verdict)
			return verdict;
	}
	if (x->direction == SLUICE_FROM_CLIENT && payload) {
		count(SLUICE_SPLICE_CLIENT_PAYLOAD);
		x->flags |= SLUICE_FLOW_SPOKE;
		x->dropped++;
		return DROP;
	}
	return carry(skb, x, payload);
}

/* IP options or fragments: a leg that has them is never joined; a joined one loses the packet. */
static __always_inline int on_odd(struct __sk_buff *skb)
{
	struct splice_frame *f = frame(skb);
	__u32 at = SPLICE_IP_AT, ports;
	struct sluice_flow_key k;
	struct sluice_leg *l;

	if (!f || f->fragment & SPLICE_SWAP16(0x1fff))
		return PASS;
	at += (__u32)(f->version & 15) * 4;
	if (bpf_skb_load_bytes(skb, at, &ports, 4))
		return PASS;
	splice_key(&k, f->from, f->to, (__u16)ports, (__u16)(ports >> 16));
	if (bpf_map_lookup_elem(&flows, &k)) {
		count(SLUICE_SPLICE_ODD);
		return DROP;
	}
	l = bpf_map_lookup_elem(&legs, &k);
	if (l) {
		l->flags |= SLUICE_LEG_ODD;
	} else if (port_is_ours((__u16)(ports >> 16))) {
		struct sluice_leg odd = {.flags = SLUICE_LEG_ODD};

		bpf_map_update_elem(&legs, &k, &odd, BPF_NOEXIST);
	}
	return PASS;
}

SEC("tc")
int on_ingress(struct __sk_buff *skb)
{
	struct splice_frame *f = frame(skb);
	struct sluice_flow_key k;
	struct sluice_flow *x;
	enum splice_kind kind;
	__u32 payload;

	if (!f) {
		if (skb->len < SPLICE_FRAME_BYTES || bpf_skb_pull_data(skb, SPLICE_FRAME_BYTES))
			return PASS;
		f = frame(skb);
		if (!f)
			return PASS;
	}
	kind = splice_parse(f, packet_end(skb));
	if (kind == SPLICE_ODD)
		return on_odd(skb);
	if (kind != SPLICE_PLAIN || skb->vlan_present)
		return PASS;
	splice_key(&k, f->from, f->to, f->from_port, f->to_port);
	payload = SPLICE_SWAP16(f->bytes) - 20 - splice_header_bytes(f);
	if (!f->bytes) /* a packet put together of more than 64 KB */
		payload = skb->len - SPLICE_TCP_AT - splice_header_bytes(f);
	x = bpf_map_lookup_elem(&flows, &k);
	if (!x || x->state == SLUICE_FLOW_NONE)
		return watch_ingress(skb, f, &k, payload);
	if (!splice_key_eq(&x->key, &k)) {
		count(SLUICE_SPLICE_REUSED_ELEMENT);
		return PASS;
	}
	if ((f->flags & (SPLICE_SYN | SPLICE_ACK)) == SPLICE_SYN &&
	    x->state != SLUICE_FLOW_CLOSED && syn_on_flow(x) == DROP)
		return DROP;
	if (x->state == SLUICE_FLOW_CLOSED)
		return watch_ingress(skb, f, &k, payload);
	return on_flow(skb, f, &k, x, payload);
}

SEC("tc")
int on_egress(struct __sk_buff *skb)
{
	struct splice_frame *f = frame(skb);
	struct sluice_flow_key k;
	struct sluice_flow *x;
	struct sluice_leg *l;
	__u32 payload;

	if (skb->ingress_ifindex || !f) /* not from our stack: forwarded, or ours already */
		return PASS;
	if (splice_parse(f, packet_end(skb)) != SPLICE_PLAIN)
		return PASS;
	splice_key(&k, f->to, f->from, f->to_port, f->from_port);
	x = bpf_map_lookup_elem(&flows, &k);
	if (x && x->state == SLUICE_FLOW_SPLICED && splice_key_eq(&x->key, &k)) {
		count(SLUICE_SPLICE_STACK_SILENCED);
		return DROP;
	}
	if ((f->flags & (SPLICE_SYN | SPLICE_ACK)) == SPLICE_SYN)
		return (skb->mark & SLUICE_MARK_MASK) == SLUICE_MARK ? watch_connect(skb, f, &k)
								     : PASS;
	l = bpf_map_lookup_elem(&legs, &k);
	if (!l)
		return PASS;
	if (f->flags & SPLICE_SYN) {
		struct splice_options o = {};
		__u32 isn = SPLICE_SWAP32(f->seq);
		__u8 flags = f->flags;

		options_read(skb, &o, splice_header_bytes(f) - 20);
		here_handshake(f, l, &o, isn, flags);
		return PASS;
	}
	payload = skb->len - SPLICE_TCP_AT - splice_header_bytes(f);
	return watch_egress(skb, f, l, payload);
}

/* ---- the agent's side --------------------------------------------------------------------------
 */

/* An empty element. A flow of the same tuple that was given back already makes room. */
static __always_inline struct sluice_flow *flow_insert(const struct sluice_flow_key *k)
{
	struct sluice_flow *old = bpf_map_lookup_elem(&flows, k);
	struct sluice_flow_key peer;

	if (old && old->state == SLUICE_FLOW_CLOSED) {
		peer = old->peer;
		bpf_map_delete_elem(&flows, k);
		bpf_map_delete_elem(&flows, &peer);
	}
	if (bpf_map_update_elem(&flows, k, &empty_flow, BPF_NOEXIST))
		return NULL;
	return bpf_map_lookup_elem(&flows, k);
}

/* The client's entry works first: what the endpoint then sends is acknowledged through it. */
static __always_inline int arm(struct sluice_control *c, const struct sluice_flow_key *ck,
			       const struct sluice_flow_key *ek)
{
	struct sluice_leg *client = bpf_map_lookup_elem(&legs, ck);
	struct sluice_leg *endpoint = bpf_map_lookup_elem(&legs, ek);
	struct sluice_flow *x, *y;
	struct splice_places at;
	enum sluice_arm err;

	if (!client || !endpoint)
		return SLUICE_ARM_NO_LEG;
	at = splice_places(client, endpoint, c);
	err = splice_arm_check(client, endpoint, &at);
	if (err)
		return err;
	x = flow_insert(ck);
	if (!x)
		return SLUICE_ARM_FULL;
	y = flow_insert(ek);
	if (!y) {
		bpf_map_delete_elem(&flows, ck);
		return SLUICE_ARM_FULL;
	}
	splice_join(x, y, ck, ek, client, endpoint, &at, c->cookie, c->endpoint_slot,
		    bpf_ktime_get_ns());
	measure_leg(y, endpoint);
	__sync_lock_test_and_set(&x->state, SLUICE_FLOW_DRAIN);
	__sync_lock_test_and_set(&y->state, SLUICE_FLOW_DRAIN);
	if (client->peer_ack)
		promote(x, client->peer_ack);
	return SLUICE_ARM_JOINED;
}

static __always_inline void state_set(const struct sluice_flow_key *ck,
				      const struct sluice_flow_key *ek, __u32 state)
{
	struct sluice_flow *x = bpf_map_lookup_elem(&flows, ck);
	struct sluice_flow *y = bpf_map_lookup_elem(&flows, ek);

	if (x)
		x->state = state;
	if (y)
		y->state = state;
}

static __always_inline void reopen(const struct sluice_flow_key *ck,
				   const struct sluice_flow_key *ek)
{
	struct sluice_flow *x = bpf_map_lookup_elem(&flows, ck);
	struct sluice_flow *y = bpf_map_lookup_elem(&flows, ek);

	if (x)
		__sync_fetch_and_and(&x->flags, ~SLUICE_FLOW_RST);
	if (y)
		__sync_fetch_and_and(&y->flags, ~(SLUICE_FLOW_RST | SLUICE_FLOW_TOLD));
}

SEC("syscall")
int on_control(struct sluice_control *c)
{
	struct sluice_flow_key ck = c->client, ek = c->endpoint;
	struct sluice_flow *x;
	struct sluice_leg *l;

	c->result = 0;
	switch (c->op) {
	case SLUICE_CONTROL_ARM:
		c->result = arm(c, &ck, &ek);
		break;
	case SLUICE_CONTROL_UNCAP:
		l = bpf_map_lookup_elem(&legs, &ek);
		if (l)
			l->window_cap = 0;
		break;
	case SLUICE_CONTROL_DRAIN:
		state_set(&ck, &ek, SLUICE_FLOW_DRAIN);
		break;
	case SLUICE_CONTROL_CLOSE:
		state_set(&ck, &ek, SLUICE_FLOW_CLOSED);
		break;
	case SLUICE_CONTROL_REOPEN:
		reopen(&ck, &ek);
		break;
	case SLUICE_CONTROL_DELETE:
		bpf_map_delete_elem(&flows, &ck);
		bpf_map_delete_elem(&flows, &ek);
		bpf_map_delete_elem(&legs, &ek);
		bpf_map_delete_elem(&notes, &ck);
		break;
	}
	x = bpf_map_lookup_elem(&flows, &ck);
	c->state = x ? x->state : SLUICE_FLOW_NONE;
	return 0;
}

/* `cat /sys/fs/bpf/sluice/show/flows`: a row per flow, attached to the map `flows`. */
SEC("iter/bpf_map_elem")
int show_flows(struct bpf_iter__bpf_map_elem *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct sluice_flow *x = ctx->value, *client;
	struct sluice_flow_key *key = ctx->key, peer;
	__u64 now_ns = bpf_ktime_get_ns();
	__u32 here, there;

	if (ctx->meta->seq_num == 0)
		BPF_SEQ_PRINTF(seq,
			       "client                endpoint              state   age_ms     "
			       "idle_ms    sent         acked        packets    stalls\n");
	if (!key || !x || x->direction != SLUICE_FROM_ENDPOINT)
		return 0;
	peer = x->peer;
	client = bpf_map_lookup_elem(&flows, &peer);
	if (!client)
		return 0;
	there = peer.peer[3];
	here = x->key.peer[3];
	BPF_SEQ_PRINTF(seq, "%pI4:%-5u %pI4:%-5u %-7s %-10llu %-10llu %-12llu %-12llu %-10llu %u\n",
		       &there, SPLICE_SWAP16(peer.peer_port), &here,
		       SPLICE_SWAP16(x->key.peer_port),
		       x->state == SLUICE_FLOW_SPLICED ? "spliced"
		       : x->state == SLUICE_FLOW_DRAIN ? "drain"
						       : "closed",
		       (now_ns - x->armed_ns) / 1000000,
		       (now_ns - (x->last_ns ? x->last_ns : x->armed_ns)) / 1000000, x->sent_bytes,
		       client->acked_bytes, x->data_packets, x->stalls);
	return 0;
}

/* Helpers that splice.bpf.c needs are for GPL programs only. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
