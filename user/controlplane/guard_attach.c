/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One interface, one link. Native XDP only on hardware: on veth it costs TCP three quarters of its
 * bulk rate. The self-test of a driver is the interface itself: it must keep its carrier.
 */
#include "controlplane/guard_attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/span.h"

#define TCX_INGRESS	46 /* BPF_TCX_INGRESS, Linux 6.6; absent from older headers */
#define CARRIER_WAIT_MS 2000
#define CARRIER_LOOK_MS 20

static const char *const mode_names[GUARD_MODES] = {"auto", "native", "generic", "tc"};

const char *guard_mode_name(enum guard_mode mode)
{
	return mode_names[mode];
}

int guard_mode_parse(const char *text, enum guard_mode *ret)
{
	for (int i = 0; i < GUARD_MODES; i++)
		if (strcmp(text, mode_names[i]) == 0) {
			*ret = (enum guard_mode)i;
			return 0;
		}
	return -EINVAL;
}

bool guard_interface_is_physical(const char *name)
{
	char path[64 + IF_NAMESIZE];

	snprintf(path, sizeof(path), "/sys/class/net/%s/device", name);
	return access(path, F_OK) == 0;
}

static bool has_carrier(const char *name)
{
	FILE *f __cleanup(file_close) = NULL;
	char path[64 + IF_NAMESIZE];

	snprintf(path, sizeof(path), "/sys/class/net/%s/carrier", name);
	f = fopen(path, "re");
	return f && fgetc(f) == '1';
}

/* A driver that restarts its queues for XDP loses the carrier for a moment; it must come back. */
static bool carrier_survives(const char *name)
{
	for (int waited = 0; waited <= CARRIER_WAIT_MS; waited += CARRIER_LOOK_MS) {
		usleep(CARRIER_LOOK_MS * 1000);
		if (has_carrier(name))
			return true;
	}
	return false;
}

static int link_make(const struct guard_progs *progs, const char *name, enum guard_mode mode)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts);
	int ifindex = (int)if_nametoindex(name), fd;
	bool carrier = mode == GUARD_NATIVE && has_carrier(name);

	if (!ifindex)
		return -ENODEV;
	if (mode == GUARD_TC)
		fd = bpf_link_create(progs->tc_fd, ifindex, (enum bpf_attach_type)TCX_INGRESS,
				     NULL);
	else {
		opts.flags = mode == GUARD_NATIVE ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
		fd = bpf_link_create(progs->xdp_fd, ifindex, BPF_XDP, &opts);
	}
	if (fd < 0)
		return -errno;
	if (carrier && !carrier_survives(name)) {
		close(fd);
		return -ENETDOWN;
	}
	return fd;
}

/* True if the pinned link could be given the new program: nothing was unguarded meanwhile. */
static bool link_update(const struct guard_progs *progs, const char *name, enum guard_mode mode,
			const char *pin_path)
{
	int fd __cleanup(fd_close) = bpf_obj_get(pin_path);
	struct bpf_link_info info = {0};
	__u32 len = sizeof(info);

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len))
		return false;
	if ((info.type == BPF_LINK_TYPE_XDP) != (mode != GUARD_TC) ||
	    (info.type == BPF_LINK_TYPE_XDP && info.xdp.ifindex != if_nametoindex(name)))
		return false;
	return bpf_link_update(fd, mode == GUARD_TC ? progs->tc_fd : progs->xdp_fd, NULL) == 0;
}

static int attach_as(const struct guard_progs *progs, const char *name, enum guard_mode mode,
		     const char *pin_path)
{
	int fd __cleanup(fd_close) = -1;

	fd = link_make(progs, name, mode);
	if (fd < 0)
		return fd;
	return bpf_obj_pin(fd, pin_path) ? -errno : 0;
}

int guard_attach(const struct guard_progs *progs, const char *name, enum guard_mode wish,
		 const char *pin_path, enum guard_mode *ret_mode)
{
	bool physical = guard_interface_is_physical(name);
	int err = -EOPNOTSUPP;

	for (enum guard_mode mode = GUARD_NATIVE; mode < GUARD_MODES; mode++) {
		if (wish == GUARD_AUTO ? mode == GUARD_NATIVE && !physical : mode != wish)
			continue;
		*ret_mode = mode;
		if (link_update(progs, name, mode, pin_path))
			return 0;
		unlink(pin_path); /* of a mode or an interface that is no more: detaches it */
		err = attach_as(progs, name, mode, pin_path);
		if (!err)
			return 0;
	}
	return err;
}
