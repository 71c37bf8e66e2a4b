/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sampling_params with one token to make: an object inside the body, whose place is known but not
 * its members' places. It is small; it is copied and edited as text, all else byte for byte.
 */
#include <errno.h>
#include <string.h>

#include "dataplane/disagg/connector.h"

/* The end of the value that begins at p: p is inside valid JSON. */
static const char *value_end(const char *p, const char *end)
{
	unsigned int depth = 0;
	bool in_string = false;

	for (; p < end; p++) {
		if (in_string) {
			if (*p == '\\')
				p++;
			else if (*p == '"')
				in_string = false;
			if (!in_string && depth == 0)
				return p + 1;
			continue;
		}
		if (*p == '"')
			in_string = true;
		else if (*p == '{' || *p == '[')
			depth++;
		else if ((*p == '}' || *p == ']') && --depth == 0)
			return p + 1;
		else if (depth == 0 &&
			 (*p == ',' || *p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
			return p;
		if (depth == 0 && !in_string && p + 1 < end && (p[1] == '}' || p[1] == ']'))
			return p + 1;
	}
	return end;
}

static const char *space_end(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

/* Replaces [at, end) of the text of *len bytes by "1"; the value is at least one byte. */
static void put_one(char *text, size_t *len, size_t at, size_t end)
{
	text[at] = '1';
	memmove(text + at + 1, text + end, *len - end);
	*len -= end - at - 1;
}

ssize_t sampling_rewrite(const struct block *chain, uint64_t start, uint64_t end, char *to,
			 size_t room)
{
	static const char member[] = ",\"max_tokens\":1}";
	size_t len = end - start, at = 1;
	bool found = false, empty = true;

	if (end - start + sizeof(member) > room)
		return -ENOSPC;
	body_copy(chain, start, end, to, room);
	for (;;) {
		const char *key = space_end(to + at, to + len), *value;
		size_t key_len, from;

		if (*key == ',')
			key = space_end(key + 1, to + len);
		if (*key != '"')
			break;
		empty = false;
		value = value_end(key, to + len);
		key_len = (size_t)(value - key);
		value = space_end(value, to + len);
		value = space_end(value + 1, to + len); /* after the colon */
		from = (size_t)(value - to);
		at = (size_t)(value_end(value, to + len) - to);
		if ((key_len == 12 && memcmp(key, "\"max_tokens\"", 12) == 0) ||
		    (key_len == 12 && memcmp(key, "\"min_tokens\"", 12) == 0)) {
			found |= key[2] == 'a';
			put_one(to, &len, from, at);
			at = from + 1;
		}
	}
	if (!found) {
		len = len - 1; /* its brace */
		memcpy(to + len, member + empty, sizeof(member) - 1 - empty);
		len += sizeof(member) - 1 - empty;
	}
	return (ssize_t)len;
}
