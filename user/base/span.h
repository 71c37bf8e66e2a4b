/* SPDX-License-Identifier: Apache-2.0 */
/* A stretch of bytes that somebody else owns: pointer and length, by value, never NUL-terminated.
 */
#ifndef SLUICE_BASE_SPAN_H
#define SLUICE_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct span {
	const char *ptr;
	size_t len;
};

/* A string literal as a span, its length known to the compiler. */
#define SPAN(literal) ((struct span){"" literal, sizeof(literal) - 1})
/* For printf("%.*s"). */
#define SPAN_FMT(s) ((int)(s).len), ((s).ptr)

static inline struct span span_of(const char *ptr, size_t len)
{
	return (struct span){ptr, len};
}

static inline struct span span_of_str(const char *str)
{
	return (struct span){str, strlen(str)};
}

static inline bool span_eq(struct span a, struct span b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* ASCII case folded; bytes over 0x7f compare as they are. */
static inline bool span_eq_nocase(struct span a, struct span b)
{
	if (a.len != b.len)
		return false;
	for (size_t i = 0; i < a.len; i++) {
		unsigned char x = (unsigned char)a.ptr[i], y = (unsigned char)b.ptr[i];

		if (x >= 'A' && x <= 'Z')
			x |= 0x20;
		if (y >= 'A' && y <= 'Z')
			y |= 0x20;
		if (x != y)
			return false;
	}
	return true;
}

static inline bool span_starts_with(struct span s, struct span prefix)
{
	return s.len >= prefix.len && memcmp(s.ptr, prefix.ptr, prefix.len) == 0;
}

#endif
