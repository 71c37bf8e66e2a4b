/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the values of a request mean: routing fields at the top level, and the stretches that make
 * the prompt. Every string below a prompt member is prompt; tools and documents count as raw JSON.
 */
#include "dataplane/openai.h"

#include <errno.h>
#include <string.h>

enum type {
	STRING,
	BOOL,
	INT,
	OBJECT,
	ANY
};

static const struct {
	const char *name;
	enum type type;
	uint32_t len;
} members[] = {
#define X(id, name, type) [OPENAI_##id] = {name, type, sizeof(name) - 1},
	OPENAI_MEMBERS(X)
#undef X
};

const char *openai_member_name(enum openai_member member)
{
	return members[member].name;
}

static int refuse(struct openai_scan *s, enum openai_error error, uint64_t at)
{
	s->error = error;
	s->error_at = at;
	s->error_field = members[s->member].name;
	return -EBADMSG;
}

static bool token_is(const struct openai_scan *s, const char *name)
{
	return s->token_len == strlen(name) && memcmp(s->token, name, s->token_len) == 0;
}

static bool gateway_member(enum openai_member m)
{
	return m >= OPENAI_KV_TRANSFER_PARAMS && m <= OPENAI_BOOTSTRAP_ROOM;
}

static bool prompt_member(enum openai_member m)
{
	return m >= OPENAI_MESSAGES && m < OPENAI_MEMBER_COUNT;
}

static bool raw_member(enum openai_member m)
{
	return m == OPENAI_TOOLS || m == OPENAI_DOCUMENTS;
}

bool openai_key_is_kept(const struct openai_scan *s)
{
	return s->depth == 1 || (prompt_member(s->member) && !raw_member(s->member)) ||
	       s->member == OPENAI_STREAM_OPTIONS;
}

/* A key below the top level: says what kind of text a string after it is. */
static void inner_key_end(struct openai_scan *s)
{
	if (token_is(s, "role"))
		s->key_kind = PROMPT_ROLE;
	else if (token_is(s, "url") || token_is(s, "data") || token_is(s, "image_url") ||
		 token_is(s, "file_data"))
		s->key_kind = PROMPT_MEDIA;
	else
		s->key_kind = PROMPT_TEXT;
	s->req->has_media |= s->key_kind == PROMPT_MEDIA && prompt_member(s->member);
	s->in_stream_options =
		s->depth == 2 && s->member == OPENAI_STREAM_OPTIONS && token_is(s, "include_usage");
}

int openai_key_end(struct openai_scan *s, uint64_t key)
{
	struct openai_place *place;

	if (s->depth > 1) {
		if (openai_key_is_kept(s))
			inner_key_end(s);
		return 0;
	}
	s->member = OPENAI_NO_MEMBER;
	for (unsigned int m = 0; m < OPENAI_MEMBER_COUNT; m++)
		if (s->token_len == members[m].len &&
		    memcmp(s->token, members[m].name, members[m].len) == 0)
			s->member = (enum openai_member)m;
	s->key_kind = PROMPT_TEXT;
	if (!gateway_member(s->member) && s->req->first_kept == ~0ULL)
		s->req->first_kept = key;
	if (s->member == OPENAI_NO_MEMBER)
		return 0;
	place = &s->req->members[s->member];
	if (place->end)
		return refuse(s, OPENAI_DUPLICATE, key);
	place->key = key;
	place->comma = s->comma;
	return 0;
}

static bool type_fits(enum type type, char first)
{
	switch (type) {
	case STRING:
		return first == '"';
	case BOOL:
		return first == 't' || first == 'f';
	case INT:
		return first == '-' || (first >= '0' && first <= '9');
	case OBJECT:
		return first == '{';
	default:
		return true;
	}
}

int openai_value_begin(struct openai_scan *s, uint64_t at, char first)
{
	s->value = at;
	s->stringy = first == '"';
	s->numeric = first == '-' || (first >= '0' && first <= '9');
	if (s->depth == 2 && s->in_stream_options && first != 't' && first != 'f' && first != 'n')
		return refuse(s, OPENAI_TYPE, at);
	if (s->depth != 1 || s->member == OPENAI_NO_MEMBER)
		return 0;
	s->req->members[s->member].value = at;
	s->req->members[s->member].null = first == 'n';
	if (first != 'n' && !type_fits(members[s->member].type, first))
		return refuse(s, OPENAI_TYPE, at);
	return 0;
}

bool openai_value_is_kept(const struct openai_scan *s)
{
	return s->depth == 1 && s->member != OPENAI_NO_MEMBER && members[s->member].type == STRING;
}

static void span_add(struct openai_scan *s, uint64_t start, uint64_t end, uint8_t kind)
{
	struct openai_request *r = s->req;

	if (r->span_count == PROMPT_SPANS_MAX) {
		struct prompt_span *last = &s->spans[PROMPT_SPANS_MAX - 1];

		r->prompt_bytes += end - last->end;
		last->end = end;
		r->spans_merged = true;
		return;
	}
	s->spans[r->span_count++] = (struct prompt_span){start, end, kind};
	r->prompt_bytes += end - start;
}

/* Text: no NUL, no half of a surrogate pair (which UTF-8 cannot say). */
static bool token_is_text(const struct openai_scan *s)
{
	const unsigned char *t = (const unsigned char *)s->token;

	for (uint32_t i = 0; i < s->token_len; i++)
		if (t[i] == 0 || (t[i] == 0xed && i + 1 < s->token_len && t[i + 1] >= 0xa0))
			return false;
	return true;
}

static int string_keep(struct openai_scan *s, char *to, size_t size)
{
	if (s->token_len >= size)
		return refuse(s, OPENAI_TOO_LONG, s->value);
	if (!token_is_text(s))
		return refuse(s, OPENAI_TYPE, s->value);
	memcpy(to, s->token, s->token_len);
	to[s->token_len] = '\0';
	return 0;
}

/* A top-level member is whole: keep what it says. */
static int field_end(struct openai_scan *s)
{
	struct openai_request *r = s->req;

	if (r->members[s->member].null)
		return 0;
	switch (s->member) {
	case OPENAI_MODEL:
		return string_keep(s, r->model, sizeof(r->model));
	case OPENAI_USER: /* a long or odd one is the engine's business: it routes nothing */
		return s->token_len < sizeof(r->user) && token_is_text(s)
			       ? string_keep(s, r->user, sizeof(r->user))
			       : 0;
	case OPENAI_CACHE_SALT:
		return string_keep(s, r->cache_salt, sizeof(r->cache_salt));
	case OPENAI_STREAM:
		r->stream = s->integer != 0;
		return 0;
	default:
		if (members[s->member].type != INT)
			return 0;
		if (s->bad_int)
			return refuse(s, OPENAI_TYPE, s->value);
		r->numbers[s->member] = s->negative ? -s->integer : s->integer;
		return 0;
	}
}

int openai_value_end(struct openai_scan *s, uint64_t end)
{
	struct openai_place *place;

	if (s->in_stream_options && s->depth == 2) {
		s->req->include_usage = s->literal == 0;
		s->in_stream_options = false;
	}
	if (prompt_member(s->member) && s->stringy && !raw_member(s->member))
		span_add(s, s->value + 1, end - 1, s->key_kind);
	if (s->member == OPENAI_PROMPT && s->numeric && s->depth > 1)
		s->req->token_ids++;
	s->stringy = s->numeric = false;
	if (s->depth != 1 || s->member == OPENAI_NO_MEMBER)
		return 0;
	place = &s->req->members[s->member];
	place->end = end;
	if (raw_member(s->member) && !place->null)
		span_add(s, place->value, end, PROMPT_TOOLS);
	else if (s->member == OPENAI_PROMPT && s->req->token_ids)
		span_add(s, place->value, end, PROMPT_TOKENS);
	return field_end(s);
}
