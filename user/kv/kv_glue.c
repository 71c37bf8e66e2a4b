/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sentinels go in as contents, the answer's tokens come back as bytes, and what stands between the
 * sentinels is the glue. Roles that a template refuses stay unknown.
 */
#include "kv/kv_glue.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kv/kv_pieces.h"
#include "kv/kv_render.h"
#include "sluice/limits.h"

#define TOKENS_MAX   32768
#define TEXT_MAX     (256 * 1024)
#define MESSAGES_MAX 8

/* Contents that no template has in it; white space around tells whether it is trimmed. */
static const char *const sentinels[MESSAGES_MAX] = {
	" \n qK7-one-Zz \n ", "  qK7-two-Zz  ",	 "\n qK7-three-Zz ", "  qK7-four-Zz\n\n",
	" qK7-five-Zz\t \n",  "\n\nqK7-six-Zz ", " qK7-seven-Zz  ",  "qK7-eight-Zz",
};

struct learner {
	const struct vocab *vocab;
	kv_ask ask;
	void *arg;
	struct span tools;
	struct kv_glue *glue;
	char *text; /* the last answer's bytes */
	size_t len;
	uint32_t *tokens;
	bool whole, trimmed; /* contents seen with and without their white space */
};

static const char *const role_names[KV_ROLES] = {"system", "user", "assistant"};

uint64_t kv_tools_hash(struct span tools)
{
	return tools.len ? XXH3_64bits(tools.ptr, tools.len) : 0;
}

void kv_glue_free(struct kv_glue *g)
{
	if (!g)
		return;
	for (unsigned int a = 0; a < KV_ROLES; a++) {
		free(g->begin[a].ptr);
		free(g->end[a].ptr);
		free(g->after[a].ptr);
		for (unsigned int b = 0; b < KV_ROLES; b++)
			free(g->between[a][b].ptr);
	}
	free(g->parts.ptr);
	free(g->generation.ptr);
	free(g->plain_begin.ptr);
	free(g->plain_end.ptr);
	free(g);
}

/* Asks; the answer's bytes are in l->text then. Takes the body. */
static int ask(struct learner *l, json_t *body)
{
	char *json = json_dumps(body, JSON_COMPACT);
	int n = json ? l->ask(l->arg, json, l->tokens, TOKENS_MAX) : -ENOMEM;

	free(json);
	json_decref(body);
	if (n < 0)
		return n;
	return vocab_decode(l->vocab, l->tokens, (size_t)n, l->text, TEXT_MAX, &l->len);
}

static json_t *message_new(enum kv_role role, const char *content)
{
	return json_pack("{s:s,s:s}", "role", role_names[role], "content", content);
}

static int ask_messages(struct learner *l, json_t *messages, bool generation)
{
	json_t *body =
		json_pack("{s:o,s:b}", "messages", messages, "add_generation_prompt", generation);

	if (l->tools.len)
		json_object_set_new(body, "tools", json_loadb(l->tools.ptr, l->tools.len, 0, NULL));
	return ask(l, body);
}

static struct span trimmed(const char *s)
{
	const char *white = " \n\t";
	size_t from = strspn(s, white), n = strlen(s);

	while (n > from && strchr(white, s[n - 1]))
		n--;
	return span_of(s + from, n - from);
}

/* Where the sentinel stands behind `from`; whole or trimmed, as the template has it. */
static int find(struct learner *l, size_t from, const char *sentinel, size_t *ret_at,
		size_t *ret_end)
{
	struct span core = trimmed(sentinel);
	const char *hit = memmem(l->text + from, l->len - from, core.ptr, core.len);
	size_t before = (size_t)(core.ptr - sentinel), after = strlen(sentinel) - before - core.len;

	if (!hit)
		return -ENOTSUP;
	*ret_at = (size_t)(hit - l->text);
	*ret_end = *ret_at + core.len;
	if (before + after == 0)
		return 0;
	if (*ret_at >= from + before && *ret_end + after <= l->len &&
	    memcmp(hit - before, sentinel, strlen(sentinel)) == 0) {
		*ret_at -= before;
		*ret_end += after;
		l->whole = true;
	} else {
		l->trimmed = true;
	}
	return 0;
}

/* Keeps the text, or checks that it is the one that was kept before. */
static int keep(struct kv_text *t, const char *p, size_t n)
{
	if (t->ptr)
		return t->len == n && memcmp(t->ptr, p, n) == 0 ? 0 : -ENOTSUP;
	t->ptr = malloc(n + 1);
	if (!t->ptr)
		return -ENOMEM;
	memcpy(t->ptr, p, n);
	t->len = (uint32_t)n;
	return 0;
}

/* One conversation: what is around and between its sentinels. */
static int learn_row(struct learner *l, const enum kv_role *roles, unsigned int count)
{
	struct kv_glue *g = l->glue;
	json_t *messages = json_array();
	size_t from = 0, at, end;
	int err;

	for (unsigned int i = 0; i < count; i++)
		json_array_append_new(messages, message_new(roles[i], sentinels[i]));
	err = ask_messages(l, messages, true);
	for (unsigned int i = 0; !err && i < count; i++) {
		err = find(l, from, sentinels[i], &at, &end);
		if (err)
			break;
		err = keep(i ? &g->between[roles[i - 1]][roles[i]] : &g->begin[roles[0]],
			   l->text + from, at - from);
		from = end;
	}
	return err ? err : keep(&g->end[roles[count - 1]], l->text + from, l->len - from);
}

/*
 * Without a generation prompt the answer must be the same but for its end: what follows a message
 * of that role, and no other.
 */
static int learn_after(struct learner *l, const enum kv_role *roles, unsigned int count)
{
	struct kv_glue *g = l->glue;
	enum kv_role role = roles[count - 1];
	json_t *messages = json_array();
	size_t from = 0, at, end;
	int err;

	for (unsigned int i = 0; i < count; i++)
		json_array_append_new(messages, message_new(roles[i], sentinels[i]));
	err = ask_messages(l, messages, false);
	for (unsigned int i = 0; !err && i < count; i++) {
		err = find(l, from, sentinels[i], &at, &end);
		if (!err && i == 0)
			err = keep(&g->begin[roles[0]], l->text, at);
		from = end;
	}
	if (!err)
		err = keep(&g->after[role], l->text + from, l->len - from);
	if (err || !g->end[role].ptr)
		return err;
	if (g->after[role].len > g->end[role].len ||
	    memcmp(g->after[role].ptr, g->end[role].ptr, g->after[role].len) != 0)
		return -ENOTSUP;
	return keep(&g->generation, g->end[role].ptr + g->after[role].len,
		    g->end[role].len - g->after[role].len);
}

/* Messages in the middle end as those at the end do: pieces can stand behind them. */
static void after_check(struct kv_glue *g, enum kv_role a)
{
	for (unsigned int b = 0; b < KV_ROLES; b++) {
		const struct kv_text *t = &g->between[a][b];

		if (!t->ptr || !g->after[a].ptr ||
		    (t->len >= g->after[a].len &&
		     memcmp(t->ptr, g->after[a].ptr, g->after[a].len) == 0))
			continue;
		free(g->after[a].ptr);
		g->after[a] = (struct kv_text){0};
	}
}

static int learn_parts(struct learner *l)
{
	json_t *messages =
		json_pack("[{s:s,s:[{s:s,s:s},{s:s,s:s}]}]", "role", "user", "content", "type",
			  "text", "text", "qK7-left-Zz", "type", "text", "text", "qK7-right-Zz");
	size_t at, end, next;
	int err = ask_messages(l, messages, true);

	if (!err)
		err = find(l, 0, "qK7-left-Zz", &at, &end);
	if (!err)
		err = find(l, end, "qK7-right-Zz", &next, &at);
	return err ? err : keep(&l->glue->parts, l->text + end, next - end);
}

static int learn_plain(struct learner *l)
{
	size_t at, end;
	int err = ask(l, json_pack("{s:s}", "prompt", "qK7-plain-Zz"));

	if (!err)
		err = find(l, 0, "qK7-plain-Zz", &at, &end);
	if (!err)
		err = keep(&l->glue->plain_begin, l->text, at);
	return err ? err : keep(&l->glue->plain_end, l->text + end, l->len - end);
}

/* A refusal (-ENOTSUP) leaves that part unknown; no answer ends the lesson. */
static int learn_all(struct learner *l)
{
	static const enum kv_role s = KV_ROLE_SYSTEM, u = KV_ROLE_USER, a = KV_ROLE_ASSISTANT;
	const enum kv_role with[] = {s, u, a, u, a, u}, without[] = {u, a, u};
	int err = learn_row(l, without, 3);

	if (!err)
		err = learn_after(l, without, 1);
	if (err)
		return err;
	err = learn_after(l, without, 2);
	if (!err || err == -ENOTSUP)
		err = learn_row(l, with, 6);
	if (err && err != -ENOTSUP)
		return err;
	if (err) { /* no system role, or one that changes the rest: not with this glue */
		free(l->glue->begin[s].ptr);
		l->glue->begin[s] = (struct kv_text){0};
	} else {
		err = learn_after(l, with, 1);
		if (err && err != -ENOTSUP)
			return err;
	}
	for (unsigned int r = 0; r < KV_ROLES; r++)
		after_check(l->glue, r);
	err = learn_parts(l);
	if (!err || err == -ENOTSUP)
		err = learn_plain(l);
	return err == -ENOTSUP ? 0 : err;
}

static int learner_init(struct learner *l, const struct vocab *vocab, kv_ask ask_fn, void *arg,
			struct span tools)
{
	*l = (struct learner){.vocab = vocab, .ask = ask_fn, .arg = arg, .tools = tools};
	l->text = malloc(TEXT_MAX);
	l->tokens = malloc(TOKENS_MAX * sizeof(*l->tokens));
	return l->text && l->tokens ? 0 : -ENOMEM;
}

static void learner_fini(struct learner *l)
{
	free(l->text);
	free(l->tokens);
}

int kv_glue_learn(const struct vocab *vocab, kv_ask ask_fn, void *arg, struct span tools,
		  struct kv_glue **ret)
{
	struct learner l;
	int err = learner_init(&l, vocab, ask_fn, arg, tools);

	l.glue = calloc(1, sizeof(*l.glue));
	if (!err)
		err = l.glue ? learn_all(&l) : -ENOMEM;
	if (!err && l.whole && l.trimmed)
		err = -ENOTSUP;
	if (!err) {
		l.glue->trims = l.trimmed;
		l.glue->tools_hash = kv_tools_hash(tools);
		err = kv_glue_verify(l.glue, vocab, ask_fn, arg, tools);
	}
	learner_fini(&l);
	if (err)
		kv_glue_free(l.glue);
	else
		*ret = l.glue;
	return err;
}

int kv_glue_learn_plain(const struct vocab *vocab, kv_ask ask_fn, void *arg, struct kv_glue **ret)
{
	struct learner l;
	int err = learner_init(&l, vocab, ask_fn, arg, span_of(NULL, 0));

	l.glue = calloc(1, sizeof(*l.glue));
	if (!err)
		err = l.glue ? learn_plain(&l) : -ENOMEM;
	learner_fini(&l);
	if (err)
		kv_glue_free(l.glue);
	else
		*ret = l.glue;
	return err;
}

int kv_glue_verify_plain(const struct kv_glue *g, const struct vocab *vocab, kv_ask ask_fn,
			 void *arg)
{
	struct kv_glue *other = NULL;
	int err = kv_glue_learn_plain(vocab, ask_fn, arg, &other);

	if (err)
		return err;
	/* keep() compares with what is there */
	err = keep(&other->plain_begin, g->plain_begin.ptr, g->plain_begin.len);
	if (!err)
		err = keep(&other->plain_end, g->plain_end.ptr, g->plain_end.len);
	kv_glue_free(other);
	return err;
}

/*
 * A conversation unlike the sentinels': long, short, empty lines, and other scripts where every
 * token's bytes are known.
 */
static json_t *verify_messages(bool system, bool ascii)
{
	json_t *m = json_array();

	if (system)
		json_array_append_new(
			m, message_new(KV_ROLE_SYSTEM, ascii ? "You answer.\n\n- briefly\n"
							     : "You answer.\n\n- на любом языке"));
	json_array_append_new(
		m, message_new(KV_ROLE_USER, ascii ? "What is that?" : "Wie heißt das? 日本語 🦀"));
	json_array_append_new(m,
			      message_new(KV_ROLE_ASSISTANT, "{\"a\": [1, 2]}\n```c\nint x;\n```"));
	json_array_append_new(m, message_new(KV_ROLE_USER, "x"));
	json_array_append_new(m, message_new(KV_ROLE_ASSISTANT, "Fine. So be it."));
	json_array_append_new(m, message_new(KV_ROLE_USER, "\tIndented, then a tail   \n"));
	return m;
}

int kv_glue_verify(const struct kv_glue *g, const struct vocab *vocab, kv_ask ask_fn, void *arg,
		   struct span tools)
{
	json_t *messages = verify_messages(g->begin[KV_ROLE_SYSTEM].ptr, vocab->learned);
	char *json = json_dumps(messages, 0), *bytes = malloc(TEXT_MAX);
	struct learner l;
	int err = learner_init(&l, vocab, ask_fn, arg, tools);
	struct kv_out out = {bytes, 0, TEXT_MAX, false, 0};
	struct kv_request request = {.messages = span_of_str(json ? json : "")};

	if (!json || !bytes)
		err = -ENOMEM;
	if (!err)
		err = kv_render(g, vocab, &request, &out);
	if (!err)
		err = ask_messages(&l, json_incref(messages), true);
	if (!err && (l.len != out.len || memcmp(l.text, bytes, l.len) != 0))
		err = -ENOTSUP;
	learner_fini(&l);
	json_decref(messages);
	free(json);
	free(bytes);
	return err;
}

/* ---- pieces ---- */

/* A tool's result needs a call before it, of the same id. */
static json_t *call_new(const json_t *result)
{
	const char *id = json_string_value(json_object_get(result, "tool_call_id"));

	return json_pack("{s:s,s:n,s:[{s:s,s:s,s:{s:s,s:s}}]}", "role", "assistant", "content",
			 "tool_calls", "id", id ? id : "qK7call", "type", "function", "function",
			 "name", "f", "arguments", "{}");
}

static bool is_result(const json_t *message)
{
	const char *role = json_string_value(json_object_get(message, "role"));

	return role && strcmp(role, "tool") == 0;
}

/* A conversation that ends with what stands before the piece. NULL: not valid JSON. */
static json_t *before_new(const struct kv_wish *w, json_t *message)
{
	json_t *m = json_array(), *odd;

	if (w->before == KV_BEFORE_SYSTEM)
		json_array_append_new(m, message_new(KV_ROLE_SYSTEM, sentinels[0]));
	else if (w->before != KV_BEFORE_NOTHING)
		json_array_append_new(m, message_new(KV_ROLE_USER, sentinels[0]));
	if (w->before == KV_BEFORE_ASSISTANT)
		json_array_append_new(m, message_new(KV_ROLE_ASSISTANT, sentinels[1]));
	if (w->before != KV_BEFORE_ODD)
		return m;
	odd = json_loadb(w->odd.ptr, w->odd.len, JSON_ALLOW_NUL, NULL);
	if (is_result(odd))
		json_array_append_new(m, call_new(is_result(message) ? message : odd));
	if (odd && json_array_append_new(m, odd) == 0)
		return m;
	json_decref(m);
	return NULL;
}

/* The rendering of messages without a generation prompt, copied. An empty row is no text. */
static int rendering(struct learner *l, json_t *messages, struct kv_text *ret)
{
	int err = 0;

	l->len = 0;
	if (json_array_size(messages))
		err = ask_messages(l, json_incref(messages), false);
	return err ? err : keep(ret, l->text, l->len);
}

static int piece_take(struct learner *l, const struct kv_wish *w, json_t *messages, json_t *message,
		      struct kv_text *ret)
{
	struct kv_text first = {0};
	int err = rendering(l, messages, &first);
	const char *hit;

	if (!err && json_array_append(messages, message))
		err = -ENOMEM;
	if (!err)
		err = ask_messages(l, json_incref(messages), false);
	if (!err && (l->len < first.len || memcmp(l->text, first.ptr, first.len) != 0))
		err = -ENOTSUP;
	if (!err && w->lead) {
		hit = memmem(l->text + first.len, l->len - first.len, KV_LEAD, strlen(KV_LEAD));
		l->len = hit ? (size_t)(hit - l->text) : 0;
		err = hit ? 0 : -ENOTSUP;
	}
	if (!err)
		err = keep(ret, l->text + first.len, l->len - first.len);
	free(first.ptr);
	return err;
}

int kv_piece_learn(const struct vocab *vocab, kv_ask ask_fn, void *arg, const struct kv_wish *w,
		   struct kv_text *ret)
{
	struct learner l;
	int err = learner_init(&l, vocab, ask_fn, arg, w->tools);
	json_t *message = json_loadb(w->message.ptr, w->message.len, JSON_ALLOW_NUL, NULL);
	json_t *messages = message ? before_new(w, message) : NULL;

	if (!err)
		err = messages ? piece_take(&l, w, messages, message, ret) : -ENOTSUP;
	json_decref(message);
	json_decref(messages);
	learner_fini(&l);
	return err;
}
