/* SPDX-License-Identifier: Apache-2.0 */
/* The bound socket of KV events, so that a successor can have it while we still do. */
#ifndef SLUICE_CONTROLPLANE_KV_BIND_H
#define SLUICE_CONTROLPLANE_KV_BIND_H

/*
 * A socket that listens at "tcp://ADDR:PORT" ("*": all, "[v6]"), with SO_REUSEPORT, for
 * ZMQ_USE_FD. -errno; -EINVAL for what is no address in numbers: ZeroMQ may understand it.
 */
int kv_bind_socket(const char *address);

#endif
