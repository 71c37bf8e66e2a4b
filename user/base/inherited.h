/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening sockets that this process did not open: from its predecessor, or from the service
 * manager. Filled at start by one thread, then read only.
 */
#ifndef SLUICE_BASE_INHERITED_H
#define SLUICE_BASE_INHERITED_H

#include <stdbool.h>

#include "sluice/limits.h"

#define INHERITED_MAX (WORKERS_MAX * 16)

struct inherited {
	unsigned int count;
	struct inherited_socket {
		char address[128]; /* as --listen says it */
		int fd;
		bool taken; /* somebody else closes it */
	} sockets[INHERITED_MAX];
};

/* Owns fd from now on. -E2BIG: no room, fd is closed. */
int inherited_add(struct inherited *set, const char *address, int fd);
/* How many there are of that address, and the n-th of them; NULL if there are fewer. */
unsigned int inherited_count(const struct inherited *set, const char *address);
struct inherited_socket *inherited_at(struct inherited *set, const char *address, unsigned int n);
/* Closes what nobody took. */
void inherited_close_rest(struct inherited *set);

#endif
