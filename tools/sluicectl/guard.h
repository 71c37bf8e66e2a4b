/* SPDX-License-Identifier: Apache-2.0 */
/* sluicectl guard: reads and writes the guard's pinned maps; works while the agent is stopped. */
#ifndef SLUICECTL_GUARD_H
#define SLUICECTL_GUARD_H

#include <stdbool.h>

/* words: what stands after "guard". Returns the exit status; 2 is a usage error, told on stderr. */
int guard_command(const char *bpffs_dir, bool json, int count, const char *const *words);
/* One line for each form, for --help. */
void guard_help(void);

#endif
