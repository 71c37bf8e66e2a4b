/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model rewrite: a name that clients use stands for one or more models that engines serve, by
 * weight (canaries, aliases). Read once at start, then immutable.
 */
#ifndef SLUICE_DATAPLANE_REWRITE_H
#define SLUICE_DATAPLANE_REWRITE_H

#include "base/config.h"
#include "base/span.h"

struct rewrites;

/*
 * From the texts "FROM=TO[:WEIGHT][,TO[:WEIGHT]]…" of cfg->model_rewrites. -EINVAL with a sentence
 * in error, -ENOMEM. *ret is NULL when there are none.
 */
int rewrites_new(const struct config *cfg, char *error, size_t size, struct rewrites **ret);
void rewrites_free(struct rewrites *r);

/*
 * The target of `model` for a draw in [0, 2^64): the same draw is the same target. Returns it as
 * JSON text with its quotes, or an empty span: not rewritten. r may be NULL.
 */
struct span rewrites_find(const struct rewrites *r, struct span model, uint64_t draw);

#endif
