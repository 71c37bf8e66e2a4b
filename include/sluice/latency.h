/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Map `latency`: how fast each endpoint answers, as the kernel saw its packets. Per CPU; one row
 * an endpoint slot. A packet is not a token: events that come together are one, a large one is
 * several.
 *
 *   our request's last byte .... head's packet .... the next data packet .... the one after ....
 *                          |<---- ttft[BODY] ------------------------>|                       |
 *                          |<---- ttft[NEXT] ------------------------------------------------>|
 *
 * An engine sends its head at once, even while the request waits in its queue, so the head's time
 * says nothing and is not kept. Engines that send a role event of its own before the first token
 * show it as BODY, and the first token as NEXT.
 */
#ifndef SLUICE_LATENCY_H
#define SLUICE_LATENCY_H

#ifndef __bpf__
#include <linux/types.h>
#include <assert.h>
#endif

#define SLUICE_LATENCY_BUCKETS 28 /* bucket i: below 2^i units of 1,024 ns; the last: the rest */

enum sluice_latency_ttft {
	SLUICE_TTFT_BODY, /* the first data packet after the head's */
	SLUICE_TTFT_NEXT, /* the second */
	SLUICE_TTFTS
};

struct sluice_latency {
	__u64 gaps[SLUICE_LATENCY_BUCKETS]; /* between data packets of a flow on its kernel path */
	__u64 gaps_ns;			    /* their sum */
	__u64 ttft[SLUICE_TTFTS][SLUICE_LATENCY_BUCKETS];
	__u64 ttft_ns[SLUICE_TTFTS];
	__u64 stalls; /* gaps over 1 s */
	__u64 bytes;  /* of data packets to clients */
};

#ifndef __bpf__
static_assert(sizeof(struct sluice_latency) == 712, "latency map value");
#endif

#endif
