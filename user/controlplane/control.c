/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control thread's loop: sources of endpoints in, store kept true, pollers driven.
 *
 *   flags, file (inotify), names (resolver) --> origins --> store_set_endpoints
 *   store's snapshot --> one poller per slot --> load, models, health
 *
 * Invariant: origins, pollers and the watch belong to this thread once it runs; other threads only
 * ring the bell (eventfd).
 */
#include "controlplane/control.h"

#include <errno.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "controlplane/discovery.h"
#include "controlplane/poller.h"
#include "controlplane/resolver.h"

#define RESOLVE_AGAIN_MS      5000 /* while a name has no address at all */
#define FILE_LOOK_INTERVAL_MS 2000 /* beside inotify, which does not see through every symlink */
#define HOUSEKEEP_INTERVAL_MS 100
#define EVENTS_MAX	      64
#define GATHER_NS	      500000

/* epoll data: a slot, or one of these. */
enum {
	ID_BELL = ENDPOINTS_MAX,
	ID_WATCH,
	ID_RESOLVER
};

struct control {
	const struct config *config;
	struct store *store;
	struct origin_list flags, file;
	struct stat file_seen; /* the file that was last looked at, good or bad */
	struct poller_env env;
	struct poller *pollers[ENDPOINTS_MAX];
	struct endpoint_snapshot *snap; /* what the pollers stand for */
	struct resolver *resolver;
	int bell_fd, watch_fd;
	_Atomic bool stop, reload;
	uint64_t resolve_at_ns, look_at_ns, housekeep_at_ns;
	pthread_t thread;
	bool running;
};

static int flags_parse(const struct config *config, struct origin_list *list, char *ret_error,
		       size_t error_bytes)
{
	char error[256];
	struct origin *o;

	for (size_t i = 0; i < config->endpoints.count; i++) {
		o = origin_list_add(list);
		if (!o)
			return -ENOMEM;
		if (origin_parse_flag(config->endpoints.items[i], o, error, sizeof(error))) {
			snprintf(ret_error, error_bytes, "endpoint \"%.200s\": %s",
				 config->endpoints.items[i], error);
			return -EINVAL;
		}
	}
	return 0;
}

int control_check(const struct config *config, char *ret_error, size_t error_bytes)
{
	struct origin_list list = {0}, file = {0};
	int err = flags_parse(config, &list, ret_error, error_bytes);

	if (!err && config->endpoints_file)
		err = endpoints_file_read(config->endpoints_file, &file, ret_error, error_bytes);
	origin_list_fini(&list);
	origin_list_fini(&file);
	return err;
}

/* Each address of the origins as a spec; names of several addresses get theirs behind. */
static unsigned int specs_fill(const struct origin_list *list, struct endpoint_spec *specs,
			       char (*names)[ENDPOINT_NAME_MAX], unsigned int n)
{
	for (unsigned int i = 0; i < list->count; i++) {
		const struct origin *o = &list->items[i];

		for (unsigned int k = 0; k < o->addr_count; k++, n++) {
			bool v6 = o->addrs[k].ss_family == AF_INET6;

			snprintf(names[n], sizeof(names[n]), "%s", o->name);
			if (*o->name && o->addr_count > 1)
				snprintf(names[n], sizeof(names[n]), "%.58s-%u", o->name,
					 k % ORIGIN_ADDRESSES_MAX);
			specs[n] = (struct endpoint_spec){
				.addr = o->addrs[k],
				.addr_len = v6 ? sizeof(struct sockaddr_in6)
					       : sizeof(struct sockaddr_in),
				.name = names[n],
				.role = o->role,
				.labels = o->labels,
				.label_count = o->label_count,
			};
		}
	}
	return n;
}

static unsigned int address_count(const struct origin_list *list)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < list->count; i++)
		n += list->items[i].addr_count;
	return n;
}

static void origins_apply(struct control *c)
{
	unsigned int total = address_count(&c->flags) + address_count(&c->file), n;
	struct endpoint_spec *specs = calloc(total + 1, sizeof(*specs));
	char(*names)[ENDPOINT_NAME_MAX] = calloc(total + 1, sizeof(*names));

	if (specs && names) {
		n = specs_fill(&c->flags, specs, names, 0);
		n = specs_fill(&c->file, specs, names, n);
		store_set_endpoints(c->store, specs, n);
	} else {
		log_error("no memory for a change of endpoints; the old ones stay");
	}
	free(specs);
	free(names);
}

static bool file_moved(const struct stat *a, const struct stat *b)
{
	return a->st_ino != b->st_ino || a->st_dev != b->st_dev || a->st_size != b->st_size ||
	       a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec;
}

/* Reads the file if it is not the one last seen (or if forced). A broken one changes nothing. */
static void file_look(struct control *c, bool force)
{
	struct origin_list list = {0};
	struct stat now;
	char error[512];

	if (!c->config->endpoints_file)
		return;
	if (stat(c->config->endpoints_file, &now) < 0)
		memset(&now, 0, sizeof(now));
	if (!force && !file_moved(&now, &c->file_seen))
		return;
	c->file_seen = now;
	if (endpoints_file_read(c->config->endpoints_file, &list, error, sizeof(error))) {
		metric_inc(M_SOURCE_REFUSED);
		log_error("endpoints file refused, the old endpoints stay: %s", error);
		return;
	}
	origin_list_fini(&c->file);
	c->file = list;
	log_info("endpoints file %s: %u endpoints", c->config->endpoints_file, list.count);
	origins_apply(c);
}

static void watch_start(struct control *c)
{
	char *path = strdup(c->config->endpoints_file);

	c->watch_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	/* The directory, because rename-over and symlink swaps give the name another file. */
	if (!path || c->watch_fd < 0 ||
	    inotify_add_watch(c->watch_fd, dirname(path),
			      IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ATTRIB) < 0)
		log_warn("endpoints file %s is looked at every %d ms: %s",
			 c->config->endpoints_file, FILE_LOOK_INTERVAL_MS, strerror(errno));
	free(path);
}

static void watch_drain(struct control *c)
{
	char events[4096];

	while (read(c->watch_fd, events, sizeof(events)) > 0)
		;
	file_look(c, false);
}

/* One poller for each view of the present snapshot. */
static void pollers_sync(struct control *c, uint64_t now_ns)
{
	struct endpoint_snapshot *snap = store_snapshot(c->store);
	uint64_t keep[ENDPOINTS_MAX / 64] = {0};

	if (c->snap && snap->version == c->snap->version) {
		snapshot_put(snap);
		return;
	}
	for (unsigned int i = 0; i < snap->view_count; i++) {
		struct endpoint *ep = snap->views[i];
		struct poller **p = &c->pollers[ep->slot];

		keep[ep->slot / 64] |= 1ULL << (ep->slot % 64);
		if (*p && strcmp((*p)->ep->address, ep->address)) {
			poller_free(*p);
			*p = NULL;
		}
		if (!*p)
			*p = poller_new(&c->env, ep, now_ns);
		else if ((*p)->ep != ep)
			poller_set_endpoint(*p, ep);
	}
	for (unsigned int i = 0; i < ENDPOINTS_MAX; i++)
		if (c->pollers[i] && !(keep[i / 64] >> (i % 64) & 1)) {
			poller_free(c->pollers[i]);
			c->pollers[i] = NULL;
		}
	snapshot_put(c->snap);
	c->snap = snap;
}

static uint64_t resolve_interval_ms(const struct control *c, const struct origin_list *list)
{
	uint64_t ms = c->config->resolve_interval_ms;

	for (unsigned int i = 0; i < list->count; i++)
		if (list->items[i].addr_count == 0)
			return ms < RESOLVE_AGAIN_MS ? ms : RESOLVE_AGAIN_MS;
	return ms;
}

/* All that goes by the clock. Returns when the next of it is due. */
static uint64_t loop_tick(struct control *c, uint64_t now_ns)
{
	uint64_t next, at;

	if (atomic_exchange(&c->reload, false)) {
		file_look(c, true);
		c->resolve_at_ns = now_ns;
	}
	if (now_ns >= c->resolve_at_ns) {
		resolver_ask(c->resolver, &c->flags);
		c->resolve_at_ns = now_ns + resolve_interval_ms(c, &c->flags) * NS_PER_MS;
	}
	if (now_ns >= c->look_at_ns) {
		file_look(c, false);
		c->look_at_ns = now_ns + FILE_LOOK_INTERVAL_MS * NS_PER_MS;
	}
	if (now_ns >= c->housekeep_at_ns) {
		store_housekeep(c->store);
		c->housekeep_at_ns = now_ns + HOUSEKEEP_INTERVAL_MS * NS_PER_MS;
	}
	pollers_sync(c, now_ns);
	next = c->housekeep_at_ns;
	for (unsigned int i = 0; i < ENDPOINTS_MAX; i++)
		if (c->pollers[i]) {
			at = poller_tick(c->pollers[i], now_ns);
			next = at < next ? at : next;
		}
	return next;
}

static void event_take(struct control *c, const struct epoll_event *event, uint64_t now_ns)
{
	eventfd_t value;

	switch (event->data.u64) {
	case ID_BELL:
		eventfd_read(c->bell_fd, &value);
		break;
	case ID_WATCH:
		watch_drain(c);
		break;
	case ID_RESOLVER:
		if (resolver_take(c->resolver, &c->flags))
			origins_apply(c);
		break;
	default:
		if (event->data.u64 < ENDPOINTS_MAX && c->pollers[event->data.u64])
			poller_event(c->pollers[event->data.u64], event->events, now_ns);
		break;
	}
}

/*
 * Waits for something to do until next_ns. Answers that come at nearly the same time are taken with
 * one waking: load figures are half a millisecond older then, and cost half as much.
 */
static int events_wait(struct control *c, struct epoll_event *events, uint64_t now_ns,
		       uint64_t next_ns)
{
	const struct timespec gather = {.tv_nsec = GATHER_NS};
	int ms = next_ns <= now_ns ? 0 : (int)((next_ns - now_ns) / NS_PER_MS) + 1;
	int n = epoll_wait(c->env.epoll_fd, events, EVENTS_MAX, ms);

	if (n <= 0 || n == EVENTS_MAX)
		return n;
	nanosleep(&gather, NULL);
	return epoll_wait(c->env.epoll_fd, events, EVENTS_MAX, 0);
}

static void *control_main(void *arg)
{
	struct epoll_event events[EVENTS_MAX];
	struct control *c = arg;
	uint64_t now_ns, next_ns;
	int n;

	while (!atomic_load(&c->stop)) {
		now_ns = clock_mono_ns();
		next_ns = loop_tick(c, now_ns);
		n = events_wait(c, events, now_ns, next_ns);
		now_ns = clock_mono_ns();
		for (int i = 0; i < n; i++)
			event_take(c, &events[i], now_ns);
	}
	return NULL;
}

static int fd_watch(struct control *c, int fd, uint64_t id)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = id};

	return fd >= 0 && epoll_ctl(c->env.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static int loop_init(struct control *c)
{
	int err;

	c->env = (struct poller_env){.config = c->config, .store = c->store};
	c->env.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	c->env.buffer = malloc(POLL_BUFFER_BYTES);
	c->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	c->resolver = resolver_new();
	if (c->env.epoll_fd < 0 || !c->env.buffer || !c->resolver)
		return -ENOMEM;
	err = fd_watch(c, c->bell_fd, ID_BELL);
	if (!err)
		err = fd_watch(c, resolver_fd(c->resolver), ID_RESOLVER);
	if (!err && c->config->endpoints_file) {
		watch_start(c);
		if (c->watch_fd >= 0)
			err = fd_watch(c, c->watch_fd, ID_WATCH);
	}
	return err;
}

int control_start(const struct config *config, struct store *store, char *ret_error,
		  size_t error_bytes, struct control **ret_control)
{
	struct control *c = calloc(1, sizeof(*c));
	int err = c ? 0 : -ENOMEM;

	if (err)
		return err;
	snprintf(ret_error, error_bytes, "the control thread could not start");
	*c = (struct control){.config = config, .store = store, .bell_fd = -1, .watch_fd = -1};
	c->env.epoll_fd = -1;
	err = flags_parse(config, &c->flags, ret_error, error_bytes);
	if (!err && config->endpoints_file) {
		if (stat(config->endpoints_file, &c->file_seen) < 0)
			memset(&c->file_seen, 0, sizeof(c->file_seen));
		err = endpoints_file_read(config->endpoints_file, &c->file, ret_error, error_bytes);
	}
	if (!err)
		err = loop_init(c);
	if (!err) {
		origins_apply(c);
		c->look_at_ns = clock_mono_ns() + FILE_LOOK_INTERVAL_MS * NS_PER_MS;
		err = -pthread_create(&c->thread, NULL, control_main, c);
		c->running = err == 0;
	}
	if (err) {
		control_stop(c);
		return err;
	}
	*ret_control = c;
	return 0;
}

static void bell_ring(struct control *c)
{
	eventfd_write(c->bell_fd, 1);
}

void control_reload(struct control *c)
{
	atomic_store(&c->reload, true);
	bell_ring(c);
}

void control_stop(struct control *c)
{
	if (!c)
		return;
	if (c->running) {
		atomic_store(&c->stop, true);
		bell_ring(c);
		pthread_join(c->thread, NULL);
	}
	for (unsigned int i = 0; i < ENDPOINTS_MAX; i++)
		poller_free(c->pollers[i]);
	snapshot_put(c->snap);
	resolver_free(c->resolver);
	origin_list_fini(&c->flags);
	origin_list_fini(&c->file);
	fd_close(&c->env.epoll_fd);
	fd_close(&c->bell_fd);
	fd_close(&c->watch_fd);
	free(c->env.buffer);
	free(c);
}
