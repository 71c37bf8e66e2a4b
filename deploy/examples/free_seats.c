/* SPDX-License-Identifier: Apache-2.0 */
/* free-seats-scorer: the share of an engine's batch that is free. */
#include "scheduler/plugin.h"

enum {
	SEATS /* the parameters, in the order of the row */
};

void score_free_seats(const struct sched_view *view, const struct plugin *p, float *scores)
{
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];
		double taken = c->running + c->waiting; /* with what the engine has not shown yet */

		scores[i] = (float)(1 - taken / p->params[SEATS]); /* clamped to 0..1 by the caller */
	}
	score_unknown(view, scores); /* stale figures: as bad as the worst known pod */
}
