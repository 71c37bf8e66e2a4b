/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names to addresses, on a helper thread, because getaddrinfo may block for long. One batch at
 * a time; the control loop polls resolver_fd().
 */
#ifndef SLUICE_CONTROLPLANE_RESOLVER_H
#define SLUICE_CONTROLPLANE_RESOLVER_H

#include "controlplane/discovery.h"

struct resolver;

/* Starts the helper. NULL on failure. */
struct resolver *resolver_new(void);
/* Returns at once, even while a name is being asked for: the helper frees what is left. */
void resolver_free(struct resolver *r);

/* Readable when a batch is done. */
int resolver_fd(const struct resolver *r);

/* Asks for each origin of the list that has a host. Ignored (false) while a batch is under way. */
bool resolver_ask(struct resolver *r, const struct origin_list *list);

/*
 * Takes the finished batch into list: an origin whose host and port are among the answers gets
 * their addresses; one that failed keeps what it has. Returns whether any address changed.
 */
bool resolver_take(struct resolver *r, struct origin_list *list);

#endif
