/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of its interfaces, read as a whole; private to interfaces*.c. */
#ifndef SLUICE_CONTROLPLANE_INTERFACES_SCAN_H
#define SLUICE_CONTROLPLANE_INTERFACES_SCAN_H

#include "controlplane/interfaces.h"

struct nl_sock;

struct interfaces_scan {
	const struct config *cfg;
	struct nl_sock *ask, *hear; /* requests; notifications */
	bool any_address;	    /* a listen address is a wildcard */
	unsigned int count;
	struct interface found[INTERFACES_MAX * 4];
};

/* Opens both sockets and reads cfg->listen. */
int interfaces_scan_init(struct interfaces_scan *scan, const struct config *cfg);
void interfaces_scan_fini(struct interfaces_scan *scan);
/* Readable when something changed. */
int interfaces_scan_fd(const struct interfaces_scan *scan);
/* Takes and drops what was heard; also when the kernel could not keep all of it. */
void interfaces_scan_drain(struct interfaces_scan *scan);
/* All interfaces into scan->found. snap, for the routes to endpoints, may be NULL. */
int interfaces_scan_read(struct interfaces_scan *scan, const struct endpoint_snapshot *snap);

#endif
