/* SPDX-License-Identifier: Apache-2.0 */
/* header-label-affinity-scorer: 1 where the pod's label equals the request's header, else 0. */
#include "scheduler/plugin.h"

enum {
	HEADER,
	LABEL
};

void score_header_label(const struct sched_view *view, const struct plugin *p, float *scores)
{
	struct span wanted = request_header(view->request, plugin_text(p, HEADER));

	for (uint32_t i = 0; i < view->count; i++) {
		const char *label =
			endpoint_label(view->candidates[i].endpoint, plugin_text(p, LABEL));

		scores[i] = wanted.len && label && span_eq(wanted, span_of_str(label));
	}
}
