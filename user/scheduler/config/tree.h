/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A YAML document as a tree whose every node knows its line and column, so that a refusal can name
 * the place. Anchors are copied where they are used, within the bounds below. Start time only.
 *
 *   map --first--> node(key, value) --next--> node(key, value)
 *   list --first--> node --next--> node
 */
#ifndef SLUICE_SCHEDULER_CONFIG_TREE_H
#define SLUICE_SCHEDULER_CONFIG_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

#define TREE_BYTES_MAX (1 << 20)
#define TREE_NODES_MAX 16384
#define TREE_DEPTH_MAX 32

enum node_kind {
	NODE_SCALAR,
	NODE_MAP,
	NODE_LIST
};

struct node {
	enum node_kind kind;
	bool plain;	       /* a scalar without quotes */
	uint32_t line, column; /* of its key, if it has one; from 1 */
	char *key;	       /* in a map */
	char *text;	       /* of a scalar */
	struct node *first, *next;
};

/* Where errors go: the name of the file, and the first refusal as one malloc()ed sentence. */
struct complaint {
	const char *file;
	char *text;
};

/* Keeps the first sentence, "FILE:LINE:COLUMN: …". Returns -EINVAL. at may be NULL. */
__attribute__((format(printf, 3, 4))) int complain(struct complaint *c, const struct node *at,
						   const char *fmt, ...);

/* Reads one document. *ret_root is NULL when it is empty. -EINVAL with a complaint, -ENOMEM. */
int tree_read(struct complaint *c, struct span text, struct node **ret_root);
void tree_free(struct node *root);

/* The child of a map by its exact key, or NULL. map may be NULL. */
const struct node *node_child(const struct node *map, const char *key);
/* A plain ~, null or nothing at all. node may be NULL. */
bool node_is_null(const struct node *node);

#endif
