/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has which element of steer_flows. A slot that was seen by the program is given out again only
 * when the endpoint's socket has closed: until then that socket's sends still count there.
 */
#ifndef SLUICE_DATAPLANE_STEER_SLOTS_H
#define SLUICE_DATAPLANE_STEER_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "sluice/steer.h"

/* Divides STEER_FLOWS_MAX slots among the workers. Before they run. 0 or -ENOMEM. */
int steer_slots_init(struct sluice_steer_flow *flows, unsigned int workers);
void steer_slots_fini(void);

/* Each by the worker itself. */
bool steer_slots_left(unsigned int worker);
/* A zeroed one, or -ENOSPC. */
int steer_slot_take(unsigned int worker);
void steer_slot_give(unsigned int worker, uint32_t slot);
/* Takes some of those back whose endpoint has closed. Bounded work. */
void steer_slots_sweep(unsigned int worker);

#endif
