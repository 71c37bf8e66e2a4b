/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why prompts are not in the cache of the endpoint that they went to, by model and tenant: bytes of
 * prompt, split by cause at the moment of each pick. Any thread adds; relaxed figures.
 */
#ifndef SLUICE_KV_KV_LOSSES_H
#define SLUICE_KV_KV_LOSSES_H

#include <stdatomic.h>

#include "kv/kv_index.h"

enum kv_loss {
	KV_LOSS_NONE,	 /* in the chosen endpoint's cache */
	KV_LOSS_ROUTED,	 /* another candidate held more: passed over, for its load or otherwise */
	KV_LOSS_EVICTED, /* the next block was held once, by whomever */
	KV_LOSS_DIFFERS, /* others went on with another text */
	KV_LOSS_COLD,	 /* nobody ever came so far */
	KV_LOSSES
};

struct kv_losses {
	_Atomic uint64_t prompts, bytes[KV_LOSSES];
	_Atomic uint64_t differing, differs_at; /* prompts; sum of offsets where they part */
	/* The offset at which most of them part, if one has the majority (Boyer and Moore's vote).
	 */
	_Atomic uint64_t vote; /* offset << 32 | votes */
};

/* A tenant's share of a model's losses. */
struct kv_tenant {
	_Atomic uint64_t hash;	/* of its name; 0: free */
	_Atomic uint32_t ready; /* its name can be read */
	char name[TENANT_NAME_BYTES_MAX];
	struct kv_losses losses;
};

struct kv_losses_model {
	struct kv_losses all;
	struct kv_tenant tenants[KV_TENANTS_MAX]; /* from the front; further ones: only in all */
};

/* The tenant's place, made if there is room; NULL: there is none. Any thread. */
struct kv_losses *kv_losses_tenant(struct kv_losses_model *m, struct span tenant);
/* Where most differing prompts part. False: at no place in particular. */
bool kv_losses_offset(const struct kv_losses *l, uint32_t *ret);

/* l and, if it is not NULL, tenant. best, chosen: bytes that the candidate holding most, and the
 * chosen one, hold. */
void kv_losses_note(struct kv_losses *l, struct kv_losses *tenant, const struct kv_index *ix,
		    const struct kv_prompt *prompt, uint32_t best, uint32_t chosen);

extern const char *const kv_loss_names[KV_LOSSES];

#endif
