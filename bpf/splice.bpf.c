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
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

#include "latency.h"
#include "splice.h"
#include "sluice/limits.h"

#define TC_ACT_UNSPEC (-1) /* later programs, then the stack */
#define TC_ACT_SHOT   2
#define DROP	      TC_ACT_SHOT
#define PASS	      TC_ACT_UNSPEC

const volatile __u16 listen_ports[SLUICE_SPLICE_PORTS_MAX]; /* as on the wire; 0 ends the list */
const volatile __u32 window_cap = 16 * 1024;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * FLOWS_SPLICED_MAX);
	__type(key, struct sluice_flow_key);
	__type(value, struct sluice_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, LEGS_MAX);
	__type(key, struct sluice_flow_key);
	__type(value, struct sluice_leg);
} legs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_SPLICED_MAX);
	__type(key, struct sluice_flow_key);
	__type(value, struct sluice_flow_note);
} notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLUICE_SPLICE_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} splice_counts SEC(".maps");

/* sluice/latency.h; a row an endpoint slot. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __u32);
	__type(value, struct sluice_latency);
} latency SEC(".maps");

/* Agents by number, and when each was last alive: whose flows may be adopted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* What an element is until both entries are whole: packets pass it by. */
static const struct sluice_flow empty_flow;

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&splice_counts, &what);

	if (n)
		(*n)++;
}

static long option_next(__u32 i, struct splice_options *o)
{
	return !splice_option_step(o);
}

/* The options of a SYN or SYN-ACK: copied out, walked. */
static __noinline int options_read(struct __sk_buff *skb, struct splice_options *o, __u32 bytes)
{
	struct splice_options here = {};

	if (!o || bytes < 1 || bytes > SPLICE_OPTIONS)
		return 0;
	if (bpf_skb_load_bytes(skb, SPLICE_FRAME_BYTES, here.bytes, bytes))
		return -1;
	here.end = bytes;
	bpf_loop(SPLICE_OPTIONS, option_next, &here, 0); /* its context must be on the stack */
	*o = here;
	return 0;
}

/* Puts changed options back, with the checksum. */
static __always_inline int options_write(struct __sk_buff *skb, __u8 *before, __u8 *now,
					 __u32 bytes)
{
	__s64 change;

	if (bytes < 1 || bytes > SPLICE_OPTIONS)
		return -1;
	change = bpf_csum_diff((__be32 *)before, SPLICE_OPTIONS, (__be32 *)now, SPLICE_OPTIONS, 0);
	if (bpf_skb_store_bytes(skb, SPLICE_FRAME_BYTES, now, bytes, 0))
		return -1;
	return bpf_l4_csum_replace(skb, SPLICE_CHECK_AT, 0, change, 0);
}

/* Options in no common layout: SACK with padding, no time stamps, something new. */
static __noinline int options_translate(struct __sk_buff *skb, struct sluice_flow *x, __u32 bytes)
{
	struct splice_options o = {.translate = true};
	__u8 before[SPLICE_OPTIONS] = {};

	if (!x || bytes < 1 || bytes > SPLICE_OPTIONS)
		return -1;
	if (bpf_skb_load_bytes(skb, SPLICE_FRAME_BYTES, o.bytes, bytes))
		return -1;
	__builtin_memcpy(before, o.bytes, SPLICE_OPTIONS);
	o.end = bytes;
	o.tsval_delta = x->tsval_delta;
	o.tsecr_delta = x->tsecr_delta;
	o.ack_delta = x->ack_delta;
	bpf_loop(SPLICE_OPTIONS, option_next, &o, 0);
	return o.bad ? -1 : options_write(skb, before, o.bytes, bytes);
}

/* The compiler must not compute the field's address apart: the verifier forbids it. */
static __always_inline void *packet_end(struct __sk_buff *skb)
{
	__u64 end;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(end)
		     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return (void *)(long)end;
}

static __always_inline void *packet(struct __sk_buff *skb)
{
	__u64 data;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(data)
		     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	return (void *)(long)data;
}

static __always_inline struct splice_frame *frame(struct __sk_buff *skb)
{
	struct splice_frame *f = packet(skb);

	return (void *)(f + 1) <= packet_end(skb) ? f : NULL;
}

static __always_inline bool port_is_ours(__u16 port)
{
	for (int i = 0; i < SLUICE_SPLICE_PORTS_MAX && listen_ports[i]; i++)
		if (listen_ports[i] == port)
			return true;
	return false;
}

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

/* Helpers that splice.bpf.c needs are for GPL programs only. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
