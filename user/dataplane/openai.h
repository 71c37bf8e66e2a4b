/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over a request's JSON body: is it valid (RFC 8259, UTF-8, depth), and what does it say
 * that matters to routing. Fed slice by slice as the body arrives; no tree, no heap, no copy of the
 * prompt: spans are offsets into the body. Left to others: where those offsets lie in buffers.
 */
#ifndef SLUICE_DATAPLANE_OPENAI_H
#define SLUICE_DATAPLANE_OPENAI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sluice/limits.h"

/* Top-level members that somebody reads or edits: id, name, type of value. */
#define OPENAI_MEMBERS(X)                                                                          \
	X(MODEL, "model", STRING)                                                                  \
	X(STREAM, "stream", BOOL)                                                                  \
	X(N, "n", INT)                                                                             \
	X(MAX_TOKENS, "max_tokens", INT)                                                           \
	X(MAX_COMPLETION_TOKENS, "max_completion_tokens", INT)                                     \
	X(MAX_OUTPUT_TOKENS, "max_output_tokens", INT)                                             \
	X(MIN_TOKENS, "min_tokens", INT)                                                           \
	X(PRIORITY, "priority", INT)                                                               \
	X(USER, "user", STRING)                                                                    \
	X(CACHE_SALT, "cache_salt", STRING)                                                        \
	X(PREVIOUS_RESPONSE_ID, "previous_response_id", STRING)                                    \
	X(STREAM_OPTIONS, "stream_options", OBJECT)                                                \
	X(CACHE_HIT_THRESHOLD, "cache_hit_threshold", ANY)                                         \
	X(SAMPLING_PARAMS, "sampling_params", ANY)                                                 \
	X(KV_TRANSFER_PARAMS, "kv_transfer_params", OBJECT)                                        \
	X(EC_TRANSFER_PARAMS, "ec_transfer_params", ANY)                                           \
	X(BOOTSTRAP_HOST, "bootstrap_host", ANY)                                                   \
	X(BOOTSTRAP_PORT, "bootstrap_port", ANY)                                                   \
	X(BOOTSTRAP_ROOM, "bootstrap_room", ANY)                                                   \
	X(CHAT_TEMPLATE, "chat_template", ANY)                                                     \
	X(CHAT_TEMPLATE_KWARGS, "chat_template_kwargs", ANY)                                       \
	X(ADD_GENERATION_PROMPT, "add_generation_prompt", ANY)                                     \
	X(CONTINUE_FINAL_MESSAGE, "continue_final_message", ANY)                                   \
	X(REASONING_EFFORT, "reasoning_effort", ANY)                                               \
	X(ADD_SPECIAL_TOKENS, "add_special_tokens", ANY)                                           \
	X(TRUNCATE_PROMPT, "truncate_prompt_tokens", ANY)                                          \
	X(MESSAGES, "messages", ANY)                                                               \
	X(PROMPT, "prompt", ANY)                                                                   \
	X(INPUT, "input", ANY)                                                                     \
	X(SYSTEM, "system", ANY)                                                                   \
	X(INSTRUCTIONS, "instructions", ANY)                                                       \
	X(TOOLS, "tools", ANY)                                                                     \
	X(DOCUMENTS, "documents", ANY)                                                             \
	X(QUERY, "query", ANY)                                                                     \
	X(TEXT_1, "text_1", ANY)                                                                   \
	X(TEXT_2, "text_2", ANY)

enum openai_member {
#define X(id, name, type) OPENAI_##id,
	OPENAI_MEMBERS(X)
#undef X
	OPENAI_MEMBER_COUNT,
	OPENAI_NO_MEMBER = OPENAI_MEMBER_COUNT,
};

enum openai_kind {
	PROMPT_TEXT = 1,
	PROMPT_ROLE,
	PROMPT_TOOLS,
	PROMPT_TOKENS,
	PROMPT_MEDIA
};

/* A stretch of the prompt: body offsets, without the quotes of a string. */
struct prompt_span {
	uint64_t start, end;
	uint8_t kind; /* enum openai_kind */
};

struct openai_place {
	uint64_t comma;	     /* offset of the comma before it; 0 for the first member */
	uint64_t key;	     /* of the key's quote */
	uint64_t value, end; /* of the value; end 0: absent */
	bool null;
};

enum openai_error {
	OPENAI_FINE,
	OPENAI_SYNTAX,
	OPENAI_UTF8,
	OPENAI_DEPTH,
	OPENAI_NOT_OBJECT,
	OPENAI_DUPLICATE,
	OPENAI_TYPE,
	OPENAI_TOO_LONG,
};

/* What the body says. Strings are decoded; empty when absent. */
struct openai_request {
	struct openai_place members[OPENAI_MEMBER_COUNT];
	uint64_t open, close; /* offsets of the outermost braces */
	uint64_t first_kept;  /* key offset of the first member that is no gateway's; ~0 none */
	char model[MODEL_NAME_BYTES_MAX], user[128], cache_salt[128];
	int64_t numbers[OPENAI_MEMBER_COUNT]; /* INT members */
	bool stream, include_usage, has_media;
	uint64_t prompt_bytes;
	uint32_t token_ids; /* numbers in prompt */
	uint32_t span_count;
	bool spans_merged; /* more than PROMPT_SPANS_MAX: the last one covers the rest */
};

/* The scanner's own state: fields are private. */
struct openai_scan {
	uint8_t state, utf8_need, utf8_low, utf8_high, literal, literal_at, number, hex;
	uint16_t depth, unit;
	uint64_t objects[JSON_DEPTH_MAX / 64 + 1]; /* bit d: level d is an object */
	uint64_t base;				   /* offset of the current slice */
	uint64_t comma, value;			   /* where the last comma, this value began */
	uint64_t slow_until;			   /* the fast path met something odd before it */
	bool keeps_token; /* the string is a key or a routing value: its text matters */
	bool is_key, stringy, numeric, in_stream_options, bad_int, negative;
	enum openai_member member; /* depth 1: the member we are in */
	uint8_t key_kind;	   /* deeper: what the last key says about a string value */
	int64_t integer;
	char token[MODEL_NAME_BYTES_MAX];
	uint32_t token_len;
	enum openai_error error;
	uint64_t error_at;
	const char *error_field;
	struct prompt_span *spans; /* the caller's, PROMPT_SPANS_MAX of them */
	struct openai_request *req;
};

/* spans and req are the caller's and must outlive the scan. */
void openai_scan_init(struct openai_scan *s, struct openai_request *req, struct prompt_span *spans);

/* The next n bytes of the body. 0 or -EBADMSG; then s->error says what is wrong. */
int openai_scan_feed(struct openai_scan *s, const char *p, size_t n);

/* The body is whole. 0 or -EBADMSG. */
int openai_scan_finish(struct openai_scan *s);

/* One plain sentence about s->error. Returns buf. */
const char *openai_error_text(const struct openai_scan *s, char *buf, size_t size);

/* The member's name. */
const char *openai_member_name(enum openai_member member);

/* Private to the scanner's files. */
int openai_value_begin(struct openai_scan *s, uint64_t at, char first);
int openai_value_end(struct openai_scan *s, uint64_t end);
/* The string, the key that begins: its text matters. */
bool openai_value_is_kept(const struct openai_scan *s);
bool openai_key_is_kept(const struct openai_scan *s);
int openai_key_end(struct openai_scan *s, uint64_t key);

/* Bytes from p that need no look inside a string: no quote, backslash, control or non-ASCII. */
size_t openai_plain_bytes(const char *p, size_t n);
/*
 * p is inside a string, between characters: so many bytes from there are whole characters and whole
 * escapes of it, all valid. It stops at the quote that ends the string, and early at will: before
 * what is wrong, at the end of what it was given, or at once.
 */
size_t openai_string_skip(const char *p, size_t n);

#endif
