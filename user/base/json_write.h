/* SPDX-License-Identifier: Apache-2.0 */
/* A string as JSON, pure ASCII whatever its bytes: what the admin port's pages are made with. */
#ifndef SLUICE_BASE_JSON_WRITE_H
#define SLUICE_BASE_JSON_WRITE_H

#include <stdio.h>

#include "base/span.h"

static inline void json_string_write(FILE *f, struct span text)
{
	fputc('"', f);
	for (size_t i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

#endif
