/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder of KV events against what a real engine published, old layouts, and lies. */
#include "controlplane/kv_events.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <msgpack.h>

#include "base/msgpack.h"
#include "kv/kv_hash.h"
#include "../kv_fixtures.h"

static struct kv_decoder *d;

/* What a sink saw, kept: the arrays of an event are the decoder's. */
struct seen {
	unsigned int count;
	struct kv_event last[64];
	uint64_t hashes, tokens; /* sums */
	bool lora_a;		 /* the last event's adapter, whose name is borrowed */
};

static void see(void *arg, const struct kv_event *e)
{
	struct seen *s = arg;

	assert_true(s->count < 64);
	s->last[s->count++] = *e;
	s->lora_a = span_eq(e->lora_name, SPAN("lora-a"));
	for (uint32_t i = 0; i < e->block_count && e->hashes; i++)
		s->hashes += e->hashes[i];
	for (uint32_t i = 0; i < e->token_count; i++)
		s->tokens += e->tokens[i];
}

static void decode_hex(const char *hex, struct seen *s)
{
	uint8_t *bytes;
	size_t n = fixture_unhex(hex, &bytes);

	memset(s, 0, sizeof(*s));
	assert_int_equal(kv_events_decode(d, bytes, n, see, s), 0);
	free(bytes);
}

static uint64_t refusals(void)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < KV_REFUSALS; i++)
		sum += d->refused[i];
	return sum;
}

/* Compares one event with the view that another decoder had of the same bytes. */
static void same_event(const struct kv_event *e, const json_t *view)
{
	const char *type = json_string_value(json_object_get(view, "type"));
	json_t *tokens = json_object_get(view, "token_ids");

	if (!type)
		type = json_string_value(json_array_get(view, 0));
	if (strcmp(type, "AllBlocksCleared") == 0) {
		assert_int_equal(e->kind, KV_CLEARED);
		return;
	}
	assert_int_equal(e->kind, strcmp(type, "BlockStored") == 0 ? KV_STORED : KV_REMOVED);
	if (!json_is_object(view))
		return;
	assert_int_equal(e->block_count, json_array_size(json_object_get(view, "block_hashes")));
	assert_int_equal(e->token_count, json_array_size(tokens));
	assert_int_equal(e->has_parent,
			 json_object_get(view, "parent_block_hash") &&
				 !json_is_null(json_object_get(view, "parent_block_hash")));
	assert_int_equal(e->lora_name.len, json_string_length(json_object_get(view, "lora_name")));
}

static unsigned int compare_file(const char *name)
{
	json_t *rows = fixture_rows(name), *row;
	unsigned int events = 0;
	size_t i, k, n;

	json_array_foreach(rows, i, row)
	{
		json_t *hexes = json_object_get(row, "events"), *hex;

		json_array_foreach(hexes, k, hex)
		{
			json_t *batch = json_array_get(json_object_get(row, "decoded"), k);
			json_t *views = json_array_get(batch, 1), *view;
			struct seen s;

			decode_hex(json_string_value(hex), &s);
			assert_int_equal(s.count, json_array_size(views));
			json_array_foreach(views, n, view) same_event(&s.last[n], view);
			events += s.count;
		}
	}
	json_decref(rows);
	return events;
}

static void events_of_a_real_engine_read_as_another_decoder_read_them(void **state)
{
	(void)state;
	assert_true(compare_file("match.jsonl") >= 8);
	assert_true(compare_file("lora.jsonl") >= 9);
	assert_int_equal(refusals(), 0);
}

static void evictions_of_a_real_engine_balance(void **state)
{
	json_t *rows = fixture_rows("eviction.jsonl"), *row;
	unsigned int stored = 0, removed = 0;
	struct seen s;
	size_t i;

	(void)state;
	json_array_foreach(rows, i, row)
	{
		decode_hex(json_string_value(json_object_get(row, "payload")), &s);
		for (unsigned int k = 0; k < s.count; k++) {
			stored += s.last[k].kind == KV_STORED ? s.last[k].block_count : 0;
			removed += s.last[k].kind == KV_REMOVED ? s.last[k].block_count : 0;
		}
	}
	assert_true(removed > 10 && stored >= removed);
	assert_int_equal(refusals(), 0);
	json_decref(rows);
}

/* Each capture was re-encoded as 0.10.2 to 0.23 would have sent it: the sense must be the same. */
static void layouts_of_older_releases_mean_the_same(void **state)
{
	json_t *rows = fixture_rows("old_layouts.jsonl"), *row;
	unsigned int layouts = 0;
	const char *name = "";
	size_t i, k;

	(void)state;
	json_array_foreach(rows, i, row)
	{
		json_t *views = json_array_get(json_object_get(row, "decoded_generic"), 1), *view;
		const char *layout = json_string_value(json_object_get(row, "layout"));
		struct seen s;

		layouts += strcmp(layout, name) != 0;
		name = layout;
		decode_hex(json_string_value(json_object_get(row, "payload_hex")), &s);
		assert_int_equal(s.count, json_array_size(views));
		json_array_foreach(views, k, view)
		{
			same_event(&s.last[k], view);
			if (s.last[k].kind == KV_STORED)
				assert_int_equal(s.last[k].token_count,
						 s.last[k].block_count * s.last[k].block_tokens);
		}
	}
	assert_true(layouts >= 4);
	assert_int_equal(refusals(), 0);
	json_decref(rows);
}

static void adapters_and_salts_tell_blocks_apart(void **state)
{
	json_t *rows = fixture_rows("lora.jsonl"), *row;
	uint64_t salt = kv_extra_fold(0, SPAN("s1"));
	unsigned int seen_salts = 0;
	size_t i;

	(void)state;
	json_array_foreach(rows, i, row)
	{
		const char *name = json_string_value(json_object_get(row, "name"));
		json_t *hex = json_array_get(json_object_get(row, "events"), 0);
		struct seen s;
		bool lora = strstr(name, "lora_a") != NULL, salted = strstr(name, "cache_salt");

		if (!hex)
			continue;
		decode_hex(json_string_value(hex), &s);
		if (s.last[0].kind != KV_STORED)
			continue;
		assert_int_equal(d->extras[0], salted ? salt : 0);
		if (lora)
			assert_true(s.lora_a);
		seen_salts += salted;
	}
	assert_int_equal(seen_salts, 2);
	json_decref(rows);
}

/* ---- made by hand, with a packer that is not ours ---- */

static msgpack_sbuffer buffer;
static msgpack_packer packer;

static void text(const char *t)
{
	msgpack_pack_str_with_body(&packer, t, strlen(t));
}

static void batch_begin(unsigned int events)
{
	msgpack_sbuffer_clear(&buffer);
	msgpack_pack_array(&packer, 2);
	msgpack_pack_double(&packer, 1.5);
	msgpack_pack_array(&packer, events);
}

static void stored(uint64_t hash, unsigned int tokens, unsigned int size)
{
	msgpack_pack_array(&packer, 5);
	text("BlockStored");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_uint64(&packer, hash);
	msgpack_pack_nil(&packer);
	msgpack_pack_array(&packer, tokens);
	for (unsigned int i = 0; i < tokens; i++)
		msgpack_pack_uint32(&packer, i);
	msgpack_pack_uint32(&packer, size);
}

static int decode_buffer(struct seen *s)
{
	memset(s, 0, sizeof(*s));
	return kv_events_decode(d, buffer.data, buffer.size, see, s);
}

static void a_bad_event_is_refused_alone(void **state)
{
	struct seen s;

	(void)state;
	batch_begin(4);
	stored(1, 16, 16);
	stored(2, 15, 16); /* contradicts itself */
	msgpack_pack_array(&packer, 1);
	text("BlockPainted");
	stored(3, 16, 16);
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 2);
	assert_int_equal(s.hashes, 4);
	assert_int_equal(d->refused[KV_REFUSED_COUNTS], 1);
	assert_int_equal(d->refused[KV_REFUSED_UNKNOWN], 1);
}

static void a_message_that_ends_early_tells_nothing(void **state)
{
	(void)state;
	batch_begin(2);
	stored(1, 16, 16);
	stored(2, 16, 16);
	for (size_t n = 0; n < buffer.size; n++) {
		uint8_t *cut = malloc(n ? n : 1); /* its own block: reading past it is seen */
		struct seen s = {0};

		memcpy(cut, buffer.data, n);
		assert_int_equal(kv_events_decode(d, cut, n, see, &s), -EBADMSG);
		assert_int_equal(s.count, 0);
		free(cut);
	}
	assert_int_equal(d->refused[KV_REFUSED_MALFORMED], buffer.size);
}

static void counts_that_the_bytes_cannot_hold_are_not_believed(void **state)
{
	static const char *const lies[] = {
		"\xdd\xff\xff\xff\xff",				/* 4 G items */
		"\xdf\xff\xff\xff\xff",				/* 4 G pairs */
		"\xc6\xff\xff\xff\xff",				/* 4 G bytes */
		"\x92\xcb\0\0\0\0\0\0\0\0\xdd\xff\xff\xff\xff", /* in a batch */
	};
	static const size_t sizes[] = {5, 5, 5, 15};
	struct seen s = {0};

	(void)state;
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(kv_events_decode(d, lies[i], sizes[i], see, &s), -EBADMSG);
	assert_int_equal(s.count, 0);
}

static void a_deep_nest_is_refused(void **state)
{
	char deep[64];
	struct seen s = {0};

	(void)state;
	memset(deep, (char)0x91, sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = 1;
	assert_int_equal(kv_events_decode(d, deep, sizeof(deep), see, &s), -EBADMSG);
}

static void a_batch_may_be_a_map_and_name_its_rank(void **state)
{
	struct seen s;

	(void)state;
	msgpack_sbuffer_clear(&buffer);
	msgpack_pack_map(&packer, 4);
	text("data_parallel_rank");
	msgpack_pack_int(&packer, 3);
	text("ts");
	msgpack_pack_double(&packer, 1);
	text("new_in_some_release");
	msgpack_pack_nil(&packer);
	text("events");
	msgpack_pack_array(&packer, 1);
	stored(7, 4, 4);
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 1);
	assert_int_equal(s.last[0].rank, 3);
}

static void groups_that_are_no_prefix_are_marked(void **state)
{
	static const struct {
		const char *kind;
		bool reusable;
	} rows[] = {{"full_attention", true}, {"mla", true},
		    {"sink_full", true},      {"sliding_window", false},
		    {"mamba", false},	      {"chunked_local_attention", false}};
	struct seen s;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		batch_begin(1);
		msgpack_pack_map(&packer, 3);
		text("type");
		text("BlockStored");
		text("kv_cache_spec_kind");
		text(rows[i].kind);
		text("block_hashes");
		msgpack_pack_array(&packer, 0);
		assert_int_equal(decode_buffer(&s), 0);
		assert_int_equal(s.last[0].reusable, rows[i].reusable);
	}
}

static void tiers_without_tokens_and_signed_hashes_are_read(void **state)
{
	struct seen s;

	(void)state;
	batch_begin(1);
	msgpack_pack_map(&packer, 3);
	text("type");
	text("BlockStored");
	text("block_hashes");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_int64(&packer, -2);
	text("medium");
	text("CPU");
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.last[0].medium, KV_CPU);
	assert_int_equal(s.last[0].token_count, 0);
	assert_true(s.hashes == (uint64_t)-2);
}

/* BlockStored as a map: hashes 5 and -3, behind parent -9, two tokens each. */
static void pack_trtllm_stored(void)
{
	msgpack_pack_map(&packer, 8);
	text("type");
	text("BlockStored");
	text("block_hashes");
	msgpack_pack_array(&packer, 2);
	msgpack_pack_int64(&packer, 5);
	msgpack_pack_int64(&packer, -3);
	text("parent_block_hash");
	msgpack_pack_int64(&packer, -9);
	text("token_ids");
	msgpack_pack_array(&packer, 4);
	for (int i = 1; i <= 4; i++)
		msgpack_pack_int(&packer, i);
	text("block_size");
	msgpack_pack_int(&packer, 2);
	for (int i = 0; i < 3; i++) {
		static const char *const absent[] = {"lora_id", "medium", "lora_name"};

		text(absent[i]);
		msgpack_pack_nil(&packer);
	}
}

/* Its batch is a row with the rank, its events are maps; every few seconds a batch is empty. */
static void tensorrt_llms_form_is_read(void **state)
{
	struct seen s;

	(void)state;
	msgpack_sbuffer_clear(&buffer);
	msgpack_pack_array(&packer, 3);
	msgpack_pack_double(&packer, 1.5);
	msgpack_pack_array(&packer, 3);
	msgpack_pack_map(&packer, 1);
	text("type");
	text("AllBlocksCleared");
	pack_trtllm_stored();
	msgpack_pack_map(&packer, 4);
	text("type");
	text("BlockRemoved");
	text("block_hashes");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_int64(&packer, -3);
	text("medium");
	msgpack_pack_nil(&packer);
	text("locality");
	text("LOCAL");
	msgpack_pack_int(&packer, 1);
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 3);
	assert_int_equal(s.last[0].kind, KV_CLEARED);
	assert_int_equal(s.last[1].kind, KV_STORED);
	assert_true(s.last[1].has_parent && s.last[1].parent == (uint64_t)-9);
	assert_int_equal(s.last[1].block_count, 2);
	assert_int_equal(s.last[1].block_tokens, 2);
	assert_int_equal(s.last[1].medium, KV_GPU);
	assert_int_equal(s.last[2].kind, KV_REMOVED);
	assert_int_equal(s.last[2].rank, 1);
	assert_true(s.tokens == 1 + 2 + 3 + 4 && s.hashes == (uint64_t)(5 - 3 - 3));

	msgpack_sbuffer_clear(&buffer);
	msgpack_pack_array(&packer, 3);
	msgpack_pack_double(&packer, 6.5);
	msgpack_pack_array(&packer, 0);
	msgpack_pack_int(&packer, 1);
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 0);
}

/* Rows of five fields and of one, hashes of 64 bits with a sign, blocks of one token. */
static void sglangs_form_is_read(void **state)
{
	struct seen s;

	(void)state;
	batch_begin(3);
	msgpack_pack_array(&packer, 6);
	text("BlockStored");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_int64(&packer, INT64_MIN);
	msgpack_pack_int64(&packer, -7);
	msgpack_pack_array(&packer, 1);
	msgpack_pack_int(&packer, 42);
	msgpack_pack_int(&packer, 1);
	msgpack_pack_nil(&packer);
	msgpack_pack_array(&packer, 2);
	text("BlockRemoved");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_int64(&packer, INT64_MIN);
	msgpack_pack_array(&packer, 1);
	text("AllBlocksCleared");
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 3);
	assert_int_equal(s.last[0].kind, KV_STORED);
	assert_int_equal(s.last[0].block_tokens, 1);
	assert_int_equal(s.last[0].lora_id, 0);
	assert_true(s.last[0].has_parent && s.last[0].parent == (uint64_t)-7);
	assert_int_equal(s.last[1].kind, KV_REMOVED);
	assert_true(s.hashes == 2 * (uint64_t)INT64_MIN && s.tokens == 42);
	assert_int_equal(s.last[2].kind, KV_CLEARED);
}

static void load_is_pushed_too(void **state)
{
	struct seen s;

	(void)state;
	msgpack_sbuffer_clear(&buffer);
	msgpack_pack_array(&packer, 6);
	text("LoadStat");
	for (int i = 1; i <= 4; i++)
		msgpack_pack_int(&packer, i * 10);
	msgpack_pack_int(&packer, 1);
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 1);
	assert_int_equal(s.last[0].kind, KV_LOAD);
	assert_int_equal(s.last[0].running, 10);
	assert_int_equal(s.last[0].waiting, 20);
	assert_int_equal(s.last[0].used_tokens, 30);
	assert_int_equal(s.last[0].max_tokens, 40);
	assert_int_equal(s.last[0].rank, 1);
}

static void more_than_the_limits_is_refused(void **state)
{
	struct seen s;

	(void)state;
	batch_begin(1);
	msgpack_pack_array(&packer, 2);
	text("BlockRemoved");
	msgpack_pack_array(&packer, KV_EVENT_BLOCKS_MAX + 1);
	for (unsigned int i = 0; i <= KV_EVENT_BLOCKS_MAX; i++)
		msgpack_pack_uint64(&packer, i);
	assert_int_equal(decode_buffer(&s), 0);
	assert_int_equal(s.count, 0);
	assert_int_equal(d->refused[KV_REFUSED_TOO_LARGE], 1);
}

/* Our skip accepts whatever a library's tree builder accepts, and ends at the same byte. */
static void skip_agrees_with_a_library(void **state)
{
	json_t *rows = fixture_rows("match.jsonl"), *row, *hex;
	size_t i, k;

	(void)state;
	json_array_foreach(rows, i, row)
	{
		json_array_foreach(json_object_get(row, "events"), k, hex)
		{
			uint8_t *bytes;
			size_t n = fixture_unhex(json_string_value(hex), &bytes), off = 0;
			struct msgpack m = msgpack_of(bytes, n);
			msgpack_unpacked tree;

			msgpack_unpacked_init(&tree);
			assert_int_equal(msgpack_unpack_next(&tree, (char *)bytes, n, &off),
					 MSGPACK_UNPACK_SUCCESS);
			assert_int_equal(msgpack_skip(&m), 0);
			assert_ptr_equal(m.at, bytes + off);
			msgpack_unpacked_destroy(&tree);
			free(bytes);
		}
	}
	json_decref(rows);
}

static int fresh(void **state)
{
	(void)state;
	memset(d->refused, 0, sizeof(d->refused));
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(events_of_a_real_engine_read_as_another_decoder_read_them,
				       fresh),
		cmocka_unit_test_setup(evictions_of_a_real_engine_balance, fresh),
		cmocka_unit_test_setup(layouts_of_older_releases_mean_the_same, fresh),
		cmocka_unit_test_setup(adapters_and_salts_tell_blocks_apart, fresh),
		cmocka_unit_test_setup(a_bad_event_is_refused_alone, fresh),
		cmocka_unit_test_setup(a_message_that_ends_early_tells_nothing, fresh),
		cmocka_unit_test_setup(counts_that_the_bytes_cannot_hold_are_not_believed, fresh),
		cmocka_unit_test_setup(a_deep_nest_is_refused, fresh),
		cmocka_unit_test_setup(a_batch_may_be_a_map_and_name_its_rank, fresh),
		cmocka_unit_test_setup(groups_that_are_no_prefix_are_marked, fresh),
		cmocka_unit_test_setup(tiers_without_tokens_and_signed_hashes_are_read, fresh),
		cmocka_unit_test_setup(tensorrt_llms_form_is_read, fresh),
		cmocka_unit_test_setup(sglangs_form_is_read, fresh),
		cmocka_unit_test_setup(load_is_pushed_too, fresh),
		cmocka_unit_test_setup(more_than_the_limits_is_refused, fresh),
		cmocka_unit_test_setup(skip_agrees_with_a_library, fresh),
	};
	int failed;

	d = calloc(1, sizeof(*d));
	msgpack_sbuffer_init(&buffer);
	msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	msgpack_sbuffer_destroy(&buffer);
	free(d);
	return failed;
}
