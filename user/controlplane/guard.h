/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The XDP guard: loads it, writes its settings, attaches it to the interfaces and pins all of it,
 * so that it goes on while the agent is stopped.
 *
 *   <bpffs_dir>/guard/{guard_deny,guard_budget,guard_settings,guard_counts}  link_<interface>
 *
 * The deny list belongs to whoever writes the pinned map: sluicectl guard, or any other tool.
 */
#ifndef SLUICE_CONTROLPLANE_GUARD_H
#define SLUICE_CONTROLPLANE_GUARD_H

#include <stdio.h>

#include "base/config.h"
#include "base/span.h"
#include "sluice/guard.h"

struct guard;

/*
 * As cfg->guard says: "off" gives NULL; "auto", "native", "generic" or "tc" attach to the
 * interfaces of cfg->guard_interfaces, all that are up but loopback if there are none. An
 * interface that takes no mode is logged and left out. -errno if nothing could be attached.
 */
int guard_new(const struct config *cfg, struct guard **ret);
/* Closes; links and maps stay pinned. NULL is fine. */
void guard_free(struct guard *g);
/* Prometheus text: packets by verdict, interfaces by mode. NULL is fine. */
void guard_write_metrics(const struct guard *g, FILE *f);

/* "10.0.0.0/8", "2001:db8::/32" or an address. -EINVAL if it is none, or has bits past its end. */
int guard_prefix_parse(const char *text, struct sluice_guard_prefix *ret);
/* The reverse; buf holds at least 64 bytes. */
void guard_prefix_format(const struct sluice_guard_prefix *prefix, char *buf, size_t size);
/* "passed", "denied", …: label value and column of each enum sluice_guard_verdict. */
const char *guard_verdict_name(unsigned int verdict);
/* Sums over CPUs of the pinned or open map guard_counts. counts has SLUICE_GUARD_VERDICTS. */
int guard_counts_read(int map_fd, struct sluice_guard_count *ret_counts);
/* Settings from rates (per second, 0: none) and bursts (packets). */
void guard_settings_rates(struct sluice_guard_settings *s, uint64_t syns, uint64_t syn_burst,
			  uint64_t packets, uint64_t packet_burst);

#endif
