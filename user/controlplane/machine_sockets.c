/* SPDX-License-Identifier: Apache-2.0 */
/* Programs at sockets: does what one sends leave by another, and is it told what arrived? */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "controlplane/machine_probes.h"
#include "sluice/probe.h"

#include "probe.skel.h"

#define WORD	  "steered"
#define ROUNDS	  50 /* messages: enough for a round trip to be measured */
#define PATH_MAX_ 512

static bool untestable(const struct probe_context *ctx, char *found)
{
	if (ctx->skel && ctx->ns_wire >= 0)
		return false;
	probe_says(MACHINE_UNKNOWN, found, "%s",
		   ctx->skel ? "no namespaces" : "programs do not load");
	return true;
}

/* WORD from one to another, whole. */
static int word_arrives(int from, int to)
{
	struct pollfd p = {.fd = to, .events = POLLIN};
	char got[sizeof(WORD)] = "";

	if (send(from, WORD, sizeof(WORD), MSG_NOSIGNAL) != sizeof(WORD))
		return -errno;
	if (poll(&p, 1, PROBE_WAIT_MS) != 1)
		return -ETIMEDOUT;
	return recv(to, got, sizeof(got), 0) == sizeof(WORD) && memcmp(got, WORD, sizeof(WORD)) == 0
		       ? 0
		       : -EBADMSG;
}

/* engine -> gateway is one connection, gateway' -> client the other; engine is to reach client. */
struct steered {
	int engine, gateway, out, client;
};

static int steered_make(struct steered *s)
{
	int err;

	*s = (struct steered){-1, -1, -1, -1};
	err = tcp_pair(&s->gateway, &s->engine);
	return err ? err : tcp_pair(&s->client, &s->out);
}

static void steered_close(const struct steered *s)
{
	const int all[] = {s->engine, s->gateway, s->out, s->client};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i] >= 0)
			close(all[i]);
}

static int steered_try(struct probe_context *ctx, const struct steered *s)
{
	int map = bpf_map__fd(ctx->skel->maps.probe_sockets);
	int prog = bpf_program__fd(ctx->skel->progs.on_message);
	__u32 out_key = 0, engine_key = 1;
	__u64 out = (__u64)s->out, engine = (__u64)s->engine;
	char c;
	int err;

	if (bpf_prog_attach(prog, map, BPF_SK_MSG_VERDICT, 0))
		return -errno;
	if (bpf_map_update_elem(map, &out_key, &out, BPF_ANY) ||
	    bpf_map_update_elem(map, &engine_key, &engine, BPF_ANY))
		err = -errno;
	else
		err = word_arrives(s->engine, s->client);
	for (int i = 0; !err && i < ROUNDS; i++)
		err = word_arrives(s->engine, s->client);
	if (!err && recv(s->gateway, &c, 1, MSG_DONTWAIT) != -1)
		err = -EBADMSG; /* it went both ways */
	bpf_prog_detach2(prog, map, BPF_SK_MSG_VERDICT);
	bpf_map_delete_elem(map, &out_key);
	bpf_map_delete_elem(map, &engine_key);
	return err;
}

enum machine_state probe_sk_msg(struct probe_context *ctx, char *found)
{
	struct steered s;
	int err;

	if (untestable(ctx, found))
		return MACHINE_UNKNOWN;
	err = steered_make(&s);
	if (!err)
		err = steered_try(ctx, &s);
	steered_close(&s);
	if (err)
		return probe_says(MACHINE_NO, found, "%s", strerror(-err));
	return probe_says(MACHINE_YES, found, "%d messages", ROUNDS + 1);
}

/* ---- sock_ops, in a cgroup of its own ---------------------------------------------------------
 */

static int cgroup_mount(char *to, size_t size)
{
	FILE *f __cleanup(file_close) = fopen("/proc/self/mounts", "re");
	char line[1024], dir[PATH_MAX_], type[64];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %511s %63s", dir, type) == 2 && strcmp(type, "cgroup2") == 0)
			return snprintf(to, size, "%s", dir) < (int)size ? 0 : -ENAMETOOLONG;
	return -ENOENT;
}

static int own_cgroup(char *to, size_t size)
{
	FILE *f __cleanup(file_close) = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX_];

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "0::", 3) == 0)
			return snprintf(to, size, "%s", line + 3) < (int)size ? 0 : -ENAMETOOLONG;
	}
	return -ENOENT;
}

/* This process moves to the cgroup at dir. */
static int cgroup_join(const char *dir)
{
	char path[PATH_MAX_ + 32];
	int fd __cleanup(fd_close) = -1;

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, "0", 1) != 1 ? -errno : 0;
}

void machine_sweep(pid_t child)
{
	char mount[PATH_MAX_], dir[PATH_MAX_ + 64];

	if (cgroup_mount(mount, sizeof(mount)))
		return;
	snprintf(dir, sizeof(dir), "%s/" PROBE_CGROUP "%d", mount, (int)child);
	for (int i = 0; i < 100 && rmdir(dir) && errno == EBUSY; i++)
		usleep(10000); /* the child is leaving it */
}

/* Connections of this process are seen, and what they had acknowledged is told. */
static int socket_ops_try(struct probe_context *ctx, int cgroup_fd, struct sluice_probe *ret_state)
{
	int link __cleanup(fd_close) = bpf_link_create(bpf_program__fd(ctx->skel->progs.on_socket),
						       cgroup_fd, BPF_CGROUP_SOCK_OPS, NULL);
	struct sluice_probe none = {0};
	int a = -1, b = -1, err;
	__u32 zero = 0;

	if (link < 0)
		return -errno;
	bpf_map_update_elem(bpf_map__fd(ctx->skel->maps.probe_state), &zero, &none, 0);
	err = tcp_pair(&a, &b);
	for (int i = 0; !err && i < ROUNDS; i++) {
		err = word_arrives(a, b);
		if (!err)
			err = word_arrives(b, a);
	}
	bpf_map_lookup_elem(bpf_map__fd(ctx->skel->maps.probe_state), &zero, ret_state);
	close(a);
	close(b);
	return err;
}

static enum machine_state socket_ops_in(struct probe_context *ctx, const char *dir, char *found)
{
	int fd __cleanup(fd_close) = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct sluice_probe state = {0};
	int err = fd < 0 ? -errno : socket_ops_try(ctx, fd, &state);

	if (err)
		return probe_says(MACHINE_NO, found, "%s", strerror(-err));
	if (state.sockets < 2 || !state.acknowledged)
		return probe_says(
			MACHINE_NO, found, "connections seen %llu, bytes acknowledged %llu",
			(unsigned long long)state.sockets, (unsigned long long)state.acknowledged);
	return probe_says(MACHINE_YES, found, "in %s", dir);
}

enum machine_state probe_sock_ops(struct probe_context *ctx, char *found)
{
	char mount[PATH_MAX_ / 4], own[PATH_MAX_ / 4], dir[PATH_MAX_ / 2], back[PATH_MAX_];
	char events[PATH_MAX_ + 16];
	enum machine_state state;
	int err;

	if (untestable(ctx, found))
		return MACHINE_UNKNOWN;
	if (cgroup_mount(mount, sizeof(mount)) || own_cgroup(own, sizeof(own)))
		return probe_says(MACHINE_NO, found, "no cgroup v2 is mounted");
	snprintf(dir, sizeof(dir), "%s/" PROBE_CGROUP "%d", mount, (int)getpid());
	snprintf(back, sizeof(back), "%s%s", mount, own);
	snprintf(events, sizeof(events), "%s/cgroup.events", back);
	err = mkdir(dir, 0700) ? -errno : 0;
	if (err && access(events, F_OK) == 0) /* not the root's: only this service is in it */
		return socket_ops_in(ctx, back, found);
	if (err)
		return probe_says(MACHINE_UNKNOWN, found, "no cgroup can be made at %s: %s", mount,
				  strerror(-err));
	err = cgroup_join(dir);
	state = err ? probe_says(MACHINE_UNKNOWN, found, "%s cannot be joined: %s", dir,
				 strerror(-err))
		    : socket_ops_in(ctx, dir, found);
	cgroup_join(back);
	rmdir(dir);
	return state;
}
