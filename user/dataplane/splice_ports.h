/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source ports of connections that may be spliced. A spliced flow has no socket that would keep its
 * port, so they are chosen here: below the kernel's own range, and free in the map of flows.
 */
#ifndef SLUICE_DATAPLANE_SPLICE_PORTS_H
#define SLUICE_DATAPLANE_SPLICE_PORTS_H

#include <stdint.h>

#include "base/config.h"

struct upstream;

/* Reads the kernel's range of ports. Before the workers. */
void splice_ports_init(const struct config *cfg);
/* Binds up->fd, which is not connected. *ret_here: the address it will have, as on the wire;
 * *ret_port in host order. -EADDRNOTAVAIL: none is free; -errno of the route. */
int splice_ports_bind(struct upstream *up, uint32_t *ret_here, uint16_t *ret_port);

#endif
