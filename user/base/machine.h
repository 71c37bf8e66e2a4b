/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine's kernel can do for us, as self-tests found it (controlplane/machine.c). The
 * paths ask; nothing is known in the first moments after the start, and forever with --no-bpf.
 */
#ifndef SLUICE_BASE_MACHINE_H
#define SLUICE_BASE_MACHINE_H

#include <stdbool.h>

enum machine_feature {
#define FEATURE(id, name, text) MACHINE_##id,
#include "base/machine_features.h"
#undef FEATURE
	MACHINE_FEATURES
};

enum machine_state {
	MACHINE_UNKNOWN, /* not tested, not yet, or the test could not be made */
	MACHINE_YES,
	MACHINE_NO
};

/* Any thread. */
enum machine_state machine_feature(enum machine_feature feature);
/* The tests have ended, however. */
bool machine_is_known(void);
/* "tc-redirect", "packets redirected by tc arrive whole". Never NULL. */
const char *machine_feature_name(enum machine_feature feature);
const char *machine_feature_text(enum machine_feature feature);

/* Written by controlplane/machine.c alone. */
void machine_feature_set(enum machine_feature feature, enum machine_state state);
void machine_known_set(void);

/*
 * Is a path to be had by what is known? steer: sk_msg and sock_ops; splice: tc-redirect and tcx.
 * UNKNOWN if something of it is. *ret_lacks: the first feature that is not YES.
 */
enum machine_state machine_steer(enum machine_feature *ret_lacks);
enum machine_state machine_splice(enum machine_feature *ret_lacks);

#endif
