/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The admin port: /metrics, /healthz, /readyz, /version, /state/…, POST /endpoints/NAME/drain.
 * A thread of its own with plain sockets and epoll; it may be slow, the workers may not.
 * What lives in the scheduler or the data plane comes through callbacks, which main.c ties.
 */
#ifndef SLUICE_CONTROLPLANE_ADMIN_H
#define SLUICE_CONTROLPLANE_ADMIN_H

#include <stdbool.h>
#include <stdio.h>

#include "base/config.h"
#include "base/endpoint.h"
#include "base/span.h"

/* All are called on the admin thread; each may be NULL. */
struct admin_ops {
	void *arg;
	/* The newest snapshot with a reference for the caller, or NULL. */
	struct endpoint_snapshot *(*snapshot)(void *arg);
	bool (*ready)(void *arg);
	/* Writes the running requests as a JSON array. */
	void (*write_requests)(void *arg, FILE *f);
	/* Writes the decision for a request id as a JSON object; false if it is not known. */
	bool (*write_decision)(void *arg, struct span request_id, FILE *f);
	/* Writes who holds how many blocks as a JSON object. */
	void (*write_affinity)(void *arg, FILE *f);
	/* Writes who holds how much of a request's prompt; -EBADMSG: the body is none. */
	int (*explain_prompt)(void *arg, struct span body, FILE *f);
	/* 0, or -ENOENT without an endpoint of that name or address. */
	int (*set_draining)(void *arg, const char *name, bool draining);
	/* Writes which paths answers can take here, and why, as a JSON object. */
	void (*write_path)(void *arg, FILE *f);
	/* Starts a successor of this process / tells how far that is: JSON objects. -errno: 409. */
	int (*upgrade)(void *arg, FILE *f);
	void (*write_upgrade)(void *arg, FILE *f);
	/* Appends further metrics, in Prometheus text. */
	void (*write_metrics)(void *arg, FILE *f);
};

struct admin;

/* Binds cfg->admin ("127.0.0.1:9090", "[::1]:9090" or "unix:/path") and starts the thread. */
int admin_new(const struct config *cfg, const struct admin_ops *ops, struct admin **ret);
/* The same on a socket that listens at cfg->admin already; owns it. */
int admin_adopt(const struct config *cfg, const struct admin_ops *ops, int listen_fd,
		struct admin **ret);
/* Ends the thread, closes everything. NULL is fine. */
void admin_free(struct admin *admin);
/* The listening socket, for a successor; stays the admin's. */
int admin_socket(const struct admin *admin);
/* admin_free() for a predecessor: answers what was asked, leaves the socket's name in place. */
void admin_hand_over(struct admin *admin);
/* The bound TCP port (for tests with port 0), 0 for a unix socket. */
unsigned int admin_port(const struct admin *admin);

#endif
