/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The successor's side, at its start: the only part that waits, because it has nothing to serve
 * before it knows. Also the sockets of the service manager (sd_listen_fds(3)), which are matched to
 * the listen addresses by what they are bound to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd_pass.h"
#include "base/log.h"
#include "controlplane/handover.h"
#include "controlplane/handover_env.h"

#define RECEIVE_MS	10000
#define SERVICE_FDS_AT	3 /* SD_LISTEN_FDS_START */
#define SERVICE_FDS_MAX 64

/* ---- the service manager's --------------------------------------------------------------------
 */

static int port_of(const struct sockaddr_storage *ss)
{
	return ntohs(ss->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)ss)->sin6_port
					       : ((const struct sockaddr_in *)ss)->sin_port);
}

/* "0.0.0.0:8080", "[::]:8080", "unix:/path": as --listen says it. */
static bool bound_address(int fd, char *to, size_t size)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);
	char host[64] = "";
	int type = 0;

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		return false;
	len = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_STREAM)
		return false;
	switch (ss.ss_family) {
	case AF_UNIX:
		snprintf(to, size, "unix:%.108s", ((struct sockaddr_un *)&ss)->sun_path);
		return true;
	case AF_INET:
		inet_ntop(AF_INET, &((struct sockaddr_in *)&ss)->sin_addr, host, sizeof(host));
		snprintf(to, size, "%s:%d", host, port_of(&ss));
		return true;
	case AF_INET6:
		inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&ss)->sin6_addr, host, sizeof(host));
		snprintf(to, size, "[%s]:%d", host, port_of(&ss));
		return true;
	default:
		return false;
	}
}

static void service_sockets(struct heritage *h)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int count = fds ? atoi(fds) : 0;

	if (!pid || atoi(pid) != getpid() || count < 1 || count > SERVICE_FDS_MAX)
		return;
	for (int fd = SERVICE_FDS_AT; fd < SERVICE_FDS_AT + count; fd++) {
		char address[128];

		fcntl(fd, F_SETFD, FD_CLOEXEC);
		if (!bound_address(fd, address, sizeof(address)))
			log_warn("socket %d of the service manager is none to listen on", fd);
		else if (!inherited_add(&h->sockets, address, fd))
			log_info("the service manager listens on %s", address);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
}

/* ---- the predecessor's ------------------------------------------------------------------------
 */

static int channel_open(const struct config *cfg)
{
	const char *number = getenv(HANDOVER_ENV);
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd;

	if (number) {
		fd = atoi(number);
		unsetenv(HANDOVER_ENV);
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		return fd;
	}
	if (!cfg->handover || !*cfg->handover || strlen(cfg->handover) >= sizeof(sun.sun_path))
		return -1;
	strcpy(sun.sun_path, cfg->handover);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sun, sizeof(sun))) {
		close(fd); /* nobody is there, or only its name */
		fd = -1;
	}
	return fd;
}

static void record_take(struct heritage *h, const struct fd_pass *record, const int *fds,
			unsigned int count)
{
	if (record->kind == FD_PASS_DRAINED && h->drained_count < ENDPOINTS_MAX)
		snprintf(h->drained[h->drained_count++], ENDPOINT_NAME_MAX, "%.63s", record->text);
	for (unsigned int i = 0; i < count; i++) {
		if (record->kind == FD_PASS_LISTEN || record->kind == FD_PASS_ADMIN)
			inherited_add(&h->sockets, record->text, fds[i]);
		else if (record->kind == FD_PASS_LOCK && h->lock_fd < 0)
			h->lock_fd = fds[i];
		else
			close(fds[i]);
	}
}

static int records_read(struct heritage *h)
{
	uint64_t until_ns = clock_mono_ns() + RECEIVE_MS * NS_PER_MS;

	for (;;) {
		struct pollfd p = {.fd = h->channel_fd, .events = POLLIN};
		int fds[FD_PASS_MAX], err;
		struct fd_pass record;
		unsigned int count;

		err = fd_pass_receive(h->channel_fd, &record, fds, &count);
		if (err == -EAGAIN && clock_mono_ns() < until_ns) {
			poll(&p, 1, 100);
			continue;
		}
		if (err)
			return err == -EAGAIN ? -ETIMEDOUT : err;
		if (record.kind == FD_PASS_END) {
			log_info("%u sockets were handed over by process %d", h->sockets.count,
				 (int)record.value);
			return 0;
		}
		record_take(h, &record, fds, count);
	}
}

int handover_receive(const struct config *cfg, struct heritage *h)
{
	struct fd_pass hello = {.kind = FD_PASS_HELLO, .value = (uint64_t)getpid()};
	int err;

	h->lock_fd = -1;
	h->sockets.count = h->drained_count = 0;
	h->channel_fd = channel_open(cfg);
	if (h->channel_fd < 0) {
		service_sockets(h);
		return 0;
	}
	err = fd_pass_send(h->channel_fd, &hello, NULL, 0);
	if (!err)
		err = records_read(h);
	if (err)
		log_error("the process before this one hands nothing over: %s", strerror(-err));
	return err;
}

int heritage_take(struct heritage *h, const char *address)
{
	struct inherited_socket *s = inherited_at(&h->sockets, address, 0);

	if (!s || s->taken)
		return -1;
	s->taken = true;
	return s->fd;
}

int handover_ready(const struct heritage *h)
{
	struct fd_pass ready = {.kind = FD_PASS_READY, .value = (uint64_t)getpid()};

	return h->channel_fd < 0 ? 0 : fd_pass_send(h->channel_fd, &ready, NULL, 0);
}
