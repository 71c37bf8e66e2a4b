/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of a plugin: from YAML or from words, checked against the rows of its type. */
#ifndef SLUICE_SCHEDULER_CONFIG_PARAMS_H
#define SLUICE_SCHEDULER_CONFIG_PARAMS_H

#include "scheduler/config/tree.h"
#include "scheduler/plugin.h"

/*
 * Reads the `parameters` of an instance into p (after plugin_init()). parameters may be NULL. An
 * unknown name is refused with the list of known ones. Names are case-insensitive. -EINVAL,
 * -ENOMEM.
 */
int params_read(struct plugin *p, const struct node *parameters, struct complaint *c);

/* One parameter by name, value as text. -EINVAL, -ENOMEM. */
int param_set(struct plugin *p, const char *name, const char *value, struct complaint *c);

/* Appends a rule. values is "a|b" or NULL. -EINVAL, -ENOMEM. */
int plugin_add_rule(struct plugin *p, enum label_op op, const char *key, const char *values,
		    const struct node *at, struct complaint *c);

/* "1m30s", "200ms" as Go writes times, in ms; "64Mi", "1500m" as Kubernetes writes amounts. */
int duration_read(const char *text, double *ret_ms);
int quantity_read(const char *text, double *ret);

#endif
