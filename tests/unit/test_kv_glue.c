/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates learned from answers, and prompts rendered by what was learned: against engines
 * made here with templates of several kinds, and against what a real engine tokenized and cached.
 */
#include "kv/kv_glue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "../kv_fixtures.h"
#include "controlplane/kv_apply.h"
#include "kv/kv_render.h"

/* An engine's template, by its parts. */
struct engine {
	const char *bos;
	const char *before[3], *after[3]; /* by role: system, user, assistant; NULL: refused */
	const char *generation;
	const char *join;    /* of text parts */
	bool trims, numbers; /* numbers each turn: no row of texts */
	bool silent;
	const char *tools_before, *tools_after; /* around the tools' JSON */
	bool wants_pairs;			/* a result without its call is refused */
	unsigned int asked;
};

static struct vocab *vocab;
static uint32_t byte_ids[256];

static int role_index(const char *role)
{
	return strcmp(role, "system") == 0 ? 0 : strcmp(role, "user") == 0 ? 1 : 2;
}

/* Special tokens as one id, the rest byte by byte: a tokenization like any other. */
static int tokenize(const char *text, uint32_t *tokens, uint32_t max)
{
	uint32_t n = 0;

	while (*text && n < max) {
		uint32_t id = byte_ids[(uint8_t)*text], len = 1;

		for (uint32_t s = 0; s < vocab->count; s++) {
			struct span b = vocab_bytes(vocab, s);

			if (vocab->special[s] && strncmp(text, b.ptr, b.len) == 0) {
				id = s;
				len = (uint32_t)b.len;
				break;
			}
		}
		tokens[n++] = id;
		text += len;
	}
	return (int)n;
}

static void add(char *to, const char *s)
{
	strcat(to, s ? s : "");
}

static void add_content(const struct engine *e, char *to, const json_t *content)
{
	const char *s, *end;

	if (json_is_array(content)) {
		for (size_t i = 0; i < json_array_size(content); i++) {
			add(to, i ? e->join : "");
			add(to,
			    json_string_value(json_object_get(json_array_get(content, i), "text")));
		}
		return;
	}
	s = json_string_value(content);
	end = s + strlen(s);
	while (e->trims && strchr(" \n\t", *s) && *s)
		s++;
	while (e->trims && end > s && strchr(" \n\t", end[-1]))
		end--;
	strncat(to, s, (size_t)(end - s));
}

/* A call, or a result; which must be of the call before it, if the engine looks. */
static int add_odd(const struct engine *e, char *to, const json_t *m, const char *role,
		   const char **open_id)
{
	const json_t *call = json_array_get(json_object_get(m, "tool_calls"), 0);
	const char *id = json_string_value(json_object_get(m, "tool_call_id"));
	char *dump;

	if (call) {
		*open_id = json_string_value(json_object_get(call, "id"));
		dump = json_dumps(call, JSON_SORT_KEYS);
		add(to, e->before[2]);
		add(to, "<call>");
		add(to, dump);
		add(to, e->after[2]);
		free(dump);
		return 0;
	}
	if (e->wants_pairs && (!id || !*open_id || strcmp(id, *open_id) != 0))
		return -ENOTSUP;
	add(to, "<|im_start|>");
	add(to, role);
	add(to, "\n");
	add_content(e, to, json_object_get(m, "content"));
	add(to, "<|im_end|>\n");
	return 0;
}

static int answer(void *arg, const char *body, uint32_t *tokens, uint32_t max)
{
	static char text[1 << 16];
	struct engine *e = arg;
	json_t *json = json_loads(body, 0, NULL), *m, *tools = json_object_get(json, "tools");
	const char *open_id = NULL;
	size_t i;
	int err = 0;

	e->asked++;
	*text = '\0';
	add(text, e->bos);
	if (json_object_get(json, "prompt"))
		add(text, json_string_value(json_object_get(json, "prompt")));
	if (tools && e->tools_before) {
		char *dump = json_dumps(tools, JSON_SORT_KEYS);

		add(text, e->tools_before);
		add(text, dump);
		add(text, e->tools_after);
		free(dump);
	}
	json_array_foreach(json_object_get(json, "messages"), i, m)
	{
		const char *name = json_string_value(json_object_get(m, "role"));
		int role = role_index(name);

		if (strcmp(name, "tool") == 0 || json_object_get(m, "tool_calls")) {
			err = err ? err : add_odd(e, text, m, name, &open_id);
			continue;
		}

		if (!e->before[role])
			err = -ENOTSUP;
		add(text, e->before[role]);
		if (e->numbers)
			snprintf(text + strlen(text), 32, "%zu:", i);
		add_content(e, text, json_object_get(m, "content"));
		add(text, e->after[role]);
	}
	if (json_is_true(json_object_get(json, "add_generation_prompt")))
		add(text, e->generation);
	json_decref(json);
	if (e->silent)
		return -ETIMEDOUT;
	return err ? err : tokenize(text, tokens, max);
}

/* As the real engine of tests/data/vllm: no line break behind the system message. */
static const struct engine real = {
	.before = {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
	.after = {"<|im_end|>", "<|im_end|>\n", "<|im_end|>\n"},
	.generation = "<|im_start|>assistant\n",
	.join = "\n",
	.tools_before = "<|im_start|>tools\n",
	.tools_after = "<|im_end|>\n",
};

static const char *rendered(const struct kv_glue *g, const char *messages, int want)
{
	static char bytes[1 << 16];
	struct kv_out out = {bytes, 0, sizeof(bytes) - 1, false, 0};
	struct kv_request r = {.messages = span_of_str(messages)};

	assert_int_equal(kv_render(g, vocab, &r, &out), want);
	bytes[want ? 0 : out.len] = '\0';
	return bytes;
}

static struct kv_glue *learn(struct engine *e, const char *tools)
{
	struct kv_glue *g = NULL;

	assert_int_equal(kv_glue_learn(vocab, answer, e, span_of_str(tools), &g), 0);
	return g;
}

static void a_template_is_learned_from_answers(void **state)
{
	struct engine e = real;
	struct kv_glue *g = learn(&e, "");

	(void)state;
	assert_string_equal(rendered(g,
				     "[{\"role\":\"system\",\"content\":\"S\"},{\"content\":"
				     "\"\\u00e4 \\ud83e\\udd80\\n\\\"\",\"role\":\"user\"}]",
				     0),
			    "<|im_start|>system\nS<|im_end|><|im_start|>user\nä 🦀\n\"<|im_end|>\n"
			    "<|im_start|>assistant\n");
	assert_string_equal(rendered(g,
				     "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
				     "\"a\"},{\"text\":\"b\",\"type\":\"text\"}]}]",
				     0),
			    "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n");
	assert_true(e.asked <= 10);
	kv_glue_free(g);
}

static void white_space_may_be_trimmed(void **state)
{
	struct engine e = real;
	struct kv_glue *g;

	(void)state;
	e.trims = true;
	e.bos = "<s>";
	g = learn(&e, "");
	assert_true(g->trims);
	assert_string_equal(rendered(g, "[{\"role\":\"user\",\"content\":\" \\n x y\\t \"}]", 0),
			    "<s><|im_start|>user\nx y<|im_end|>\n<|im_start|>assistant\n");
	kv_glue_free(g);
}

static void what_is_no_row_of_texts_is_found_out(void **state)
{
	struct engine e = real;
	struct kv_glue *g = NULL;

	(void)state;
	e.numbers = true;
	assert_int_equal(kv_glue_learn(vocab, answer, &e, SPAN(""), &g), -ENOTSUP);
	assert_null(g);
}

static void an_engine_that_does_not_answer_is_asked_again(void **state)
{
	struct engine e = real;
	struct kv_glue *g = NULL;

	(void)state;
	e.silent = true;
	assert_int_equal(kv_glue_learn(vocab, answer, &e, SPAN(""), &g), -ETIMEDOUT);
	assert_null(g);
}

static void a_refused_system_role_leaves_the_rest(void **state)
{
	struct engine e = real;
	struct kv_glue *g;

	(void)state;
	e.before[0] = NULL;
	g = learn(&e, "");
	rendered(g, "[{\"role\":\"system\",\"content\":\"S\"}]", -ENOTSUP);
	assert_string_equal(rendered(g, "[{\"role\":\"user\",\"content\":\"x\"}]", 0),
			    "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
	kv_glue_free(g);
}

static void without_chats_completions_are_learned(void **state)
{
	struct engine e = real, other = real;
	struct kv_glue *g = NULL;
	struct kv_request r = {.prompt = SPAN("\"a completion\"")};
	char bytes[128];
	struct kv_out out = {bytes, 0, sizeof(bytes), false, 0};

	(void)state;
	e.before[0] = e.before[1] = e.before[2] = NULL;
	e.bos = "<|im_start|>";
	assert_int_equal(kv_glue_learn(vocab, answer, &e, SPAN(""), &g), -ENOTSUP);
	assert_int_equal(kv_glue_learn_plain(vocab, answer, &e, &g), 0);
	assert_int_equal(kv_render(g, vocab, &r, &out), 0);
	assert_int_equal(out.len, strlen("<|im_start|>a completion"));
	assert_memory_equal(bytes, "<|im_start|>a completion", out.len);
	rendered(g, "[{\"role\":\"user\",\"content\":\"x\"}]", -ENOTSUP);
	rendered(g, "[{\"role\":\"tool\",\"content\":\"x\"}]", -ENOTSUP);
	assert_int_equal(kv_glue_verify_plain(g, vocab, answer, &e), 0);
	other.bos = "";
	assert_int_equal(kv_glue_verify_plain(g, vocab, answer, &other), -ENOTSUP);
	kv_glue_free(g);
}

static void tools_are_part_of_the_glue(void **state)
{
	struct engine e = real;
	struct kv_glue *g = learn(&e, "[{\"b\":1,\"a\":\"x\"}]");

	(void)state;
	assert_string_equal(rendered(g, "[{\"role\":\"user\",\"content\":\"x\"}]", 0),
			    "<|im_start|>tools\n[{\"a\": \"x\", \"b\": 1}]<|im_end|>\n"
			    "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
	assert_true(g->tools_hash != 0);
	kv_glue_free(g);
}

static void an_engine_that_answers_otherwise_is_contradicted(void **state)
{
	struct engine e = real, other = real;
	struct kv_glue *g = learn(&e, "");

	(void)state;
	assert_int_equal(kv_glue_verify(g, vocab, answer, &e, SPAN("")), 0);
	other.after[2] = "<|im_end|>";
	assert_int_equal(kv_glue_verify(g, vocab, answer, &other, SPAN("")), -ENOTSUP);
	kv_glue_free(g);
}

static void what_the_glue_does_not_cover_is_refused(void **state)
{
	static const char *const odd[] = {
		"[]",
		"[{\"role\":\"tool\",\"content\":\"x\"}]",
		"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":\"y\"}]",
		"[{\"role\":\"user\",\"content\":null}]",
		"[{\"role\":\"user\"}]",
		"[{\"role\":\"user\",\"content\":\"x\",\"name\":\"bob\"}]",
		"[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[{}]}]",
		"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":1}]}]",
		"[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"text\":\"x\"}]}]",
		"[{\"role\":\"user\",\"content\":\"\\ud800\"}]",
		"[{\"role\":\"user\",\"content\":\"x",
		"[{\"role\":\"user\",\"content\":\"x\\",
		"[{\"role",
	};
	struct engine e = real;
	struct kv_glue *g = learn(&e, "");

	(void)state;
	for (size_t i = 0; i < sizeof(odd) / sizeof(*odd); i++)
		rendered(g, odd[i], -ENOTSUP);
	/* empty members mean nothing */
	rendered(g, "[{\"role\":\"user\",\"content\":\"x\",\"name\":null,\"tool_calls\":[ ]}]", 0);
	kv_glue_free(g);
}

/* Renders with pieces; what is missing is asked of e. Returns the text, and whether it is whole. */
static const char *with_pieces(const struct kv_glue *g, struct kv_pieces *p, struct engine *e,
			       const char *body, const char *tools, bool *ret_whole)
{
	static char bytes[1 << 16];
	struct kv_out out = {.bytes = bytes, .size = sizeof(bytes) - 1};
	struct kv_request r = {
		.messages = span_of_str(body), .pieces = p, .tools = span_of_str(tools)};
	int err = kv_render(g, vocab, &r, &out);
	struct kv_wish w;

	while (kv_pieces_wanted(p, &w)) {
		struct kv_text text = {0};

		kv_piece_learn(vocab, answer, e, &w, &text);
		kv_pieces_grant(p, text.ptr, text.len);
		free(text.ptr);
	}
	bytes[err ? 0 : out.len] = '\0';
	*ret_whole = !err && !out.full;
	return bytes;
}

/* A whole conversation of an agent: after one asking it is what the engine itself makes of it. */
static void odd_messages_are_asked_for_once(void **state)
{
	static const char *const rows[] = {
		"[{\"role\":\"user\",\"content\":\"what?\"},{\"role\":\"assistant\",\"content\":"
		"null,"
		"\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
		"\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":"
		"\"42\"}]",
		"[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"a\"},"
		"{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"},"
		"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c2\"}]},"
		"{\"role\":\"tool\",\"tool_call_id\":\"c2\",\"content\":\"x\"},"
		"{\"role\":\"assistant\",\"content\":\"So it "
		"is.\"},{\"role\":\"user\",\"content\":\"d\"}]",
		"[{\"role\":\"user\",\"content\":\"one\"},{\"role\":\"user\",\"content\":\"two\"}]",
	};
	const char *tools = "[{\"b\":1}]";
	struct engine e = real;
	struct kv_glue *g;
	struct kv_pieces *p = kv_pieces_new();
	bool whole;

	(void)state;
	e.wants_pairs = true;
	g = learn(&e, tools);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		static uint32_t tokens[4096];
		char ask[2048], want[8192];
		unsigned int asked;
		size_t len;
		int n;

		with_pieces(g, p, &e, rows[i], tools, &whole);
		assert_false(whole);
		snprintf(ask, sizeof(ask),
			 "{\"messages\":%s,\"tools\":%s,\"add_generation_prompt\":true}", rows[i],
			 tools);
		n = answer(&e, ask, tokens, 4096);
		assert_true(n > 0);
		assert_int_equal(
			vocab_decode(vocab, tokens, (size_t)n, want, sizeof(want) - 1, &len), 0);
		want[len] = '\0';
		asked = e.asked;
		assert_string_equal(with_pieces(g, p, &e, rows[i], tools, &whole), want);
		assert_true(whole);
		assert_int_equal(e.asked, asked);
	}
	kv_glue_free(g);
	kv_pieces_free(p);
}

static void a_long_prompt_is_cut_at_the_buffers_end(void **state)
{
	struct engine e = real;
	struct kv_glue *g = learn(&e, "");
	const char *messages = "[{\"role\":\"user\",\"content\":\"abcdefghij\\nklmnop\"}]";
	const char *whole = rendered(g, messages, 0);

	(void)state;
	for (uint32_t size = 0; size < strlen(whole); size++) {
		char *bytes = malloc(size ? size : 1);
		struct kv_out out = {bytes, 0, size, false, 0};
		struct kv_request r = {.messages = span_of_str(messages)};

		assert_int_equal(kv_render(g, vocab, &r, &out), 0);
		assert_true(out.full);
		assert_int_equal(out.len, size);
		assert_memory_equal(bytes, whole, size);
		free(bytes);
	}
	kv_glue_free(g);
}

/* ---- a real engine ---- */

static struct span raw_member(const json_t *body, const char *name, char **keep)
{
	json_t *v = json_object_get(body, name);

	*keep = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
	return *keep ? span_of_str(*keep) : span_of(NULL, 0);
}

/* Renders a request body as the gateway would; false: not covered. */
static bool render_body(const struct kv_glue *g, const json_t *body, struct kv_out *out)
{
	char *keep[5];
	struct kv_request r = {.messages = raw_member(body, "messages", &keep[0]),
			       .system = raw_member(body, "system", &keep[1]),
			       .instructions = raw_member(body, "instructions", &keep[2]),
			       .input = raw_member(body, "input", &keep[3]),
			       .prompt = raw_member(body, "prompt", &keep[4])};
	int err;

	out->len = 0;
	err = kv_render(g, vocab, &r, out);
	for (unsigned int i = 0; i < 5; i++)
		free(keep[i]);
	return err == 0;
}

static uint32_t matched(struct kv_applier *a, const struct kv_out *out, const char *salt)
{
	static struct kv_match got[ENDPOINTS_MAX];
	static uint32_t generations[ENDPOINTS_MAX];
	static uint64_t prefix[KV_PROMPT_BYTES_MAX / KV_CELL_BYTES + 1];
	uint64_t slots[KV_SLOT_WORDS] = {1};
	struct kv_prompt p = {.bytes = out->bytes, .len = out->len, .root = 0, .prefix = prefix};

	p.root = kv_hash_root(kv_index_hash(a->index), SPAN(""),
			      salt ? kv_extra_fold(0, span_of_str(salt)) : 0);
	kv_prompt_read(kv_index_hash(a->index), &p);
	kv_index_match(a->index, &p, slots, generations, got);
	return got[0].blocks;
}

/*
 * Requests of every API, in the order in which they came: what is rendered is what the engine
 * tokenized (where it told), and as many blocks match as it reported in its usage.
 */
static void a_real_engines_requests_match_as_it_reported(void **state)
{
	static char bytes[1 << 16];
	struct kv_decoder *decoder = calloc(1, sizeof(*decoder));
	struct kv_applier a = {.vocab = vocab};
	struct kv_out out = {bytes, 0, sizeof(bytes), false, 0};
	json_t *rows = fixture_rows("http.jsonl"), *row, *hex;
	struct engine e = real;
	struct kv_glue *g = learn(&e, "");
	unsigned int tokenized = 0, cached = 0, hits = 0;
	size_t i, k;

	(void)state;
	assert_int_equal(kv_index_new(4 << 20, 2, &a.index), 0);
	kv_index_bind(a.index, 0, 0);
	json_array_foreach(rows, i, row)
	{
		json_t *body = json_loads(json_string_value(json_object_get(row, "body")), 0, NULL);
		json_t *tokens = json_object_get(row, "tokens");
		json_t *reported = json_object_get(row, "cached_tokens");
		const char *salt = json_string_value(json_object_get(body, "cache_salt"));
		bool covered = !json_object_get(body, "tools") && render_body(g, body, &out);

		if (covered && tokens && !json_object_get(body, "return_token_strs")) {
			uint32_t ids[1024];
			char text[8192];
			size_t len;

			for (k = 0; k < json_array_size(tokens); k++)
				ids[k] = (uint32_t)json_integer_value(json_array_get(tokens, k));
			assert_int_equal(vocab_decode(vocab, ids, k, text, sizeof(text), &len), 0);
			assert_int_equal(len, out.len);
			assert_memory_equal(text, out.bytes, len);
			tokenized++;
		}
		if (covered && json_is_integer(reported)) {
			uint32_t want = (uint32_t)json_integer_value(reported) / 32;
			uint32_t blocks = matched(&a, &out, salt);

			if (blocks != want)
				print_message("%s: %u, not %u\n",
					      json_string_value(json_object_get(row, "name")),
					      blocks, want);
			assert_int_equal(blocks, want);
			cached++;
			hits += want > 0;
		}
		json_array_foreach(json_object_get(row, "events"), k, hex)
		{
			uint8_t *payload;
			size_t n = fixture_unhex(json_string_value(hex), &payload);

			assert_int_equal(kv_events_decode(decoder, payload, n, kv_apply, &a), 0);
			free(payload);
		}
		json_decref(body);
	}
	assert_true(tokenized >= 3);
	assert_int_equal(cached, 13); /* all that told, but two prompts in one and bare ids */
	assert_true(hits >= 4);
	json_decref(rows);
	kv_glue_free(g);
	kv_index_free(a.index);
	free(decoder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_template_is_learned_from_answers),
		cmocka_unit_test(white_space_may_be_trimmed),
		cmocka_unit_test(what_is_no_row_of_texts_is_found_out),
		cmocka_unit_test(an_engine_that_does_not_answer_is_asked_again),
		cmocka_unit_test(a_refused_system_role_leaves_the_rest),
		cmocka_unit_test(without_chats_completions_are_learned),
		cmocka_unit_test(tools_are_part_of_the_glue),
		cmocka_unit_test(an_engine_that_answers_otherwise_is_contradicted),
		cmocka_unit_test(what_the_glue_does_not_cover_is_refused),
		cmocka_unit_test(odd_messages_are_asked_for_once),
		cmocka_unit_test(a_long_prompt_is_cut_at_the_buffers_end),
		cmocka_unit_test(a_real_engines_requests_match_as_it_reported),
	};
	char error[256];
	int failed;

	if (vocab_load("tests/data/tokenizer/tiny4000.json", &vocab, error, sizeof(error)))
		return 1;
	for (uint32_t id = 0; id < vocab->count; id++)
		if (vocab_bytes(vocab, id).len == 1)
			byte_ids[(uint8_t)*vocab_bytes(vocab, id).ptr] = id;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	vocab_free(vocab);
	return failed;
}
