/* SPDX-License-Identifier: Apache-2.0 */
/* Any text is a profile or an error with a sentence; what parses has finite weights. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), *error = NULL;
	struct profile profile;

	if (!text)
		return 0;
	if (profile_parse(&profile, text, &error) == 0) {
		assert(profile.picker.type && !error);
		for (unsigned int i = 0; i < profile.scorer_count; i++)
			assert(isfinite(profile.scorers[i].weight));
	} else {
		assert(error && *error);
	}
	profile_fini(&profile);
	free(error);
	free(text);
	return 0;
}
