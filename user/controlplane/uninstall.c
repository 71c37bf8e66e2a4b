/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk over the pin directory that knows nothing of who pinned what: a program or map added
 * later cannot be forgotten here. Invariant: it never leaves the bpffs that it began in, so a
 * mistaken --bpffs-dir costs nobody a file.
 */
#include "controlplane/uninstall.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"

#define DEPTH_MAX 16

/* nftw() has no argument of its own; one uninstall runs in a process. */
static bool links_only;
static int first_error;

/* A pinned link opens as an anonymous file of that name; what cannot be opened is no link. */
static bool is_link(const char *path)
{
	int fd __cleanup(fd_close) = bpf_obj_get(path);
	char self[64], what[64] = "";

	if (fd < 0)
		return false;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return readlink(self, what, sizeof(what) - 1) > 0 && strstr(what, "bpf_link");
}

static int entry_remove(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)at;
	if (links_only && (kind == FTW_DP || !is_link(path)))
		return 0;
	if (remove(path) && errno != ENOENT && !first_error)
		first_error = -errno;
	return 0;
}

int uninstall_pins(const char *bpffs_dir)
{
	struct statfs fs;

	if (statfs(bpffs_dir, &fs))
		return errno == ENOENT ? 0 : -errno;
	if (fs.f_type != BPF_FS_MAGIC)
		return -ENOTSUP;
	first_error = 0;
	for (int pass = 0; pass < 2; pass++) {
		links_only = pass == 0;
		if (nftw(bpffs_dir, entry_remove, DEPTH_MAX, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) &&
		    !first_error)
			first_error = -errno;
	}
	return first_error;
}
