/* SPDX-License-Identifier: Apache-2.0 */
/* The path of endpoints on this kernel: a row of path.c's table. */
#ifndef SLUICE_DATAPLANE_STEER_H
#define SLUICE_DATAPLANE_STEER_H

#include "dataplane/path.h"
#include "dataplane/steer_maps.h"

extern const struct path_ops steer_ops;

#endif
