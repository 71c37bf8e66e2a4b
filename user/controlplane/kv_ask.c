/* SPDX-License-Identifier: Apache-2.0 */
/* connect, send, receive, each with what is left of the one timeout. */
#include "controlplane/kv_ask.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "controlplane/http_reply.h"

struct collector {
	char *bytes;
	size_t len;
	bool too_long;
};

static void collect(void *arg, const char *bytes, size_t n)
{
	struct collector *c = arg;
	char *more = c->too_long || c->len + n > KV_ASK_ANSWER_MAX
			     ? NULL
			     : realloc(c->bytes, c->len + n + 1);

	if (!more) {
		c->too_long = true;
		return;
	}
	memcpy(more + c->len, bytes, n);
	c->bytes = more;
	c->len += n;
}

static int wait_for(int fd, short events, uint64_t until_ns)
{
	struct pollfd p = {.fd = fd, .events = events};
	uint64_t now = clock_mono_ns();
	int n = until_ns > now ? poll(&p, 1, (int)((until_ns - now) / NS_PER_MS) + 1) : 0;

	return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

static int dial(const struct endpoint *ep, uint64_t until_ns, int *ret_fd)
{
	int fd = socket(ep->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int err = 0, failed = 0;
	socklen_t len = sizeof(failed);

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&ep->addr, ep->addr_len) < 0)
		err = errno == EINPROGRESS ? wait_for(fd, POLLOUT, until_ns) : -errno;
	if (!err && getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) == 0)
		err = -failed;
	if (err)
		close(fd);
	else
		*ret_fd = fd;
	return err;
}

static int send_all(int fd, const char *p, size_t n, uint64_t until_ns)
{
	while (n) {
		ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
		int err;

		if (sent > 0) {
			p += sent;
			n -= (size_t)sent;
			continue;
		}
		err = sent < 0 && errno != EAGAIN ? -errno : wait_for(fd, POLLOUT, until_ns);
		if (err)
			return err;
	}
	return 0;
}

static int receive(int fd, struct http_reply *reply, struct collector *c, uint64_t until_ns)
{
	char buf[16384];
	bool done = false;

	while (!done) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);
		int err = 0;

		if (n > 0)
			err = http_reply_feed(reply, buf, (size_t)n, collect, c, &done);
		else if (n == 0)
			return http_reply_eof(reply) ? 0 : -ECONNRESET;
		else
			err = errno == EAGAIN ? wait_for(fd, POLLIN, until_ns) : -errno;
		if (err || c->too_long)
			return err ? err : -EFBIG;
	}
	return 0;
}

int kv_ask_http(const struct endpoint *ep, const char *path, const char *body,
		struct kv_answer *ret)
{
	uint64_t until_ns = clock_mono_ns() + KV_ASK_TIMEOUT_MS * NS_PER_MS;
	struct http_reply reply;
	struct collector c = {0};
	char *request = NULL;
	int fd = -1, err = 0, n;

	if (body)
		n = asprintf(
			&request,
			"POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n"
			"user-agent: sluice\r\ncontent-length: %zu\r\nconnection: close\r\n\r\n%s",
			path, ep->address, strlen(body), body);
	else
		n = asprintf(&request,
			     "GET %s HTTP/1.1\r\nhost: %s\r\nuser-agent: sluice\r\nconnection: "
			     "close\r\n\r\n",
			     path, ep->address);
	if (n < 0)
		return -ENOMEM;
	http_reply_reset(&reply);
	err = dial(ep, until_ns, &fd);
	if (!err)
		err = send_all(fd, request, (size_t)n, until_ns);
	if (!err)
		err = receive(fd, &reply, &c, until_ns);
	free(request);
	if (fd >= 0)
		close(fd);
	if (err) {
		free(c.bytes);
		return err;
	}
	if (!c.bytes)
		c.bytes = calloc(1, 1);
	if (!c.bytes)
		return -ENOMEM;
	c.bytes[c.len] = '\0';
	*ret = (struct kv_answer){reply.status, c.bytes, c.len};
	return 0;
}
