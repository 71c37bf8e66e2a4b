/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steer path's decisions, without maps and without side effects. Included by steer.bpf.c, by
 * the agent and, natively, by the unit tests: both sides of a flow count in the same words.
 */
#ifndef SLUICE_BPF_STEER_H
#define SLUICE_BPF_STEER_H

#include "sluice/steer.h"

/* May so many more bytes be under way? acked may be old: then less is allowed, never more. */
STEER_INLINE bool steer_has_credit(const struct sluice_steer_flow *f, __u64 bytes)
{
	__u64 position = f->base + f->redirected;
	__u64 under_way = position > f->acked ? position - f->acked : 0;

	return under_way + bytes <= f->credit;
}

/* Index into gaps: the whole part of log2 of the gap in us. */
STEER_INLINE __u32 steer_gap_bucket(__u64 gap_ns)
{
	__u64 us = gap_ns / 1000;
	__u32 bucket = 0;

	for (__u32 step = 16; step; step /= 2)
		if (us >> step) {
			bucket += step;
			us >>= step;
		}
	return bucket & (SLUICE_STEER_GAPS - 1);
}

/* 127.0.0.0/8, v4-mapped, or ::1. */
STEER_INLINE bool steer_is_loopback(const __u8 addr[16])
{
	static const __u8 mapped[13] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127};
	bool v4 = true, v6 = addr[15] == 1;

	for (int i = 0; i < 13; i++)
		v4 &= addr[i] == mapped[i];
	for (int i = 0; i < 15; i++)
		v6 &= addr[i] == 0;
	return v4 || v6;
}

#endif
