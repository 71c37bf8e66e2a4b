/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks engines what the gateway must know to follow their caches: where they tell of them, and how
 * their chat template glues a prompt. A thread of its own that may wait for answers; no request
 * ever waits for it.
 */
#ifndef SLUICE_CONTROLPLANE_KV_LEARNER_H
#define SLUICE_CONTROLPLANE_KV_LEARNER_H

#include "controlplane/kv_listener.h"

struct kv_learner;

int kv_learner_start(struct kv_shared *shared, struct kv_learner **ret);
void kv_learner_stop(struct kv_learner *l);

#endif
