/* SPDX-License-Identifier: Apache-2.0 */
/* ZeroMQ binds without SO_REUSEPORT; at an upgrade two processes listen for a moment. */
#include "controlplane/kv_bind.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int socket_open(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, err = 0;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, 128))
		err = -errno;
	if (err)
		close(fd);
	return err ? err : fd;
}

int kv_bind_socket(const char *address)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
	const char *colon = strrchr(address, ':');
	struct addrinfo *ai = NULL;
	char host[64];
	size_t n;
	int fd;

	if (strncmp(address, "tcp://", 6) != 0 || colon < address + 6)
		return -EINVAL;
	address += 6;
	n = (size_t)(colon - address);
	if (n >= 2 && address[0] == '[' && address[n - 1] == ']')
		address++, n -= 2;
	if (n >= sizeof(host))
		return -EINVAL;
	memcpy(host, address, n);
	host[n] = '\0';
	if (getaddrinfo(strcmp(host, "*") == 0 ? "::" : host, colon + 1, &hints, &ai))
		return -EINVAL;
	fd = socket_open(ai);
	freeaddrinfo(ai);
	return fd;
}
