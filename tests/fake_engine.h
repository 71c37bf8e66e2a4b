/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines that answer GET /metrics, /v1/models and /health with fixed bytes: any number of them on
 * one thread, each on a port of its own. For tests and benches of the control thread.
 */
#ifndef SLUICE_TESTS_FAKE_ENGINE_H
#define SLUICE_TESTS_FAKE_ENGINE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define FAKE_CONNECTIONS_MAX 4096

/* Whole answers, head included; NULL: never answers. Swapped at any time by the test's thread. */
struct fake_engine {
	uint16_t port;
	int listen_fd;
	_Atomic(const char *) metrics, models, health, other_metrics;
	_Atomic bool closes;	    /* the connection, after each answer, without a word */
	_Atomic unsigned int asked; /* questions, all of them */
};

struct fake_engines {
	struct fake_engine *items;
	unsigned int count;
	int epoll_fd;
	_Atomic bool stop;
	int owner[FAKE_CONNECTIONS_MAX]; /* of each connection, engine + 1 */
	pthread_t thread;
};

static inline int fake_listen(struct fake_engine *e)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				   .sin_port = htons(e->port)};
	socklen_t len = sizeof(addr);
	int one = 1;

	e->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(e->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(e->listen_fd, (struct sockaddr *)&addr, len) || listen(e->listen_fd, 64) ||
	    getsockname(e->listen_fd, (struct sockaddr *)&addr, &len))
		return -1;
	e->port = ntohs(addr.sin_port);
	return 0;
}

static inline void fake_answer(int fd, const char *text)
{
	size_t len = text ? strlen(text) : 0;

	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
}

static inline void fake_serve(struct fake_engines *f, int fd)
{
	struct fake_engine *e = &f->items[f->owner[fd] - 1];
	char request[2048];
	ssize_t n = recv(fd, request, sizeof(request) - 1, 0);

	if (n <= 0) {
		f->owner[fd] = 0;
		close(fd);
		return;
	}
	request[n] = 0;
	atomic_fetch_add(&e->asked, 1);
	fake_answer(fd, strstr(request, "GET /prometheus/metrics") ? atomic_load(&e->other_metrics)
			: strstr(request, "GET /metrics")	   ? atomic_load(&e->metrics)
			: strstr(request, "GET /v1/models")	   ? atomic_load(&e->models)
								   : atomic_load(&e->health));
	if (atomic_load(&e->closes)) {
		f->owner[fd] = 0;
		close(fd);
	}
}

static inline void *fake_main(void *arg)
{
	struct fake_engines *f = arg;
	struct epoll_event events[64], add = {.events = EPOLLIN};

	while (!atomic_load(&f->stop)) {
		int n = epoll_wait(f->epoll_fd, events, 64, 50);

		for (int i = 0; i < n; i++) {
			int fd = (int)(events[i].data.u64 & 0xffffffff);
			unsigned int listener = (unsigned int)(events[i].data.u64 >> 32);

			if (!listener) {
				fake_serve(f, fd);
				continue;
			}
			fd = accept(fd, NULL, NULL);
			if (fd < 0 || fd >= FAKE_CONNECTIONS_MAX)
				continue;
			f->owner[fd] = (int)listener;
			add.data.u64 = (uint64_t)fd;
			epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &add);
		}
	}
	for (int fd = 0; fd < FAKE_CONNECTIONS_MAX; fd++)
		if (f->owner[fd])
			close(fd);
	for (unsigned int i = 0; i < f->count; i++)
		close(f->items[i].listen_fd);
	close(f->epoll_fd);
	return NULL;
}

/* Ports that are 0 are chosen. 0 or -1. */
static inline int fake_start(struct fake_engines *f, struct fake_engine *items, unsigned int count)
{
	struct epoll_event add = {.events = EPOLLIN};

	memset(f, 0, sizeof(*f));
	f->items = items;
	f->count = count;
	f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	for (unsigned int i = 0; i < count; i++) {
		if (fake_listen(&items[i]))
			return -1;
		add.data.u64 = (uint64_t)(i + 1) << 32 | (uint32_t)items[i].listen_fd;
		epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, items[i].listen_fd, &add);
	}
	return pthread_create(&f->thread, NULL, fake_main, f) ? -1 : 0;
}

/* Closes every connection and every port. */
static inline void fake_stop(struct fake_engines *f)
{
	atomic_store(&f->stop, true);
	pthread_join(f->thread, NULL);
}

#endif
