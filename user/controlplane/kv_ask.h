/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One question to an engine, asked and waited for: GET or POST over a connection of its own. For
 * the learner's thread only; nobody else may wait.
 */
#ifndef SLUICE_CONTROLPLANE_KV_ASK_H
#define SLUICE_CONTROLPLANE_KV_ASK_H

#include <sys/socket.h>

#include "base/endpoint.h"

#define KV_ASK_TIMEOUT_MS 3000
#define KV_ASK_ANSWER_MAX (4 << 20) /* a longer answer is none: -EFBIG */

struct kv_answer {
	int status;
	char *body; /* NUL behind it; free() it */
	size_t len;
};

/* body NULL: GET. 0 with any status, or -errno: no whole answer within KV_ASK_TIMEOUT_MS. */
int kv_ask_http(const struct endpoint *ep, const char *path, const char *body,
		struct kv_answer *ret);

#endif
