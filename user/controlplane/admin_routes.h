/* SPDX-License-Identifier: Apache-2.0 */
/* What the admin port answers; private to admin*.c. */
#ifndef SLUICE_CONTROLPLANE_ADMIN_ROUTES_H
#define SLUICE_CONTROLPLANE_ADMIN_ROUTES_H

#include "base/http1.h"
#include "controlplane/admin.h"

struct admin_answer {
	int status;
	const char *type, *allow; /* allow: set with 405 */
};

/* Writes the body to f and tells the rest. */
void admin_route(const struct config *cfg, const struct admin_ops *ops,
		 const struct http1_head *head, struct span body, FILE *f,
		 struct admin_answer *ret);
/* Does this path read a body? */
bool admin_takes_body(struct span path);

#endif
