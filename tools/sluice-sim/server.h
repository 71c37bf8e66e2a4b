/* SPDX-License-Identifier: Apache-2.0 */
/* Listens for all instances and serves until SIGTERM. Returns an exit status. */
#ifndef SLUICE_SIM_SERVER_H
#define SLUICE_SIM_SERVER_H

#include "sluice-sim/sim.h"

int server_run(const struct sim_options *opt);

#endif
