/* SPDX-License-Identifier: Apache-2.0 */
/*
 *   SIZE --;--> EXT --"--> QUOTED        chunk-size [;name[=value]] CRLF
 *     \--CR-------+--> SIZE_LF --> DATA --> DATA_CR --> DATA_LF --> SIZE
 *                             \--> (size 0) TRAILER --CR--> TRAILER_LF --> … --> END_LF --> DONE
 */
#include "base/http1_syntax.h"

#include <errno.h>
#include <string.h>

enum {
	SIZE,
	EXT,
	EXT_NAME,
	EXT_EQUALS,
	EXT_VALUE,
	QUOTED,
	QUOTED_PAIR,
	QUOTED_END,
	SIZE_LF,
	DATA,
	DATA_CR,
	DATA_LF,
	LINE,
	TRAILER,
	TRAILER_LF,
	END_LF,
	DONE
};

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* 15 digits at most: no overflow, and nobody has a chunk of an exabyte. */
static int size_byte(struct http1_chunks *c, char b)
{
	int d = hex_digit(b);

	if (d >= 0) {
		if (++c->digits > 15)
			return -EBADMSG;
		c->left = c->left * 16 + (uint64_t)d;
		return 0;
	}
	if (!c->digits || (b != ';' && b != '\r'))
		return -EBADMSG;
	c->state = b == ';' ? EXT : SIZE_LF;
	return 0;
}

/* After the size: *( ";" name [ "=" token or quoted string ] ), blanks after ";" and "=" only. */
static int ext_byte(struct http1_chunks *c, char b)
{
	bool blank = b == ' ' || b == '\t', token = http1_is_token(span_of(&b, 1));

	switch (c->state) {
	case QUOTED:
		c->state = b == '"' ? QUOTED_END : b == '\\' ? QUOTED_PAIR : QUOTED;
		return ((unsigned char)b < 0x20 && b != '\t') || b == 0x7f ? -EBADMSG : 0;
	case QUOTED_PAIR:
		c->state = QUOTED;
		return ((unsigned char)b < 0x20 && b != '\t') || b == 0x7f ? -EBADMSG : 0;
	case EXT:
	case EXT_EQUALS:
		if (b == '"' && c->state == EXT_EQUALS)
			c->state = QUOTED;
		else if (token)
			c->state = c->state == EXT ? EXT_NAME : EXT_VALUE;
		return blank || token || c->state == QUOTED ? 0 : -EBADMSG;
	default: /* EXT_NAME, EXT_VALUE, QUOTED_END */
		if (token && c->state != QUOTED_END)
			return 0;
		if (b != ';' && b != '\r' && (b != '=' || c->state != EXT_NAME))
			return -EBADMSG;
		c->state = b == ';' ? EXT : b == '=' ? EXT_EQUALS : SIZE_LF;
		return 0;
	}
}

static int line_byte(struct http1_chunks *c, char b)
{
	if (++c->line_bytes > CHUNK_LINE_BYTES_MAX)
		return -EBADMSG;
	if (c->state >= LINE && ++c->trailer_bytes > TRAILER_BYTES_MAX) {
		c->trailers_too_large = true;
		return -EBADMSG;
	}
	switch (c->state) {
	case SIZE:
		return size_byte(c, b);
	case EXT:
	case EXT_NAME:
	case EXT_EQUALS:
	case EXT_VALUE:
	case QUOTED:
	case QUOTED_PAIR:
	case QUOTED_END:
		return ext_byte(c, b);
	case SIZE_LF:
		c->state = c->left ? DATA : LINE;
		c->line_bytes = c->digits = 0;
		return b == '\n' ? 0 : -EBADMSG;
	case DATA_CR:
		c->state = DATA_LF;
		return b == '\r' ? 0 : -EBADMSG;
	case DATA_LF:
		c->state = SIZE;
		c->line_bytes = 0;
		return b == '\n' ? 0 : -EBADMSG;
	case LINE:
		c->line_bytes = 0;
		c->state = b == '\r' ? END_LF : TRAILER;
		return b > ' ' || b == '\r' ? 0 : -EBADMSG;
	case TRAILER:
		if (b == '\r')
			c->state = TRAILER_LF;
		return b == '\n' || b == '\0' ? -EBADMSG : 0;
	case TRAILER_LF:
		c->state = LINE;
		return b == '\n' ? 0 : -EBADMSG;
	default: /* END_LF */
		c->state = DONE;
		return b == '\n' ? 0 : -EBADMSG;
	}
}

ssize_t http1_chunks_next(struct http1_chunks *c, const char *buf, size_t len,
			  struct span *ret_data)
{
	size_t i = 0;

	*ret_data = (struct span){buf, 0};
	while (i < len && c->state != DONE) {
		if (c->state == DATA) {
			size_t n = len - i < c->left ? len - i : (size_t)c->left;

			*ret_data = span_of(buf + i, n);
			c->left -= n;
			if (!c->left)
				c->state = DATA_CR;
			return (ssize_t)(i + n);
		}
		if (line_byte(c, buf[i++]))
			return -EBADMSG;
	}
	return (ssize_t)i;
}

bool http1_chunks_done(const struct http1_chunks *c)
{
	return c->state == DONE;
}

void http1_chunks_back(struct http1_chunks *c, size_t n)
{
	if (!n)
		return;
	c->state = DATA;
	c->left += n;
}

/* What ends an open size line; a size of zero so far grows a digit: more of the body follows. */
static const char *line_end(const struct http1_chunks *c)
{
	switch (c->state) {
	case SIZE:
		return !c->digits ? "" : c->left ? "\r\n" : "1\r\n";
	case EXT:
	case EXT_EQUALS:
		return "x\r\n";
	case EXT_NAME:
	case EXT_VALUE:
	case QUOTED_END:
		return "\r\n";
	case QUOTED:
		return "\"\r\n";
	case QUOTED_PAIR:
		return "x\"\r\n";
	case SIZE_LF:
		return "\n";
	default:
		return "";
	}
}

ssize_t http1_chunks_finish(const struct http1_chunks *c, char *buf, size_t len, bool *ret_inside)
{
	const char *line = line_end(c);
	size_t n = strlen(line);
	uint64_t fill = c->state <= DATA ? c->left : 0;
	bool ends = c->state <= DATA_LF && (c->state != SIZE || c->digits);

	if (c->state == SIZE && c->digits && !fill)
		fill = 1;
	if (c->state >= LINE || (c->state > SIZE && c->state < DATA && !fill))
		return -ENODATA;
	memcpy(buf, line, n);
	*ret_inside = fill > len - n - 2;
	if (*ret_inside)
		return (ssize_t)n;
	memset(buf + n, '\n', fill);
	n += fill;
	if (ends && c->state != DATA_LF)
		buf[n++] = '\r';
	if (ends)
		buf[n++] = '\n';
	return (ssize_t)n;
}
