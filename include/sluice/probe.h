/* SPDX-License-Identifier: Apache-2.0 */
/* What probe.bpf.c and the self-tests that load it share. */
#ifndef SLUICE_PROBE_H
#define SLUICE_PROBE_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#define ETH_HLEN_ 14

struct sluice_probe {
	__u32 near_ifindex, far_ifindex; /* of the wire */
	__u16 asked_port, answering_port;
	__u32 pad;
	__u64 sockets, acknowledged; /* seen by sock_ops: connections, bytes in RTT callbacks */
};

#endif
