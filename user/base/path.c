/* SPDX-License-Identifier: Apache-2.0 */
/* Paths and refusals as text: one table each. */
#include "base/path.h"

static const char *const names[PATHS] = {"relay", "steer", "splice"};

static const struct {
	const char *name, *text;
} refusals[PATH_REFUSALS] = {
	{"", ""},
#define REFUSAL(id, name, text) {name, text},
#include "base/path_refusals.h"
#undef REFUSAL
};

const char *path_name(unsigned int path)
{
	return path < PATHS ? names[path] : "";
}

const char *path_refusal_name(unsigned int refusal)
{
	return refusal < PATH_REFUSALS ? refusals[refusal].name : "";
}

const char *path_refusal_text(unsigned int refusal)
{
	return refusal < PATH_REFUSALS ? refusals[refusal].text : "";
}
