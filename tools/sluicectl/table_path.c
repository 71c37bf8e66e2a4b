/* SPDX-License-Identifier: Apache-2.0 */
/* sluicectl path: what the machine can do, and so which ways answers can take. */
#include <stdio.h>

#include "sluicectl/tables.h"

static const char *text(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

void table_path(json_t *answer)
{
	json_t *o;
	size_t i;

	printf("%-16s %-9s %s\n", "PATH", "AVAILABLE", "WHY NOT");
	json_array_foreach(json_object_get(answer, "paths"), i, o)
		printf("%-16s %-9s %s\n", text(o, "name"), text(o, "available"), text(o, "why"));
	printf("\n%-16s %-9s %s\n", "INTERFACE", "ATTACHED", "WHY NOT");
	json_array_foreach(json_object_get(answer, "interfaces"), i, o) printf(
		"%-16s %-9s %s\n", text(o, "name"),
		json_is_true(json_object_get(o, "attached")) ? "yes" : "no", text(o, "error"));
	printf("\n%-16s %-9s %-62s %s\n", "FEATURE", "STATE", "WHAT", "FOUND");
	json_array_foreach(json_object_get(answer, "features"), i, o)
		printf("%-16s %-9s %-62s %s\n", text(o, "name"), text(o, "state"), text(o, "text"),
		       text(o, "found"));
	if (!json_is_true(json_object_get(answer, "known")))
		printf("\nThe tests are not at their end yet.\n");
}
