/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scheduling profile: filters, then scorers with weights, then one picker.
 *
 *   queue-scorer=2,prefix-cache-scorer=3:matchLengthWeight=0.2,label-selector-filter:gpu=a|b:!spot
 *
 * Items are separated by commas; =WEIGHT (default 1) belongs to scorers; each :NAME=VALUE is a
 * parameter, or a rule of the label selector. A name of profiles.c ("llm-d") stands for its text.
 */
#ifndef SLUICE_SCHEDULER_PROFILE_H
#define SLUICE_SCHEDULER_PROFILE_H

#include "scheduler/plugin.h"

struct profile {
	struct plugin filters[PLUGINS_MAX], scorers[PLUGINS_MAX], picker;
	unsigned int filter_count, scorer_count;
	bool uses_session;
	double weight_sum;
	char *text; /* as written */
};

struct named_profile {
	const char *name, *text;
};

extern const struct named_profile named_profiles[];

/*
 * Fills *profile (profile_fini() it, also after an error). -EINVAL: *ret_error is one malloc()ed
 * sentence that says what and, for an unknown type, lists the known ones.
 */
int profile_parse(struct profile *profile, const char *text, char **ret_error);
void profile_fini(struct profile *profile);

/* Appends a copy to where its type belongs. -E2BIG: a second picker or too many; -ENOMEM. */
int profile_add(struct profile *profile, const struct plugin *plugin);
/* Gives a profile without a picker the best total. */
int profile_complete(struct profile *profile);

#endif
