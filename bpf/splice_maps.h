/* SPDX-License-Identifier: Apache-2.0 */
/* The splice's maps and settings, and what each of its programs needs of a packet. One object only.
 */
#ifndef SLUICE_BPF_SPLICE_MAPS_H
#define SLUICE_BPF_SPLICE_MAPS_H

#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

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

#endif
