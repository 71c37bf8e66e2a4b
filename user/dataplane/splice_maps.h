/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The splice's programs and maps as the agent uses them: loaded once, pinned, attached to
 * interfaces. All pins lie in BPFFS/splice and outlive the agent; a new agent takes the maps over
 * and gives its programs to the links that are there, so that no packet of a running flow is lost.
 */
#ifndef SLUICE_DATAPLANE_SPLICE_MAPS_H
#define SLUICE_DATAPLANE_SPLICE_MAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/config.h"
#include "sluice/splice.h"

/* Once, before any thread. -errno, logged: EPERM no rights, ENOTSUP an old kernel. */
int splice_maps_open(const struct config *cfg);
void splice_maps_close(void);

/* Hooks an interface of this network namespace; 0 also if it is hooked already. -errno. */
int splice_maps_attach(int ifindex, const char *name);
/* gone: the interface is no more. */
void splice_maps_detach(const char *name, bool gone);
/* How many interfaces are hooked. Any thread. */
unsigned int splice_maps_attached(void);

/* Runs the syscall program; c->result and c->state are its answer. -errno: it did not run. */
int splice_control(struct sluice_control *c);

/* -ENOENT: no such element. Any thread. */
int splice_leg_read(const struct sluice_flow_key *key, struct sluice_leg *ret);
int splice_flow_read(const struct sluice_flow_key *key, struct sluice_flow *ret);
bool splice_flow_exists(const struct sluice_flow_key *key);
int splice_note_write(const struct sluice_flow_key *client, const struct sluice_flow_note *note);
int splice_note_read(const struct sluice_flow_key *client, struct sluice_flow_note *ret);
/* The account is closed: an agent that meets the flow in its grace time has nothing to tell. */
void splice_note_delete(const struct sluice_flow_key *client);

/*
 * The next flows, at most SPLICE_WALK; first: from the beginning. Returns how many; *ret_more:
 * call again. One reader.
 */
unsigned int splice_flows_walk(bool first, struct sluice_flow *ret, bool *ret_more);
#define SPLICE_WALK 128

/* When the agent of that number was last alive, CLOCK_MONOTONIC ns; 0 never. */
uint64_t splice_owner_seen(uint32_t owner);
void splice_owner_alive(uint32_t owner, uint64_t now_ns);
void splice_owner_forget(uint32_t owner);

/* The ring of ends: fd for a ring buffer reader. */
int splice_events_fd(void);

/* Prometheus text of the programs' counters. */
void splice_maps_write_metrics(FILE *f);

#endif
