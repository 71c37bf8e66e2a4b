/* SPDX-License-Identifier: Apache-2.0 */
/* What needs no packet: version, rights, types, loading. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "controlplane/machine_probes.h"

#include "probe.skel.h"

#define BPFFS_MOUNT "/sys/fs/bpf"

enum machine_state probe_kernel(struct probe_context *ctx, char *found)
{
	unsigned int major = 0, minor = 0;
	struct utsname u;

	(void)ctx;
	if (uname(&u) || sscanf(u.release, "%u.%u", &major, &minor) != 2)
		return probe_says(MACHINE_UNKNOWN, found, "no version");
	return probe_says(major > 5 || (major == 5 && minor >= 15) ? MACHINE_YES : MACHINE_NO,
			  found, "%s", u.release);
}

enum machine_state probe_capabilities(struct probe_context *ctx, char *found)
{
	static const struct {
		unsigned int bit;
		const char *name;
		bool needed;
	} wanted[] = {{CAP_BPF, "BPF", true},
		      {CAP_NET_ADMIN, "NET_ADMIN", true},
		      {CAP_PERFMON, "PERFMON", true},
		      {CAP_SYS_ADMIN, "SYS_ADMIN", false},
		      {CAP_SYS_RESOURCE, "SYS_RESOURCE", false}};
	FILE *f __cleanup(file_close) = fopen("/proc/self/status", "re");
	unsigned long long held = 0;
	bool lacks = false;
	char line[256];

	(void)ctx;
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &held) == 1)
			break;
	probe_says(MACHINE_NO, found, "held:");
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		size_t n = strlen(found);

		if (held >> wanted[i].bit & 1)
			snprintf(found + n, PROBE_FOUND_BYTES - n, " %s", wanted[i].name);
		else
			lacks |= wanted[i].needed;
	}
	return lacks ? MACHINE_NO : MACHINE_YES;
}

enum machine_state probe_btf(struct probe_context *ctx, char *found)
{
	bool there = access("/sys/kernel/btf/vmlinux", R_OK) == 0;

	(void)ctx;
	return probe_says(there ? MACHINE_YES : MACHINE_NO, found, "/sys/kernel/btf/vmlinux%s",
			  there ? "" : " cannot be read");
}

/* The pin directory, or where it will be made. */
enum machine_state probe_bpffs(struct probe_context *ctx, char *found)
{
	const char *dir = ctx->cfg->bpffs_dir ? ctx->cfg->bpffs_dir : BPFFS_MOUNT;
	struct statfs fs;

	if (statfs(dir, &fs))
		dir = BPFFS_MOUNT;
	if (statfs(dir, &fs) || fs.f_type != BPF_FS_MAGIC)
		return probe_says(MACHINE_NO, found, "none at %s", dir);
	if (access(dir, W_OK))
		return probe_says(MACHINE_NO, found, "%s cannot be written", dir);
	return probe_says(MACHINE_YES, found, "%s", dir);
}

enum machine_state probe_load(struct probe_context *ctx, char *found)
{
	ctx->skel = probe_bpf__open_and_load();
	if (ctx->skel)
		return probe_says(MACHINE_YES, found, "tc, xdp, sk_msg, sock_ops");
	return probe_says(MACHINE_NO, found, "%s", strerror(errno));
}

enum machine_state probe_ring_buffer(struct probe_context *ctx, char *found)
{
	long page = sysconf(_SC_PAGESIZE);
	int fd __cleanup(fd_close) = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "sluice_probe", 0, 0,
						    (unsigned int)page, NULL);
	void *p;

	(void)ctx;
	if (fd < 0)
		return probe_says(MACHINE_NO, found, "%s", strerror(errno));
	p = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, fd, page);
	if (p == MAP_FAILED)
		return probe_says(MACHINE_NO, found, "it cannot be mapped: %s", strerror(errno));
	munmap(p, (size_t)page);
	return MACHINE_YES;
}
