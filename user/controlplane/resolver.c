/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resolving helper. It shares one small struct with the control loop, counted by `refs`, so
 * that stopping never waits for a name server. A name with IPv4 and IPv6 addresses usually is one
 * pod seen twice: IPv6 ones count only when there are no others. Addresses are sorted, so that
 * their order in the answer means nothing.
 */
#include "controlplane/resolver.h"

#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"

struct answer {
	char host[HOST_BYTES_MAX];
	uint16_t port;
	bool failed;
	unsigned int count;
	struct sockaddr_storage addrs[ORIGIN_ADDRESSES_MAX];
};

struct resolver {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	int fd, refs;
	bool stop, asked, answered; /* asked: the helper has work; answered: the loop has */
	struct answer *answers;
	unsigned int count;
};

static int address_order(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct sockaddr_storage));
}

static void answer_add(struct answer *a, const struct addrinfo *info)
{
	struct sockaddr_storage addr = {0};

	if (a->count == ORIGIN_ADDRESSES_MAX || info->ai_addrlen > sizeof(addr))
		return;
	memcpy(&addr, info->ai_addr, info->ai_addrlen);
	for (unsigned int i = 0; i < a->count; i++)
		if (address_order(&a->addrs[i], &addr) == 0)
			return;
	a->addrs[a->count++] = addr;
}

static void host_resolve(struct answer *a)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	char port[8];
	int err;

	snprintf(port, sizeof(port), "%u", a->port);
	err = getaddrinfo(a->host, port, &hints, &list);
	if (err) {
		a->failed = true;
		metric_inc(M_DNS_FAILED);
		log_warn("endpoint name %s: %s", a->host, gai_strerror(err));
		return;
	}
	for (int pass = 0; pass < 2 && a->count == 0; pass++)
		for (struct addrinfo *i = list; i; i = i->ai_next)
			if (i->ai_family == (pass ? AF_INET6 : AF_INET))
				answer_add(a, i);
	freeaddrinfo(list);
	qsort(a->addrs, a->count, sizeof(a->addrs[0]), address_order);
	a->failed = a->count == 0;
}

/* Called with the lock, which it releases. */
static void resolver_unref(struct resolver *r)
{
	bool last = --r->refs == 0;

	pthread_mutex_unlock(&r->lock);
	if (!last)
		return;
	close(r->fd);
	free(r->answers);
	pthread_cond_destroy(&r->wake);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static void *resolver_main(void *arg)
{
	struct resolver *r = arg;

	pthread_mutex_lock(&r->lock);
	for (;;) {
		while (!r->stop && !r->asked)
			pthread_cond_wait(&r->wake, &r->lock);
		if (r->stop)
			break;
		pthread_mutex_unlock(&r->lock);
		for (unsigned int i = 0; i < r->count; i++)
			host_resolve(&r->answers[i]);
		pthread_mutex_lock(&r->lock);
		r->asked = false;
		r->answered = true;
		eventfd_write(r->fd, 1);
	}
	resolver_unref(r);
	return NULL;
}

struct resolver *resolver_new(void)
{
	struct resolver *r = calloc(1, sizeof(*r));
	pthread_t thread;

	if (!r)
		return NULL;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->wake, NULL);
	r->refs = 2;
	r->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (r->fd < 0 || pthread_create(&thread, NULL, resolver_main, r)) {
		if (r->fd >= 0)
			close(r->fd);
		free(r);
		return NULL;
	}
	pthread_detach(thread);
	return r;
}

void resolver_free(struct resolver *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_signal(&r->wake);
	resolver_unref(r);
}

int resolver_fd(const struct resolver *r)
{
	return r->fd;
}

bool resolver_ask(struct resolver *r, const struct origin_list *list)
{
	unsigned int hosts = 0;
	struct answer *answers;

	for (unsigned int i = 0; i < list->count; i++)
		hosts += *list->items[i].host != 0;
	answers = hosts ? calloc(hosts, sizeof(*answers)) : NULL;
	if (!answers)
		return false;
	pthread_mutex_lock(&r->lock);
	if (r->asked || r->answered) {
		pthread_mutex_unlock(&r->lock);
		free(answers);
		return false;
	}
	free(r->answers);
	r->answers = answers;
	r->count = 0;
	for (unsigned int i = 0; i < list->count; i++) {
		const struct origin *o = &list->items[i];

		if (!*o->host)
			continue;
		memcpy(answers[r->count].host, o->host, sizeof(o->host));
		answers[r->count++].port = o->port;
	}
	r->asked = true;
	pthread_cond_signal(&r->wake);
	pthread_mutex_unlock(&r->lock);
	return true;
}

static bool origin_take(struct origin *o, const struct answer *a)
{
	struct sockaddr_storage *addrs;

	if (a->failed || a->port != o->port || strcmp(a->host, o->host))
		return false;
	if (a->count == o->addr_count &&
	    memcmp(a->addrs, o->addrs, a->count * sizeof(a->addrs[0])) == 0)
		return false;
	addrs = malloc(a->count * sizeof(*addrs));
	if (!addrs)
		return false;
	memcpy(addrs, a->addrs, a->count * sizeof(*addrs));
	free(o->addrs);
	o->addrs = addrs;
	o->addr_count = a->count;
	return true;
}

bool resolver_take(struct resolver *r, struct origin_list *list)
{
	bool changed = false;
	eventfd_t value;

	pthread_mutex_lock(&r->lock);
	eventfd_read(r->fd, &value);
	if (r->answered)
		for (unsigned int i = 0; i < list->count; i++)
			for (unsigned int k = 0; k < r->count && *list->items[i].host; k++)
				changed |= origin_take(&list->items[i], &r->answers[k]);
	r->answered = false;
	pthread_mutex_unlock(&r->lock);
	return changed;
}
