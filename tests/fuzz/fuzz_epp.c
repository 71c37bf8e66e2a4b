/* SPDX-License-Identifier: Apache-2.0 */
/* Any text is a setup whose every reference holds, or an error with a sentence; never both. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "scheduler/config/setup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *error = NULL, *text = NULL;
	struct setup *s = NULL;
	size_t bytes;
	FILE *f;

	if (setup_from_text("f", span_of((const char *)data, size), &s, &error)) {
		assert(!s && error && *error);
		free(error);
		return 0;
	}
	assert(!error && s->profile_count > 0 && s->decode < s->profile_count);
	assert(s->prefill == SETUP_NONE || s->prefill < s->profile_count);
	assert(s->flow.detector < s->plugin_count && s->flow.usage_limit < s->plugin_count);
	for (unsigned int i = 0; i < s->profile_count; i++) {
		const struct profile *p = &s->profiles[i]->profile;

		assert(p->picker.type && p->picker.type->pick);
		for (unsigned int k = 0; k < p->scorer_count; k++)
			assert(p->scorers[k].type->score && isfinite(p->scorers[k].weight));
	}
	f = open_memstream(&text, &bytes);
	setup_explain(f, s, "");
	fclose(f);
	free(text);
	setup_free(s);
	return 0;
}
