/* SPDX-License-Identifier: Apache-2.0 */
/* How a predecessor tells its successor the channel; private to handover*.c. */
#ifndef SLUICE_CONTROLPLANE_HANDOVER_ENV_H
#define SLUICE_CONTROLPLANE_HANDOVER_ENV_H

#define HANDOVER_ENV "SLUICE_HANDOVER_FD" /* the number of a descriptor */

#endif
