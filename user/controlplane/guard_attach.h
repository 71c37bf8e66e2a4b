/* SPDX-License-Identifier: Apache-2.0 */
/* One interface of the guard: which mode it takes, its link and the link's pin. */
#ifndef SLUICE_CONTROLPLANE_GUARD_ATTACH_H
#define SLUICE_CONTROLPLANE_GUARD_ATTACH_H

#include <net/if.h>
#include <stdbool.h>

enum guard_mode {
	GUARD_AUTO, /* as a wish only: the best that the interface takes */
	GUARD_NATIVE,
	GUARD_GENERIC,
	GUARD_TC,
	GUARD_MODES
};

struct guard_progs {
	int xdp_fd, tc_fd;
};

const char *guard_mode_name(enum guard_mode mode);
/* -EINVAL for anything but auto, native, generic, tc. */
int guard_mode_parse(const char *text, enum guard_mode *ret);

/* Behind it is hardware: native XDP pays there, and only there. */
bool guard_interface_is_physical(const char *name);

/*
 * Attaches, or exchanges the program of the link that is pinned at pin_path already (without a
 * moment unguarded). GUARD_AUTO tries native on hardware, then generic, then tc. The link is
 * pinned. The mode it got is in *ret_mode.
 */
int guard_attach(const struct guard_progs *progs, const char *name, enum guard_mode wish,
		 const char *pin_path, enum guard_mode *ret_mode);

#endif
