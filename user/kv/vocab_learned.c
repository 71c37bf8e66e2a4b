/* SPDX-License-Identifier: Apache-2.0 */
/* A vocabulary that grows: a pointer for each id, set once. */
#include "kv/vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sluice/limits.h"

struct vocab *vocab_learned_new(void)
{
	struct vocab *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->count = VOCAB_TOKENS_MAX;
	v->learned = calloc(VOCAB_TOKENS_MAX, sizeof(*v->learned));
	if (!v->learned) {
		free(v);
		return NULL;
	}
	return v;
}

int vocab_learn(struct vocab *v, uint32_t id, struct span bytes)
{
	struct vocab_piece *p;

	if (!vocab_is_unlearned(v, id))
		return -EINVAL;
	p = malloc(sizeof(*p) + bytes.len);
	if (!p)
		return -ENOMEM;
	p->len = (uint32_t)bytes.len;
	if (bytes.len)
		memcpy(p->bytes, bytes.ptr, bytes.len);
	atomic_store_explicit(&v->learned[id], p, memory_order_release);
	atomic_fetch_add(&v->version, 1);
	return 0;
}

bool vocab_is_unlearned(const struct vocab *v, uint32_t id)
{
	return v->learned && id < v->count &&
	       !atomic_load_explicit(&v->learned[id], memory_order_acquire);
}

bool vocab_want(struct vocab *v, const uint32_t *tokens, size_t n)
{
	bool any = false;
	uint32_t head = atomic_load_explicit(&v->wanted_head, memory_order_relaxed);

	for (size_t i = 0; i < n; i++) {
		bool unlearned = vocab_is_unlearned(v, tokens[i]);

		any |= unlearned;
		if (!unlearned || head - atomic_load(&v->wanted_tail) == VOCAB_WANTED_MAX)
			continue;
		v->wanted[head++ % VOCAB_WANTED_MAX] = tokens[i];
		atomic_store_explicit(&v->wanted_head, head, memory_order_release);
	}
	return any;
}

bool vocab_wanted(struct vocab *v, uint32_t *ret_id)
{
	uint32_t tail = atomic_load_explicit(&v->wanted_tail, memory_order_relaxed);

	if (tail == atomic_load_explicit(&v->wanted_head, memory_order_acquire))
		return false;
	*ret_id = v->wanted[tail % VOCAB_WANTED_MAX];
	atomic_store(&v->wanted_tail, tail + 1);
	return true;
}
