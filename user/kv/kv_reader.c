/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A prompt's walk through the index: at each block's end, who of those that hold everything so far
 * holds this one too, and how long the next may be. Where endpoints went on differently (the same
 * bytes in other tokens), the walk splits and each part goes on with its own.
 */
#include <string.h>

#include "kv/kv_table.h"

#define FRONTS_MAX 8 /* parts of a walk that wait; further ones end where they are */
#define NEXTS_MAX  4 /* different lengths that words of one block name; more: as MANY */
#define CPU_WORDS  32
#define STEPS_MAX  (2 * UINT16_MAX)

/* Who holds all blocks up to pos. alive[g] counts only where groups has bit g. */
struct front {
	uint64_t h, groups[GROUPS / 64];
	uint32_t pos;
	uint16_t depth, nexts[NEXTS_MAX];
	uint8_t next_count;
	bool many;
	uint8_t alive[GROUPS];
};

struct walker {
	const struct kv_index *ix;
	const struct kv_prompt *prompt;
	struct kv_match *ret;
	struct front fronts[FRONTS_MAX + 1];
	struct front *stack[FRONTS_MAX + 1]; /* those that wait, then the unused ones */
	unsigned int count;
	uint32_t steps;
	bool split; /* a step had several children */
};

static uint8_t alive_of(const struct front *f, uint32_t group)
{
	return f->groups[group / 64] >> (group % 64) & 1 ? f->alive[group] : 0;
}

static void alive_add(struct front *f, uint32_t group, uint8_t who)
{
	f->alive[group] = alive_of(f, group) | who;
	f->groups[group / 64] |= 1ULL << (group % 64);
}

static void next_note(struct front *f, uint32_t next)
{
	if (!next)
		return;
	if (next == NEXT_MANY) {
		f->many = true;
		return;
	}
	for (unsigned int i = 0; i < f->next_count; i++)
		if (f->nexts[i] == next)
			return;
	if (f->next_count < NEXTS_MAX)
		f->nexts[f->next_count++] = (uint16_t)next;
	else
		f->many = true;
}

static struct kv_match *match_of(struct walker *w, uint32_t group, unsigned int bit)
{
	return &w->ret[atomic_load_explicit(&w->ix->slot_of[group * 8 + bit],
					    memory_order_relaxed)];
}

/* The words of block h: fills child with those of parent's endpoints that hold it. */
static bool look(struct walker *w, const struct front *parent, uint64_t h, struct front *child)
{
	struct kv_walk walk = kv_walk_begin(w->ix, h);
	struct {
		uint8_t group, who;
	} cpu[CPU_WORDS];
	unsigned int cpus = 0;

	memset(child->groups, 0, sizeof(child->groups));
	child->next_count = 0;
	child->many = false;
	for (;; kv_walk_next(w->ix, &walk)) {
		const struct kv_line *line = &w->ix->lines[walk.line];

		for (unsigned int i = 0; i < LINE_WORDS; i++) {
			uint64_t word = word_read(&line->word[i]);
			uint8_t who;

			if (word_tag(word) != walk.tag || !word)
				continue;
			next_note(child, word_next(word));
			who = alive_of(parent, word_group(word)) & word_holders(word);
			if (!who)
				continue;
			if (!word_is_cpu(word)) {
				alive_add(child, word_group(word), who);
			} else if (cpus < CPU_WORDS) {
				cpu[cpus].group = (uint8_t)word_group(word);
				cpu[cpus++].who = who;
			}
		}
		if (!kv_walk_goes_on(w->ix, &walk))
			break;
	}
	for (unsigned int i = 0; i < cpus; i++) {
		unsigned int only = cpu[i].who & ~alive_of(child, cpu[i].group);

		alive_add(child, cpu[i].group, cpu[i].who);
		for (; only; only &= only - 1)
			match_of(w, cpu[i].group, (unsigned int)__builtin_ctz(only))->cpu_blocks++;
	}
	return child->groups[0] | child->groups[1];
}

/* Those of f that no child serves go no further. */
static void settle(struct walker *w, const struct front *f, const uint8_t *served)
{
	for (unsigned int word = 0; word < GROUPS / 64; word++)
		for (uint64_t left = f->groups[word]; left; left &= left - 1) {
			uint32_t group = word * 64 + (uint32_t)__builtin_ctzll(left);
			unsigned int lost = f->alive[group] & ~served[group];

			for (; lost; lost &= lost - 1) {
				struct kv_match *m =
					match_of(w, group, (unsigned int)__builtin_ctz(lost));

				if (m->blocks >= f->depth)
					continue;
				m->blocks = f->depth;
				m->bytes = f->pos;
			}
		}
}

/* Tries one length; the child, if somebody is there, waits on the stack. */
static void try_length(struct walker *w, const struct front *f, uint32_t length, uint64_t h,
		       uint8_t *served)
{
	struct front *child = w->stack[w->count];

	if (w->count == FRONTS_MAX || !look(w, f, h, child))
		return;
	child->h = h;
	child->pos = f->pos + length;
	child->depth = f->depth + 1;
	w->count++;
	for (unsigned int word = 0; word < GROUPS / 64; word++)
		for (uint64_t left = child->groups[word]; left; left &= left - 1) {
			uint32_t group = word * 64 + (uint32_t)__builtin_ctzll(left);

			served[group] |= child->alive[group];
		}
}

/* served counts only for f's groups: the others need not be cleared. */
static void served_clear(const struct front *f, uint8_t *served)
{
	for (unsigned int word = 0; word < GROUPS / 64; word++)
		for (uint64_t left = f->groups[word]; left; left &= left - 1)
			served[word * 64 + (unsigned int)__builtin_ctzll(left)] = 0;
}

/* The lengths to try behind f, those of its words and of the side table. */
static uint32_t lengths_of(const struct walker *w, const struct front *f, uint16_t *lengths)
{
	uint32_t n = 0, own = f->next_count;

	if (f->many)
		n = kv_lengths_get(w->ix, w->prompt, f->pos, f->h, lengths);
	for (uint32_t i = 0, before = n; i < own; i++) {
		bool twice = false;

		for (uint32_t k = 0; k < before && !twice; k++)
			twice = lengths[k] == f->nexts[i];
		if (!twice)
			lengths[n++] = f->nexts[i];
	}
	return n;
}

static void step(struct walker *w)
{
	struct front *f = w->stack[--w->count], *spare = w->stack[FRONTS_MAX];
	uint16_t lengths[KV_LENGTHS_MAX + NEXTS_MAX];
	uint64_t hs[KV_LENGTHS_MAX + NEXTS_MAX];
	uint8_t served[GROUPS];
	uint32_t n = lengths_of(w, f, lengths), kept = 0;
	unsigned int before = w->count;

	w->stack[w->count] = spare; /* children are made beside f, which stays until they are */
	w->stack[FRONTS_MAX] = f;
	served_clear(f, served);
	/* A block that ends with the prompt or beyond it cannot be reused whole. */
	for (uint32_t i = 0; i < n && f->depth < UINT16_MAX; i++) {
		struct kv_walk walk;

		if (lengths[i] >= w->prompt->len - f->pos)
			continue;
		hs[kept] = kv_prompt_at(&w->ix->hash, w->prompt, f->pos + lengths[i]);
		walk = kv_walk_begin(w->ix, hs[kept]);
		__builtin_prefetch(&w->ix->lines[walk.line]);
		lengths[kept++] = lengths[i];
	}
	for (uint32_t i = 0; i < kept; i++)
		try_length(w, f, lengths[i], hs[i], served);
	w->split |= w->count > before + 1;
	settle(w, f, served);
}

/* What is counted on the way may belong to a part of the walk that did not come farthest. */
static void clamp(const uint64_t slots[KV_SLOT_WORDS], struct kv_match *ret)
{
	for (unsigned int i = 0; i < KV_SLOT_WORDS; i++)
		for (uint64_t left = slots[i]; left; left &= left - 1) {
			struct kv_match *m = &ret[i * 64 + (unsigned int)__builtin_ctzll(left)];

			if (m->cpu_blocks > m->blocks)
				m->cpu_blocks = m->blocks;
		}
}

void kv_index_match(const struct kv_index *ix, const struct kv_prompt *prompt,
		    const uint64_t slots[KV_SLOT_WORDS], const uint32_t *generations,
		    struct kv_match *ret)
{
	struct walker w;
	struct front *root = &w.fronts[0];

	w.ix = ix;
	w.prompt = prompt;
	w.ret = ret;
	w.count = 1;
	w.steps = 0;
	w.split = false;
	for (unsigned int i = 0; i <= FRONTS_MAX; i++)
		w.stack[i] = &w.fronts[i];
	memset(root, 0, sizeof(*root));
	root->h = prompt->root;
	root->many = true; /* the first blocks' lengths always stand in the side table */
	for (unsigned int i = 0; i < KV_SLOT_WORDS; i++)
		for (uint64_t left = slots[i]; left; left &= left - 1) {
			unsigned int slot = i * 64 + (unsigned int)__builtin_ctzll(left);
			uint64_t owner =
				atomic_load_explicit(&ix->owner_of[slot], memory_order_acquire);

			ret[slot] = (struct kv_match){0};
			if (!owner || owner >> 32 != generations[slot])
				continue;
			ret[slot].known = true;
			alive_add(root, (uint32_t)(owner - 1) % OWNERS / 8,
				  (uint8_t)(1u << ((owner - 1) & 7)));
		}
	/* the same bytes cut in many ways could be walked in very many: not by us */
	while (w.count && w.steps++ < STEPS_MAX)
		step(&w);
	if (w.split)
		clamp(slots, ret);
}

/* All words of a block, whoever holds it. True if there are any. */
static bool words_of(const struct kv_index *ix, uint64_t h, struct front *nexts, bool *ret_held)
{
	struct kv_walk walk = kv_walk_begin(ix, h);
	bool found = false;

	for (;; kv_walk_next(ix, &walk)) {
		const struct kv_line *line = &ix->lines[walk.line];

		for (unsigned int i = 0; i < LINE_WORDS; i++) {
			uint64_t word = word_read(&line->word[i]);

			if (word_tag(word) != walk.tag || !word)
				continue;
			found = true;
			*ret_held |= word_holders(word) != 0;
			if (nexts)
				next_note(nexts, word_next(word));
		}
		if (!kv_walk_goes_on(ix, &walk))
			return found;
	}
}

void kv_index_beyond(const struct kv_index *ix, const struct kv_prompt *prompt, uint32_t pos,
		     struct kv_beyond *ret)
{
	struct walker w = {.ix = ix, .prompt = prompt};
	struct front f = {.pos = pos, .many = pos == 0};
	uint16_t lengths[KV_LENGTHS_MAX + NEXTS_MAX];
	bool held = false;

	*ret = (struct kv_beyond){0};
	f.h = pos ? kv_prompt_at(&ix->hash, prompt, pos) : prompt->root;
	if (pos)
		words_of(ix, f.h, &f, &held);
	ret->lengths = lengths_of(&w, &f, lengths);
	for (uint32_t i = 0; i < ret->lengths; i++)
		if (lengths[i] < prompt->len - pos &&
		    words_of(ix, kv_prompt_at(&ix->hash, prompt, pos + lengths[i]), NULL,
			     &ret->holders))
			ret->same++;
}
