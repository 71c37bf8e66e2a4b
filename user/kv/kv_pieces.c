/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of the ring are read and written as whole words, atomically: a torn text is still no race.
 */
#include "kv/kv_pieces.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/metrics.h"

#define RING_WORDS (KV_PIECES_BYTES / 8)
#define PLACES	   8192 /* a power of two */
#define WAYS	   4
#define HEAD_WORDS 2 /* key, length */
#define REFUSED	   UINT64_MAX

struct place {
	_Atomic uint64_t key, at; /* at: word of the ring since its beginning */
};

enum wish_state {
	WISH_FREE,
	WISH_WRITING,
	WISH_THERE,
};

struct wish_slot {
	_Atomic uint32_t state;
	_Atomic uint64_t key;
	struct kv_wish wish; /* its spans lie in bytes */
	char bytes[KV_PIECE_WISH_BYTES_MAX];
};

struct kv_pieces {
	_Atomic uint64_t head; /* words ever written, those being written included */
	uint64_t turn;
	unsigned int taken; /* the learner's wish */
	struct place places[PLACES];
	_Atomic uint64_t ring[RING_WORDS];
	struct wish_slot wishes[KV_PIECE_WISHES_MAX];
};

struct kv_pieces *kv_pieces_new(void)
{
	struct kv_pieces *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void kv_pieces_free(struct kv_pieces *p)
{
	if (p)
		munmap(p, sizeof(*p));
}

static uint64_t fold(uint64_t seed, struct span s)
{
	return XXH3_64bits_withSeed(s.ptr, s.len, seed);
}

static uint64_t key_of(const struct kv_wish *w)
{
	uint64_t h = fold(w->before * 2U + w->lead, w->tools);

	return fold(fold(h, w->odd), w->message) | 1;
}

/* ---- wishes ---- */

static struct span keep(struct span s, char **to)
{
	char *from = *to;

	if (s.len)
		memcpy(from, s.ptr, s.len);
	*to += s.len;
	return span_of(from, s.len);
}

static void wish(struct kv_pieces *p, const struct kv_wish *w, uint64_t key)
{
	struct wish_slot *free_slot = NULL;
	uint32_t none = WISH_FREE;
	char *to;

	for (unsigned int i = 0; i < KV_PIECE_WISHES_MAX; i++) {
		struct wish_slot *s = &p->wishes[i];

		if (atomic_load_explicit(&s->state, memory_order_relaxed) == WISH_FREE)
			free_slot = s;
		else if (atomic_load_explicit(&s->key, memory_order_relaxed) == key)
			return; /* somebody wished it before */
	}
	if (!free_slot || w->odd.len + w->message.len + w->tools.len > sizeof(free_slot->bytes)) {
		metric_inc(M_KV_PIECES_REFUSED);
		return;
	}
	if (!atomic_compare_exchange_strong(&free_slot->state, &none, WISH_WRITING))
		return;
	atomic_store_explicit(&free_slot->key, key, memory_order_relaxed);
	to = free_slot->bytes;
	free_slot->wish = *w;
	free_slot->wish.odd = keep(w->odd, &to);
	free_slot->wish.message = keep(w->message, &to);
	free_slot->wish.tools = keep(w->tools, &to);
	atomic_store_explicit(&free_slot->state, WISH_THERE, memory_order_release);
}

bool kv_pieces_wanted(struct kv_pieces *p, struct kv_wish *ret)
{
	for (unsigned int i = 0; i < KV_PIECE_WISHES_MAX; i++)
		if (atomic_load_explicit(&p->wishes[i].state, memory_order_acquire) == WISH_THERE) {
			p->taken = i;
			*ret = p->wishes[i].wish;
			return true;
		}
	return false;
}

void kv_pieces_put_back(struct kv_pieces *p)
{
	atomic_store_explicit(&p->wishes[p->taken].state, WISH_FREE, memory_order_release);
}

/* ---- texts ---- */

static struct place *places_of(struct kv_pieces *p, uint64_t key)
{
	return &p->places[key >> 16 & (PLACES - 1) & -WAYS];
}

static uint64_t word(const struct kv_pieces *p, uint64_t at)
{
	return atomic_load_explicit(&p->ring[at % RING_WORDS], memory_order_relaxed);
}

/* Still there: nothing from `at` on was overwritten up to now. */
static bool holds(const struct kv_pieces *p, uint64_t at)
{
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&p->head, memory_order_relaxed) - at <= RING_WORDS;
}

static int copy(const struct kv_pieces *p, uint64_t at, uint64_t key, char *to, size_t size)
{
	uint64_t found = word(p, at), len = word(p, at + 1);

	if (!holds(p, at) || found != key)
		return -ENOENT;
	if (len == REFUSED)
		return -ENOTSUP;
	if (len > size)
		return -ENOSPC;
	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t w = word(p, at + HEAD_WORDS + i / 8);

		memcpy(to + i, &w, len - i < 8 ? len - i : 8);
	}
	return holds(p, at) ? (int)len : -ENOENT;
}

int kv_pieces_get(struct kv_pieces *p, const struct kv_wish *w, char *to, size_t size)
{
	uint64_t key = key_of(w);
	struct place *places = places_of(p, key);
	int n = -ENOENT;

	for (unsigned int i = 0; i < WAYS && n == -ENOENT; i++)
		if (atomic_load_explicit(&places[i].key, memory_order_acquire) == key)
			n = copy(p, atomic_load_explicit(&places[i].at, memory_order_relaxed), key,
				 to, size);
	if (n == -ENOENT)
		wish(p, w, key);
	return n;
}

void kv_pieces_grant(struct kv_pieces *p, const char *text, size_t len)
{
	uint64_t key = atomic_load_explicit(&p->wishes[p->taken].key, memory_order_relaxed);
	uint64_t at = atomic_load_explicit(&p->head, memory_order_relaxed);
	struct place *place = &places_of(p, key)[p->turn++ % WAYS];
	uint64_t words = HEAD_WORDS + (text ? (len + 7) / 8 : 0);

	atomic_store_explicit(&p->head, at + words, memory_order_relaxed);
	atomic_thread_fence(memory_order_release); /* seen moved by whoever sees a word of it */
	atomic_store_explicit(&p->ring[at % RING_WORDS], key, memory_order_relaxed);
	atomic_store_explicit(&p->ring[(at + 1) % RING_WORDS], text ? len : REFUSED,
			      memory_order_relaxed);
	for (size_t i = 0; text && i < len; i += 8) {
		uint64_t w = 0;

		memcpy(&w, text + i, len - i < 8 ? len - i : 8);
		atomic_store_explicit(&p->ring[(at + HEAD_WORDS + i / 8) % RING_WORDS], w,
				      memory_order_relaxed);
	}
	atomic_store_explicit(&place->key, 0, memory_order_relaxed);
	atomic_store_explicit(&place->at, at, memory_order_relaxed);
	atomic_store_explicit(&place->key, key, memory_order_release);
	metric_inc(M_KV_PIECES_LEARNED);
	kv_pieces_put_back(p);
}
