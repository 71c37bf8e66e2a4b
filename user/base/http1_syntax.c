/* SPDX-License-Identifier: Apache-2.0 */
/* Lines, fields and lists of a head. Everything after this may trust CRLF and token names. */
#include "base/http1_syntax.h"

#include <errno.h>

static bool is_token_byte(unsigned char c)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
		return true;
	return c && strchr("!#$%&'*+-.^_`|~", c);
}

bool http1_is_token(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (!is_token_byte((unsigned char)s.ptr[i]))
			return false;
	return s.len > 0;
}

bool http1_number(struct span s, uint64_t *ret)
{
	uint64_t n = 0;

	if (s.len == 0 || s.len > 18)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		if (s.ptr[i] < '0' || s.ptr[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(s.ptr[i] - '0');
	}
	*ret = n;
	return true;
}

ssize_t http1_head_end(const char *buf, size_t len, size_t seen, enum http1_refusal *why)
{
	size_t i = seen > 4 ? seen - 4 : 0;

	for (; i < len; i++) {
		char c = buf[i];

		if (c > '\r')
			continue;
		if (c == '\0')
			return *why = HTTP1_NUL, -EBADMSG;
		if (c == '\n' && (i == 0 || buf[i - 1] != '\r'))
			return *why = HTTP1_BARE_LF, -EBADMSG;
		if (c == '\r' && i + 1 < len && buf[i + 1] != '\n')
			return *why = HTTP1_BARE_CR, -EBADMSG;
		if (c == '\n' && i >= 3 && buf[i - 2] == '\n')
			return (ssize_t)(i + 1);
	}
	return 0;
}

static struct span trim(struct span s)
{
	while (s.len && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
		s.ptr++, s.len--;
	while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
		s.len--;
	return s;
}

/* VCHAR, obs-text, SP and HTAB; every other control byte could mean something to somebody. */
static bool value_is_legal(struct span s)
{
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.ptr[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static enum http1_refusal field_parse(struct http1_field *field, struct span line)
{
	const char *colon = memchr(line.ptr, ':', line.len);

	if (line.ptr[0] == ' ' || line.ptr[0] == '\t')
		return HTTP1_OBS_FOLD;
	if (!colon)
		return HTTP1_FIELD_NAME;
	field->name = span_of(line.ptr, (size_t)(colon - line.ptr));
	field->value = trim(span_of(colon + 1, line.len - field->name.len - 1));
	if (colon > line.ptr && (colon[-1] == ' ' || colon[-1] == '\t'))
		return HTTP1_SPACE_COLON;
	if (!http1_is_token(field->name))
		return HTTP1_FIELD_NAME;
	return value_is_legal(field->value) ? HTTP1_FINE : HTTP1_FIELD_VALUE;
}

int http1_fields_parse(struct http1_head *head, const char *from, const char *end, uint32_t max,
		       enum http1_refusal *why)
{
	head->field_count = 0;
	while (from < end && *from != '\r') {
		const char *cr = memchr(from, '\r', (size_t)(end - from));

		if (head->field_count == max)
			return *why = HTTP1_HEAD_FIELDS, -EBADMSG;
		*why = field_parse(&head->fields[head->field_count++],
				   span_of(from, (size_t)(cr - from)));
		if (*why != HTTP1_FINE)
			return -EBADMSG;
		from = cr + 2;
	}
	return 0;
}

bool http1_list_has(struct span value, struct span element)
{
	while (value.len) {
		const char *comma = memchr(value.ptr, ',', value.len);
		size_t n = comma ? (size_t)(comma - value.ptr) : value.len;

		if (span_eq_nocase(trim(span_of(value.ptr, n)), element))
			return true;
		n += comma != NULL;
		value = span_of(value.ptr + n, value.len - n);
	}
	return false;
}

struct span http1_field_get(const struct http1_head *head, struct span name)
{
	for (uint32_t i = 0; i < head->field_count; i++)
		if (span_eq_nocase(head->fields[i].name, name))
			return head->fields[i].value;
	return (struct span){0};
}

bool http1_field_is_hop(const struct http1_head *head, struct span name)
{
	static const char *const hops[] = {"connection",
					   "keep-alive",
					   "proxy-connection",
					   "proxy-authenticate",
					   "proxy-authorization",
					   "te",
					   "trailer",
					   "transfer-encoding",
					   "upgrade",
					   "expect",
					   "content-length"};

	for (size_t i = 0; i < sizeof(hops) / sizeof(*hops); i++)
		if (span_eq_nocase(name, span_of_str(hops[i])))
			return true;
	for (uint32_t i = 0; i < head->field_count; i++)
		if (span_eq_nocase(head->fields[i].name, SPAN("connection")) &&
		    http1_list_has(head->fields[i].value, name))
			return true;
	return false;
}
