/* SPDX-License-Identifier: Apache-2.0 */
/* sluicectl flows: reads the splice's pinned maps; works while the agent is stopped. */
#ifndef SLUICE_CTL_FLOWS_H
#define SLUICE_CTL_FLOWS_H

#include <stdbool.h>

/* Prints every spliced flow. Returns the exit status. */
int flows_command(const char *bpffs_dir, bool json);

#endif
