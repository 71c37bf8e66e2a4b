/* SPDX-License-Identifier: Apache-2.0 */
/* A request's head: start line, then what its fields say about framing, host and connection. */
#include "base/http1_syntax.h"

#include <errno.h>

#define METHOD_BYTES_MAX                                                                           \
	32 /* no method is longer; a longer one is refused before its line ends                    \
	    */

static enum http1_refusal method_parse(struct http1_head *head, struct span text)
{
	static const struct {
		struct span name;
		enum http1_method method;
	} known[] = {{SPAN("GET"), HTTP1_GET},
		     {SPAN("HEAD"), HTTP1_HEAD},
		     {SPAN("POST"), HTTP1_POST},
		     {SPAN("OPTIONS"), HTTP1_OPTIONS}};

	if (text.len > METHOD_BYTES_MAX || !http1_is_token(text))
		return HTTP1_BAD_METHOD;
	head->method = HTTP1_OTHER;
	head->method_text = text;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (span_eq(text, known[i].name))
			head->method = known[i].method;
	return HTTP1_FINE;
}

/* reg-name, IPv4 or [IPv6], with an optional port: the bytes of RFC 3986, no user information. */
static bool authority_is_legal(struct span s)
{
	bool bracket = s.len && s.ptr[0] == '[', in = bracket;
	size_t i = bracket;

	for (; i < s.len; i++) {
		unsigned char c = (unsigned char)s.ptr[i];

		if (in && c == ']') {
			in = false;
			if (i + 1 < s.len && s.ptr[i + 1] != ':')
				return false;
			continue;
		}
		if (c == ':' && !in)
			break;
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      (c && strchr("-._~%!$&'()*+;=", c)) || (in && c == ':')))
			return false;
	}
	for (i++; i < s.len; i++)
		if (s.ptr[i] < '0' || s.ptr[i] > '9')
			return false;
	return s.len > 0 && !in && s.ptr[0] != ':';
}

static enum http1_refusal target_parse(struct http1_head *head, struct span target)
{
	struct span path = target;
	const char *mark;

	for (size_t i = 0; i < target.len; i++) {
		unsigned char c = (unsigned char)target.ptr[i];

		if (c <= 0x20 || c >= 0x7f || c == '#' || c == '"' || c == '<' || c == '>' ||
		    c == '\\' || c == '^' || c == '`' || c == '{' || c == '|' || c == '}')
			return HTTP1_BAD_TARGET;
	}
	head->target = target;
	if (span_starts_with(target, SPAN("http://")) ||
	    span_starts_with(target, SPAN("https://"))) {
		const char *from = (const char *)memchr(target.ptr, '/', target.len) + 2;
		size_t left = target.len - (size_t)(from - target.ptr);
		const char *slash = memchr(from, '/', left);
		size_t n = slash ? (size_t)(slash - from) : left;

		if (!authority_is_legal(span_of(from, n)))
			return HTTP1_BAD_TARGET;
		path = slash ? span_of(slash, left - n) : SPAN("/");
	} else if (target.len == 0 || (target.ptr[0] != '/' && !(span_eq(target, SPAN("*")) &&
								 head->method == HTTP1_OPTIONS))) {
		if (head->method != HTTP1_OTHER)
			return HTTP1_BAD_TARGET;
	}
	mark = memchr(path.ptr, '?', path.len);
	head->path = mark ? span_of(path.ptr, (size_t)(mark - path.ptr)) : path;
	head->query = mark ? span_of(mark + 1, path.len - head->path.len - 1) : (struct span){0};
	return HTTP1_FINE;
}

static enum http1_refusal version_parse(struct http1_head *head, struct span v)
{
	if (v.len != 8 || !span_starts_with(v, SPAN("HTTP/")) || v.ptr[6] != '.' ||
	    v.ptr[5] < '0' || v.ptr[5] > '9' || v.ptr[7] < '0' || v.ptr[7] > '9')
		return HTTP1_BAD_VERSION;
	if (v.ptr[5] != '1')
		return HTTP1_VERSION;
	head->minor = v.ptr[7] == '0' ? 0 : 1;
	return HTTP1_FINE;
}

static enum http1_refusal start_line_parse(struct http1_head *head, struct span line)
{
	const char *end = line.ptr + line.len;
	const char *s1 = memchr(line.ptr, ' ', line.len);
	const char *s2 = s1 ? memchr(s1 + 1, ' ', (size_t)(end - s1 - 1)) : NULL;
	enum http1_refusal why;

	if (!s2)
		return HTTP1_BAD_START;
	why = method_parse(head, span_of(line.ptr, (size_t)(s1 - line.ptr)));
	if (why == HTTP1_FINE)
		why = target_parse(head, span_of(s1 + 1, (size_t)(s2 - s1 - 1)));
	if (why == HTTP1_FINE)
		why = version_parse(head, span_of(s2 + 1, (size_t)(end - s2 - 1)));
	return why;
}

/* One pass over the fields that frame the message or name its host. */
static enum http1_refusal framing_parse(struct http1_head *head)
{
	uint32_t hosts = 0, types = 0, lengths = 0, codings = 0;
	bool chunked = false;

	head->keep_alive = head->minor == 1;
	head->expect_continue = head->expect_unknown = false;
	head->content_length = 0;
	for (uint32_t i = 0; i < head->field_count; i++) {
		const struct http1_field *f = &head->fields[i];

		if (span_eq_nocase(f->name, SPAN("host"))) {
			if (hosts++)
				return HTTP1_TWO_HOSTS;
			if (!authority_is_legal(f->value))
				return HTTP1_BAD_HOST;
		} else if (span_eq_nocase(f->name, SPAN("content-type"))) {
			if (types++)
				return HTTP1_TWO_TYPES;
		} else if (span_eq_nocase(f->name, SPAN("content-length"))) {
			if (lengths++ || !http1_number(f->value, &head->content_length))
				return HTTP1_LENGTH;
		} else if (span_eq_nocase(f->name, SPAN("transfer-encoding"))) {
			codings++;
			chunked = span_eq_nocase(f->value, SPAN("chunked"));
		} else if (span_eq_nocase(f->name, SPAN("connection"))) {
			if (http1_list_has(f->value, SPAN("close")))
				head->keep_alive = false;
			else if (head->minor == 0 && http1_list_has(f->value, SPAN("keep-alive")))
				head->keep_alive = true;
		} else if (span_eq_nocase(f->name, SPAN("expect"))) {
			bool known = span_eq_nocase(f->value, SPAN("100-continue"));

			head->expect_continue |= known && head->minor == 1;
			head->expect_unknown |= !known;
		}
	}
	if (!hosts && head->minor == 1)
		return HTTP1_NO_HOST;
	if (codings && lengths)
		return HTTP1_BOTH_LENGTHS;
	if (codings && head->minor == 0)
		return HTTP1_CODING_10;
	if (codings && (codings > 1 || !chunked))
		return HTTP1_CODING;
	head->framing = codings				      ? HTTP1_CHUNKED
			: lengths && head->content_length > 0 ? HTTP1_LENGTH_BODY
							      : HTTP1_NO_BODY;
	return HTTP1_FINE;
}

/* What a partial head already gives away. */
static enum http1_refusal early_parse(const char *buf, size_t len, uint32_t head_max,
				      uint32_t target_max)
{
	const char *cr = memchr(buf, '\r', len), *space;
	size_t line = cr ? (size_t)(cr - buf) : len;

	if (len && !http1_is_token(span_of(buf, 1)))
		return HTTP1_BAD_START;
	space = memchr(buf, ' ', line);
	if ((space ? (size_t)(space - buf) : line) > METHOD_BYTES_MAX)
		return HTTP1_BAD_METHOD;
	if (space && !cr && line - (size_t)(space - buf) > target_max + 16)
		return HTTP1_TARGET_BYTES;
	return len >= head_max ? HTTP1_HEAD_BYTES : HTTP1_FINE;
}

ssize_t http1_request_parse(struct http1_head *head, const char *buf, size_t len, size_t seen,
			    const struct http1_limits *limits, enum http1_refusal *ret_why)
{
	uint32_t head_max = limits && limits->head_bytes ? limits->head_bytes : HEAD_BYTES_MAX;
	uint32_t fields_max = limits && limits->fields ? limits->fields : HEAD_FIELDS_MAX;
	uint32_t target_max =
		limits && limits->target_bytes ? limits->target_bytes : TARGET_BYTES_MAX;
	size_t skip = 0;
	const char *line_end;
	ssize_t end;

	/* One empty line before a request is a known habit of old clients (RFC 9112, 2.2). */
	if (len >= 2 && buf[0] == '\r' && buf[1] == '\n')
		skip = 2;
	else if (len == 1 && buf[0] == '\r')
		return -EAGAIN;
	buf += skip, len -= skip, seen = seen > skip ? seen - skip : 0;
	end = http1_head_end(buf, len, seen, ret_why);
	if (end < 0)
		return end;
	if (end == 0 || (size_t)end > head_max) {
		*ret_why = end ? HTTP1_HEAD_BYTES : early_parse(buf, len, head_max, target_max);
		return *ret_why == HTTP1_FINE ? -EAGAIN : -EBADMSG;
	}
	line_end = memchr(buf, '\r', (size_t)end);
	*ret_why = start_line_parse(head, span_of(buf, (size_t)(line_end - buf)));
	if (*ret_why == HTTP1_FINE && head->target.len > target_max)
		*ret_why = HTTP1_TARGET_BYTES;
	if (*ret_why != HTTP1_FINE)
		return -EBADMSG;
	if (http1_fields_parse(head, line_end + 2, buf + end - 2, fields_max, ret_why))
		return -EBADMSG;
	*ret_why = framing_parse(head);
	return *ret_why == HTTP1_FINE ? end + (ssize_t)skip : -EBADMSG;
}
