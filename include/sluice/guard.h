/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard's maps: what XDP reads and counts before TCP sees a packet. Part of the contract of
 * abi.h, in a file of its own because nothing else of the agent depends on it.
 */
#ifndef SLUICE_GUARD_H
#define SLUICE_GUARD_H

#ifndef __bpf__
#include <linux/types.h>
#include <assert.h>
#endif

#define SLUICE_GUARD_PORTS_MAX 16

/* Key of map `guard_deny`, a longest-prefix trie. IPv4 is v4-mapped: 10.0.0.0/8 is 104 bits. */
struct sluice_guard_prefix {
	__u32 bits;
	__u8 addr[16];
};

/* Value of map `guard_deny`. The longest prefix decides, so that an exception can be carved out. */
enum sluice_guard_action {
	SLUICE_GUARD_DENY = 1,
	SLUICE_GUARD_ALLOW = 2, /* passes, and has no budget */
};

/*
 * Key of map `guard_budget` (LRU hash): the source's address, of IPv6 the first 64 bits.
 * Value: when the bucket of each kind would be empty of debt (the theoretical arrival time of the
 * generic cell rate algorithm, ITU-T I.371), CLOCK_MONOTONIC ns.
 */
struct sluice_guard_source {
	__u8 addr[16];
};
struct sluice_guard_debt {
	__u64 syns_until_ns;
	__u64 packets_until_ns;
};

/* Map `guard_settings`: one element, written by the agent or by sluicectl, read for each packet. */
struct sluice_guard_settings {
	__u64 syn_interval_ns; /* 1e9 / SYNs per second; 0: no budget */
	__u64 syn_burst_ns;    /* burst x interval */
	__u64 packet_interval_ns;
	__u64 packet_burst_ns;
	__u32 dry_run; /* count, and pass */
	__u32 port_count;
	__u16 ports[SLUICE_GUARD_PORTS_MAX]; /* host order; packets to others are not touched */
};

/* Index of map `guard_counts` (per CPU). */
enum sluice_guard_verdict {
	SLUICE_GUARD_OTHER,	    /* not TCP to one of our ports: passed */
	SLUICE_GUARD_PASSED,	    /* ours, within its budget */
	SLUICE_GUARD_EXEMPT,	    /* ours, from an allowed prefix */
	SLUICE_GUARD_DENIED,	    /* dropped: the source is on the deny list */
	SLUICE_GUARD_SYN_BUDGET,    /* dropped: too many connections opened */
	SLUICE_GUARD_PACKET_BUDGET, /* dropped: too many packets */
	SLUICE_GUARD_MALFORMED,	    /* dropped: a TCP header that no honest stack sends */
	SLUICE_GUARD_VERDICTS
};

struct sluice_guard_count {
	__u64 packets;
	__u64 bytes;
	__u64 dry_run_packets; /* of those: would have been dropped, were passed */
};

#ifndef __bpf__
static_assert(sizeof(struct sluice_guard_prefix) == 20, "guard_deny map key");
static_assert(sizeof(struct sluice_guard_settings) == 72, "guard_settings map value");
static_assert(sizeof(struct sluice_guard_count) == 24, "guard_counts map value");
#endif

#endif
