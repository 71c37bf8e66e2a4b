/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of clients that move from one sluiced to its successor, between two requests: kept
 * clients notice nothing. The listening sockets themselves move in controlplane/handover.c.
 */
#ifndef SLUICE_DATAPLANE_ADOPT_H
#define SLUICE_DATAPLANE_ADOPT_H

#include "dataplane/client.h"

/* Successor: takes what the predecessor sends over w->adopt_fd, while there is room. */
void adopt_arm(struct worker *w);

/* Predecessor, from worker_loop: idle connections leave now, the others after their answer. */
void clients_hand_over(struct worker *w);
/* Predecessor: should this connection, between two requests, leave now? */
static inline bool client_should_leave(const struct client *c)
{
	return c->worker->handing_over && !c->worker->successor_lost && c->state == CLIENT_IDLE &&
	       !(c->in && c->in->end > c->in->start);
}
/* Starts it; nothing is being received. */
void client_leave(struct client *c);
/* In CLIENT_LEAVING: its poll ended or its timer fired. */
void client_depart(struct client *c);

#endif
