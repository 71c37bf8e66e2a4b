/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which endpoint a session is bound to, for 300 s after its last pick.
 * A fixed table, shared by the workers without a lock: 4 places per session, the one that expires
 * first is given to a new session. Losing a binding costs a cache hit, nothing else.
 * A session value that is a token, base64("namespace/endpoint name"), names its endpoint itself.
 */
#ifndef SLUICE_SCHEDULER_SESSIONS_H
#define SLUICE_SCHEDULER_SESSIONS_H

#include "base/endpoint.h"
#include "base/span.h"

#define SESSIONS_MAX  65536
#define SESSION_TTL_S 300

struct sessions;

/* NULL without memory. Free with free(). */
struct sessions *sessions_new(void);

/* The view of the endpoint that the session is bound to, or -1. Any thread. */
int32_t sessions_find(const struct sessions *set, const struct endpoint_snapshot *snap,
		      struct span session, uint64_t now_ns);
/* The token that names the endpoint, base64("default/NAME"). Returns its bytes, <
 * SESSION_TOKEN_MAX. */
#define SESSION_TOKEN_MAX 128
size_t sessions_token(const struct endpoint *ep, char to[SESSION_TOKEN_MAX]);
/* Binds or renews. Any thread. */
void sessions_bind(struct sessions *set, const struct endpoint *ep, struct span session,
		   uint64_t now_ns);

#endif
