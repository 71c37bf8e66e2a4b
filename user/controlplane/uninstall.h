/* SPDX-License-Identifier: Apache-2.0 */
/* sluiced --uninstall: everything that a gateway left in the kernel goes. */
#ifndef SLUICE_CONTROLPLANE_UNINSTALL_H
#define SLUICE_CONTROLPLANE_UNINSTALL_H

/*
 * Removes every pin below bpffs_dir and the directory itself: links first, whose last reference
 * detaches the program, then all else. What a running agent still holds goes on until it ends.
 * 0 also if there is none. -ENOTDIR, or -ENOTSUP if the directory is not on a bpffs: nothing is
 * touched then. Else the first -errno; it goes on with the rest.
 */
int uninstall_pins(const char *bpffs_dir);

#endif
