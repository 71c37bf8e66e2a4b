/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage 1: listen sockets and accepting. Each worker has its own sockets (SO_REUSEPORT); a unix
 * socket has one, which the first worker serves. Accepting pauses while the worker is full.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "dataplane/client.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static int unix_open(const char *path, int *ret_fd)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	unlink(path);
	if (bind(fd, (struct sockaddr *)&sun, sizeof(sun)) || listen(fd, 4096)) {
		int err = -errno;

		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

/* "host:port" or "[v6]:port" into host and port. */
static int address_split(const char *address, char *host, size_t size, const char **ret_port)
{
	const char *colon = strrchr(address, ':');
	size_t n;

	if (!colon)
		return -EINVAL;
	n = (size_t)(colon - address);
	if (n >= 2 && address[0] == '[' && colon[-1] == ']')
		address++, n -= 2;
	if (n >= size)
		return -EINVAL;
	memcpy(host, address, n);
	host[n] = '\0';
	*ret_port = colon + 1;
	return 0;
}

static int tcp_open(const char *address, int *ret_fd)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,
				 .ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
	struct addrinfo *ai = NULL;
	char host[128];
	const char *port;
	int one = 1, fd, err = 0;

	if (address_split(address, host, sizeof(host), &port) ||
	    getaddrinfo(*host ? host : NULL, port, &hints, &ai))
		return -EINVAL;
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		err = -errno;
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		if (ai->ai_family == AF_INET6)
			setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
		if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, 4096))
			err = -errno;
	}
	freeaddrinfo(ai);
	if (err && fd >= 0)
		close(fd);
	else
		*ret_fd = fd;
	return err;
}

static bool full(const struct worker *w)
{
	return w->clients_used >= w->cfg->connections_max;
}

static void listener_arm(struct listener *l)
{
	struct worker *w = l->worker;

	if (!l->op.pending && !w->draining && !full(w) && !w->late_count)
		ring_accept_multishot(&w->ring, &l->op, l->fd);
}

/* Full: nobody is accepted until a connection ends. */
static void listeners_pause(struct worker *w)
{
	if (w->paused)
		return;
	metric_inc(M_ACCEPT_PAUSED);
	w->paused = true;
	for (unsigned int i = 0; i < w->listener_count; i++)
		ring_cancel(&w->ring, &w->listeners[i].op);
}

static void listener_accepted(struct op *op, int res, unsigned int flags)
{
	struct listener *l = container(op, struct listener, op);
	struct worker *w = l->worker;

	(void)flags;
	if (res >= 0 && full(w) && w->late_count < ACCEPT_LATE_MAX)
		w->late[w->late_count++] = res; /* came before the pause took hold */
	else if (res >= 0)
		client_open(w, res);
	if (full(w))
		listeners_pause(w);
	else if (!op->pending)
		listener_arm(l);
}

void listeners_arm(struct worker *w)
{
	unsigned int n = 0;

	while (n < w->late_count && !full(w))
		client_open(w, w->late[n++]);
	w->late_count -= n;
	memmove(w->late, w->late + n, w->late_count * sizeof(*w->late));
	w->paused = full(w);
	for (unsigned int i = 0; i < w->listener_count; i++)
		listener_arm(&w->listeners[i]);
}

int listeners_open(struct worker *w)
{
	for (size_t i = 0; i < w->cfg->listen.count; i++) {
		const char *address = w->cfg->listen.items[i];
		bool local = strncmp(address, "unix:", 5) == 0;
		struct listener *l = &w->listeners[w->listener_count];
		int err;

		if (local && w->index > 0)
			continue;
		if (w->listener_count == LISTENERS_MAX)
			return -E2BIG;
		err = local ? unix_open(address + 5, &l->fd) : tcp_open(address, &l->fd);
		if (err) {
			log_error("cannot listen on %s: %s", address, strerror(-err));
			return err;
		}
		l->worker = w;
		l->op.done = listener_accepted;
		w->listener_count++;
	}
	return 0;
}

void listeners_close(struct worker *w)
{
	for (unsigned int i = 0; i < w->listener_count; i++) {
		shutdown(w->listeners[i].fd, SHUT_RDWR);
		close(w->listeners[i].fd);
	}
	w->listener_count = 0;
	while (w->late_count)
		close(w->late[--w->late_count]);
}
