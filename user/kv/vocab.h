/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vocabulary: what bytes each token id stands for. Read from a tokenizer.json of Hugging Face;
 * no merges, no regular expressions: KV events bring tokens, and this turns them back into text.
 *
 *   byte-level BPE (GPT-2, Llama 3, Qwen): each character of a piece is a byte, by GPT-2's table
 *   SentencePiece BPE, Unigram (Llama 2, T5): U+2581 is a space, <0xE4> is that byte
 *   added tokens: as they are written
 * Immutable once made; any thread may read it.
 */
#ifndef SLUICE_KV_VOCAB_H
#define SLUICE_KV_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct vocab {
	uint32_t count;	   /* ids are below it */
	uint32_t known;	   /* ids that stand for something */
	uint32_t *offsets; /* count + 1 of them, into bytes */
	char *bytes;
	uint8_t *special; /* per id: an added token */
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

/* The bytes of a token; len 0: unknown. */
static inline struct span vocab_bytes(const struct vocab *v, uint32_t id)
{
	if (id >= v->count)
		return span_of(NULL, 0);
	return span_of(v->bytes + v->offsets[id], v->offsets[id + 1] - v->offsets[id]);
}

/*
 * The bytes of n tokens, one after the other. -ENOENT: an unknown token among them; -ENOSPC.
 */
int vocab_decode(const struct vocab *v, const uint32_t *tokens, size_t n, char *to, size_t size,
		 size_t *ret_len);

#endif
