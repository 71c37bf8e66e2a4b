/* SPDX-License-Identifier: Apache-2.0 */
/* mm-embeddings-cache-scorer: the share of the request's media items that the pod was sent lately.
 */
#include "scheduler/plugin.h"

void score_media(const struct sched_view *view, const struct plugin *p, float *scores)
{
	(void)p;
	for (uint32_t i = 0; i < view->count; i++)
		scores[i] = view->media_count ? (float)view->candidates[i].media_held /
							(float)view->media_count
					      : 0;
}
