/* SPDX-License-Identifier: Apache-2.0 */
/* An engine's head. As strict as for requests: an answer that could be read in two ways is none. */
#include "base/http1_syntax.h"

#include <errno.h>

static bool status_line_parse(struct http1_head *head, struct span line)
{
	const char *p = line.ptr;

	if (line.len < 12 || !span_starts_with(line, SPAN("HTTP/1.")) || p[8] != ' ' ||
	    (p[7] != '0' && p[7] != '1') || (line.len > 12 && p[12] != ' '))
		return false;
	head->minor = (uint8_t)(p[7] - '0');
	head->status = 0;
	for (int i = 9; i < 12; i++) {
		if (p[i] < '0' || p[i] > '9')
			return false;
		head->status = head->status * 10 + (p[i] - '0');
	}
	return head->status >= 100 && head->status < 600;
}

static int framing_parse(struct http1_head *head, bool to_head)
{
	uint32_t lengths = 0, codings = 0;
	bool chunked = false;

	head->keep_alive = head->minor == 1;
	head->content_length = 0;
	for (uint32_t i = 0; i < head->field_count; i++) {
		const struct http1_field *f = &head->fields[i];

		if (span_eq_nocase(f->name, SPAN("content-length"))) {
			if (lengths++ || !http1_number(f->value, &head->content_length))
				return -EBADMSG;
		} else if (span_eq_nocase(f->name, SPAN("transfer-encoding"))) {
			codings++;
			chunked = span_eq_nocase(f->value, SPAN("chunked"));
		} else if (span_eq_nocase(f->name, SPAN("connection"))) {
			if (http1_list_has(f->value, SPAN("close")))
				head->keep_alive = false;
			else if (http1_list_has(f->value, SPAN("keep-alive")))
				head->keep_alive = true;
		}
	}
	if (codings > 1 || (codings && (lengths || !chunked)))
		return -EBADMSG;
	if (to_head || head->status < 200 || head->status == 204 || head->status == 304)
		head->framing = HTTP1_NO_BODY;
	else if (codings)
		head->framing = HTTP1_CHUNKED;
	else if (lengths)
		head->framing = head->content_length ? HTTP1_LENGTH_BODY : HTTP1_NO_BODY;
	else
		head->framing = HTTP1_UNTIL_CLOSE, head->keep_alive = false;
	return 0;
}

ssize_t http1_response_parse(struct http1_head *head, const char *buf, size_t len, size_t seen,
			     bool to_head)
{
	enum http1_refusal why;
	ssize_t end = http1_head_end(buf, len, seen, &why);
	const char *line_end;

	if (end < 0)
		return end;
	if (end == 0)
		return len >= RESPONSE_HEAD_MAX || memcmp(buf, "HTTP/1.", len < 7 ? len : 7)
			       ? -EBADMSG
			       : -EAGAIN;
	line_end = memchr(buf, '\r', (size_t)end);
	if (!status_line_parse(head, span_of(buf, (size_t)(line_end - buf))))
		return -EBADMSG;
	if (http1_fields_parse(head, line_end + 2, buf + end - 2, HEAD_FIELDS_MAX, &why))
		return -EBADMSG;
	return framing_parse(head, to_head) ? -EBADMSG : end;
}
