/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that sleeps on netlink. Any change of links, addresses or routes, and any change of the
 * pool, makes it read all interfaces anew and compare: what came is attached, what went is
 * detached. Reading anew loses nothing when messages are lost.
 * Invariant: an interface is known by its index; one that was made again under its old name is
 * another one.
 */
#include "controlplane/interfaces.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/json_write.h"
#include "base/log.h"
#include "controlplane/interfaces_scan.h"

#define LOOK_MS	  1000 /* how often the pool is compared */
#define SETTLE_MS 20   /* links come with a burst of messages */

struct followed {
	int ifindex;
	char name[IF_NAMESIZE];
	int err; /* of attach */
};

struct interfaces {
	const struct config *cfg;
	struct interfaces_ops ops;
	struct interfaces_scan scan;
	int stop_fd;
	bool started;
	uint64_t version; /* of the snapshot that was looked at last */
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows */
	unsigned int count;
	struct followed followed[INTERFACES_MAX];
};

bool interface_is_wanted(const struct string_list *named, bool any_address,
			 const struct interface *i)
{
	for (size_t n = 0; n < named->count; n++)
		if (strcmp(named->items[n], i->name) == 0)
			return true;
	if (named->count || !i->up || i->loopback)
		return false;
	return i->listens || i->routes || (any_address && i->has_address);
}

static const struct interface *scanned(const struct interfaces_scan *scan, int ifindex)
{
	for (unsigned int i = 0; i < scan->count; i++)
		if (scan->found[i].ifindex == ifindex)
			return &scan->found[i];
	return NULL;
}

static bool wanted(const struct interfaces *ifs, const struct interface *i)
{
	return interface_is_wanted(&ifs->cfg->interfaces, ifs->scan.any_address, i);
}

static void follow_end(struct interfaces *ifs, unsigned int at, bool gone)
{
	struct followed old = ifs->followed[at];

	pthread_mutex_lock(&ifs->lock);
	ifs->followed[at] = ifs->followed[--ifs->count];
	pthread_mutex_unlock(&ifs->lock);
	log_info("interface %s (%d) %s", old.name, old.ifindex,
		 gone ? "is gone" : "is no longer used");
	if (!old.err && ifs->ops.detach)
		ifs->ops.detach(ifs->ops.arg, old.ifindex, old.name, gone);
}

static void follow(struct interfaces *ifs, const struct interface *i)
{
	struct followed new = {.ifindex = i->ifindex};

	if (ifs->count == INTERFACES_MAX) {
		log_warn("interface %s is left out: more than %d", i->name, INTERFACES_MAX);
		return;
	}
	snprintf(new.name, sizeof(new.name), "%s", i->name);
	if (ifs->ops.attach)
		new.err = ifs->ops.attach(ifs->ops.arg, i->ifindex, i->name);
	if (new.err)
		log_warn("interface %s (%d) takes no program: %s", i->name, i->ifindex,
			 strerror(-new.err));
	else
		log_info("interface %s (%d) is used", i->name, i->ifindex);
	pthread_mutex_lock(&ifs->lock);
	ifs->followed[ifs->count++] = new;
	pthread_mutex_unlock(&ifs->lock);
}

static bool is_followed(const struct interfaces *ifs, int ifindex)
{
	for (unsigned int n = 0; n < ifs->count; n++)
		if (ifs->followed[n].ifindex == ifindex)
			return true;
	return false;
}

/* Reads everything and acts on the difference. */
static void compare(struct interfaces *ifs)
{
	struct endpoint_snapshot *snap = ifs->ops.snapshot ? ifs->ops.snapshot(ifs->ops.arg) : NULL;
	int err = interfaces_scan_read(&ifs->scan, snap);

	if (snap) {
		ifs->version = snap->version;
		snapshot_put(snap);
	}
	if (err) {
		log_warn("interfaces cannot be read: %s", strerror(-err));
		return;
	}
	for (unsigned int n = ifs->count; n-- > 0;) {
		const struct interface *i = scanned(&ifs->scan, ifs->followed[n].ifindex);

		if (!i || !wanted(ifs, i))
			follow_end(ifs, n, !i);
	}
	for (unsigned int n = 0; n < ifs->scan.count; n++) {
		const struct interface *i = &ifs->scan.found[n];

		if (wanted(ifs, i) && !is_followed(ifs, i->ifindex))
			follow(ifs, i);
	}
}

static bool pool_changed(struct interfaces *ifs)
{
	struct endpoint_snapshot *snap = ifs->ops.snapshot ? ifs->ops.snapshot(ifs->ops.arg) : NULL;
	bool changed = snap && snap->version != ifs->version;

	if (snap)
		snapshot_put(snap);
	return changed;
}

static void *interfaces_run(void *arg)
{
	struct interfaces *ifs = arg;

	for (;;) {
		struct pollfd fds[] = {{.fd = interfaces_scan_fd(&ifs->scan), .events = POLLIN},
				       {.fd = ifs->stop_fd, .events = POLLIN}};
		int n = poll(fds, 2, LOOK_MS);
		bool told = n > 0 && fds[0].revents;

		if (fds[1].revents)
			return NULL;
		if (told) {
			poll(&fds[1], 1, SETTLE_MS);
			interfaces_scan_drain(&ifs->scan);
		}
		if (told || pool_changed(ifs))
			compare(ifs);
	}
}

int interfaces_new(const struct config *cfg, const struct interfaces_ops *ops,
		   struct interfaces **ret)
{
	struct interfaces *ifs = calloc(1, sizeof(*ifs));
	sigset_t all, old;
	int err;

	if (!ifs)
		return -ENOMEM;
	ifs->cfg = cfg;
	ifs->ops = *ops;
	pthread_mutex_init(&ifs->lock, NULL);
	ifs->stop_fd = eventfd(0, EFD_CLOEXEC);
	err = ifs->stop_fd < 0 ? -errno : interfaces_scan_init(&ifs->scan, cfg);
	if (!err) {
		compare(ifs);
		sigfillset(&all); /* signals are for the main thread */
		pthread_sigmask(SIG_BLOCK, &all, &old);
		err = -pthread_create(&ifs->thread, NULL, interfaces_run, ifs);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		ifs->started = err == 0;
	}
	if (err) {
		interfaces_free(ifs, false);
		return err;
	}
	*ret = ifs;
	return 0;
}

void interfaces_free(struct interfaces *ifs, bool keep)
{
	uint64_t one = 1;

	if (!ifs)
		return;
	if (ifs->started && write(ifs->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(ifs->thread, NULL);
	for (unsigned int n = 0; !keep && n < ifs->count; n++)
		if (!ifs->followed[n].err && ifs->ops.detach)
			ifs->ops.detach(ifs->ops.arg, ifs->followed[n].ifindex,
					ifs->followed[n].name, false);
	interfaces_scan_fini(&ifs->scan);
	if (ifs->stop_fd >= 0)
		close(ifs->stop_fd);
	pthread_mutex_destroy(&ifs->lock);
	free(ifs);
}

void interfaces_write_json(struct interfaces *ifs, FILE *f)
{
	fputc('[', f);
	if (ifs)
		pthread_mutex_lock(&ifs->lock);
	for (unsigned int n = 0; ifs && n < ifs->count; n++) {
		const struct followed *one = &ifs->followed[n];

		fprintf(f, "%s{\"name\":", n ? "," : "");
		json_string_write(f, span_of_str(one->name));
		fprintf(f, ",\"ifindex\":%d,\"attached\":%s", one->ifindex,
			one->err ? "false" : "true");
		if (one->err) {
			fputs(",\"error\":", f);
			json_string_write(f, span_of_str(strerror(-one->err)));
		}
		fputc('}', f);
	}
	if (ifs)
		pthread_mutex_unlock(&ifs->lock);
	fputc(']', f);
}

void interfaces_write_metrics(struct interfaces *ifs, FILE *f)
{
	if (!ifs)
		return;
	fputs("# HELP sluice_interface Network interfaces that requests take, 1: programs may be "
	      "attached\n# TYPE sluice_interface gauge\n",
	      f);
	pthread_mutex_lock(&ifs->lock);
	for (unsigned int n = 0; n < ifs->count; n++)
		fprintf(f, "sluice_interface{interface=\"%s\"} %d\n", ifs->followed[n].name,
			ifs->followed[n].err == 0);
	pthread_mutex_unlock(&ifs->lock);
}
