/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the programs of the paths write the map `latency` (sluice/latency.h): pure functions on one
 * CPU's row, which native unit tests also compile.
 */
#ifndef SLUICE_BPF_LATENCY_H
#define SLUICE_BPF_LATENCY_H

#include "sluice/latency.h"

#ifndef LATENCY_INLINE
#define LATENCY_INLINE static inline __attribute__((always_inline))
#endif

#define LATENCY_STALL_NS 1000000000ULL
#define LATENCY_DUE(t)	 (1u << (t))

/* Bucket i holds times below 2^i units of 1,024 ns; the last one the rest. */
LATENCY_INLINE __u32 latency_bucket(__u64 ns)
{
	__u64 units = ns >> 10;
	__u32 bucket = 0;

	for (__u32 step = 16; step; step >>= 1) {
		if (units >> step) {
			units >>= step;
			bucket += step;
		}
	}
	bucket += units != 0;
	return bucket < SLUICE_LATENCY_BUCKETS ? bucket : SLUICE_LATENCY_BUCKETS - 1;
}

/* Which of the times to the first packets are still to come, from what the leg has seen. */
LATENCY_INLINE __u32 latency_due(__u64 request_ns, __u64 body_ns, __u64 next_ns)
{
	if (!request_ns)
		return 0;
	return (body_ns ? 0 : LATENCY_DUE(SLUICE_TTFT_BODY)) |
	       (next_ns ? 0 : LATENCY_DUE(SLUICE_TTFT_NEXT));
}

LATENCY_INLINE void latency_ttft(struct sluice_latency *row, __u32 which, __u64 ns)
{
	if (which >= SLUICE_TTFTS)
		return;
	row->ttft[which][latency_bucket(ns)]++;
	row->ttft_ns[which] += ns;
}

/*
 * A data packet to the client. last_ns: the one before it on this path, 0 none; *due: what
 * latency_due() said, counted down here.
 */
LATENCY_INLINE void latency_packet(struct sluice_latency *row, __u32 bytes, __u64 now_ns,
				   __u64 last_ns, __u64 request_ns, __u32 *due)
{
	row->bytes += bytes;
	if (last_ns) {
		__u64 gap_ns = now_ns - last_ns;

		row->gaps[latency_bucket(gap_ns)]++;
		row->gaps_ns += gap_ns;
		row->stalls += gap_ns > LATENCY_STALL_NS;
	}
	if (*due & LATENCY_DUE(SLUICE_TTFT_BODY)) {
		latency_ttft(row, SLUICE_TTFT_BODY, now_ns - request_ns);
		*due &= ~LATENCY_DUE(SLUICE_TTFT_BODY);
	} else if (*due & LATENCY_DUE(SLUICE_TTFT_NEXT)) {
		latency_ttft(row, SLUICE_TTFT_NEXT, now_ns - request_ns);
		*due &= ~LATENCY_DUE(SLUICE_TTFT_NEXT);
	}
}

#endif
