/* SPDX-License-Identifier: Apache-2.0 */
/* Two free lists over two reserved ranges. Freed pages beyond a few go back to the kernel. */
#include "dataplane/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const uint32_t sizes[2] = {BLOCK_SMALL, BLOCK_BIG};
static const uint32_t kept_max[2] = {1024, 64}; /* free blocks whose pages stay resident */

int blocks_init(struct blocks *b, struct budget *budget)
{
	memset(b, 0, sizeof(*b));
	b->budget = budget;
	for (int k = 0; k < 2; k++) {
		b->count[k] = (uint32_t)(budget->max / sizes[k]) + 1024;
		b->memory[k] = mmap(NULL, (size_t)b->count[k] * sizes[k], PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		b->heads[k] = mmap(NULL, b->count[k] * sizeof(struct block), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (b->memory[k] == MAP_FAILED || b->heads[k] == MAP_FAILED)
			return -ENOMEM;
	}
	return 0;
}

void blocks_fini(struct blocks *b)
{
	for (int k = 0; k < 2; k++) {
		munmap(b->memory[k], (size_t)b->count[k] * sizes[k]);
		munmap(b->heads[k], b->count[k] * sizeof(struct block));
	}
}

static struct block *block_take(struct blocks *b, int k, bool past_budget)
{
	struct block **from = b->free[k] ? &b->free[k] : &b->cold[k], *block = *from;

	if ((atomic_fetch_add_explicit(&b->budget->used, sizes[k], memory_order_relaxed) +
			     sizes[k] >
		     b->budget->max &&
	     !past_budget) ||
	    (!block && b->fresh[k] == b->count[k])) {
		atomic_fetch_sub_explicit(&b->budget->used, sizes[k], memory_order_relaxed);
		return NULL;
	}
	if (block) {
		b->kept[k] -= from == &b->free[k];
		*from = block->next;
	} else {
		block = &b->heads[k][b->fresh[k]];
		block->data = b->memory[k] + (size_t)b->fresh[k]++ * sizes[k];
		block->size = sizes[k];
	}
	block->next = NULL;
	block->start = block->end = 0;
	return block;
}

struct block *block_new(struct blocks *b, size_t bytes)
{
	return block_take(b, bytes > BLOCK_SMALL, false);
}

struct block *block_replace(struct blocks *b)
{
	return block_take(b, 0, true);
}

void block_free(struct blocks *b, struct block *block)
{
	int k;

	if (!block)
		return;
	k = block->size > BLOCK_SMALL;
	atomic_fetch_sub_explicit(&b->budget->used, sizes[k], memory_order_relaxed);
	if (b->kept[k] < kept_max[k]) {
		b->kept[k]++;
		block->next = b->free[k];
		b->free[k] = block;
	} else {
		madvise(block->data, block->size, MADV_DONTNEED);
		block->next = b->cold[k];
		b->cold[k] = block;
	}
}

void block_free_chain(struct blocks *b, struct block *first)
{
	while (first) {
		struct block *next = first->next;

		block_free(b, first);
		first = next;
	}
}

int block_grow(struct blocks *b, struct block **block)
{
	struct block *old = *block, *big;

	if (old->size == BLOCK_BIG)
		return -EFBIG;
	big = block_new(b, BLOCK_BIG);
	if (!big)
		return -ENOMEM;
	memcpy(big->data, old->data, old->end);
	big->start = old->start;
	big->end = old->end;
	block_free(b, old);
	*block = big;
	return 0;
}
