/* SPDX-License-Identifier: Apache-2.0 */
/* Events end with an empty line. Whole events are looked at in place; a cut one is kept, bounded.
 */
#include "base/sse.h"

#include <string.h>

static bool has(struct span text, const char *needle)
{
	return memmem(text.ptr, text.len, needle, strlen(needle)) != NULL;
}

/* The number after "name": in text, or false. */
static bool number_after(struct span text, const char *name, uint32_t *ret)
{
	const char *end = text.ptr + text.len;
	const char *p = memmem(text.ptr, text.len, name, strlen(name));
	uint32_t n = 0;

	if (!p)
		return false;
	for (p += strlen(name); p < end && (*p == ' ' || *p == ':'); p++)
		;
	if (p == end || *p < '0' || *p > '9')
		return false;
	for (; p < end && *p >= '0' && *p <= '9' && n < 100000000; p++)
		n = n * 10 + (uint32_t)(*p - '0');
	*ret = n;
	return true;
}

void usage_read(struct span text, struct usage *ret)
{
	const char *p = memmem(text.ptr, text.len, "\"usage\":", 8);
	struct span rest;

	if (!p)
		return;
	rest = span_of(p, text.len - (size_t)(p - text.ptr));
	if (!number_after(rest, "\"prompt_tokens\"", &ret->prompt_tokens) &&
	    !number_after(rest, "\"input_tokens\"", &ret->prompt_tokens))
		return;
	ret->known = true;
	if (!number_after(rest, "\"completion_tokens\"", &ret->completion_tokens))
		number_after(rest, "\"output_tokens\"", &ret->completion_tokens);
	ret->cached_known = number_after(rest, "\"cached_tokens\"", &ret->cached_tokens) ||
			    number_after(rest, "\"cache_read_input_tokens\"", &ret->cached_tokens);
}

/* Does `"name":"` go on with anything but the closing quote? */
static bool nonempty(struct span text, const char *name)
{
	const char *p = memmem(text.ptr, text.len, name, strlen(name));

	return p && p + strlen(name) < text.ptr + text.len && p[strlen(name)] != '"';
}

static bool has_content(struct span event)
{
	return nonempty(event, "\"content\":\"") || nonempty(event, "\"text\":\"") ||
	       nonempty(event, "\"reasoning_content\":\"") || nonempty(event, "\"reasoning\":\"") ||
	       nonempty(event, "\"delta\":\"") || nonempty(event, "\"arguments\":\"") ||
	       nonempty(event, "\"partial_json\":\"");
}

static void event_seen(struct sse *s, struct span event)
{
	const char *data = memmem(event.ptr, event.len, "data:", 5);
	struct span value;

	if (!data || (data != event.ptr && data[-1] != '\n'))
		return; /* a comment, or an event without data */
	value = span_of(data + 5, event.len - (size_t)(data + 5 - event.ptr));
	while (value.len && value.ptr[0] == ' ')
		value.ptr++, value.len--;
	if (s->events++ == 0)
		s->first_is_error = span_starts_with(value, SPAN("{\"error\"")) ||
				    span_starts_with(event, SPAN("event: error"));
	if (span_starts_with(value, SPAN("[DONE]")))
		s->done = true;
	if (!s->content)
		s->content = has_content(value);
	if (has(value, "\"usage\":{"))
		usage_read(value, &s->usage);
}

static void keep_add(struct sse *s, const char *p, size_t n)
{
	if (!s->kept && n > SSE_KEEP / 2) { /* its start says what a long event is, … */
		memcpy(s->keep, p, SSE_KEEP / 2);
		s->kept = SSE_KEEP / 2;
		p += SSE_KEEP / 2;
		n -= SSE_KEEP / 2;
	}
	if (n > SSE_KEEP / 2) { /* … its end has the usage */
		p += n - SSE_KEEP / 2;
		n = SSE_KEEP / 2;
	}
	if (s->kept + n > SSE_KEEP) {
		size_t cut = s->kept + n - SSE_KEEP, half = SSE_KEEP / 2;

		if (cut > s->kept - half)
			cut = s->kept - half;
		memmove(s->keep + half, s->keep + half + cut, s->kept - half - cut);
		s->kept -= (uint32_t)cut;
		if (s->kept + n > SSE_KEEP)
			n = SSE_KEEP - s->kept;
	}
	memcpy(s->keep + s->kept, p, n);
	s->kept += (uint32_t)n;
}

/* The first byte after an empty line, or NULL. */
static const char *event_end(const char *p, const char *end)
{
	while ((p = memchr(p, '\n', (size_t)(end - p)))) {
		p++;
		if (p < end && *p == '\n')
			return p + 1;
		if (p + 1 < end && *p == '\r' && p[1] == '\n')
			return p + 2;
		if (p == end)
			return NULL;
	}
	return NULL;
}

/* The same where the event began in what is kept: its end may lie across. */
static const char *kept_end(const struct sse *s, const char *p, const char *end)
{
	const char *last = s->keep + s->kept;
	bool newline = last[-1] == '\n';
	bool cr = s->kept > 1 && last[-1] == '\r' && last[-2] == '\n';

	if ((newline || cr) && *p == '\n')
		return p + 1;
	if (newline && p + 1 < end && p[0] == '\r' && p[1] == '\n')
		return p + 2;
	return event_end(p, end);
}

size_t sse_feed(struct sse *s, const char *p, size_t n)
{
	const char *end = p + n, *next;

	if (s->kept && n) {
		next = kept_end(s, p, end);
		if (!next) {
			keep_add(s, p, n);
			return n;
		}
		keep_add(s, p, (size_t)(next - p));
		event_seen(s, span_of(s->keep, s->kept));
		s->kept = 0;
		p = next;
	}
	while (p < end && (next = event_end(p, end))) {
		event_seen(s, span_of(p, (size_t)(next - p)));
		p = next;
	}
	if (p < end)
		keep_add(s, p, (size_t)(end - p));
	return (size_t)(end - p);
}

void sse_json_feed(struct sse *s, const char *p, size_t n)
{
	if (n >= SSE_KEEP) {
		memcpy(s->keep, p + n - SSE_KEEP, SSE_KEEP);
		s->kept = SSE_KEEP;
		return;
	}
	if (s->kept + n > SSE_KEEP) {
		size_t cut = s->kept + n - SSE_KEEP;

		memmove(s->keep, s->keep + cut, s->kept - cut);
		s->kept -= (uint32_t)cut;
	}
	memcpy(s->keep + s->kept, p, n);
	s->kept += (uint32_t)n;
}

void sse_json_end(struct sse *s)
{
	usage_read(span_of(s->keep, s->kept), &s->usage);
	s->content = true;
}
