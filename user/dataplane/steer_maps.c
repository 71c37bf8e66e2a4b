/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open skeleton -> load -> mmap the flows -> sk_msg on the endpoints' map, sock_ops on the cgroup.
 * Nothing is pinned: a steered flow has both its sockets in this process and ends with it.
 */
#include "dataplane/steer_maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "sluice/limits.h"

#include "steer.skel.h"

#define FLOWS_BYTES (STEER_FLOWS_MAX * sizeof(struct sluice_steer_flow))

/* The first cgroup2 mount; a container's own is enough if the engines are below it. */
static int cgroup_open(void)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	struct mntent *m;
	int fd = -ENOENT;

	while (mounts && fd < 0 && (m = getmntent(mounts)) != NULL) {
		if (strcmp(m->mnt_type, "cgroup2") != 0)
			continue;
		fd = open(m->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	if (mounts)
		endmntent(mounts);
	return fd;
}

static int attach(struct steer_maps *m)
{
	struct bpf_link *link;
	int fd = cgroup_open(), err;

	if (fd < 0)
		return fd;
	link = bpf_program__attach_cgroup(m->skel->progs.on_socket, fd);
	err = link ? 0 : -errno;
	close(fd);
	m->skel->links.on_socket = link;
	if (err)
		return err;
	err = bpf_prog_attach(bpf_program__fd(m->skel->progs.on_send),
			      bpf_map__fd(m->skel->maps.steer_endpoints), BPF_SK_MSG_VERDICT, 0);
	return err ? -errno : 0;
}

static int ports_fill(struct steer_maps *m, const struct config *cfg)
{
	__u32 n = 0, one = 1;

	for (size_t i = 0; i < cfg->listen.count; i++) {
		const char *colon = strrchr(cfg->listen.items[i], ':');
		__u32 port = colon ? (__u32)atoi(colon + 1) : 0;

		if (strncmp(cfg->listen.items[i], "unix:", 5) == 0 || !port)
			continue;
		if (++n > STEER_PORTS_MAX)
			log_warn("steer: more than %d ports, clients of %s are relayed",
				 STEER_PORTS_MAX, cfg->listen.items[i]);
		else if (bpf_map_update_elem(bpf_map__fd(m->skel->maps.steer_ports), &port, &one,
					     BPF_ANY))
			return -errno;
	}
	return 0;
}

/* pinned: the map `latency` is the one that the splice and the exporter know. */
static int load(struct steer_maps *m, const struct config *cfg, bool pinned)
{
	char path[300];
	int err = 0;

	*m = (struct steer_maps){.skel = steer_bpf__open()};
	if (!m->skel)
		return -errno;
	snprintf(path, sizeof(path), "%s/splice", cfg->bpffs_dir);
	mkdir(cfg->bpffs_dir, 0700);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/splice/latency", cfg->bpffs_dir);
	if (pinned)
		err = bpf_map__set_pin_path(m->skel->maps.latency, path);
	if (!err)
		err = steer_bpf__load(m->skel);
	if (err)
		steer_maps_close(m);
	return err;
}

int steer_maps_open(struct steer_maps *m, const struct config *cfg)
{
	int err = load(m, cfg, true);

	if (err && err != -EPERM) /* no bpffs, or a pin of another layout */
		err = load(m, cfg, false);
	if (err)
		return err;
	m->flows = mmap(NULL, FLOWS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			bpf_map__fd(m->skel->maps.steer_flows), 0);
	err = m->flows == MAP_FAILED ? -errno : ports_fill(m, cfg);
	if (!err)
		err = attach(m);
	if (err) {
		steer_maps_close(m);
		return err;
	}
	m->owner_fd = bpf_map__fd(m->skel->maps.steer_owner);
	m->tails_fd = bpf_map__fd(m->skel->maps.steer_tails);
	m->clients_fd = bpf_map__fd(m->skel->maps.steer_clients);
	return 0;
}

void steer_maps_close(struct steer_maps *m)
{
	if (m->flows && m->flows != MAP_FAILED)
		munmap(m->flows, FLOWS_BYTES);
	steer_bpf__destroy(m->skel);
	*m = (struct steer_maps){0};
}

int steer_own(const struct steer_maps *m, int fd, uint32_t slot, enum sluice_steer_role role)
{
	struct sluice_steer_owner owner = {slot, role};

	return bpf_map_update_elem(m->owner_fd, &fd, &owner, BPF_ANY) ? -errno : 0;
}

void steer_disown(const struct steer_maps *m, int fd)
{
	bpf_map_delete_elem(m->owner_fd, &fd);
}

int steer_add_client(const struct steer_maps *m, int fd, uint64_t *ret_cookie)
{
	socklen_t size = sizeof(*ret_cookie);
	uint64_t value = (uint64_t)fd;

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret_cookie, &size))
		return -errno;
	/* A connection that was kept may be there already. */
	if (bpf_map_update_elem(m->clients_fd, ret_cookie, &value, BPF_NOEXIST) && errno != EEXIST)
		return -errno;
	return 0;
}

int steer_tail_begin(const struct steer_maps *m, uint32_t slot)
{
	static const struct sluice_steer_tail empty;

	return bpf_map_update_elem(m->tails_fd, &slot, &empty, BPF_ANY) ? -errno : 0;
}

int steer_tail_end(const struct steer_maps *m, uint32_t slot, struct sluice_steer_tail *ret)
{
	return bpf_map_lookup_and_delete_elem(m->tails_fd, &slot, ret) ? -errno : 0;
}
