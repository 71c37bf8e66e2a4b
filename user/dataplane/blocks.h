/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for bytes on the wire: 16 KB and 128 KB blocks from one address range that is reserved at
 * start and touched on demand, so that nothing is allocated later. One owner thread.
 * Invariant: all blocks of all workers together stay within the buffered-bytes budget.
 */
#ifndef SLUICE_DATAPLANE_BLOCKS_H
#define SLUICE_DATAPLANE_BLOCKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_SMALL (16 * 1024)
#define BLOCK_BIG   (128 * 1024)

struct block {
	struct block *next;
	char *data;
	uint32_t start, end, size; /* bytes [start, end) of data are of use */
};

/* What all workers share: bytes in blocks that connections own. */
struct budget {
	_Atomic uint64_t used;
	uint64_t max;
};

struct blocks {
	struct budget *budget;
	char *memory[2];			    /* small, big */
	struct block *heads[2], *free[2], *cold[2]; /* free ones: with pages, without */
	uint32_t count[2], fresh[2], kept[2];
};

int blocks_init(struct blocks *b, struct budget *budget);
void blocks_fini(struct blocks *b);

/* An empty block of at least `bytes` (<= BLOCK_BIG), or NULL when the budget is used up. */
struct block *block_new(struct blocks *b, size_t bytes);
/*
 * A small one in place of a receive buffer that was filled: bytes that have come are never thrown
 * away for the budget's sake (it holds back bodies before they are read). NULL: no memory at all.
 */
struct block *block_replace(struct blocks *b);
/* Frees the block; NULL is fine. */
void block_free(struct blocks *b, struct block *block);
void block_free_chain(struct blocks *b, struct block *first);
/* A bigger copy of *block in its place. 0, -ENOMEM, -EFBIG if it is a big one already. */
int block_grow(struct blocks *b, struct block **block);

static inline uint32_t block_used(const struct block *b)
{
	return b->end - b->start;
}

static inline uint32_t block_room(const struct block *b)
{
	return b->size - b->end;
}

#endif
