/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A prompt's walk through the index: at each block's end, who of those that hold everything so far
 * holds this one too, and how long the next may be. Where endpoints went on differently (the same
 * bytes in other tokens), the walk splits and each part goes on with its own.
 */
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif
#if defined(__has_feature)
#define LINE_READ_PLAIN __has_feature(thread_sanitizer)
#else
#define LINE_READ_PLAIN 0
#endif

#include "kv/kv_table.h"

#define FRONTS_MAX 8 /* parts of a walk that wait; further ones end where they are */
#define NEXTS_MAX  4 /* different lengths that words of one block name; more: as MANY */
#define CPU_WORDS  32
#define STEPS_MAX  (2 * UINT16_MAX)
#define AHEAD	   32 /* blocks between asking for a line and looking at it; a power of two */
#define AHEAD_MORE 8  /* and for the line to which its walk goes on */

#define SET_WORDS (OWNERS / 64)

/* Who holds all blocks up to pos: a bit for each owner, a byte for each group. */
struct front {
	uint64_t h, alive[SET_WORDS];
	uint32_t pos;
	uint16_t depth, nexts[NEXTS_MAX];
	uint8_t next_count;
	bool many;
};

struct walker {
	const struct kv_index *ix;
	const struct kv_prompt *prompt;
	struct kv_match *ret;
	struct front fronts[FRONTS_MAX + 1];
	struct front *stack[FRONTS_MAX + 1]; /* those that wait, then the unused ones */
	unsigned int count, used;	     /* used: bit i: alive[i] may be other than 0 */
	uint32_t steps;
	bool split; /* a step had several children */
	/* what hints say of the next blocks: [ahead_at, ahead_to) of a ring */
	struct ahead {
		uint64_t h;
		struct kv_walk walk;
		uint32_t pos;
	} ahead[AHEAD];
	unsigned int ahead_at, ahead_to, trail_count;
	const struct kv_hint *hint; /* where what comes behind the ring stands; NULL: nowhere */
	unsigned int hint_at, hint_count;
	uint64_t trail_key;
	struct kv_hint trail; /* the hint that this walk will leave */
};

static uint8_t alive_of(const struct front *f, uint32_t group)
{
	return (uint8_t)(f->alive[group / 8] >> group % 8 * 8);
}

static void alive_add(struct front *f, uint32_t group, uint8_t who)
{
	f->alive[group / 8] |= (uint64_t)who << group % 8 * 8;
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

static struct kv_match *match_of(struct walker *w, unsigned int owner)
{
	return &w->ret[atomic_load_explicit(&w->ix->slot_of[owner], memory_order_relaxed)];
}

/*
 * Which words of a line have that tag: bit 2 i + 1 for word i. No branches, of which one would be
 * guessed wrong. Where it looks at several words in one go, each is read anew before it counts.
 */
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__) && !LINE_READ_PLAIN
static inline unsigned int line_mine(const struct kv_line *line, uint32_t tag)
{
	const __m128i *p = (const __m128i *)line, t = _mm_set1_epi32((int)tag);
	__m128i a = _mm_packs_epi32(_mm_cmpeq_epi32(p[0], t), _mm_cmpeq_epi32(p[1], t));
	__m128i b = _mm_packs_epi32(_mm_cmpeq_epi32(p[2], t), _mm_cmpeq_epi32(p[3], t));

	return (unsigned int)_mm_movemask_epi8(_mm_packs_epi16(a, b)) & 0x2aaa;
}
#else
static inline unsigned int line_mine(const struct kv_line *line, uint32_t tag)
{
	unsigned int mine = 0;

	for (unsigned int i = 0; i < LINE_WORDS; i++)
		mine |= (word_tag(word_read(&line->word[i])) == tag) * 2u << 2 * i;
	return mine;
}
#endif

/* The words of a block, from its home on: fills child with those of parent's endpoints that hold
 * it. */
static bool look(struct walker *w, const struct front *parent, struct kv_walk walk,
		 struct front *child)
{
	struct {
		uint8_t group, who;
	} cpu[CPU_WORDS];
	unsigned int cpus = 0;
	uint64_t any = 0;

	for (unsigned int left = w->used; left; left &= left - 1)
		child->alive[__builtin_ctz(left)] = 0;
	child->next_count = 0;
	child->many = false;
	for (;; kv_walk_next(w->ix, &walk)) {
		const struct kv_line *line = &w->ix->lines[walk.line];

		for (unsigned int mine = line_mine(line, walk.tag); mine; mine &= mine - 1) {
			uint64_t word = word_read(&line->word[__builtin_ctz(mine) / 2]);
			uint32_t group = word_group(word);
			uint64_t who = (uint64_t)word_holders(word) << group % 8 * 8 &
				       parent->alive[group / 8];

			if (word_tag(word) != walk.tag || !word)
				continue; /* rewritten meanwhile */
			if (child->next_count != 1 || word_next(word) != child->nexts[0])
				next_note(child, word_next(word));
			if (!word_is_cpu(word)) {
				child->alive[group / 8] |= who;
			} else if (who && cpus < CPU_WORDS) {
				cpu[cpus].group = (uint8_t)group;
				cpu[cpus++].who = (uint8_t)(who >> group % 8 * 8);
			}
		}
		if (!kv_walk_goes_on(w->ix, &walk))
			break;
	}
	for (unsigned int i = 0; i < cpus; i++) {
		unsigned int only = cpu[i].who & ~alive_of(child, cpu[i].group);

		alive_add(child, cpu[i].group, cpu[i].who);
		for (; only; only &= only - 1)
			match_of(w, cpu[i].group * 8 + (unsigned int)__builtin_ctz(only))
				->cpu_blocks++;
	}
	for (unsigned int left = w->used; left; left &= left - 1)
		any |= child->alive[__builtin_ctz(left)];
	return any != 0;
}

/* Those of f that no child serves go no further. */
static void settle(struct walker *w, const struct front *f, const uint64_t *served)
{
	for (unsigned int left = w->used; left; left &= left - 1) {
		unsigned int i = (unsigned int)__builtin_ctz(left);
		uint64_t lost = f->alive[i] & ~served[i];

		for (; lost; lost &= lost - 1) {
			struct kv_match *m =
				match_of(w, i * 64 + (unsigned int)__builtin_ctzll(lost));

			if (m->blocks >= f->depth)
				continue;
			m->blocks = f->depth;
			m->bytes = f->pos;
		}
	}
}

/* Tries one length; the child, if somebody is there, waits on the stack. */
static void try_length(struct walker *w, const struct front *f, uint32_t length, uint64_t h,
		       uint64_t *served)
{
	struct front *child = w->stack[w->count];

	if (w->count == FRONTS_MAX || !look(w, f, kv_walk_begin(w->ix, h), child))
		return;
	child->h = h;
	child->pos = f->pos + length;
	child->depth = f->depth + 1;
	w->count++;
	for (unsigned int left = w->used; left; left &= left - 1) {
		unsigned int i = (unsigned int)__builtin_ctz(left);

		served[i] |= child->alive[i];
	}
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

/* ---- hints ---- */

#define HINT_WAYS 4

static uint32_t hint_set(uint64_t key)
{
	return kv_mix(key) % KV_HINTS & -HINT_WAYS;
}

/* The hint of that place; NULL: none. */
static struct kv_hint *hint_find(const struct walker *w, uint64_t key)
{
	struct kv_hints *hints = w->prompt->hints;
	uint32_t set = hint_set(key);

	for (uint32_t i = set; i < set + HINT_WAYS; i++)
		if (hints->key[i] == key)
			return &hints->hint[i];
	return NULL;
}

static void hint_prefetch(const struct walker *w, uint64_t key)
{
	const char *hint = (const char *)hint_find(w, key);

	for (unsigned int i = 0; hint && i < sizeof(struct kv_hint); i += 64)
		__builtin_prefetch(hint + i);
}

/* As many blocks of the hint as are the prompt's, from pos on. */
static unsigned int hint_same(const struct walker *w, const struct kv_hint *hint, uint32_t pos)
{
	uint32_t end[KV_HINT_BLOCKS];
	unsigned int n = 0, same = 0;

	for (; n < KV_HINT_BLOCKS && hint->length[n]; n++) {
		pos += hint->length[n];
		if (pos >= w->prompt->len)
			break;
		end[n] = pos;
	}
	for (unsigned int left = n, half = n; left; half = (left + 1) / 2) { /* mostly all */
		unsigned int at = same + half - 1;

		if (kv_prompt_at(&w->ix->hash, w->prompt, end[at]) == hint->h[at]) {
			same += half;
			left -= half;
		} else {
			left = half - 1;
		}
	}
	return same;
}

/* What comes behind the place h at pos. */
static void hint_adopt(struct walker *w, uint64_t h, uint32_t pos)
{
	w->hint = hint_find(w, h);
	w->hint_at = 0;
	w->hint_count = w->hint ? hint_same(w, w->hint, pos) : 0;
	if (w->hint_count == KV_HINT_BLOCKS)
		__builtin_prefetch(&w->prompt->hints->key[hint_set(w->hint->h[w->hint_count - 1])]);
}

/* One block more is asked for, if a hint tells which. */
static void ahead_one(struct walker *w)
{
	const struct ahead *last = &w->ahead[(w->ahead_to - 1) % AHEAD];
	struct ahead *a = &w->ahead[w->ahead_to % AHEAD];

	if (w->hint_at == KV_HINT_BLOCKS)
		hint_adopt(w, last->h, last->pos);
	if (w->hint_at == w->hint_count)
		return;
	if (w->hint_at == KV_HINT_BLOCKS / 2 && w->hint_count == KV_HINT_BLOCKS)
		hint_prefetch(w, w->hint->h[KV_HINT_BLOCKS - 1]);
	a->h = w->hint->h[w->hint_at];
	a->pos = last->pos + w->hint->length[w->hint_at++];
	a->walk = kv_walk_begin(w->ix, a->h);
	__builtin_prefetch(&w->ix->lines[a->walk.line]);
	w->ahead_to++;
}

/* At a station: what comes behind f. */
static void ahead_begin(struct walker *w, const struct front *f)
{
	w->trail_key = f->h;
	w->ahead[0].pos = f->pos;
	w->ahead_at = w->ahead_to = 1;
	hint_adopt(w, f->h, f->pos);
	for (unsigned int i = 1; i < AHEAD; i++)
		ahead_one(w);
}

/* What was walked since the last station, if it is more than is known. */
static void trail_keep(struct walker *w)
{
	struct kv_hints *hints = w->prompt->hints;
	struct kv_hint *hint;
	uint32_t at;

	if (w->trail_count < 2)
		return;
	hint = hint_find(w, w->trail_key);
	if (hint && memcmp(hint->h, w->trail.h, w->trail_count * sizeof(*hint->h)) == 0)
		return;
	at = hint ? (uint32_t)(hint - hints->hint)
		  : hint_set(w->trail_key) + hints->turn++ % HINT_WAYS;
	hints->key[at] = w->trail_key;
	hints->hint[at] = w->trail;
}

static void trail_begin(struct walker *w)
{
	w->trail_count = 0;
	memset(w->trail.length, 0, sizeof(w->trail.length));
}

/* The walk went on by one block, or, with length 0, not at all or in several ways. */
static void trail_add(struct walker *w, uint32_t length, uint64_t h)
{
	if (!length || length > UINT16_MAX) {
		trail_keep(w);
		w->trail_count = KV_HINT_BLOCKS + 1; /* no more of this walk */
		return;
	}
	w->trail.length[w->trail_count] = (uint16_t)length;
	w->trail.h[w->trail_count++] = h;
	if (w->trail_count < KV_HINT_BLOCKS)
		return;
	trail_keep(w);
	trail_begin(w);
	w->trail_key = h;
}

/* The home line of that block is here by now: if its walk goes on from there, it will be needed. */
static void line_look_on(const struct walker *w, unsigned int at)
{
	struct kv_walk walk;

	if (at >= w->ahead_to)
		return;
	if (!kv_walk_goes_on(w->ix, &w->ahead[at % AHEAD].walk))
		return;
	walk = w->ahead[at % AHEAD].walk;
	kv_walk_next(w->ix, &walk);
	__builtin_prefetch(&w->ix->lines[walk.line]);
}

/* As long as blocks are those that hints told: nothing is tried, nothing waited for. */
static void run(struct walker *w)
{
	struct front *f = w->stack[w->count - 1], *child = w->stack[FRONTS_MAX];

	if (w->ahead_at == w->ahead_to && w->trail_count == 0)
		ahead_begin(w, f);
	while (w->ahead_at < w->ahead_to && !f->many && f->next_count == 1 &&
	       f->depth < UINT16_MAX) {
		const struct ahead *a = &w->ahead[w->ahead_at % AHEAD];

		line_look_on(w, w->ahead_at + AHEAD_MORE);
		if (f->pos + f->nexts[0] != a->pos || !look(w, f, a->walk, child))
			break;
		child->h = a->h;
		child->pos = a->pos;
		child->depth = f->depth + 1;
		settle(w, f, child->alive);
		trail_add(w, child->pos - f->pos, child->h);
		w->ahead_at++;
		w->stack[FRONTS_MAX] = f;
		f = child;
		child = w->stack[FRONTS_MAX];
		ahead_one(w);
	}
	w->stack[w->count - 1] = f;
}

/* The walk went from f to this child, or, NULL, not on, or in several ways. */
static void trail_step(struct walker *w, const struct front *f, const struct front *child)
{
	bool told = w->ahead_at < w->ahead_to;

	if (told && child && w->ahead[w->ahead_at % AHEAD].h == child->h) {
		w->ahead_at++;
	} else if (child && (told || (w->hint && w->hint_at < KV_HINT_BLOCKS &&
				      w->hint->length[w->hint_at]))) {
		/* a fork: each branch has a station of its own behind it */
		w->ahead_at = w->ahead_to;
		w->hint = NULL;
		w->hint_at = w->hint_count = 0;
		trail_begin(w);
		return;
	}
	trail_add(w, child ? child->pos - f->pos : 0, child ? child->h : 0);
}

static void step(struct walker *w)
{
	struct front *f, *spare;
	uint16_t lengths[KV_LENGTHS_MAX + NEXTS_MAX];
	uint64_t hs[KV_LENGTHS_MAX + NEXTS_MAX];
	uint64_t served[SET_WORDS]; /* only of words in use */
	uint32_t n, kept = 0;
	unsigned int before;
	bool hints = w->prompt->hints && w->trail_count <= KV_HINT_BLOCKS;

	if (hints)
		run(w);
	before = --w->count;
	f = w->stack[before];
	spare = w->stack[FRONTS_MAX];
	n = lengths_of(w, f, lengths);
	w->stack[w->count] = spare; /* children are made beside f, which stays until they are */
	w->stack[FRONTS_MAX] = f;
	for (unsigned int left = w->used; left; left &= left - 1)
		served[__builtin_ctz(left)] = 0;
	/* A block that ends with the prompt or beyond it cannot be reused whole. */
	for (uint32_t i = 0; i < n && f->depth < UINT16_MAX; i++) {
		if (lengths[i] >= w->prompt->len - f->pos)
			continue;
		hs[kept] = kv_prompt_at(&w->ix->hash, w->prompt, f->pos + lengths[i]);
		__builtin_prefetch(&w->ix->lines[kv_walk_begin(w->ix, hs[kept]).line]);
		lengths[kept++] = lengths[i];
	}
	for (uint32_t i = 0; i < kept; i++)
		try_length(w, f, lengths[i], hs[i], served);
	w->split |= w->count > before + 1;
	if (hints)
		trail_step(w, f, w->count == before + 1 ? w->stack[before] : NULL);
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
	w.used = 0;
	w.steps = 0;
	w.split = false;
	w.ahead_at = w.ahead_to = 0;
	w.hint = NULL;
	w.hint_at = w.hint_count = 0;
	trail_begin(&w);
	memset(w.fronts, 0, sizeof(w.fronts));
	for (unsigned int i = 0; i <= FRONTS_MAX; i++)
		w.stack[i] = &w.fronts[i];
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
			w.used |= 1u << (uint32_t)(owner - 1) % OWNERS / 64;
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
