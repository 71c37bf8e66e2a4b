/* SPDX-License-Identifier: Apache-2.0 */
/* sluicectl upgrade: another sluiced takes over from the running one, and nobody notices. */
#ifndef SLUICECTL_UPGRADE_H
#define SLUICECTL_UPGRADE_H

#include <jansson.h>

/* One exchange with the admin port: its answer, to be given back, or NULL. Says nothing. */
typedef json_t *(*upgrade_ask)(const char *method, const char *path, int *ret_status);

/* Starts it and waits until the successor answers. Returns the exit status. */
int upgrade_run(upgrade_ask ask, int json);

#endif
