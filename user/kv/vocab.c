/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json: model.vocab, added_tokens, and the decoder that says how pieces are spelt. */
#include "kv/vocab.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "sluice/limits.h"

enum spelling {
	SPELT_BYTE_LEVEL,
	SPELT_METASPACE,
};

/* Pieces while the file is read. */
struct piece {
	const char *text; /* the JSON's */
	size_t len;
	bool added;
};

struct reader {
	struct piece *pieces;
	uint32_t count, room;
	enum spelling spelling;
	char *error;
	size_t error_bytes;
};

static int fail(struct reader *r, const char *what)
{
	snprintf(r->error, r->error_bytes, "%s", what);
	return -EBADMSG;
}

static int piece_put(struct reader *r, json_int_t id, struct piece piece)
{
	uint32_t room = r->room ? r->room : 4096;
	struct piece *bigger;

	if (id < 0 || id >= VOCAB_TOKENS_MAX)
		return fail(r, "a token id is negative or beyond VOCAB_TOKENS_MAX");
	while (room <= id)
		room *= 2;
	if (room > r->room) {
		bigger = realloc(r->pieces, room * sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		memset(bigger + r->room, 0, (room - r->room) * sizeof(*bigger));
		r->pieces = bigger;
		r->room = room;
	}
	r->pieces[id] = piece;
	if ((uint32_t)id >= r->count)
		r->count = (uint32_t)id + 1;
	return 0;
}

static int piece_set(struct reader *r, json_int_t id, const json_t *text, bool added)
{
	if (!json_is_string(text))
		return fail(r, "a token is no string");
	return piece_put(r, id,
			 (struct piece){json_string_value(text), json_string_length(text), added});
}

/* {"piece": id, …} of BPE, or [["piece", score], …] of Unigram. */
static int read_vocab(struct reader *r, json_t *vocab)
{
	const char *key;
	json_t *value;
	size_t i;
	int err = 0;

	if (json_is_array(vocab)) {
		json_array_foreach(vocab, i, value)
		{
			err = piece_set(r, (json_int_t)i, json_array_get(value, 0), false);
			if (err)
				return err;
		}
		return 0;
	}
	if (!json_is_object(vocab))
		return fail(r, "model.vocab is neither an object nor an array");
	json_object_foreach(vocab, key, value)
	{
		if (!json_is_integer(value))
			return fail(r, "model.vocab has an id that is none");
		/* keys live as long as the object */
		err = piece_put(r, json_integer_value(value),
				(struct piece){key, strlen(key), false});
		if (err)
			return err;
	}
	return 0;
}

static int read_added(struct reader *r, json_t *added)
{
	json_t *token;
	size_t i;
	int err = 0;

	json_array_foreach(added, i, token)
	{
		json_t *id = json_object_get(token, "id");

		if (!json_is_integer(id))
			return fail(r, "an added token has no id");
		err = piece_set(r, json_integer_value(id), json_object_get(token, "content"), true);
		if (err)
			return err;
	}
	return 0;
}

/* Does a decoder, pre-tokenizer or normalizer, or one of its sequence, have this type? */
static bool part_is(const json_t *part, const char *type)
{
	static const char *const lists[] = {"decoders", "pretokenizers", "normalizers"};
	const char *own = json_string_value(json_object_get(part, "type"));

	if (own && strcmp(own, type) == 0)
		return true;
	for (unsigned int l = 0; l < 3; l++) {
		const json_t *list = json_object_get(part, lists[l]);

		for (size_t i = 0; i < json_array_size(list); i++) {
			own = json_string_value(json_object_get(json_array_get(list, i), "type"));
			if (own && strcmp(own, type) == 0)
				return true;
		}
	}
	return false;
}

static int read_spelling(struct reader *r, json_t *root, json_t *model)
{
	const char *type = json_string_value(json_object_get(model, "type"));

	if (type && strcmp(type, "BPE") != 0 && strcmp(type, "Unigram") != 0)
		return fail(r, "the model is neither BPE nor Unigram: its pieces lose spaces");
	if (part_is(json_object_get(root, "decoder"), "ByteLevel") ||
	    part_is(json_object_get(root, "pre_tokenizer"), "ByteLevel"))
		r->spelling = SPELT_BYTE_LEVEL;
	else if ((type && strcmp(type, "Unigram") == 0) ||
		 json_is_true(json_object_get(model, "byte_fallback")) ||
		 part_is(json_object_get(root, "decoder"), "Metaspace") ||
		 part_is(json_object_get(root, "decoder"), "ByteFallback") ||
		 part_is(json_object_get(root, "pre_tokenizer"), "Metaspace"))
		r->spelling = SPELT_METASPACE;
	else
		return fail(r, "neither a byte-level nor a SentencePiece-style decoder");
	return 0;
}

/* GPT-2's table backwards: bytes that print stand for themselves, the others for U+0100 and on. */
static int byte_of_char(uint32_t c)
{
	static int16_t table[324];
	static bool made;

	if (!made) {
		int16_t next = 256;

		memset(table, -1, sizeof(table));
		for (int16_t b = 0; b < 256; b++) {
			bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;

			table[prints ? b : next++] = b;
		}
		made = true;
	}
	return c < 324 ? table[c] : -1;
}

/* One character of valid UTF-8 (jansson saw to that). */
static uint32_t char_next(const char **p)
{
	const uint8_t *s = (const uint8_t *)*p;
	unsigned int more = s[0] < 0x80 ? 0 : s[0] < 0xe0 ? 1 : s[0] < 0xf0 ? 2 : 3;
	uint32_t c = more ? s[0] & (0x3fu >> more) : s[0];

	for (unsigned int i = 1; i <= more; i++)
		c = c << 6 | (s[i] & 0x3f);
	*p += more + 1;
	return c;
}

static size_t spell_byte_level(const struct piece *p, char *to)
{
	const char *at = p->text, *end = p->text + p->len;
	size_t n = 0;

	while (at < end) {
		int byte = byte_of_char(char_next(&at));

		if (byte < 0) { /* a piece that is not spelt so: as it stands */
			memcpy(to, p->text, p->len);
			return p->len;
		}
		to[n++] = (char)byte;
	}
	return n;
}

static size_t spell_metaspace(const struct piece *p, char *to)
{
	unsigned int byte;
	char close;
	size_t n = 0;

	if (p->len == 6 && sscanf(p->text, "<0x%2x%c", &byte, &close) == 2 && close == '>') {
		*to = (char)byte;
		return 1;
	}
	for (size_t i = 0; i < p->len;) {
		if (p->len - i >= 3 && memcmp(p->text + i, "\xe2\x96\x81", 3) == 0) {
			to[n++] = ' ';
			i += 3;
		} else {
			to[n++] = p->text[i++];
		}
	}
	return n;
}

static size_t spell(const struct reader *r, const struct piece *p, char *to)
{
	if (p->added) {
		memcpy(to, p->text, p->len);
		return p->len;
	}
	return r->spelling == SPELT_BYTE_LEVEL ? spell_byte_level(p, to) : spell_metaspace(p, to);
}

/* No spelling is longer than the piece. */
static int vocab_make(const struct reader *r, struct vocab **ret)
{
	struct vocab *v = calloc(1, sizeof(*v));
	size_t total = 0, at = 0;

	for (uint32_t i = 0; i < r->count; i++)
		total += r->pieces[i].len;
	if (v) {
		v->count = r->count;
		v->offsets = calloc((size_t)r->count + 1, sizeof(*v->offsets));
		v->special = calloc(r->count, 1);
		v->bytes = malloc(total + 1);
	}
	if (!v || !v->offsets || !v->special || !v->bytes) {
		vocab_free(v);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < r->count; i++) {
		v->offsets[i] = (uint32_t)at;
		v->special[i] = r->pieces[i].added;
		if (r->pieces[i].text)
			at += spell(r, &r->pieces[i], v->bytes + at);
		v->known += v->offsets[i] < at;
	}
	v->offsets[r->count] = (uint32_t)at;
	*ret = v;
	return 0;
}

int vocab_parse(const char *text, size_t n, struct vocab **ret, char *ret_error, size_t error_bytes)
{
	struct reader r = {.error = ret_error, .error_bytes = error_bytes};
	json_error_t where;
	json_t *root, *model;
	int err;

	if (n > VOCAB_FILE_BYTES_MAX)
		return -EFBIG;
	root = json_loadb(text, n, JSON_ALLOW_NUL, &where);
	if (!root) {
		snprintf(ret_error, error_bytes, "line %d: %s", where.line, where.text);
		return -EBADMSG;
	}
	model = json_object_get(root, "model");
	err = read_spelling(&r, root, model);
	if (!err)
		err = read_vocab(&r, json_object_get(model, "vocab"));
	if (!err)
		err = read_added(&r, json_object_get(root, "added_tokens"));
	if (!err && r.count == 0)
		err = fail(&r, "the vocabulary is empty");
	if (!err)
		err = vocab_make(&r, ret);
	free(r.pieces);
	json_decref(root);
	return err;
}

int vocab_load(const char *path, struct vocab **ret, char *ret_error, size_t error_bytes)
{
	FILE *f = fopen(path, "re");
	struct stat st;
	char *text = NULL;
	int err = 0;

	if (!f || fstat(fileno(f), &st) < 0)
		err = -errno;
	else if (st.st_size > VOCAB_FILE_BYTES_MAX)
		err = -EFBIG;
	if (!err) {
		text = malloc((size_t)st.st_size + 1);
		err = text ? 0 : -ENOMEM;
	}
	if (!err && fread(text, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
		err = -EIO;
	if (f)
		fclose(f);
	if (err)
		snprintf(ret_error, error_bytes, "%s", strerror(-err));
	else
		err = vocab_parse(text, (size_t)st.st_size, ret, ret_error, error_bytes);
	free(text);
	return err;
}

void vocab_free(struct vocab *v)
{
	if (!v)
		return;
	for (uint32_t i = 0; v->learned && i < v->count; i++)
		free(v->learned[i]);
	free(v->learned);
	free(v->offsets);
	free(v->special);
	free(v->bytes);
	free(v);
}

int vocab_decode(const struct vocab *v, const uint32_t *tokens, size_t n, char *to, size_t size,
		 size_t *ret_len)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		struct span b = vocab_bytes(v, tokens[i]);

		if (!b.len)
			return -ENOENT;
		if (b.len > size - at)
			return -ENOSPC;
		if (!v->learned && b.len <= 16 && size - at >= 16 && tokens[i] + 1 < v->count &&
		    v->offsets[tokens[i]] + 16 <= v->offsets[v->count])
			memcpy(to + at, b.ptr, 16); /* most are short: one move, no loop */
		else
			memcpy(to + at, b.ptr, b.len);
		at += b.len;
	}
	*ret_len = at;
	return 0;
}
