/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The admin port's server: one thread, epoll, at most ADMIN_CONNECTIONS_MAX connections, each with
 * one request at a time and a deadline that starts anew only when a whole request was answered.
 * Request bodies are read and dropped up to what fits beside the head, more is 413; only one path
 * reads its body, of at most ADMIN_BODY_BYTES_MAX.
 */
#include "controlplane/admin.h"

#include <errno.h>
#include <endian.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "controlplane/admin_routes.h"

#define IN_BYTES    8192
#define DEADLINE_NS (10 * NS_PER_S)
#define TAG_LISTEN  UINT64_MAX
#define TAG_STOP    (UINT64_MAX - 1)

struct admin_conn {
	int fd;			  /* -1: free */
	bool close_after, served; /* served: it has had an answer */
	uint64_t deadline_ns;
	size_t in_len, in_seen; /* bytes in `in`, of which were offered to the parser */
	char *out;		/* an answer being sent, else NULL */
	size_t out_len, out_sent;
	char *body; /* of a request that has one, else NULL */
	size_t body_len, body_want;
	char in[IN_BYTES];
};

struct admin {
	const struct config *cfg;
	struct admin_ops ops;
	int epoll_fd, listen_fd, stop_fd;
	_Atomic bool leaving; /* a successor answers what comes from now on */
	unsigned int port;
	char unix_path[108];
	pthread_t thread;
	struct admin_conn conns[ADMIN_CONNECTIONS_MAX];
};

/* ---- one connection ---------------------------------------------------------------------------
 */

static void conn_close(struct admin_conn *c)
{
	close(c->fd);
	free(c->out);
	free(c->body);
	c->out = c->body = NULL;
	c->fd = -1;
}

static void conn_watch(struct admin *a, struct admin_conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)(c - a->conns)};

	epoll_ctl(a->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
}

static const char *reason_of(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 413:
		return "Content Too Large";
	case 503:
		return "Service Unavailable";
	default:
		return status < 500 ? "Refused" : "Internal Server Error";
	}
}

/* Puts head and body together in c->out. body is freed. */
static int conn_answer(struct admin_conn *c, const struct admin_answer *ans, char *body, size_t len,
		       bool head_only)
{
	char head[512];
	int n = snprintf(head, sizeof(head),
			 "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
			 "Cache-Control: no-store\r\n%s%s%s%s\r\n",
			 ans->status, reason_of(ans->status), ans->type, len,
			 ans->allow ? "Allow: " : "", ans->allow ? ans->allow : "",
			 ans->allow ? "\r\n" : "", c->close_after ? "Connection: close\r\n" : "");
	size_t body_len = head_only ? 0 : len;

	c->out = malloc((size_t)n + body_len);
	if (c->out) {
		memcpy(c->out, head, (size_t)n);
		if (body_len)
			memcpy(c->out + n, body, body_len);
	}
	free(body);
	c->out_len = (size_t)n + body_len;
	c->out_sent = 0;
	return c->out ? 0 : -ENOMEM;
}

static int conn_refuse(struct admin_conn *c, int status, const char *text)
{
	struct admin_answer ans = {.status = status, .type = "application/json"};
	char *body = NULL;
	int n = asprintf(&body, "{\"error\":\"%s\"}\n", text);

	metric_inc(M_ADMIN_REFUSED);
	c->close_after = true;
	return n < 0 ? -ENOMEM : conn_answer(c, &ans, body, (size_t)n, false);
}

static int conn_route(struct admin *a, struct admin_conn *c, const struct http1_head *head)
{
	struct admin_answer ans;
	char *body = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&body, &len);

	if (!f)
		return -ENOMEM;
	metric_inc(M_ADMIN_REQUESTS);
	admin_route(a->cfg, &a->ops, head, span_of(c->body, c->body_len), f, &ans);
	free(c->body);
	c->body = NULL;
	c->body_len = 0;
	if (fclose(f)) {
		free(body);
		return -ENOMEM;
	}
	c->close_after = !head->keep_alive;
	return conn_answer(c, &ans, body, len, head->method == HTTP1_HEAD);
}

/* Takes the body from behind the head into memory of its own; the rest is received there. */
static int body_begin(struct admin_conn *c, size_t head, size_t want)
{
	if (!c->body) {
		size_t have = c->in_len - head < want ? c->in_len - head : want;

		c->body = malloc(want);
		if (!c->body)
			return -ENOMEM;
		memcpy(c->body, c->in + head, have);
		memmove(c->in + head, c->in + head + have, c->in_len - head - have);
		c->in_len -= have;
		c->body_len = have;
		c->body_want = want;
	}
	c->in_seen = 0;
	return -EAGAIN;
}

/* Looks for one whole request in c->in. 0: an answer is ready; -EAGAIN; else close. */
static int conn_parse(struct admin *a, struct admin_conn *c)
{
	enum http1_refusal why = HTTP1_FINE;
	struct http1_head head;
	size_t body, whole;
	ssize_t n;
	int err;

	n = http1_request_parse(&head, c->in, c->in_len, c->in_seen, NULL, &why);
	c->in_seen = c->in_len;
	if (n == -EAGAIN)
		return c->in_len < IN_BYTES ? -EAGAIN : conn_refuse(c, 431, "head too large");
	if (n < 0)
		return conn_refuse(c, http1_refusal_status(why), http1_refusal_text(why));
	body = head.framing == HTTP1_LENGTH_BODY ? head.content_length : 0;
	if (body && admin_takes_body(head.path) && body <= ADMIN_BODY_BYTES_MAX) {
		if (!c->body || c->body_len < c->body_want) {
			err = body_begin(c, (size_t)n, body);
			if (err != -EAGAIN || c->body_len < c->body_want)
				return err;
		}
		body = 0; /* it is whole, and was taken from behind the head */
	}
	if (head.framing == HTTP1_CHUNKED || body > IN_BYTES - (size_t)n)
		return conn_refuse(c, 413, "no bodies here");
	whole = (size_t)n + body;
	if (c->in_len < whole) {
		c->in_seen = 0; /* the head is parsed again when the body is there */
		return -EAGAIN;
	}
	err = conn_route(a, c, &head);
	memmove(c->in, c->in + whole, c->in_len - whole);
	c->in_len -= whole;
	c->in_seen = 0;
	return err;
}

/* Sends what it can. 0 all sent, -EAGAIN more to send, else close. */
static int conn_send(struct admin_conn *c)
{
	while (c->out_sent < c->out_len) {
		ssize_t n =
			send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);

		if (n < 0)
			return errno == EINTR || errno == EAGAIN ? -EAGAIN : -errno;
		c->out_sent += (size_t)n;
	}
	free(c->out);
	c->out = NULL;
	c->served = true;
	c->deadline_ns = clock_mono_ns() + DEADLINE_NS;
	return 0;
}

static int conn_receive(struct admin_conn *c)
{
	bool to_body = c->body && c->body_len < c->body_want;
	ssize_t n = to_body ? recv(c->fd, c->body + c->body_len, c->body_want - c->body_len, 0)
			    : recv(c->fd, c->in + c->in_len, IN_BYTES - c->in_len, 0);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? -EAGAIN : -errno;
	if (n == 0)
		return -ECONNRESET;
	*(to_body ? &c->body_len : &c->in_len) += (size_t)n;
	return 0;
}

static void conn_turn(struct admin *a, struct admin_conn *c)
{
	int err = c->out ? conn_send(c) : conn_receive(c);

	while (!err) {
		if (!c->out && c->close_after)
			err = -ESHUTDOWN;
		else if (!c->out)
			err = c->in_len ? conn_parse(a, c) : -EAGAIN;
		else
			err = conn_send(c);
	}
	if (err != -EAGAIN)
		conn_close(c);
	else
		conn_watch(a, c, c->out ? EPOLLOUT : EPOLLIN);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static void accept_one(struct admin *a)
{
	int fd = accept4(a->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN};
	struct admin_conn *c = NULL;

	if (fd < 0)
		return;
	for (unsigned int i = 0; i < ADMIN_CONNECTIONS_MAX && !c; i++)
		if (a->conns[i].fd < 0)
			c = &a->conns[i];
	if (!c) {
		metric_inc(M_ADMIN_REFUSED);
		close(fd);
		return;
	}
	ev.data.u64 = (uint64_t)(c - a->conns);
	if (epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
		close(fd);
		return;
	}
	*c = (struct admin_conn){.fd = fd, .deadline_ns = clock_mono_ns() + DEADLINE_NS};
}

static void close_late(struct admin *a)
{
	uint64_t now = clock_mono_ns();

	for (unsigned int i = 0; i < ADMIN_CONNECTIONS_MAX; i++) {
		struct admin_conn *c = &a->conns[i];

		if (c->fd < 0 || now < c->deadline_ns)
			continue;
		if (c->in_len || c->out)
			metric_inc(M_ADMIN_REFUSED);
		conn_close(c);
	}
}

static bool any_open(const struct admin *a)
{
	for (unsigned int i = 0; i < ADMIN_CONNECTIONS_MAX; i++)
		if (a->conns[i].fd >= 0)
			return true;
	return false;
}

/* Is somebody being answered? */
static bool any_busy(const struct admin *a)
{
	for (unsigned int i = 0; i < ADMIN_CONNECTIONS_MAX; i++)
		if (a->conns[i].fd >= 0 &&
		    (!a->conns[i].served || a->conns[i].in_len || a->conns[i].out))
			return true;
	return false;
}

static void *admin_run(void *arg)
{
	struct epoll_event events[16];
	struct admin *a = arg;
	bool stopping = false;

	for (;;) {
		int n = epoll_wait(a->epoll_fd, events, 16,
				   stopping	 ? 10
				   : any_open(a) ? 1000
						 : -1);

		if (stopping && !any_busy(a))
			return NULL;
		for (int i = 0; i < n; i++) {
			uint64_t tag = events[i].data.u64;

			if (tag == TAG_STOP && !a->leaving)
				return NULL;
			if (tag == TAG_STOP) {
				epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, a->stop_fd, NULL);
				epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, a->listen_fd, NULL);
				stopping = true;
			} else if (tag == TAG_LISTEN)
				accept_one(a);
			else if (a->conns[tag].fd >= 0)
				conn_turn(a, &a->conns[tag]);
		}
		close_late(a);
	}
}

/* ---- start and stop ---------------------------------------------------------------------------
 */

static int listen_unix(struct admin *a, const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;

	if (strlen(path) >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	strcpy(sun.sun_path, path);
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path); /* left by an earlier process */
	a->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (a->listen_fd < 0 || bind(a->listen_fd, (struct sockaddr *)&sun, sizeof(sun)) ||
	    chmod(path, 0600) || listen(a->listen_fd, 64))
		return -errno;
	strcpy(a->unix_path, path);
	return 0;
}

static int listen_first(struct admin *a, const struct addrinfo *ai)
{
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	int one = 1;

	a->listen_fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (a->listen_fd < 0)
		return -errno;
	setsockopt(a->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(a->listen_fd, ai->ai_addr, ai->ai_addrlen) || listen(a->listen_fd, 64) ||
	    getsockname(a->listen_fd, (struct sockaddr *)&bound, &len))
		return -errno;
	a->port = bound.ss_family == AF_INET6 ? be16toh(((struct sockaddr_in6 *)&bound)->sin6_port)
					      : be16toh(((struct sockaddr_in *)&bound)->sin_port);
	return 0;
}

static int listen_tcp(struct admin *a, const char *address)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	const char *colon = strrchr(address, ':');
	struct addrinfo *found = NULL;
	char host[256];
	size_t n;
	int err;

	if (!colon || (size_t)(colon - address) >= sizeof(host))
		return -EINVAL;
	n = (size_t)(colon - address);
	if (n >= 2 && address[0] == '[' && address[n - 1] == ']') {
		address++;
		n -= 2;
	}
	memcpy(host, address, n);
	host[n] = '\0';
	if (getaddrinfo(host, colon + 1, &hints, &found))
		return -EADDRNOTAVAIL;
	err = listen_first(a, found);
	freeaddrinfo(found);
	return err;
}

static int watch(struct admin *a, int fd, uint64_t tag)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = tag};

	return epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static void admin_release(struct admin *a)
{
	for (unsigned int i = 0; i < ADMIN_CONNECTIONS_MAX; i++)
		if (a->conns[i].fd >= 0)
			conn_close(&a->conns[i]);
	if (a->listen_fd >= 0)
		close(a->listen_fd);
	if (a->unix_path[0])
		unlink(a->unix_path);
	if (a->stop_fd >= 0)
		close(a->stop_fd);
	if (a->epoll_fd >= 0)
		close(a->epoll_fd);
	free(a);
}

static int listen_somewhere(struct admin *a)
{
	int flags;

	if (a->listen_fd < 0)
		return strncmp(a->cfg->admin, "unix:", 5) == 0 ? listen_unix(a, a->cfg->admin + 5)
							       : listen_tcp(a, a->cfg->admin);
	flags = fcntl(a->listen_fd, F_GETFL);
	if (strncmp(a->cfg->admin, "unix:", 5) == 0)
		snprintf(a->unix_path, sizeof(a->unix_path), "%s", a->cfg->admin + 5);
	return fcntl(a->listen_fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int admin_start(struct admin *a)
{
	sigset_t all, old;
	int err;

	a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	a->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (a->epoll_fd < 0 || a->stop_fd < 0)
		return -errno;
	err = listen_somewhere(a);
	if (!err)
		err = watch(a, a->listen_fd, TAG_LISTEN);
	if (!err)
		err = watch(a, a->stop_fd, TAG_STOP);
	if (err)
		return err;
	sigfillset(&all); /* signals are for the main thread */
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = -pthread_create(&a->thread, NULL, admin_run, a);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

int admin_adopt(const struct config *cfg, const struct admin_ops *ops, int listen_fd,
		struct admin **ret)
{
	struct admin *a = calloc(1, sizeof(*a));
	int err;

	if (!a)
		return -ENOMEM;
	a->cfg = cfg;
	a->ops = *ops;
	a->epoll_fd = a->stop_fd = -1;
	a->listen_fd = listen_fd;
	for (unsigned int i = 0; i < ADMIN_CONNECTIONS_MAX; i++)
		a->conns[i].fd = -1;
	err = admin_start(a);
	if (err) {
		log_error("admin port %s: %s", cfg->admin, strerror(-err));
		admin_release(a);
		return err;
	}
	*ret = a;
	return 0;
}

int admin_new(const struct config *cfg, const struct admin_ops *ops, struct admin **ret)
{
	return admin_adopt(cfg, ops, -1, ret);
}

int admin_socket(const struct admin *a)
{
	return a->listen_fd;
}

void admin_hand_over(struct admin *a)
{
	if (!a)
		return;
	a->unix_path[0] = '\0'; /* the successor's now */
	a->leaving = true;
	admin_free(a);
}

void admin_free(struct admin *a)
{
	uint64_t one = 1;

	if (!a)
		return;
	if (write(a->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(a->thread, NULL);
	admin_release(a);
}

unsigned int admin_port(const struct admin *a)
{
	return a->port;
}
