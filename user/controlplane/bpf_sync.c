/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open skeleton -> take over or replace pins -> size -> load -> pin -> mmap -> pin the iterators.
 * The directory is locked (flock) while a process owns it: two agents never share one set of maps.
 * Whatever fails on that way, what was made is undone and anonymous memory takes its place.
 */
#include "controlplane/bpf_sync.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "sluice/limits.h"

#include "sluice.skel.h"

#define BPFFS_MOUNT "/sys/fs/bpf"

enum area_id {
	AREA_ENDPOINTS,
	AREA_LOAD,
	AREA_AFFINITY,
	AREAS
};

struct area {
	void *mem;
	size_t bytes, mapped;
};

struct bpf_sync {
	struct area areas[AREAS];
	struct sluice_bpf *skel; /* NULL: anonymous memory */
	int lock_fd;
	bool succeeds;	    /* the maps that are pinned have an owner */
	const char *failed; /* the step that went wrong */
	char dir[256];
};

static const char *const area_pins[AREAS] = {"endpoints", "endpoint_load", "kv_affinity"};

static int pin_path(const struct bpf_sync *s, const char *name, char *buf, size_t size)
{
	return snprintf(buf, size, "%s/%s", s->dir, name) < (int)size ? 0 : -ENAMETOOLONG;
}

static int print_libbpf(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[512];

	if (level == LIBBPF_DEBUG)
		return 0;
	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	log_debug("%s", line);
	return 0;
}

/* ---- the directory ----------------------------------------------------------------------------
 */

static int dir_prepare(struct bpf_sync *s)
{
	char show[300];
	struct statfs fs;

	if (strncmp(s->dir, BPFFS_MOUNT "/", sizeof(BPFFS_MOUNT)) == 0 &&
	    (statfs(BPFFS_MOUNT, &fs) || fs.f_type != BPF_FS_MAGIC) &&
	    mount("bpf", BPFFS_MOUNT, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"))
		return -errno;
	if (mkdir(s->dir, 0700) && errno != EEXIST)
		return -errno;
	if (statfs(s->dir, &fs) || fs.f_type != BPF_FS_MAGIC)
		return -ENOTSUP;
	if (!s->succeeds)
		s->lock_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->lock_fd < 0)
		return -errno;
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (pin_path(s, "show", show, sizeof(show)))
		return -ENAMETOOLONG;
	return mkdir(show, 0700) && errno != EEXIST ? -errno : 0;
}

/* ---- earlier pins -----------------------------------------------------------------------------
 */

static bool pinned_abi_matches(const struct bpf_sync *s)
{
	int fd __cleanup(fd_close) = -1;
	struct sluice_abi abi = {0};
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info), key = 0;
	char path[300];

	if (pin_path(s, "abi", path, sizeof(path)))
		return false;
	fd = bpf_obj_get(path);
	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) || info.value_size != sizeof(abi))
		return false;
	return bpf_map_lookup_elem(fd, &key, &abi) == 0 && abi.version == SLUICE_ABI_VERSION;
}

/* Hands the pinned map to the skeleton if it is exactly the one that we would make. */
static int map_take_over(const struct bpf_sync *s, struct bpf_map *map, const char *name)
{
	int fd __cleanup(fd_close) = -1;
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);
	char path[300];

	if (pin_path(s, name, path, sizeof(path)))
		return -ENAMETOOLONG;
	fd = bpf_obj_get(path);
	if (fd < 0)
		return -ENOENT;
	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	if (info.type != bpf_map__type(map) || info.key_size != bpf_map__key_size(map) ||
	    info.value_size != bpf_map__value_size(map) ||
	    info.max_entries != bpf_map__max_entries(map) ||
	    info.map_flags != bpf_map__map_flags(map))
		return -ESTALE;
	return bpf_map__reuse_fd(map, fd);
}

static int map_pin(const struct bpf_sync *s, struct bpf_map *map, const char *name)
{
	char path[300];

	if (pin_path(s, name, path, sizeof(path)))
		return -ENAMETOOLONG;
	unlink(path);
	return bpf_obj_pin(bpf_map__fd(map), path) ? -errno : 0;
}

static int maps_load(struct bpf_sync *s)
{
	struct sluice_abi abi = {.version = SLUICE_ABI_VERSION};
	bool same_abi = !s->succeeds && pinned_abi_matches(s);
	bool taken[AREAS] = {false};
	struct bpf_map *maps[AREAS];
	__u32 key = 0;
	int err;

	maps[AREA_ENDPOINTS] = s->skel->maps.endpoints;
	maps[AREA_LOAD] = s->skel->maps.endpoint_load;
	maps[AREA_AFFINITY] = s->skel->maps.kv_affinity;
	err = bpf_map__set_max_entries(
		maps[AREA_AFFINITY],
		(__u32)(s->areas[AREA_AFFINITY].bytes / sizeof(struct sluice_affinity_bucket)));
	for (int i = 0; i < AREAS && same_abi && !err; i++)
		taken[i] = map_take_over(s, maps[i], area_pins[i]) == 0;
	if (!err)
		err = sluice_bpf__load(s->skel);
	for (int i = 0; i < AREAS && !err; i++)
		if (!taken[i])
			err = map_pin(s, maps[i], area_pins[i]);
	if (!err && bpf_map_update_elem(bpf_map__fd(s->skel->maps.abi), &key, &abi, BPF_ANY))
		err = -errno;
	return err ? err : map_pin(s, s->skel->maps.abi, "abi"); /* last: it vouches for the rest */
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static int area_map(struct area *a, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *mem;

	a->mapped = (a->bytes + page - 1) / page * page;
	mem = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (mem == MAP_FAILED)
		return -errno;
	a->mem = mem;
	return 0;
}

static void areas_unmap(struct bpf_sync *s)
{
	for (int i = 0; i < AREAS; i++)
		if (s->areas[i].mem)
			munmap(s->areas[i].mem, s->areas[i].mapped);
	for (int i = 0; i < AREAS; i++)
		s->areas[i].mem = NULL;
}

static int areas_map_kernel(struct bpf_sync *s)
{
	int err = area_map(&s->areas[AREA_ENDPOINTS], bpf_map__fd(s->skel->maps.endpoints));

	if (!err)
		err = area_map(&s->areas[AREA_LOAD], bpf_map__fd(s->skel->maps.endpoint_load));
	if (!err)
		err = area_map(&s->areas[AREA_AFFINITY], bpf_map__fd(s->skel->maps.kv_affinity));
	for (int i = 0; i < AREAS && !err; i++)
		memset(s->areas[i].mem, 0, s->areas[i].bytes);
	return err;
}

/* ---- the text views ---------------------------------------------------------------------------
 */

static int view_pin(const struct bpf_sync *s, const struct bpf_program *prog,
		    const struct bpf_map *map, const char *name)
{
	union bpf_iter_link_info info = {.map.map_fd = (__u32)bpf_map__fd(map)};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));
	struct bpf_link *link;
	char path[300];
	int err;

	if (pin_path(s, name, path, sizeof(path)))
		return -ENAMETOOLONG;
	link = bpf_program__attach_iter(prog, &opts);
	if (!link)
		return -errno;
	unlink(path);
	err = bpf_link__pin(link, path);
	bpf_link__destroy(link); /* the pin keeps it */
	return err;
}

static int views_pin(struct bpf_sync *s)
{
	int err = view_pin(s, s->skel->progs.show_endpoints, s->skel->maps.endpoints,
			   "show/endpoints");

	return err ? err
		   : view_pin(s, s->skel->progs.show_affinity, s->skel->maps.kv_affinity,
			      "show/affinity");
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static void kernel_release(struct bpf_sync *s)
{
	areas_unmap(s);
	if (s->skel)
		sluice_bpf__destroy(s->skel);
	s->skel = NULL;
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	s->lock_fd = -1;
}

static int kernel_acquire(struct bpf_sync *s)
{
	int err;

	libbpf_set_print(print_libbpf);
	s->failed = "the bpffs directory";
	err = dir_prepare(s);
	if (err)
		return err;
	s->failed = "the BPF programs";
	s->skel = sluice_bpf__open();
	if (!s->skel)
		return -errno;
	s->failed = "the maps";
	err = maps_load(s);
	if (!err)
		err = areas_map_kernel(s);
	if (err)
		return err;
	s->failed = "the text views";
	return views_pin(s);
}

static int anonymous_acquire(struct bpf_sync *s)
{
	int err = 0;

	for (int i = 0; i < AREAS && !err; i++)
		err = area_map(&s->areas[i], -1);
	return err;
}

static int sync_new(const struct config *cfg, int lock_fd, struct bpf_sync **ret)
{
	struct bpf_sync *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->lock_fd = lock_fd;
	s->succeeds = lock_fd >= 0;
	snprintf(s->dir, sizeof(s->dir), "%s", cfg->bpffs_dir ? cfg->bpffs_dir : "");
	s->areas[AREA_ENDPOINTS].bytes = ENDPOINTS_MAX * sizeof(struct sluice_endpoint);
	s->areas[AREA_LOAD].bytes = ENDPOINTS_MAX * sizeof(struct sluice_endpoint_load);
	s->areas[AREA_AFFINITY].bytes = cfg->affinity_bytes_max /
					sizeof(struct sluice_affinity_bucket) *
					sizeof(struct sluice_affinity_bucket);
	err = cfg->bpf ? kernel_acquire(s) : -ECANCELED;
	if (err) {
		kernel_release(s);
		if (cfg->bpf)
			log_warn("no BPF maps, plain memory instead: %s at %s: %s%s", s->failed,
				 s->dir, strerror(-err),
				 err == -EBUSY ? " (another sluiced owns it)" : "");
		else
			log_info("no BPF maps by --no-bpf: plain memory instead");
		err = anonymous_acquire(s);
	}
	if (err) {
		bpf_sync_free(s);
		return err;
	}
	*ret = s;
	return 0;
}

int bpf_sync_new(const struct config *cfg, struct bpf_sync **ret)
{
	return sync_new(cfg, -1, ret);
}

int bpf_sync_succeed(const struct config *cfg, int lock_fd, struct bpf_sync **ret)
{
	return sync_new(cfg, lock_fd, ret);
}

int bpf_sync_lock_fd(const struct bpf_sync *s)
{
	return s->lock_fd;
}

void bpf_sync_free(struct bpf_sync *s)
{
	if (!s)
		return;
	kernel_release(s);
	free(s);
}

struct sluice_endpoint *bpf_sync_endpoints(struct bpf_sync *s)
{
	return s->areas[AREA_ENDPOINTS].mem;
}

struct sluice_endpoint_load *bpf_sync_load(struct bpf_sync *s)
{
	return s->areas[AREA_LOAD].mem;
}

void *bpf_sync_affinity(struct bpf_sync *s, size_t *ret_bytes)
{
	*ret_bytes = s->areas[AREA_AFFINITY].bytes;
	return s->areas[AREA_AFFINITY].mem;
}

bool bpf_sync_in_kernel(const struct bpf_sync *s)
{
	return s->skel != NULL;
}
