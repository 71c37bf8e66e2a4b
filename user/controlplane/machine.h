/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds out what the machine can do, once, beside the start: a child process (--probe-machine)
 * makes network namespaces of its own, tries, and ends; the namespaces end with it. Nothing of the
 * host is touched, and nothing waits for the results (base/machine.h).
 */
#ifndef SLUICE_CONTROLPLANE_MACHINE_H
#define SLUICE_CONTROLPLANE_MACHINE_H

#include <stdio.h>

#include "base/config.h"

struct machine;
struct interfaces;

/* Starts the tests; with --no-bpf there are none. NULL when that fails, logged: all is unknown. */
struct machine *machine_new(const struct config *cfg);
/* Ends the child if it still runs. NULL is fine. */
void machine_free(struct machine *m);

/*
 * {"known":…,"kernel":…,"features":[{name,state,text,found}],"paths":[{name,available,why}],
 * "interfaces":[…]}. Any thread; m and ifs may be NULL.
 */
void machine_write_json(struct machine *m, struct interfaces *ifs, FILE *f);
/* sluice_machine_feature{feature} and sluice_path_available{path}: 1, 0, or -1 unknown. */
void machine_write_metrics(FILE *f);

/* The child: makes the tests and prints a line for each, "name<TAB>yes|no|unknown<TAB>found". 0. */
int machine_probe(const struct config *cfg, FILE *f);

#endif
