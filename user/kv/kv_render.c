/* SPDX-License-Identifier: Apache-2.0 */
/* A cursor over JSON that is known to be valid, yet never read past its end. */
#include "kv/kv_render.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct json {
	const char *at, *end;
};

static void white(struct json *j)
{
	while (j->at < j->end &&
	       (*j->at == ' ' || *j->at == '\n' || *j->at == '\t' || *j->at == '\r'))
		j->at++;
}

/* Takes c if it comes next. */
static bool take(struct json *j, char c)
{
	white(j);
	if (j->at == j->end || *j->at != c)
		return false;
	j->at++;
	return true;
}

static char peek(struct json *j)
{
	white(j);
	return j->at < j->end ? *j->at : '\0';
}

/* A string's bytes between its quotes, escapes as they are. */
static bool string(struct json *j, struct span *ret)
{
	const char *from;

	if (!take(j, '"'))
		return false;
	from = j->at;
	for (;;) {
		const char *quote = memchr(j->at, '"', (size_t)(j->end - j->at));
		size_t slashes = 0;

		if (!quote)
			return false;
		while (quote - slashes > from && quote[-1 - (long)slashes] == '\\')
			slashes++;
		j->at = quote + 1;
		if (slashes % 2)
			continue;
		*ret = span_of(from, (size_t)(quote - from));
		return true;
	}
}

/* Moves past any value. */
static bool skip(struct json *j)
{
	unsigned int depth = 0;
	struct span s;

	do {
		char c = peek(j);

		if (c == '"') {
			if (!string(j, &s))
				return false;
		} else if (c == '[' || c == '{') {
			depth++;
			j->at++;
		} else if (c == ']' || c == '}') {
			if (depth-- == 0)
				return false;
			j->at++;
		} else if (c == ',' || c == ':') {
			j->at++;
		} else if (c) {
			while (j->at < j->end && !strchr(" \n\t\r,:]}", *j->at))
				j->at++;
		} else {
			return false;
		}
	} while (depth);
	return true;
}

static void put(struct kv_out *out, const char *p, size_t n)
{
	if (n > out->size - out->len) {
		n = out->size - out->len;
		out->full = true;
	}
	memcpy(out->bytes + out->len, p, n);
	out->len += (uint32_t)n;
}

static int put_text(struct kv_out *out, const struct kv_text *t)
{
	if (!t->ptr)
		return -ENOTSUP;
	put(out, t->ptr, t->len);
	return 0;
}

static int hex4(const char *p, const char *end, uint32_t *ret)
{
	uint32_t n = 0;

	if (end - p < 4)
		return -ENOTSUP;
	for (unsigned int i = 0; i < 4; i++) {
		char c = p[i];
		uint32_t digit = c >= '0' && c <= '9'	? (uint32_t)(c - '0')
				 : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
				 : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
							: 16;

		if (digit == 16)
			return -ENOTSUP;
		n = n << 4 | digit;
	}
	*ret = n;
	return 0;
}

static void put_char(struct kv_out *out, uint32_t c)
{
	char u[4];
	unsigned int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (unsigned int i = n - 1; i; i--, c >>= 6)
		u[i] = (char)(0x80 | (c & 0x3f));
	u[0] = (char)(n == 1 ? c : (0xf00u >> n & 0xff) | c);
	put(out, u, n);
}

/* \uXXXX at p, behind the u. Half a pair stands for no text: an engine may say anything to it. */
static int put_unicode(struct kv_out *out, const char **p, const char *end)
{
	uint32_t c, low;
	int err = hex4(*p, end, &c);

	if (err)
		return err;
	*p += 4;
	if (c >= 0xdc00 && c <= 0xdfff)
		return -ENOTSUP;
	if (c >= 0xd800 && c <= 0xdbff) {
		if (end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u' || hex4(*p + 2, end, &low) ||
		    low < 0xdc00 || low > 0xdfff)
			return -ENOTSUP;
		*p += 6;
		c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
	}
	put_char(out, c);
	return 0;
}

/* A string's text: runs without a backslash in one move. */
static int put_string(struct kv_out *out, struct span s)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *p = s.ptr, *end = s.ptr + s.len;

	while (p < end && !out->full) {
		const char *slash = memchr(p, '\\', (size_t)(end - p)), *known;
		int err;

		put(out, p, (size_t)((slash ? slash : end) - p));
		if (!slash || slash + 1 == end)
			return slash ? -ENOTSUP : 0;
		p = slash + 2;
		if (slash[1] == 'u') {
			err = put_unicode(out, &p, end);
			if (err)
				return err;
			continue;
		}
		known = memchr(from, slash[1], sizeof(from) - 1);
		if (!known)
			return -ENOTSUP;
		put(out, &to[known - from], 1);
	}
	return 0;
}

/* {"type": "text", "text": …} and the like ("input_text"); anything else is no text. */
static int text_part(struct json *j, struct span *ret)
{
	struct span key, value;
	bool found = false, text = false;

	if (!take(j, '{'))
		return -ENOTSUP;
	while (!take(j, '}')) {
		take(j, ',');
		if (!string(j, &key) || !take(j, ':'))
			return -ENOTSUP;
		if (span_eq(key, SPAN("cache_control"))) { /* an API's hint, no text */
			if (!skip(j))
				return -ENOTSUP;
			continue;
		}
		if (!string(j, &value))
			return -ENOTSUP;
		if (span_eq(key, SPAN("text"))) {
			*ret = value;
			found = true;
		} else if (span_eq(key, SPAN("type"))) {
			text = span_eq(value, SPAN("text")) || span_eq(value, SPAN("input_text")) ||
			       span_eq(value, SPAN("output_text"));
		} else {
			return -ENOTSUP;
		}
	}
	return found && text ? 0 : -ENOTSUP;
}

static bool is_white(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(struct kv_out *out, uint32_t from)
{
	uint32_t begin = from;

	if (!out->full)
		while (out->len > from && is_white(out->bytes[out->len - 1]))
			out->len--;
	while (begin < out->len && is_white(out->bytes[begin]))
		begin++;
	memmove(out->bytes + from, out->bytes + begin, out->len - begin);
	out->len -= begin - from;
}

/* A content: a string, or text parts. */
static int content(const struct kv_glue *g, struct json j, bool strings_only, struct kv_out *out)
{
	uint32_t from = out->len;
	struct span text;
	bool first = true;
	int err;

	if (peek(&j) == '"') {
		err = string(&j, &text) ? put_string(out, text) : -ENOTSUP;
	} else {
		if (strings_only || !take(&j, '['))
			return -ENOTSUP;
		for (err = 0; !err && !take(&j, ']'); first = false) {
			take(&j, ',');
			err = text_part(&j, &text);
			if (!err && !first)
				err = put_text(out, &g->parts);
			if (!err)
				err = put_string(out, text);
		}
	}
	if (!err && g->trims)
		trim(out, from);
	return err;
}

static int role_of(struct span name)
{
	return span_eq(name, SPAN("user"))	  ? KV_ROLE_USER
	       : span_eq(name, SPAN("assistant")) ? KV_ROLE_ASSISTANT
	       : span_eq(name, SPAN("system"))	  ? KV_ROLE_SYSTEM
						  : KV_ROLES;
}

#define LAST_NONE  (-1)
#define LAST_ODD   KV_ROLES
#define SAMPLE_MAX 192

/* A row of messages being rendered. */
struct row {
	const struct kv_glue *g;
	const struct kv_request *request;
	struct kv_out *out;
	int last; /* role of the last message, LAST_NONE yet, or LAST_ODD: odd */
	struct span odd, odd_role;
	bool odd_calls;
	bool muted; /* a piece was not known: only wishes are left from here on */
};

/* A message's members, as far as they matter. */
struct parsed {
	struct span raw, role;
	struct json text;  /* of its content; at NULL: none */
	bool calls, plain; /* plain: nothing but a role and a content */
};

/* Ends the rendering, but not the walk: what follows is wished for as well. */
static void mute(struct row *r)
{
	r->muted = true;
	r->out->full = true;
}

static enum kv_before before_of(const struct row *r)
{
	return r->last == LAST_NONE	   ? KV_BEFORE_NOTHING
	       : r->last == LAST_ODD	   ? KV_BEFORE_ODD
	       : r->last == KV_ROLE_SYSTEM ? KV_BEFORE_SYSTEM
	       : r->last == KV_ROLE_USER   ? KV_BEFORE_USER
					   : KV_BEFORE_ASSISTANT;
}

/* Puts a piece, or notes that it is missing. -ENOTSUP: it cannot be had here. */
static int put_piece(struct row *r, const struct kv_wish *w)
{
	struct kv_out *out = r->out;
	int n = kv_pieces_get(r->request->pieces, w, out->bytes + out->len,
			      r->muted ? 0 : out->size - out->len);

	if (n >= 0 && !r->muted)
		out->len += (uint32_t)n;
	else
		mute(r);
	return 0;
}

/* What stands before a content of that role behind an odd message: the same behind all of its kind.
 */
static int put_lead(struct row *r, int role)
{
	static const char *const names[KV_ROLES] = {"system", "user", "assistant"};
	char odd[SAMPLE_MAX], message[SAMPLE_MAX];
	struct kv_wish w = {.before = KV_BEFORE_ODD, .lead = true, .tools = r->request->tools};
	int n;

	if (span_eq(r->odd_role, SPAN("tool")))
		n = snprintf(odd, sizeof(odd),
			     "{\"role\":\"tool\",\"tool_call_id\":\"qK7call\",\"content\":\"qK7-"
			     "odd-Zz\"}");
	else if (r->odd_calls)
		n = snprintf(odd, sizeof(odd),
			     "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":"
			     "\"qK7call\","
			     "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}"
			     "\"}}]}");
	else
		n = snprintf(odd, sizeof(odd), "{\"role\":\"%.*s\",\"content\":\"qK7-odd-Zz\"}",
			     SPAN_FMT(r->odd_role));
	if (n < 0 || n >= SAMPLE_MAX)
		return -ENOTSUP;
	w.odd = span_of(odd, (size_t)n);
	n = snprintf(message, sizeof(message), "{\"role\":\"%s\",\"content\":\"" KV_LEAD "\"}",
		     names[role]);
	w.message = span_of(message, (size_t)n);
	return put_piece(r, &w);
}

static int odd_message(struct row *r, const struct parsed *m)
{
	struct kv_wish w = {.before = before_of(r),
			    .odd = r->last == LAST_ODD ? r->odd : span_of(NULL, 0),
			    .message = m->raw,
			    .tools = r->request->tools};
	int err = 0;

	if (!r->request->pieces || r->request->strings_only || !m->raw.len || !m->role.len)
		return -ENOTSUP;
	if (r->last >= 0 && r->last < KV_ROLES && !r->muted &&
	    put_text(r->out, &r->g->after[r->last]))
		return -ENOTSUP;
	err = put_piece(r, &w);
	r->last = LAST_ODD;
	r->odd = m->raw;
	r->odd_role = m->role;
	r->odd_calls = m->calls;
	return err;
}

/* -ENOTSUP: not with this glue; nothing was put. */
static int plain_message(struct row *r, int role, struct json text)
{
	const struct kv_text *before = r->last < 0	    ? &r->g->begin[role]
				       : r->last < KV_ROLES ? &r->g->between[r->last][role]
							    : NULL;
	uint32_t len = r->out->len;
	int err;

	if (r->muted) {
		if (r->last == LAST_ODD)
			put_lead(r, role);
		r->last = role;
		return 0;
	}
	err = before ? put_text(r->out, before) : put_lead(r, role);
	if (!err && !r->muted)
		err = content(r->g, text, r->request->strings_only, r->out);
	if (err)
		r->out->len = len;
	else
		r->last = role;
	return err;
}

static int message(struct row *r, const struct parsed *m)
{
	int role = role_of(m->role);

	if (m->plain && m->text.at && role != KV_ROLES && plain_message(r, role, m->text) == 0)
		return 0;
	return odd_message(r, m);
}

/* {"role": …, "content": …}; other members that are empty mean nothing. */
static int message_object(struct row *r, struct json *j)
{
	struct parsed m = {.plain = true};
	const char *from;
	struct span key;

	white(j);
	from = j->at;
	if (!take(j, '{'))
		return -ENOTSUP;
	while (!take(j, '}')) {
		struct json value;

		take(j, ',');
		if (!string(j, &key) || !take(j, ':'))
			return -ENOTSUP;
		white(j);
		value = *j;
		if (span_eq(key, SPAN("role"))) {
			if (!string(&value, &m.role))
				return -ENOTSUP;
		} else if (span_eq(key, SPAN("content"))) {
			m.text = value;
		} else if (span_eq(key, SPAN("type"))) {
			m.plain &= string(&value, &key) && span_eq(key, SPAN("message"));
		} else if (peek(&value) != 'n' && !(take(&value, '[') && peek(&value) == ']')) {
			m.calls |= span_eq(key, SPAN("tool_calls"));
			m.plain = false;
		}
		if (!skip(j))
			return -ENOTSUP;
	}
	m.raw = span_of(from, (size_t)(j->at - from));
	return message(r, &m);
}

static int messages(struct row *r, struct span json)
{
	struct json j = {json.ptr, json.ptr + json.len};

	if (!take(&j, '['))
		return -ENOTSUP;
	while (!take(&j, ']') && (!r->out->full || r->muted)) {
		bool was_muted = r->muted;
		const char *from;
		int err;

		take(&j, ',');
		from = j.at;
		err = message_object(r, &j);
		if (err)
			return err;
		if (r->muted && !was_muted)
			r->out->rest = (uint32_t)(json.ptr + json.len - from);
	}
	return 0;
}

static int plain_tokens(const struct vocab *vocab, struct json *j, struct kv_out *out)
{
	while (!take(j, ']') && !out->full) {
		uint64_t id = 0;
		struct span bytes;

		take(j, ',');
		white(j);
		if (j->at == j->end || *j->at < '0' || *j->at > '9')
			return -ENOTSUP; /* several prompts in one request */
		while (j->at < j->end && *j->at >= '0' && *j->at <= '9' && id <= UINT32_MAX)
			id = id * 10 + (uint64_t)(*j->at++ - '0');
		bytes = id <= UINT32_MAX ? vocab_bytes(vocab, (uint32_t)id) : span_of(NULL, 0);
		if (!bytes.len)
			return -ENOTSUP;
		put(out, bytes.ptr, bytes.len);
	}
	return 0;
}

/* The prompt of a completion: text, or ids, which nothing is put around. */
static int plain(const struct kv_glue *g, const struct vocab *vocab, struct span json,
		 struct kv_out *out)
{
	struct json j = {json.ptr, json.ptr + json.len};
	struct span text;
	int err;

	if (take(&j, '['))
		return plain_tokens(vocab, &j, out);
	err = put_text(out, &g->plain_begin);
	if (!err)
		err = string(&j, &text) ? put_string(out, text) : -ENOTSUP;
	return err ? err : put_text(out, &g->plain_end);
}

int kv_render(const struct kv_glue *g, const struct vocab *vocab, const struct kv_request *r,
	      struct kv_out *out)
{
	struct row row = {.g = g, .request = r, .out = out, .last = LAST_NONE};
	struct span before = r->system.len ? r->system : r->instructions;
	int err = 0;

	out->rest = 0;
	if (r->prompt.len)
		return plain(g, vocab, r->prompt, out);
	if (before.len)
		err = plain_message(&row, KV_ROLE_SYSTEM,
				    (struct json){before.ptr, before.ptr + before.len});
	if (!err && r->messages.len)
		err = messages(&row, r->messages);
	else if (!err && r->input.len && *r->input.ptr == '[')
		err = messages(&row, r->input);
	else if (!err && r->input.len)
		err = plain_message(&row, KV_ROLE_USER,
				    (struct json){r->input.ptr, r->input.ptr + r->input.len});
	if (err || row.last < 0 || (row.muted && out->rest > out->len))
		return err ? err : -ENOTSUP; /* too little is known of it: memory knows more */
	if (out->full)
		return 0;
	return put_text(out, row.last == LAST_ODD ? &g->generation : &g->end[row.last]);
}

bool kv_json_member(struct span object, const char *name, struct span *ret)
{
	struct json j = {object.ptr, object.ptr + object.len};
	struct span key;

	*ret = span_of(NULL, 0);
	if (!take(&j, '{'))
		return false;
	while (!take(&j, '}')) {
		const char *from;

		take(&j, ',');
		if (!string(&j, &key) || !take(&j, ':'))
			return false;
		white(&j);
		from = j.at;
		if (!skip(&j))
			return false;
		if (span_eq(key, span_of_str(name)) && *from != 'n') {
			*ret = span_of(from, (size_t)(j.at - from));
			return true;
		}
	}
	return false;
}
