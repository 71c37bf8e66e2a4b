/* SPDX-License-Identifier: Apache-2.0 */
/* One word a feature; written once by one thread, read by all. */
#include "base/machine.h"

#include <stdatomic.h>

static _Atomic int states[MACHINE_FEATURES];
static _Atomic bool known;

static const char *const names[MACHINE_FEATURES] = {
#define FEATURE(id, name, text) name,
#include "base/machine_features.h"
#undef FEATURE
};

static const char *const texts[MACHINE_FEATURES] = {
#define FEATURE(id, name, text) text,
#include "base/machine_features.h"
#undef FEATURE
};

enum machine_state machine_feature(enum machine_feature feature)
{
	return (enum machine_state)atomic_load_explicit(&states[feature], memory_order_relaxed);
}

bool machine_is_known(void)
{
	return atomic_load_explicit(&known, memory_order_acquire);
}

const char *machine_feature_name(enum machine_feature feature)
{
	return names[feature];
}

const char *machine_feature_text(enum machine_feature feature)
{
	return texts[feature];
}

void machine_feature_set(enum machine_feature feature, enum machine_state state)
{
	atomic_store_explicit(&states[feature], (int)state, memory_order_relaxed);
}

void machine_known_set(void)
{
	atomic_store_explicit(&known, true, memory_order_release);
}

/* NO wins over UNKNOWN, which wins over YES. */
static enum machine_state all_of(const enum machine_feature *list, unsigned int count,
				 enum machine_feature *ret_lacks)
{
	enum machine_state worst = MACHINE_YES;

	for (unsigned int i = 0; i < count; i++) {
		enum machine_state s = machine_feature(list[i]);

		if (s == MACHINE_YES || worst == MACHINE_NO || s == worst)
			continue;
		worst = s;
		*ret_lacks = list[i];
	}
	return worst;
}

enum machine_state machine_steer(enum machine_feature *ret_lacks)
{
	static const enum machine_feature needs[] = {MACHINE_KERNEL, MACHINE_CAPABILITIES,
						     MACHINE_LOAD, MACHINE_SK_MSG,
						     MACHINE_SOCK_OPS};

	return all_of(needs, sizeof(needs) / sizeof(needs[0]), ret_lacks);
}

enum machine_state machine_splice(enum machine_feature *ret_lacks)
{
	static const enum machine_feature needs[] = {MACHINE_KERNEL,	  MACHINE_CAPABILITIES,
						     MACHINE_LOAD,	  MACHINE_RING_BUFFER,
						     MACHINE_TC_REDIRECT, MACHINE_TCX};

	return all_of(needs, sizeof(needs) / sizeof(needs[0]), ret_lacks);
}
