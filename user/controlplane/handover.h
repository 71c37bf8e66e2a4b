/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An upgrade that nobody notices: a second sluiced is given the very listening sockets (a socket
 * of SO_REUSEPORT that closes loses the connections waiting in it), gets ready, and says so; then
 * the first one stops accepting, gives its idle connections along, ends what runs, and exits 0.
 *
 *   predecessor                                successor
 *   handover_new, handover_tick …  | <- HELLO  handover_receive   (blocks until END)
 *   LISTEN… ADMIN LOCK END ->      |
 *   both accept                    | <- READY  handover_ready
 *   CLIENT… -> until the end       |           workers take them (dataplane/adopt.c)
 *
 * The channel is an end of a socket pair when the predecessor started its successor itself
 * (SIGUSR2, sluicectl upgrade), or a connection to cfg->handover. A successor that fails before
 * READY changes nothing: the predecessor never stopped.
 */
#ifndef SLUICE_CONTROLPLANE_HANDOVER_H
#define SLUICE_CONTROLPLANE_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/config.h"
#include "base/inherited.h"

/* ---- successor --------------------------------------------------------------------------------
 */

struct heritage {
	int channel_fd; /* -1: nobody was before us */
	int lock_fd;	/* of the pin directory, -1 none */
	struct inherited sockets;
	unsigned int drained_count; /* endpoints that an operator drained */
	char drained[ENDPOINTS_MAX][ENDPOINT_NAME_MAX];
};

/*
 * Asks for everything. 0 with channel_fd -1 if there is no predecessor; then sockets may still hold
 * those of the service manager (LISTEN_FDS). -errno: there is one, but it does not speak.
 */
int handover_receive(const struct config *cfg, struct heritage *ret);
/* The address of that socket admin listens on, taken from the set; -1: none. */
int heritage_take(struct heritage *h, const char *address);
/* We serve. The channel goes on for clients. */
int handover_ready(const struct heritage *h);

/* ---- predecessor ------------------------------------------------------------------------------
 */

struct handover;

struct handover_ops {
	void *arg;
	/* Calls give() for each socket that a successor needs. */
	void (*sockets)(void *arg, struct handover *h);
};

/* argv: of this process, for its successor; lives as long. */
int handover_new(char *const *argv, const struct handover_ops *ops, struct handover **ret);
/* Takes the name cfg->handover, if there is one: only who serves may. */
int handover_listen(struct handover *h, const struct config *cfg);
/* Closes; removes the socket's name unless a successor serves. NULL is fine. */
void handover_close(struct handover *h);
/*
 * From ops->sockets. kind: FD_PASS_LISTEN, FD_PASS_ADMIN, FD_PASS_LOCK, or FD_PASS_DRAINED without
 * a descriptor (-1). text may be "".
 */
void handover_give(struct handover *h, uint32_t kind, const char *text, int fd);
/* Again and again, on one thread: true once a successor serves. */
bool handover_tick(struct handover *h);
/* Starts our own program again. -EALREADY; -EPERM for process 1. Any thread. */
int handover_spawn(struct handover *h, pid_t *ret_pid);
/* Then: where clients go, and who it is. The channel stays h's. */
int handover_channel(const struct handover *h);
pid_t handover_successor(const struct handover *h);
/* {"pid":…,"state":"none|starting|failed|serving","successor":…}. Any thread. */
void handover_write_json(struct handover *h, FILE *f);

#endif
