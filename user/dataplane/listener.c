/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage 1: listen sockets and accepting. Each worker has its own sockets (SO_REUSEPORT); a unix
 * socket has one, which the first worker serves. Accepting pauses while the worker is full.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "dataplane/adopt.h"
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

	if (!l->op.pending && !w->draining && !w->handing_over && !full(w) && !w->late_count)
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
	adopt_arm(w);
}

static int listener_add(struct worker *w, const char *address, int fd, bool shared)
{
	struct listener *l = &w->listeners[w->listener_count];

	if (w->listener_count == LISTENERS_MAX) {
		close(fd);
		return -E2BIG;
	}
	*l = (struct listener){.worker = w,
			       .address = address,
			       .fd = fd,
			       .shared = shared,
			       .op.done = listener_accepted};
	w->listener_count++;
	return 0;
}

/* Every inherited socket has a worker: a connection that waits in one nobody serves is lost. */
static int inherited_open(struct worker *w, const char *address, unsigned int count)
{
	bool local = strncmp(address, "unix:", 5) == 0;
	int fd, err = 0;

	for (unsigned int i = w->index; i < count && !err; i += w->peers) {
		struct inherited_socket *s = inherited_at(w->inherited, address, i);

		s->taken = true;
		err = listener_add(w, address, s->fd, true);
	}
	if (w->index < count || local)
		return err;
	err = tcp_open(address, &fd);
	if (!err)
		return listener_add(w, address, fd, false);
	/* The service manager opened one without SO_REUSEPORT: workers share it. */
	fd = fcntl(inherited_at(w->inherited, address, w->index % count)->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : listener_add(w, address, fd, true);
}

static int listener_open(struct worker *w, const char *address)
{
	bool local = strncmp(address, "unix:", 5) == 0;
	unsigned int count = w->inherited ? inherited_count(w->inherited, address) : 0;
	int fd, err;

	if (count)
		return inherited_open(w, address, count);
	if (local && w->index > 0)
		return 0;
	err = local ? unix_open(address + 5, &fd) : tcp_open(address, &fd);
	return err ? err : listener_add(w, address, fd, false);
}

int listeners_open(struct worker *w)
{
	for (size_t i = 0; i < w->cfg->listen.count; i++) {
		int err = listener_open(w, w->cfg->listen.items[i]);

		if (err) {
			log_error("cannot listen on %s: %s", w->cfg->listen.items[i],
				  strerror(-err));
			return err;
		}
	}
	return 0;
}

unsigned int worker_sockets(const struct worker *w, int *ret_fds, const char **ret_addresses)
{
	for (unsigned int i = 0; i < w->listener_count; i++) {
		ret_fds[i] = w->listeners[i].fd;
		ret_addresses[i] = w->listeners[i].address;
	}
	return w->listener_count;
}

void listeners_close(struct worker *w)
{
	for (unsigned int i = 0; i < w->listener_count; i++) {
		struct listener *l = &w->listeners[i];

		if (l->shared || w->handing_over)
			ring_cancel(&w->ring, &l->op); /* whoever waits there is another's */
		else
			shutdown(l->fd, SHUT_RDWR);
		close(l->fd);
	}
	w->listener_count = 0;
	while (w->late_count && !w->handing_over) /* else they are served yet */
		close(w->late[--w->late_count]);
}
