/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard's decisions, without maps and without side effects: bytes -> source, port and flags;
 * clock and debt -> within budget. Included by guard.bpf.c and, natively, by its unit tests.
 * Every read is bounds-checked by cursor_take(); the verifier and ASan see the same code.
 */
#ifndef SLUICE_BPF_GUARD_H
#define SLUICE_BPF_GUARD_H

#ifdef __bpf__
#include <bpf/bpf_helpers.h>
#else
#include <stdbool.h>
#include <string.h>
#endif

#include "sluice/guard.h"

#define GUARD_INLINE static inline __attribute__((always_inline))

#define GUARD_VLAN_TAGS_MAX  2
#define GUARD_V6_HEADERS_MAX 6
#define GUARD_PROTOCOL_TCP   6
#define GUARD_TCP_HEADER_MIN 20
#define GUARD_PORT_BYTES     4 /* source and destination port */
#define GUARD_TCP_FIN	     0x01
#define GUARD_TCP_SYN	     0x02
#define GUARD_TCP_RST	     0x04
#define GUARD_TCP_ACK	     0x10
#define GUARD_TCP_FLAGS	     0x3f

enum guard_kind {
	GUARD_KIND_OTHER, /* not TCP, or a fragment without ports: none of our business */
	GUARD_KIND_TCP,
	GUARD_KIND_MALFORMED, /* ports were there, the rest of the TCP header is not right */
};

struct guard_packet {
	struct sluice_guard_source source; /* IPv4 is v4-mapped */
	__u16 port;			   /* destination, host order */
	bool opens;			   /* a SYN without ACK */
	bool is_v6;
};

struct guard_cursor {
	const __u8 *at, *end;
};

/* The next n bytes, or NULL if the packet ends before. */
GUARD_INLINE const __u8 *cursor_take(struct guard_cursor *c, __u32 n)
{
	const __u8 *p = c->at;

	if (p + n > c->end)
		return 0;
	c->at = p + n;
	return p;
}

GUARD_INLINE __u16 guard_be16(const __u8 *p)
{
	return (__u16)(p[0] << 8 | p[1]);
}

/* The Ethernet header and up to two VLAN tags. Returns the EtherType, 0 if there is none. */
GUARD_INLINE __u16 guard_parse_ethernet(struct guard_cursor *c)
{
	const __u8 *p = cursor_take(c, 14);
	__u16 type;

	if (!p)
		return 0;
	type = guard_be16(p + 12);
	for (int i = 0; i < GUARD_VLAN_TAGS_MAX && (type == 0x8100 || type == 0x88a8); i++) {
		p = cursor_take(c, 4);
		if (!p)
			return 0;
		type = guard_be16(p + 2);
	}
	return type;
}

/* True if a TCP header is next. Anything odd in the IP header is left to the kernel. */
GUARD_INLINE bool guard_parse_v4(struct guard_cursor *c, struct guard_packet *ret)
{
	const __u8 *p = cursor_take(c, 20);
	__u32 header_bytes;

	if (!p || p[0] >> 4 != 4 || p[9] != GUARD_PROTOCOL_TCP)
		return false;
	header_bytes = (p[0] & 15) * 4;
	if (header_bytes < 20 || (guard_be16(p + 6) & 0x1fff)) /* a later fragment has no ports */
		return false;
	ret->source.addr[10] = ret->source.addr[11] = 0xff;
	__builtin_memcpy(ret->source.addr + 12, p + 12, 4);
	return cursor_take(c, header_bytes - 20) != 0;
}

/* IPv6 and the extension headers before TCP (RFC 8200). */
GUARD_INLINE bool guard_parse_v6(struct guard_cursor *c, struct guard_packet *ret)
{
	const __u8 *p = cursor_take(c, 40);
	__u8 next;

	if (!p || p[0] >> 4 != 6)
		return false;
	__builtin_memcpy(ret->source.addr, p + 8, 16);
	ret->is_v6 = true;
	next = p[6];
	for (int i = 0; i < GUARD_V6_HEADERS_MAX; i++) {
		bool fragment = next == 44;

		if (next == GUARD_PROTOCOL_TCP)
			return true;
		if (next != 0 && next != 43 && next != 60 && !fragment)
			return false;
		p = cursor_take(c, 8);
		if (!p || (fragment && guard_be16(p + 2) >> 3))
			return false;
		next = p[0];
		if (!fragment && !cursor_take(c, p[1] * 8))
			return false;
	}
	return false;
}

/* The flags that one header may hold together; no honest stack sends any other mix. */
GUARD_INLINE bool guard_flags_possible(__u8 flags)
{
	flags &= GUARD_TCP_FLAGS;
	if (flags & GUARD_TCP_SYN)
		return !(flags & (GUARD_TCP_FIN | GUARD_TCP_RST));
	return (flags & GUARD_TCP_ACK) || (flags & GUARD_TCP_RST);
}

GUARD_INLINE enum guard_kind guard_parse_tcp(struct guard_cursor *c, struct guard_packet *ret)
{
	const __u8 *p = cursor_take(c, GUARD_PORT_BYTES);
	__u32 header_bytes;

	if (!p)
		return GUARD_KIND_OTHER;
	ret->port = guard_be16(p + 2);
	p = cursor_take(c, GUARD_TCP_HEADER_MIN - GUARD_PORT_BYTES);
	if (!p)
		return GUARD_KIND_MALFORMED;
	header_bytes = (p[8] >> 4) * 4;
	if (header_bytes < GUARD_TCP_HEADER_MIN || !guard_flags_possible(p[9]) ||
	    !cursor_take(c, header_bytes - GUARD_TCP_HEADER_MIN))
		return GUARD_KIND_MALFORMED;
	ret->opens = (p[9] & (GUARD_TCP_SYN | GUARD_TCP_ACK)) == GUARD_TCP_SYN;
	return GUARD_KIND_TCP;
}

/* One Ethernet frame from data to end. *ret is whole unless GUARD_KIND_OTHER is returned. */
GUARD_INLINE enum guard_kind guard_parse(const void *data, const void *end,
					 struct guard_packet *ret)
{
	struct guard_cursor c = {(const __u8 *)data, (const __u8 *)end};
	__u16 type = guard_parse_ethernet(&c);

	__builtin_memset(ret, 0, sizeof(*ret));
	if (type == 0x0800   ? !guard_parse_v4(&c, ret)
	    : type == 0x86dd ? !guard_parse_v6(&c, ret)
			     : true)
		return GUARD_KIND_OTHER;
	return guard_parse_tcp(&c, ret);
}

GUARD_INLINE bool guard_port_is_ours(const struct sluice_guard_settings *s, __u16 port)
{
	for (__u32 i = 0; i < SLUICE_GUARD_PORTS_MAX; i++)
		if (i < s->port_count && s->ports[i] == port)
			return true;
	return false;
}

/*
 * Takes one from a budget of 1 per interval with the given burst (GCRA). False: it is spent, and
 * nothing is taken. Two CPUs that meet here may both take the last one; that is one packet.
 */
GUARD_INLINE bool guard_take(__u64 *until_ns, __u64 now_ns, __u64 interval_ns, __u64 burst_ns)
{
	__u64 until = *until_ns > now_ns ? *until_ns : now_ns;

	if (!interval_ns)
		return true;
	if (until + interval_ns - now_ns > burst_ns)
		return false;
	*until_ns = until + interval_ns;
	return true;
}

/* Both budgets of a source. A refused SYN costs its packet as well: a flood pays for itself. */
GUARD_INLINE enum sluice_guard_verdict guard_spend(struct sluice_guard_debt *debt, bool opens,
						   __u64 now_ns,
						   const struct sluice_guard_settings *s)
{
	if (!guard_take(&debt->packets_until_ns, now_ns, s->packet_interval_ns, s->packet_burst_ns))
		return SLUICE_GUARD_PACKET_BUDGET;
	if (opens && !guard_take(&debt->syns_until_ns, now_ns, s->syn_interval_ns, s->syn_burst_ns))
		return SLUICE_GUARD_SYN_BUDGET;
	return SLUICE_GUARD_PASSED;
}

/* Who shares a budget: an IPv4 address, or an IPv6 /64, which is what one customer is given. */
GUARD_INLINE void guard_source_key(struct guard_packet *packet)
{
	if (packet->is_v6)
		__builtin_memset(packet->source.addr + 8, 0, 8);
}

GUARD_INLINE bool guard_drops(enum sluice_guard_verdict verdict)
{
	return verdict >= SLUICE_GUARD_DENIED;
}

#endif
