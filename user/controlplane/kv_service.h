/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that follows the engines' caches, as main.c sees it: index, models, the thread that
 * hears and the thread that asks.
 */
#ifndef SLUICE_CONTROLPLANE_KV_SERVICE_H
#define SLUICE_CONTROLPLANE_KV_SERVICE_H

#include <stdio.h>

#include "base/config.h"
#include "controlplane/store.h"
#include "kv/kv_index.h"
#include "kv/kv_models.h"
#include "kv/kv_trust.h"

struct kv_service;

/*
 * Starts it, if config names a tokenizer and kv_events is not off; else *ret is NULL. -EINVAL (a
 * setting) or another -errno, with a sentence in ret_error.
 */
int kv_service_new(const struct config *config, struct store *store, struct kv_service **ret,
		   char *ret_error, size_t error_bytes);
/* A successor hears the engines from now on; what is known stays until the end. NULL is fine. */
void kv_service_deafen(struct kv_service *s);
/* Ends both threads. Workers must have ended before. NULL is fine. */
void kv_service_free(struct kv_service *s);

struct kv_index *kv_service_index(struct kv_service *s);
struct kv_models *kv_service_models(struct kv_service *s);

/* Who holds how much of a request's prompt (kv_explain.h). s may be NULL. */
int kv_service_explain(struct kv_service *s, const struct kv_trust *trust,
		       const struct endpoint_snapshot *snap, struct span body, FILE *f);

/* ,"models":[…]: each one's state and where its prompts' bytes were lost. Nothing without s. */
void kv_service_write_losses(struct kv_service *s, FILE *f);

/* Prometheus text: the index's figures, the state of each model, blocks of each endpoint, and
 * how far what was expected of it came true. */
void kv_service_write_metrics(struct kv_service *s, const struct kv_trust *trust, FILE *f);

#endif
