/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversations of several turns: each request carries all that was said before, the answers as
 * they came. The messages are kept as JSON text (what the answer escaped stays escaped) and, for
 * --verify, as the plain text that a simulated engine hashes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/sim_text.h"
#include "sluice-load/load.h"

struct buffer {
	char *data;
	size_t len, size;
};

struct session {
	uint64_t id;
	unsigned int turn; /* turns asked */
	struct buffer json, plain;
};

static void put(struct buffer *b, const char *p, size_t n)
{
	if (b->len + n + 1 > b->size) {
		b->size = (b->len + n + 1) * 2;
		b->data = realloc(b->data, b->size);
		if (!b->data)
			abort();
	}
	memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
}

static void message_put(struct session *s, const char *role, const char *text, size_t n)
{
	char head[64];
	int len = snprintf(head, sizeof(head), "%s{\"role\":\"%s\",\"content\":\"",
			   s->json.len ? "," : "", role);

	put(&s->json, head, (size_t)len);
	put(&s->json, text, n);
	put(&s->json, "\"}", 2);
	put(&s->plain, role, strlen(role));
	put(&s->plain, text, n);
}

struct session *session_new(uint64_t id)
{
	struct session *s = calloc(1, sizeof(*s));

	s->id = id;
	return s;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	free(s->json.data);
	free(s->plain.data);
	free(s);
}

uint64_t session_id(const struct session *s)
{
	return s->id;
}

bool session_goes_on(const struct session *s, const struct load_options *opt)
{
	return s->turn < opt->turns;
}

unsigned int session_ask(struct session *s, const char *text, size_t n)
{
	message_put(s, "user", text, n);
	return s->turn++;
}

const char *session_messages(const struct session *s, size_t *ret_len)
{
	*ret_len = s->json.len;
	return s->json.data;
}

uint64_t session_hash(const struct session *s)
{
	return sim_prompt_hash(s->plain.data, s->plain.len);
}

void session_answered(struct session *s, const char *payload)
{
	struct buffer said = {0};

	put(&said, "", 0);
	while (payload && (payload = strstr(payload, "\"content\":\""))) {
		const char *from = payload += 11;

		while (*payload && *payload != '"')
			payload += *payload == '\\' && payload[1] ? 2 : 1;
		put(&said, from, (size_t)(payload - from));
	}
	message_put(s, "assistant", said.data, said.len);
	free(said.data);
}
