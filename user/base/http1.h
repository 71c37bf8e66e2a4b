/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.1 messages (RFC 9112), strictly: whatever two parsers could read differently is refused.
 * Leaf code: no I/O, no allocation; spans point into the caller's buffer.
 */
#ifndef SLUICE_BASE_HTTP1_H
#define SLUICE_BASE_HTTP1_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/metrics.h"
#include "base/span.h"
#include "sluice/limits.h"

/* id, status, counter, sentence. */
#define HTTP1_REFUSALS(X)                                                                          \
	X(BAD_START, 400, "the first bytes are not an HTTP request line")                          \
	X(BAD_METHOD, 400, "the method has illegal characters")                                    \
	X(BAD_TARGET, 400, "the request target has illegal bytes or form")                         \
	X(BAD_VERSION, 400, "the HTTP version is malformed")                                       \
	X(VERSION, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here")                              \
	X(BARE_CR, 400, "a CR without LF in the head")                                             \
	X(BARE_LF, 400, "a LF without CR in the head")                                             \
	X(NUL, 400, "a NUL byte in the head")                                                      \
	X(OBS_FOLD, 400, "a folded header line")                                                   \
	X(SPACE_COLON, 400, "white space before the colon of a header field")                      \
	X(FIELD_NAME, 400, "an empty or illegal header field name")                                \
	X(FIELD_VALUE, 400, "illegal bytes in a header field value")                               \
	X(NO_HOST, 400, "HTTP/1.1 needs exactly one Host field and there is none")                 \
	X(TWO_HOSTS, 400, "more than one Host field")                                              \
	X(TWO_TYPES, 400, "more than one Content-Type field")                                      \
	X(BAD_HOST, 400, "the Host field is malformed")                                            \
	X(BOTH_LENGTHS, 400, "both Content-Length and Transfer-Encoding")                          \
	X(LENGTH, 400, "a malformed or repeated Content-Length")                                   \
	X(CODING, 400, "a transfer coding other than a single chunked")                            \
	X(CODING_10, 400, "Transfer-Encoding in an HTTP/1.0 request")                              \
	X(CHUNK, 400, "a malformed chunk")                                                         \
	X(TRAILERS, 431, "the trailers are too large")                                             \
	X(HEAD_BYTES, 431, "the head is too large")                                                \
	X(HEAD_FIELDS, 431, "the head has too many fields")                                        \
	X(TARGET_BYTES, 414, "the request target is too long")                                     \
	X(BODY_BYTES, 413, "the body is too large")                                                \
	X(EXPECT, 417, "only Expect: 100-continue is understood")                                  \
	X(HEAD_TIMEOUT, 408, "the head did not arrive in time")                                    \
	X(BODY_SLOW, 408, "the body arrives too slowly")                                           \
	X(NO_MEMORY, 503, "the gateway holds as many bytes as it may; try again")

enum http1_refusal {
	HTTP1_FINE,
#define X(id, status, text) HTTP1_##id,
	HTTP1_REFUSALS(X)
#undef X
};

/* Status, sentence and counter of a refusal. */
int http1_refusal_status(enum http1_refusal why);
const char *http1_refusal_text(enum http1_refusal why);
enum metric_counter http1_refusal_counter(enum http1_refusal why);

enum http1_method {
	HTTP1_GET,
	HTTP1_HEAD,
	HTTP1_POST,
	HTTP1_OPTIONS,
	HTTP1_OTHER
};
enum http1_framing {
	HTTP1_NO_BODY,
	HTTP1_LENGTH_BODY,
	HTTP1_CHUNKED,
	HTTP1_UNTIL_CLOSE
};

struct http1_field {
	struct span name, value; /* value without surrounding white space */
};

struct http1_limits {
	uint32_t head_bytes, fields, target_bytes; /* 0: the defaults of limits.h */
};

struct http1_head {
	enum http1_method method; /* requests */
	struct span method_text, target, path, query;
	int status; /* responses */
	uint8_t minor;
	bool keep_alive, expect_continue, expect_unknown;
	enum http1_framing framing;
	uint64_t content_length;
	uint32_t field_count;
	struct http1_field fields[HEAD_FIELDS_MAX];
};

/* The fields in use, and no others. */
static inline void http1_head_copy(struct http1_head *to, const struct http1_head *from)
{
	memcpy(to, from,
	       offsetof(struct http1_head, fields) + from->field_count * sizeof(from->fields[0]));
}

/*
 * Parses a request's head at buf. `seen` bytes were offered before (0 at first): only the rest is
 * searched for the head's end. Returns the head's bytes, -EAGAIN while it is partial, -EBADMSG
 * with *ret_why; what is already wrong is refused before the head is whole.
 */
ssize_t http1_request_parse(struct http1_head *head, const char *buf, size_t len, size_t seen,
			    const struct http1_limits *limits, enum http1_refusal *ret_why);

/*
 * The same for an endpoint's answer. to_head: the request was HEAD. 1xx heads are returned like
 * others, with no body.
 */
ssize_t http1_response_parse(struct http1_head *head, const char *buf, size_t len, size_t seen,
			     bool to_head);

/* The field's value, or a span with ptr NULL. First one of that name. */
struct span http1_field_get(const struct http1_head *head, struct span name);

/* Hop-by-hop, framing or named by Connection: never forwarded. */
bool http1_field_is_hop(const struct http1_head *head, struct span name);

/* A chunked body as it passes by (RFC 9112, 7.1). Zero-initialise. */
struct http1_chunks {
	uint64_t left;	     /* payload bytes of the current chunk still to come */
	uint32_t line_bytes; /* of the current size line or trailer line */
	uint32_t trailer_bytes;
	uint8_t state; /* private */
	uint8_t digits;
	bool trailers_too_large;
};

/*
 * Looks at the next bytes. Returns how many it consumed: it stops after each stretch of payload,
 * which is then *ret_data (possibly empty), or at the end of the message. -EBADMSG malformed.
 * Call again while bytes are left and http1_chunks_done() is false.
 */
ssize_t http1_chunks_next(struct http1_chunks *c, const char *buf, size_t len,
			  struct span *ret_data);
bool http1_chunks_done(const struct http1_chunks *c);
/* The last n bytes of the payload that was returned just now are taken back. */
void http1_chunks_back(struct http1_chunks *c, size_t n);
/*
 * For a message that broke off: writes what brings its receiver to a place where an own chunk may
 * follow: the end of an open size line, then the rest of the open chunk as newlines. Where that
 * rest does not fit, *ret_inside: the receiver stands among the payload of a chunk that is longer
 * than the room. Returns the bytes written, at most len >= 8; -ENODATA where only trailers could
 * follow.
 */
ssize_t http1_chunks_finish(const struct http1_chunks *c, char *buf, size_t len, bool *ret_inside);

#endif
