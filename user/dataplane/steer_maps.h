/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the steer programs and holds their maps. The programs live as long as this process. */
#ifndef SLUICE_DATAPLANE_STEER_MAPS_H
#define SLUICE_DATAPLANE_STEER_MAPS_H

#include <stdint.h>

#include "base/config.h"
#include "sluice/steer.h"

struct steer_maps {
	struct sluice_steer_flow *flows; /* STEER_FLOWS_MAX of them, mmaped */
	int owner_fd, clients_fd, tails_fd;
	struct steer_bpf *skel;
};

/*
 * Loads, attaches to the root of the cgroup2 hierarchy. Before the workers run. 0 or -errno: -EPERM
 * without CAP_BPF and CAP_NET_ADMIN, -ENOENT where no cgroup2 is mounted, what libbpf says else.
 */
int steer_maps_open(struct steer_maps *m, const struct config *cfg);
void steer_maps_close(struct steer_maps *m);

/* Whose socket fd is; the program finds the flow by it. 0 or -errno. */
int steer_own(const struct steer_maps *m, int fd, uint32_t slot, enum sluice_steer_role role);
void steer_disown(const struct steer_maps *m, int fd);
/* Makes the client's socket a target. *ret_cookie: its name there. 0 or -errno. */
int steer_add_client(const struct steer_maps *m, int fd, uint64_t *ret_cookie);

/* From now on the ends of messages are kept. 0 or -errno. */
int steer_tail_begin(const struct steer_maps *m, uint32_t slot);
/* Takes what was kept. -ENOENT: nothing was. */
int steer_tail_end(const struct steer_maps *m, uint32_t slot, struct sluice_steer_tail *ret);

#endif
