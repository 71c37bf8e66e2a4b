/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The splice's decisions and arithmetic, without maps and without side effects: may two legs be
 * joined, and what does a packet of one become on the other. Included by splice.bpf.c and,
 * natively, by its unit tests.
 *
 * The difference between the sequence spaces of the two connections is constant once the agent
 * relays one to one; so a sequence number tells its content, whichever way the packet went.
 * Checksums are never computed, only changed by the difference (RFC 1624).
 */
#ifndef SLUICE_BPF_SPLICE_H
#define SLUICE_BPF_SPLICE_H

#ifndef __bpf__
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#endif

#include "sluice/splice.h"

#define SPLICE_INLINE static inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SPLICE_SWAP16(x) ((__u16)__builtin_bswap16(x))
#define SPLICE_SWAP32(x) ((__u32)__builtin_bswap32(x))
#else
#define SPLICE_SWAP16(x) ((__u16)(x))
#define SPLICE_SWAP32(x) ((__u32)(x))
#endif

#define SPLICE_FIN	  0x01
#define SPLICE_SYN	  0x02
#define SPLICE_RST	  0x04
#define SPLICE_ACK	  0x10
#define SPLICE_ECE	  0x40
#define SPLICE_CWR	  0x80
#define SPLICE_OPTIONS	  40 /* most bytes of TCP options */
#define SPLICE_STALL_NS	  1000000000ULL
#define SPLICE_TS_LAYOUT  0x0101080au /* NOP NOP timestamps: how every stack sends them */
#define SPLICE_SACK_WORDS 6	      /* three blocks fit beside timestamps */

/* An Ethernet frame with an IPv4 header of 20 bytes and TCP; ports on the wire, packed. */
struct splice_frame {
	__u8 to_mac[6], from_mac[6];
	__u16 type;
	__u8 version, tos;
	__u16 bytes, id, fragment;
	__u8 ttl, protocol;
	__u16 ip_check;
	__u32 from, to;
	__u16 from_port, to_port;
	__u32 seq, ack;
	__u8 offset, flags;
	__u16 window, check, urgent;
} __attribute__((packed));

#define SPLICE_FRAME_BYTES 54
#define SPLICE_IP_AT	   14
#define SPLICE_TCP_AT	   34
#define SPLICE_CHECK_AT	   50

struct splice_word {
	__u32 be;
} __attribute__((packed));

enum splice_kind {
	SPLICE_OTHER, /* not TCP over IPv4, or cut short */
	SPLICE_PLAIN,
	SPLICE_ODD, /* IP options or a fragment: never translated */
};

SPLICE_INLINE enum splice_kind splice_parse(const void *data, const void *end)
{
	const struct splice_frame *f = data;

	if ((const void *)(f + 1) > end || f->type != SPLICE_SWAP16(0x0800) || f->protocol != 6 ||
	    f->version >> 4 != 4)
		return SPLICE_OTHER;
	if (f->version != 0x45 || f->fragment & SPLICE_SWAP16(0x3fff))
		return SPLICE_ODD;
	return f->offset >> 4 < 5 ? SPLICE_OTHER : SPLICE_PLAIN;
}

SPLICE_INLINE __u32 splice_header_bytes(const struct splice_frame *f)
{
	return (__u32)(f->offset >> 4) * 4;
}

/* outgoing: our own packet; the key is the peer's view in both cases. */
SPLICE_INLINE void splice_key(struct sluice_flow_key *k, __u32 peer, __u32 here, __u16 peer_port,
			      __u16 here_port)
{
	k->peer[0] = k->peer[1] = k->here[0] = k->here[1] = 0;
	k->peer[2] = k->here[2] = SPLICE_SWAP32(0xffff);
	k->peer[3] = peer;
	k->here[3] = here;
	k->peer_port = peer_port;
	k->here_port = here_port;
}

SPLICE_INLINE bool splice_key_eq(const struct sluice_flow_key *a, const struct sluice_flow_key *b)
{
	return a->peer[3] == b->peer[3] && a->here[3] == b->here[3] &&
	       a->peer_port == b->peer_port && a->here_port == b->here_port &&
	       a->peer[2] == b->peer[2] && a->here[2] == b->here[2] && a->peer[1] == b->peer[1] &&
	       a->here[1] == b->here[1] && a->peer[0] == b->peer[0] && a->here[0] == b->here[0];
}

/* a comes after b in sequence space (RFC 9293, 3.4). */
SPLICE_INLINE bool splice_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

SPLICE_INLINE __u32 splice_later(__u32 a, __u32 b)
{
	return splice_after(a, b) ? a : b;
}

/* One's complement sums: a change of a word, folded to 32 and to 16 bits. */
SPLICE_INLINE void splice_sum(__u64 *sum, __u32 before, __u32 now)
{
	*sum += (__u64)(__u32)~before + now;
}

SPLICE_INLINE __u32 splice_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

SPLICE_INLINE __u16 splice_fold16(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* The checksum field after a change (RFC 1624, eqn. 3). */
SPLICE_INLINE __u16 splice_check(__u16 check, __u64 change)
{
	return (__u16)~splice_fold16(splice_fold32((__u64)(__u16)~check + change));
}

/* A window in one connection's scale as the other's field; never more than was offered. */
SPLICE_INLINE __u16 splice_window(__u16 field, __u8 in_shift, __u8 out_shift)
{
	__u32 bytes = (__u32)field << (in_shift & 15), out = bytes >> (out_shift & 15);

	return (__u16)(out > 65535 ? 65535 : out);
}

/* The field for at most cap bytes (0: any); never 0 for a window that was open. */
SPLICE_INLINE __u16 splice_window_cap(__u16 field, __u8 shift, __u32 cap)
{
	__u32 capped;

	if (!cap || (__u32)field << (shift & 15) <= cap)
		return field;
	capped = cap >> (shift & 15);
	return (__u16)(capped ? capped : 1);
}

/* Bucket i holds gaps below 2^i microseconds (of 1,024 ns); the last one the rest. */
SPLICE_INLINE __u32 splice_gap_bucket(__u64 gap_ns)
{
	__u64 us = gap_ns >> 10;
	__u32 bucket = 0;

	for (__u32 step = 16; step; step >>= 1) {
		if (us >> step) {
			us >>= step;
			bucket += step;
		}
	}
	bucket += us != 0;
	return bucket < SLUICE_SPLICE_GAPS ? bucket : SLUICE_SPLICE_GAPS - 1;
}

/* ---- TCP options -------------------------------------------------------------------------------
 */

struct splice_options {
	__u8 bytes[SPLICE_OPTIONS + 8]; /* room for whole words at any place */
	__u32 end, at;
	bool translate, bad;
	__u32 tsval_delta, tsecr_delta, ack_delta; /* translate */
	struct sluice_handshake said;		   /* else */
	__u32 tsval, timestamps_at, sack_at;
};

SPLICE_INLINE __u32 splice_option_word(const struct splice_options *o, __u32 at)
{
	__u32 be;

	at &= 63;
	if (at > SPLICE_OPTIONS + 4)
		return 0;
	__builtin_memcpy(&be, o->bytes + at, 4);
	return SPLICE_SWAP32(be);
}

SPLICE_INLINE void splice_option_write(struct splice_options *o, __u32 at, __u32 value)
{
	__u32 be = SPLICE_SWAP32(value);

	at &= 63;
	if (at <= SPLICE_OPTIONS + 4)
		__builtin_memcpy(o->bytes + at, &be, 4);
}

SPLICE_INLINE void splice_option_note(struct splice_options *o, __u32 kind, __u32 at, __u32 length)
{
	struct sluice_handshake *h = &o->said;

	if (kind == 2 && length == 4) {
		h->mss = (__u16)(splice_option_word(o, at) & 0xffff);
	} else if (kind == 3 && length == 3) {
		h->shift = (__u8)(splice_option_word(o, at) >> 8 & 0xff);
		h->shift = h->shift > 14 ? 14 : h->shift; /* RFC 7323, 2.3 */
		h->has_shift = 1;
	} else if (kind == 4 && length == 2) {
		h->has_sack = 1;
		o->sack_at = at;
	} else if (kind == 8 && length == 10) {
		h->has_timestamps = 1;
		o->timestamps_at = at;
		o->tsval = splice_option_word(o, at + 2);
	}
}

SPLICE_INLINE void splice_option_change(struct splice_options *o, __u32 kind, __u32 at,
					__u32 length)
{
	if (kind == 8 && length == 10) {
		__u32 echo = splice_option_word(o, at + 6);

		splice_option_write(o, at + 2, splice_option_word(o, at + 2) + o->tsval_delta);
		if (echo)
			splice_option_write(o, at + 6, echo + o->tsecr_delta);
	} else if (kind == 5) {
		for (__u32 i = 0; i < 8; i++) {
			if (i * 4 + 6 > length)
				break;
			splice_option_write(o, at + 2 + i * 4,
					    splice_option_word(o, at + 2 + i * 4) + o->ack_delta);
		}
	}
}

/* One option. True: there are more. */
SPLICE_INLINE bool splice_option_step(struct splice_options *o)
{
	__u32 at = o->at, kind, length;

	if (at >= o->end || at >= SPLICE_OPTIONS)
		return false;
	kind = o->bytes[at];
	if (kind == 0)
		return false;
	if (kind == 1) {
		o->at = at + 1;
		return true;
	}
	length = at + 1 < SPLICE_OPTIONS ? o->bytes[at + 1] : 0;
	if (length < 2 || at + length > o->end || at + length > SPLICE_OPTIONS) {
		o->bad = true;
		return false;
	}
	if (o->translate)
		splice_option_change(o, kind, at, length);
	else
		splice_option_note(o, kind, at, length);
	o->at = at + length;
	return true;
}

/* Our SYN shall not offer what the client lacks: NOPs take the place. True if o changed. */
SPLICE_INLINE bool splice_options_strip(struct splice_options *o, __u32 mark)
{
	bool changed = false;

	if (mark & SLUICE_MARK_NO_TIMESTAMPS && o->said.has_timestamps) {
		splice_option_write(o, o->timestamps_at, 0x01010101);
		splice_option_write(o, o->timestamps_at + 4, 0x01010101);
		splice_option_write(o, o->timestamps_at + 6, 0x01010101);
		o->said.has_timestamps = 0;
		changed = true;
	}
	if (mark & SLUICE_MARK_NO_SACK && o->said.has_sack && o->sack_at < SPLICE_OPTIONS - 1) {
		__u32 at = o->sack_at;

		if (at < SPLICE_OPTIONS - 1)
			o->bytes[at] = o->bytes[at + 1] = 1;
		o->said.has_sack = 0;
		changed = true;
	}
	return changed;
}

/* ---- joining -----------------------------------------------------------------------------------
 */

/* Where the two streams stand, from the agent's counters. */
struct splice_places {
	__u32 client_read;	/* next byte of the client, in its space */
	__u32 client_written;	/* next byte to the client, in ours */
	__u32 endpoint_read;	/* next byte of the endpoint, in its space */
	__u32 endpoint_written; /* next byte to the endpoint, in ours */
};

SPLICE_INLINE struct splice_places splice_places(const struct sluice_leg *client,
						 const struct sluice_leg *endpoint,
						 const struct sluice_control *c)
{
	struct splice_places p = {client->peer.isn + 1 + c->client_read,
				  client->here.isn + 1 + c->client_written,
				  endpoint->peer.isn + 1 + c->endpoint_read,
				  endpoint->here.isn + 1 + c->endpoint_written};

	return p;
}

SPLICE_INLINE bool splice_leg_has_timestamps(const struct sluice_leg *l)
{
	return l->peer.has_timestamps && l->here.has_timestamps;
}

/* The field that scales the peer's windows; 0 unless both sides offered it. */
SPLICE_INLINE __u8 splice_peer_shift(const struct sluice_leg *l)
{
	return l->here.has_shift && l->peer.has_shift ? l->peer.shift : 0;
}

SPLICE_INLINE __u8 splice_here_shift(const struct sluice_leg *l)
{
	return l->here.has_shift && l->peer.has_shift ? l->here.shift : 0;
}

/* May these two legs be joined at these places? */
SPLICE_INLINE enum sluice_arm splice_arm_check(const struct sluice_leg *client,
					       const struct sluice_leg *endpoint,
					       const struct splice_places *at)
{
	const __u32 whole = SLUICE_LEG_PEER_SYN | SLUICE_LEG_HERE_SYN;
	__u32 both = client->flags | endpoint->flags;

	if ((client->flags & whole) != whole || (endpoint->flags & whole) != whole ||
	    both & (SLUICE_LEG_RST | SLUICE_LEG_FIN))
		return SLUICE_ARM_HALF_SEEN;
	if (both & SLUICE_LEG_ODD)
		return SLUICE_ARM_ODD;
	if (both & SLUICE_LEG_ECN)
		return SLUICE_ARM_ECN;
	if (client->peer.mss < endpoint->here.mss) /* its segments would not fit */
		return SLUICE_ARM_MSS;
	if (splice_leg_has_timestamps(client) != splice_leg_has_timestamps(endpoint))
		return SLUICE_ARM_TIMESTAMPS;
	if (splice_after(at->endpoint_read, endpoint->peer_next) ||
	    splice_after(at->client_read, client->peer_next) ||
	    splice_after(client->here_next, at->client_written) ||
	    endpoint->here_next != at->endpoint_written)
		return SLUICE_ARM_COUNTERS;
	if (client->peer_next != at->client_read)
		return SLUICE_ARM_CLIENT_SPOKE;
	if (splice_after(endpoint->here_right + at->client_written - at->endpoint_read,
			 client->peer_right))
		return SLUICE_ARM_WINDOW;
	return SLUICE_ARM_JOINED;
}

/* What our stack would write as a time stamp now: its clock ticks once a millisecond. */
SPLICE_INLINE __u32 splice_here_clock(const struct sluice_leg *l, __u64 now_ns)
{
	return l->here_tsval + (__u32)((now_ns - l->here_ts_ns) / 1000000) + 1;
}

SPLICE_INLINE void splice_flow_fill(struct sluice_flow *f, const struct sluice_flow_key *key,
				    const struct sluice_flow_key *peer, const struct sluice_leg *in,
				    const struct sluice_leg *out, __u64 now_ns)
{
	__u64 sum = 0;

	__builtin_memset(f, 0, sizeof(*f));
	f->key = *key;
	f->peer = *peer;
	f->armed_ns = now_ns;
	f->in_shift = splice_peer_shift(in);
	f->out_shift = splice_here_shift(out);
	f->ifindex = out->ifindex;
	f->timestamps = splice_leg_has_timestamps(in) ? SLUICE_TIMESTAMPS_TRANSLATE
						      : SLUICE_TIMESTAMPS_NONE;
	splice_sum(&sum, key->peer[3], peer->here[3]);
	splice_sum(&sum, key->here[3], peer->peer[3]);
	f->address_change = splice_fold32(sum);
	sum = 0;
	splice_sum(&sum, key->peer_port, peer->here_port);
	splice_sum(&sum, key->here_port, peer->peer_port);
	f->port_change = splice_fold32(sum);
}

/* Both entries of a flow whose legs may be joined; their state is the caller's to set. */
SPLICE_INLINE void splice_join(struct sluice_flow *from_client, struct sluice_flow *from_endpoint,
			       const struct sluice_flow_key *ck, const struct sluice_flow_key *ek,
			       const struct sluice_leg *client, const struct sluice_leg *endpoint,
			       const struct splice_places *at, __u64 cookie, __u32 slot,
			       __u64 now_ns)
{
	__u32 to_client_ts = splice_here_clock(client, now_ns) - endpoint->peer_tsval;
	__u32 to_endpoint_ts = splice_here_clock(endpoint, now_ns) - client->peer_tsval;

	splice_flow_fill(from_client, ck, ek, client, endpoint, now_ns);
	from_client->direction = SLUICE_FROM_CLIENT;
	from_client->seq_delta = at->endpoint_written - at->client_read;
	from_client->ack_delta = at->endpoint_read - at->client_written;
	from_client->tsval_delta = to_endpoint_ts;
	from_client->tsecr_delta = -to_client_ts;
	from_client->ack = at->client_written;
	from_client->next = at->client_read;
	splice_flow_fill(from_endpoint, ek, ck, endpoint, client, now_ns);
	from_endpoint->direction = SLUICE_FROM_ENDPOINT;
	from_endpoint->seq_delta = at->client_written - at->endpoint_read;
	from_endpoint->ack_delta = at->client_read - at->endpoint_written;
	from_endpoint->tsval_delta = to_client_ts;
	from_endpoint->tsecr_delta = -to_endpoint_ts;
	from_endpoint->ack = at->endpoint_written;
	from_endpoint->next = at->endpoint_read;
	from_client->cookie = from_endpoint->cookie = cookie;
	from_client->endpoint = from_endpoint->endpoint = slot;
}

/* Has the client everything that was ever given to our stack? Then only the splice has to speak. */
SPLICE_INLINE bool splice_promotes(__u32 client_ack, __u32 ack_delta, __u32 endpoint_next)
{
	return !splice_after(endpoint_next, client_ack + ack_delta);
}

/* ---- translating -------------------------------------------------------------------------------
 */

enum splice_work {
	SPLICE_DONE,
	SPLICE_OPTIONS_LEFT, /* headers are done, the options need the long way */
	SPLICE_BROKEN,
};

/*
 * Options in the layout that every stack uses: time stamps, perhaps SACK blocks after them. The
 * rest is left to the long way. *sum gets the change.
 */
SPLICE_INLINE enum splice_work splice_translate_options(struct splice_frame *f, const void *end,
							const struct sluice_flow *x, __u64 *sum)
{
	struct splice_word *w = (struct splice_word *)(f + 1);
	__u32 bytes = splice_header_bytes(f) - 20, now;

	if (!bytes)
		return SPLICE_DONE;
	if ((void *)(w + 3) > end || w[0].be != SPLICE_SWAP32(SPLICE_TS_LAYOUT) ||
	    x->timestamps != SLUICE_TIMESTAMPS_TRANSLATE)
		return SPLICE_OPTIONS_LEFT;
	if (bytes != 12 && ((void *)(w + 6) > end ||
			    (w[3].be & SPLICE_SWAP32(0xffffff00)) != SPLICE_SWAP32(0x01010500) ||
			    (SPLICE_SWAP32(w[3].be) & 0xff) + 14 != bytes))
		return SPLICE_OPTIONS_LEFT;
	now = SPLICE_SWAP32(SPLICE_SWAP32(w[1].be) + x->tsval_delta);
	splice_sum(sum, w[1].be, now);
	w[1].be = now;
	if (w[2].be) {
		now = SPLICE_SWAP32(SPLICE_SWAP32(w[2].be) + x->tsecr_delta);
		splice_sum(sum, w[2].be, now);
		w[2].be = now;
	}
	if (bytes == 12)
		return SPLICE_DONE;
	for (__u32 i = 0; i < SPLICE_SACK_WORDS; i++) {
		struct splice_word *edge = w + 4 + i;

		if (i * 4 >= bytes - 16)
			break;
		if ((void *)(edge + 1) > end)
			return SPLICE_BROKEN;
		now = SPLICE_SWAP32(SPLICE_SWAP32(edge->be) + x->ack_delta);
		splice_sum(sum, edge->be, now);
		edge->be = now;
	}
	return SPLICE_DONE;
}

/*
 * Everything of the headers but the TCP checksum. *ret_change: of the checksum, without addresses
 * (x->address_change, which is part of the pseudo header).
 */
SPLICE_INLINE enum splice_work splice_translate(struct splice_frame *f, const void *end,
						const struct sluice_flow *x, __u32 *ret_change)
{
	__u64 sum = x->port_change, ip_sum = x->address_change;
	enum splice_work work = splice_translate_options(f, end, x, &sum);
	__u32 now = SPLICE_SWAP32(SPLICE_SWAP32(f->seq) + x->seq_delta);
	__u16 window =
		SPLICE_SWAP16(splice_window(SPLICE_SWAP16(f->window), x->in_shift, x->out_shift));

	splice_sum(&sum, f->seq, now);
	f->seq = now;
	if (f->flags & SPLICE_ACK) {
		now = SPLICE_SWAP32(SPLICE_SWAP32(f->ack) + x->ack_delta);
		splice_sum(&sum, f->ack, now);
		f->ack = now;
	}
	splice_sum(&sum, f->window, window);
	f->window = window;
	f->from_port = x->peer.here_port;
	f->to_port = x->peer.peer_port;
	*ret_change = splice_fold32(sum);
	splice_sum(&ip_sum, SPLICE_SWAP16((__u16)(f->ttl << 8)),
		   SPLICE_SWAP16((__u16)((f->ttl - 1) << 8)));
	f->ttl--;
	f->from = x->peer.here[3];
	f->to = x->peer.peer[3];
	f->ip_check = splice_check(f->ip_check, ip_sum);
	return work;
}

/* ---- telling -----------------------------------------------------------------------------------
 */

/* What a packet of a flow says of it: positions, times, gaps. */
SPLICE_INLINE void splice_count(struct sluice_flow *x, const struct splice_frame *f, __u32 payload,
				__u64 now_ns)
{
	__u32 ack = SPLICE_SWAP32(f->ack), end = SPLICE_SWAP32(f->seq) + payload;

	x->packets++;
	if (f->flags & SPLICE_ACK && splice_after(ack, x->ack)) {
		x->acked_bytes += ack - x->ack;
		x->ack = ack;
	}
	if (!payload)
		return;
	if (splice_after(end, x->next)) {
		x->sent_bytes += end - x->next;
		x->next = end;
	}
	x->data_packets++;
	if (!x->first_ns) {
		x->first_ns = now_ns;
	} else {
		__u32 bucket = splice_gap_bucket(now_ns - x->last_ns);

		if (bucket < SLUICE_SPLICE_GAPS)
			x->gaps[bucket]++;
		x->stalls += now_ns - x->last_ns > SPLICE_STALL_NS;
	}
	x->last_ns = now_ns;
}

/* Both sides are done, or one has cut. */
SPLICE_INLINE bool splice_is_over(__u32 flags, __u32 peer_flags)
{
	return (flags | peer_flags) & SLUICE_FLOW_RST || flags & peer_flags & SLUICE_FLOW_FIN;
}

#endif
