/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON grammar as a machine that can stop after any byte. What values mean is
 * openai_fields.c's.
 *
 *   VALUE -> {  KEY_OR_END -> STRING(key) -> COLON -> VALUE … AFTER -> , KEY   or }
 *         -> [  VALUE_OR_END …                              AFTER -> , VALUE or ]
 *         -> STRING | NUMBER | LITERAL -> AFTER;  depth 0: END, white space only
 */
#include "dataplane/openai.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
	VALUE,
	VALUE_OR_END,
	KEY,
	KEY_OR_END,
	COLON,
	AFTER,
	STRING,
	ESCAPE,
	HEX,
	NUMBER,
	LITERAL,
	END
};

/* Inside a number: what came last. */
enum {
	NUM_SIGN,
	NUM_ZERO,
	NUM_INT,
	NUM_DOT,
	NUM_FRAC,
	NUM_E,
	NUM_E_SIGN,
	NUM_EXP
};

static const char *const literals[] = {"true", "false", "null"};

void openai_scan_init(struct openai_scan *s, struct openai_request *req, struct prompt_span *spans)
{
	memset(s, 0, sizeof(*s));
	memset(req, 0, sizeof(*req));
	req->first_kept = ~0ULL;
	s->member = OPENAI_NO_MEMBER;
	s->spans = spans;
	s->req = req;
}

static int fail(struct openai_scan *s, enum openai_error error, uint64_t at)
{
	s->error = error;
	s->error_at = at;
	return -EBADMSG;
}

static bool in_object(const struct openai_scan *s)
{
	return s->objects[s->depth / 64] >> (s->depth % 64) & 1;
}

static int level_open(struct openai_scan *s, char c, uint64_t at)
{
	if (s->depth == JSON_DEPTH_MAX)
		return fail(s, OPENAI_DEPTH, at);
	s->depth++;
	s->objects[s->depth / 64] &= ~(1ULL << (s->depth % 64));
	if (c == '{')
		s->objects[s->depth / 64] |= 1ULL << (s->depth % 64);
	s->state = c == '{' ? KEY_OR_END : VALUE_OR_END;
	return 0;
}

static int level_close(struct openai_scan *s, char c, uint64_t at)
{
	if ((c == '}') != in_object(s))
		return fail(s, OPENAI_SYNTAX, at);
	s->depth--;
	if (s->depth == 0) {
		s->req->close = at;
		s->state = END;
		return 0;
	}
	s->state = AFTER;
	return openai_value_end(s, at + 1);
}

static void number_start(struct openai_scan *s, char c)
{
	s->state = NUMBER;
	s->number = c == '-' ? NUM_SIGN : c == '0' ? NUM_ZERO : NUM_INT;
	s->integer = c == '-' ? 0 : c - '0';
	s->negative = c == '-';
	s->bad_int = false;
}

static int value_start(struct openai_scan *s, char c, uint64_t at)
{
	if (s->depth == 0 && c != '{')
		return fail(s,
			    c && strchr("[\"-0123456789tfn", c) ? OPENAI_NOT_OBJECT : OPENAI_SYNTAX,
			    at);
	if (s->depth == 0)
		s->req->open = at;
	else if (openai_value_begin(s, at, c))
		return -EBADMSG;
	if (c == '{' || c == '[')
		return level_open(s, c, at);
	if (c == '"') {
		s->state = STRING;
		s->is_key = false;
		s->keeps_token = openai_value_is_kept(s);
		s->token_len = 0;
	} else if (c == '-' || (c >= '0' && c <= '9')) {
		number_start(s, c);
	} else if (c == 't' || c == 'f' || c == 'n') {
		s->state = LITERAL;
		s->literal = c == 't' ? 0 : c == 'f' ? 1 : 2;
		s->literal_at = 1;
	} else {
		return fail(s, OPENAI_SYNTAX, at);
	}
	return 0;
}

/* Keeps a decoded byte of a key or a routing value; what is too long shows at the end. */
static void token_add(struct openai_scan *s, unsigned int byte)
{
	if (!s->keeps_token)
		return;
	if (s->token_len < sizeof(s->token))
		s->token[s->token_len++] = (char)byte;
	else
		s->token_len = sizeof(s->token) + 1;
}

/*
 * The first half of a surrogate pair stands in the token as three bytes that UTF-8 has no use for,
 * until the second replaces them; one that stays alone stays so. Returns the half that stands last,
 * 0 if none.
 */
static unsigned int half_of_pair(const struct openai_scan *s)
{
	const char *t = s->token;
	uint32_t n = s->token_len;

	if (n < 3 || n > sizeof(s->token) || t[n - 3] != '\xed' || (t[n - 2] & 0xf0) != 0xa0)
		return 0;
	return 0xd000 | (t[n - 2] & 0x3fu) << 6 | (t[n - 1] & 0x3fu);
}

/* A UTF-16 unit of an escape. */
static void token_add_unit(struct openai_scan *s, unsigned int u)
{
	unsigned int half = (u & 0xfc00) == 0xdc00 ? half_of_pair(s) : 0;

	if (half) {
		u = 0x10000 + ((half & 0x3ff) << 10 | (u & 0x3ff));
		s->token_len -= 3;
		token_add(s, 0xf0 | u >> 18);
		token_add(s, 0x80 | (u >> 12 & 0x3f));
		token_add(s, 0x80 | (u >> 6 & 0x3f));
		token_add(s, 0x80 | (u & 0x3f));
	} else if (u < 0x80) {
		token_add(s, u);
	} else if (u < 0x800) {
		token_add(s, 0xc0 | u >> 6);
		token_add(s, 0x80 | (u & 0x3f));
	} else {
		token_add(s, 0xe0 | u >> 12);
		token_add(s, 0x80 | (u >> 6 & 0x3f));
		token_add(s, 0x80 | (u & 0x3f));
	}
}

/* First byte of a multi-byte sequence: Unicode 15, table 3-7. */
static int utf8_start(struct openai_scan *s, unsigned char c)
{
	s->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	s->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	if (c >= 0xc2 && c <= 0xdf)
		s->utf8_need = 1;
	else if (c >= 0xe0 && c <= 0xef)
		s->utf8_need = 2;
	else if (c >= 0xf0 && c <= 0xf4)
		s->utf8_need = 3;
	else
		return -EBADMSG;
	return 0;
}

static int utf8_byte(struct openai_scan *s, unsigned char c)
{
	token_add(s, c);
	if (!s->utf8_need)
		return utf8_start(s, c);
	if (c < s->utf8_low || c > s->utf8_high)
		return -EBADMSG;
	s->utf8_need--;
	s->utf8_low = 0x80, s->utf8_high = 0xbf;
	return 0;
}

static int string_end(struct openai_scan *s, uint64_t at)
{
	if (s->is_key) {
		s->state = COLON;
		return openai_key_end(s, s->value);
	}
	s->state = AFTER;
	return openai_value_end(s, at + 1);
}

/* n bytes of the string, which stand among `readable` ones. */
static void token_add_plain(struct openai_scan *s, const char *p, size_t n, size_t readable)
{
	size_t room = s->token_len < sizeof(s->token) ? sizeof(s->token) - s->token_len : 0;

	if (!s->keeps_token)
		return;
	if (n <= 16 && readable >= 16 && room >= 16) { /* most keys: no call, no loop */
		memcpy(s->token + s->token_len, p, 16);
		s->token_len += (uint32_t)n;
		return;
	}
	if (room)
		memcpy(s->token + s->token_len, p, n < room ? n : room);
	s->token_len += (uint32_t)(n < room ? n : room);
	if (n > room)
		s->token_len = sizeof(s->token) + 1;
}

/* openai_plain_bytes(), without a call if the first sixteen bytes say it: most keys are short. */
static inline size_t plain_bytes(const char *p, size_t n)
{
#ifdef __SSE2__
	if (n >= 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)p);
		__m128i end = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
					   _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
		/* Signed: bytes >= 0x80 are negative, less than 0x20 as controls are. */
		__m128i odd = _mm_cmplt_epi8(v, _mm_set1_epi8(0x20));
		int mask = _mm_movemask_epi8(_mm_or_si128(end, odd));

		if (mask)
			return (size_t)__builtin_ctz((unsigned int)mask);
		return 16 + openai_plain_bytes(p + 16, n - 16);
	}
#endif
	return openai_plain_bytes(p, n);
}

/* Bytes from a character's start on that need no closer look. */
static size_t string_fast(struct openai_scan *s, const char *p, size_t n, uint64_t at)
{
	size_t plain = plain_bytes(p, n), more;

	token_add_plain(s, p, plain, n);
	if (plain == n || p[plain] == '"' || s->keeps_token || at + plain < s->slow_until)
		return plain;
	more = plain + openai_string_skip(p + plain, n - plain);
	if (more == n || p[more] != '"')
		s->slow_until = at + more + 64;
	return more;
}

/* One stretch inside a string. Returns the bytes taken, 0 on error. */
static size_t string_bytes(struct openai_scan *s, const char *p, size_t n)
{
	size_t i = 0;

	while (i < n) {
		unsigned char c;

		if (!s->utf8_need) {
			i += string_fast(s, p + i, n - i, s->base + i);
			if (i == n)
				break;
		}
		c = (unsigned char)p[i];
		if (s->utf8_need || c >= 0x80) {
			if (utf8_byte(s, c))
				return fail(s, OPENAI_UTF8, s->base + i), 0;
		} else if (c == '"') {
			return string_end(s, s->base + i) ? 0 : i + 1;
		} else if (c == '\\') {
			s->state = ESCAPE;
			return i + 1;
		} else if (c >= 0x20) { /* the fast path may stop anywhere */
			token_add(s, c);
		} else {
			return fail(s, OPENAI_SYNTAX, s->base + i), 0;
		}
		i++;
	}
	return i;
}

static int escape_byte(struct openai_scan *s, char c, uint64_t at)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *found = c ? strchr(from, c) : NULL;

	if (found) {
		token_add(s, (unsigned char)to[found - from]);
		s->state = STRING;
	} else if (c == 'u') {
		s->state = HEX;
		s->hex = 0;
		s->unit = 0;
	} else {
		return fail(s, OPENAI_SYNTAX, at);
	}
	return 0;
}

static int hex_byte(struct openai_scan *s, char c, uint64_t at)
{
	int d = -1;

	if (c >= '0' && c <= '9')
		d = c - '0';
	else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
		d = (c | 0x20) - 'a' + 10;
	if (d < 0)
		return fail(s, OPENAI_SYNTAX, at);
	s->unit = (uint16_t)(s->unit << 4 | d);
	if (++s->hex == 4) {
		if (s->keeps_token)
			token_add_unit(s, s->unit);
		s->state = STRING;
	}
	return 0;
}

/* Returns 1 if c goes on with the number, 0 if the number ends before it, -EBADMSG. */
static int number_byte(struct openai_scan *s, char c)
{
	bool digit = c >= '0' && c <= '9', e = c == 'e' || c == 'E';

	switch (s->number) {
	case NUM_SIGN:
		s->number = c == '0' ? NUM_ZERO : NUM_INT;
		s->integer = digit ? c - '0' : 0;
		return digit ? 1 : -EBADMSG;
	case NUM_INT:
		if (digit) {
			s->bad_int |= s->integer > INT64_MAX / 10 - 10;
			s->integer = s->bad_int ? 0 : s->integer * 10 + (c - '0');
			return 1;
		}
		/* fall through */
	case NUM_ZERO:
		if (c == '.' || e) {
			s->number = e ? NUM_E : NUM_DOT;
			s->bad_int = true;
			return 1;
		}
		return digit ? -EBADMSG : 0;
	case NUM_DOT:
		s->number = NUM_FRAC;
		return digit ? 1 : -EBADMSG;
	case NUM_FRAC:
		if (e)
			s->number = NUM_E;
		return digit || e;
	case NUM_E:
		s->number = digit ? NUM_EXP : NUM_E_SIGN;
		return digit || c == '+' || c == '-' ? 1 : -EBADMSG;
	case NUM_E_SIGN:
		s->number = NUM_EXP;
		return digit ? 1 : -EBADMSG;
	default:
		return digit;
	}
}

static int after_value(struct openai_scan *s, char c, uint64_t at)
{
	if (c == ',') {
		s->state = in_object(s) ? KEY : VALUE;
		if (s->depth == 1)
			s->comma = at;
		return 0;
	}
	if (c == '}' || c == ']')
		return level_close(s, c, at);
	return fail(s, OPENAI_SYNTAX, at);
}

/* A byte between tokens, white space already passed. */
static int structure_byte(struct openai_scan *s, char c, uint64_t at)
{
	switch (s->state) {
	case VALUE_OR_END:
		if (c == ']')
			return level_close(s, c, at);
		/* fall through */
	case VALUE:
		return value_start(s, c, at);
	case KEY_OR_END:
		if (c == '}')
			return level_close(s, c, at);
		/* fall through */
	case KEY:
		if (c != '"')
			return fail(s, OPENAI_SYNTAX, at);
		s->state = STRING;
		s->is_key = true;
		s->keeps_token = openai_key_is_kept(s);
		s->value = at;
		s->token_len = 0;
		return 0;
	case COLON:
		s->state = VALUE;
		return c == ':' ? 0 : fail(s, OPENAI_SYNTAX, at);
	case AFTER:
		return after_value(s, c, at);
	default:
		return fail(s, OPENAI_SYNTAX, at);
	}
}

static int literal_byte(struct openai_scan *s, char c, uint64_t at)
{
	const char *word = literals[s->literal];

	if (c != word[s->literal_at])
		return fail(s, OPENAI_SYNTAX, at);
	if (word[++s->literal_at])
		return 0;
	s->state = AFTER;
	s->integer = s->literal == 0;
	return openai_value_end(s, at + 1);
}

static int scan_byte(struct openai_scan *s, char c, uint64_t at)
{
	int more;

	switch (s->state) {
	case ESCAPE:
		return escape_byte(s, c, at);
	case HEX:
		return hex_byte(s, c, at);
	case LITERAL:
		return literal_byte(s, c, at);
	case NUMBER:
		more = number_byte(s, c);
		if (more < 0)
			return fail(s, OPENAI_SYNTAX, at);
		if (more)
			return 0;
		s->state = AFTER;
		if (openai_value_end(s, at))
			return -EBADMSG;
		__attribute__((fallthrough)); /* c is the byte after the number */
	default:
		if (c == ' ' || c == '\n' || c == '\r' || c == '\t')
			return 0;
		return structure_byte(s, c, at);
	}
}

int openai_scan_feed(struct openai_scan *s, const char *p, size_t n)
{
	uint64_t start = s->base;
	size_t i = 0;

	if (s->error)
		return -EBADMSG;
	while (i < n) {
		if (s->state == STRING) {
			size_t took;

			s->base = start + i;
			took = string_bytes(s, p + i, n - i);
			if (!took)
				return -EBADMSG;
			i += took;
		} else if (scan_byte(s, p[i], start + i)) {
			return -EBADMSG;
		} else {
			i++;
		}
	}
	s->base = start + n;
	return 0;
}

int openai_scan_finish(struct openai_scan *s)
{
	if (s->error)
		return -EBADMSG;
	return s->state == END ? 0 : fail(s, OPENAI_SYNTAX, s->base);
}

const char *openai_error_text(const struct openai_scan *s, char *buf, size_t size)
{
	static const char *const texts[] = {
		[OPENAI_FINE] = "The body is fine.",
		[OPENAI_SYNTAX] = "The body is not valid JSON: error at byte %llu.",
		[OPENAI_UTF8] = "The body is not valid UTF-8: error at byte %llu.",
		[OPENAI_NOT_OBJECT] = "The body must be a JSON object (byte %llu).",
		[OPENAI_DUPLICATE] = "The field \"%s\" appears twice.",
		[OPENAI_TYPE] = "The field \"%s\" has the wrong type.",
		[OPENAI_TOO_LONG] = "The field \"%s\" is too long.",
	};

	if (s->error == OPENAI_DEPTH)
		snprintf(buf, size, "The JSON is nested deeper than %d levels at byte %llu.",
			 JSON_DEPTH_MAX, (unsigned long long)s->error_at);
	else if (s->error_field)
		snprintf(buf, size, texts[s->error], s->error_field);
	else
		snprintf(buf, size, texts[s->error], (unsigned long long)s->error_at);
	return buf;
}
