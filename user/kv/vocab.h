/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vocabulary: what bytes each token id stands for. Read from a tokenizer.json of Hugging Face;
 * no merges, no regular expressions: KV events bring tokens, and this turns them back into text.
 *
 *   byte-level BPE (GPT-2, Llama 3, Qwen): each character of a piece is a byte, by GPT-2's table
 *   SentencePiece BPE, Unigram (Llama 2, T5): U+2581 is a space, <0xE4> is that byte
 *   added tokens: as they are written
 * Immutable once read from a file. Without a file it is learned id by id: whoever meets an unknown
 * one wants it (one thread), one other thread asks an engine and tells. Any thread may read.
 */
#ifndef SLUICE_KV_VOCAB_H
#define SLUICE_KV_VOCAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

#define VOCAB_WANTED_MAX 4096 /* ids at a time; further ones are wanted when they come again */

/* A learned token; len 0: it stands for part of a character, and nobody can tell which. */
struct vocab_piece {
	uint32_t len;
	char bytes[];
};

struct vocab {
	uint32_t count;	   /* ids are below it */
	uint32_t known;	   /* ids that stand for something */
	uint32_t *offsets; /* count + 1 of them, into bytes */
	char *bytes;
	uint8_t *special; /* per id: an added token */
	/* learned ones only */
	_Atomic(struct vocab_piece *) *learned; /* by id; NULL: this one was read from a file */
	_Atomic uint32_t version;		/* grows with each id learned */
	_Atomic uint32_t wanted_head, wanted_tail;
	uint32_t wanted[VOCAB_WANTED_MAX];
};

/*
 * Reads a tokenizer.json, in memory or from a file. -EBADMSG: not one that we understand, with a
 * sentence in ret_error (of error_bytes); -EFBIG: larger than limits.h allows; -errno of the file.
 * vocab_free() it.
 */
int vocab_parse(const char *json, size_t n, struct vocab **ret, char *ret_error,
		size_t error_bytes);
int vocab_load(const char *path, struct vocab **ret, char *ret_error, size_t error_bytes);
void vocab_free(struct vocab *v);

/* One that knows nothing yet. NULL: no memory. */
struct vocab *vocab_learned_new(void);
/* The id stands for these bytes (len 0: for nothing that can be told). 0, -EINVAL or -ENOMEM. */
int vocab_learn(struct vocab *v, uint32_t id, struct span bytes);
/* Has nobody told yet what this id is? False for one that was read from a file. */
bool vocab_is_unlearned(const struct vocab *v, uint32_t id);
/* The unlearned among n tokens are wanted. True if there are any. One thread. */
bool vocab_want(struct vocab *v, const uint32_t *tokens, size_t n);
/* The next id that is wanted; false: none. One thread. */
bool vocab_wanted(struct vocab *v, uint32_t *ret_id);

/* The bytes of a token; len 0: unknown. */
static inline struct span vocab_bytes(const struct vocab *v, uint32_t id)
{
	if (id >= v->count)
		return span_of(NULL, 0);
	if (v->learned) {
		const struct vocab_piece *p =
			atomic_load_explicit(&v->learned[id], memory_order_acquire);

		return p ? span_of(p->bytes, p->len) : span_of(NULL, 0);
	}
	return span_of(v->bytes + v->offsets[id], v->offsets[id + 1] - v->offsets[id]);
}

/*
 * The bytes of n tokens, one after the other. -ENOENT: an unknown token among them; -ENOSPC.
 */
int vocab_decode(const struct vocab *v, const uint32_t *tokens, size_t n, char *to, size_t size,
		 size_t *ret_len);

#endif
