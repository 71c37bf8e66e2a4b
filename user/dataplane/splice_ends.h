/* SPDX-License-Identifier: Apache-2.0 */
/* Ends of spliced flows on their way from the sweep's thread to the workers. */
#ifndef SLUICE_DATAPLANE_SPLICE_ENDS_H
#define SLUICE_DATAPLANE_SPLICE_ENDS_H

#include "dataplane/splice.h"
#include "dataplane/worker.h"

/* The worker's next end. False: there is none. Its own thread. */
bool splice_end_next(unsigned int worker, struct splice_end *ret);
/* The account of a flow whose agent is gone, from its note. On worker 0. */
void splice_orphan_account(struct worker *w, const struct splice_end *end);

#endif
