/* SPDX-License-Identifier: Apache-2.0 */
/* Character classes and field lines, shared by the request and the response parser. Private. */
#ifndef SLUICE_BASE_HTTP1_SYNTAX_H
#define SLUICE_BASE_HTTP1_SYNTAX_H

#include "base/http1.h"

/* RFC 9110, 5.6.2. */
bool http1_is_token(struct span s);
/* One to 19 digits, no sign, no space. */
bool http1_number(struct span s, uint64_t *ret);
/* The head's end (after the empty line) or 0; refuses bare CR, bare LF and NUL on its way. */
ssize_t http1_head_end(const char *buf, size_t len, size_t seen, enum http1_refusal *why);
/* Fields of a whole head; from: first line after the start line; ends at the empty line. */
int http1_fields_parse(struct http1_head *head, const char *from, const char *end, uint32_t max,
		       enum http1_refusal *why);
/* Calls visit for each element of a comma-separated value; false stops. */
bool http1_list_has(struct span value, struct span element);

#endif
