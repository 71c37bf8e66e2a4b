/* SPDX-License-Identifier: Apache-2.0 */
/* Each event is first taken apart into fields (raw), then those that its tag needs are read. */
#include "controlplane/kv_events.h"

#include <errno.h>
#include <string.h>

#include "base/msgpack.h"
#include "kv/kv_hash.h"

enum field {
	F_HASHES,
	F_PARENT,
	F_TOKENS,
	F_BLOCK_SIZE,
	F_LORA_ID,
	F_MEDIUM,
	F_LORA_NAME,
	F_EXTRA,
	F_GROUP,
	F_KIND,
	FIELDS
};

static const char *const field_names[FIELDS] = {
	"block_hashes", "parent_block_hash", "token_ids",  "block_size", "lora_id",
	"medium",	"lora_name",	     "extra_keys", "group_idx",	 "kv_cache_spec_kind",
};

/* The order of fields in the array form, behind the tag. Further ones are unknown to us. */
static const enum field stored_order[] = {F_HASHES, F_PARENT,	 F_TOKENS, F_BLOCK_SIZE, F_LORA_ID,
					  F_MEDIUM, F_LORA_NAME, F_EXTRA,  F_GROUP,	 F_KIND};
static const enum field removed_order[] = {F_HASHES, F_MEDIUM, F_GROUP};

struct fields {
	struct msgpack at[FIELDS]; /* where each begins; at NULL: absent */
	struct span tag;
};

static void refuse(struct kv_decoder *d, enum kv_refusal why)
{
	d->refused[why]++;
}

/* The item of a field; false: absent, nil or not of that type. */
static bool field_read(const struct fields *f, enum field which, struct msgpack *ret,
		       struct msgpack_item *item)
{
	*ret = f->at[which];
	return ret->at && msgpack_next(ret, item) == 0 && item->type != MSGPACK_NIL;
}

static bool field_number(const struct fields *f, enum field which, uint64_t *ret)
{
	struct msgpack m;
	struct msgpack_item item;

	if (!field_read(f, which, &m, &item) || item.type != MSGPACK_INT)
		return false;
	*ret = item.number;
	return true;
}

static struct span field_text(const struct fields *f, enum field which)
{
	struct msgpack m;
	struct msgpack_item item;

	if (!field_read(f, which, &m, &item) || item.type != MSGPACK_STR)
		return span_of(NULL, 0);
	return item.bytes;
}

/* A hash is an integer or bytes; of the latter the last 8 count, as vLLM's own short form does. */
static int hash_of(const struct msgpack_item *item, uint64_t *ret)
{
	uint64_t n = 0;

	if (item->type == MSGPACK_INT) {
		*ret = item->number;
		return 0;
	}
	if ((item->type != MSGPACK_BIN && item->type != MSGPACK_STR) || item->bytes.len < 8)
		return -EBADMSG;
	for (unsigned int i = 0; i < 8; i++)
		n = n << 8 | (uint8_t)item->bytes.ptr[item->bytes.len - 8 + i];
	*ret = n;
	return 0;
}

static int read_hashes(struct kv_decoder *d, const struct fields *f, struct kv_event *e)
{
	struct msgpack m;
	struct msgpack_item item;
	uint32_t count;

	if (!field_read(f, F_HASHES, &m, &item) || item.type != MSGPACK_ARRAY)
		return KV_REFUSED_SHAPE;
	count = item.count;
	if (count > KV_EVENT_BLOCKS_MAX)
		return KV_REFUSED_TOO_LARGE;
	for (uint32_t i = 0; i < count; i++)
		if (msgpack_next(&m, &item) || hash_of(&item, &d->hashes[i]))
			return KV_REFUSED_SHAPE;
	e->hashes = d->hashes;
	e->block_count = count;
	return -1;
}

static int read_tokens(struct kv_decoder *d, const struct fields *f, struct kv_event *e)
{
	struct msgpack m;
	struct msgpack_item item;
	uint64_t size = 0;
	uint32_t count;

	if (field_number(f, F_BLOCK_SIZE, &size) && (size == 0 || size > KV_EVENT_TOKENS_MAX))
		return KV_REFUSED_COUNTS;
	e->block_tokens = (uint32_t)size;
	if (!field_read(f, F_TOKENS, &m, &item)) /* a tier that only names known blocks */
		return -1;
	if (item.type != MSGPACK_ARRAY)
		return KV_REFUSED_SHAPE;
	count = item.count;
	if (count > KV_EVENT_TOKENS_MAX)
		return KV_REFUSED_TOO_LARGE;
	if (count && (uint64_t)e->block_count * size != count)
		return KV_REFUSED_COUNTS;
	for (uint32_t i = 0; i < count; i++) {
		if (msgpack_next(&m, &item) || item.type != MSGPACK_INT || item.number > UINT32_MAX)
			return KV_REFUSED_SHAPE;
		d->tokens[i] = (uint32_t)item.number;
	}
	e->tokens = d->tokens;
	e->token_count = count;
	return -1;
}

/* One block's extra keys: strings, bytes or [id, offset] pairs; the adapter's name is no extra. */
static int extra_of(struct msgpack *m, struct span lora_name, uint64_t *ret)
{
	struct msgpack_item item;
	uint32_t count;

	*ret = 0;
	if (msgpack_next(m, &item))
		return -EBADMSG;
	if (item.type == MSGPACK_NIL)
		return 0;
	if (item.type != MSGPACK_ARRAY)
		return -EBADMSG;
	count = item.count;
	for (uint32_t i = 0; i < count; i++) {
		const char *from = (const char *)m->at;
		struct msgpack key = *m;

		if (msgpack_skip(m) || msgpack_next(&key, &item))
			return -EBADMSG;
		if (item.type == MSGPACK_STR && lora_name.len && span_eq(item.bytes, lora_name))
			continue;
		*ret = kv_extra_fold(*ret,
				     item.type == MSGPACK_STR || item.type == MSGPACK_BIN
					     ? item.bytes
					     : span_of(from, (size_t)((const char *)m->at - from)));
	}
	return 0;
}

static int read_extras(struct kv_decoder *d, const struct fields *f, struct kv_event *e)
{
	struct msgpack m;
	struct msgpack_item item;
	uint32_t count;

	memset(d->extras, 0, e->block_count * sizeof(d->extras[0]));
	e->extras = d->extras;
	if (!field_read(f, F_EXTRA, &m, &item))
		return -1;
	count = item.count;
	if (item.type != MSGPACK_ARRAY)
		return KV_REFUSED_SHAPE;
	if (count != e->block_count)
		return count ? KV_REFUSED_COUNTS : -1;
	for (uint32_t i = 0; i < count; i++)
		if (extra_of(&m, e->lora_name, &d->extras[i]))
			return KV_REFUSED_SHAPE;
	return -1;
}

static enum kv_medium medium_of(struct span text)
{
	if (text.len == 0 || span_eq_nocase(text, SPAN("GPU")))
		return KV_GPU;
	return span_eq_nocase(text, SPAN("CPU")) || span_eq_nocase(text, SPAN("CPU_PINNED"))
		       ? KV_CPU
		       : KV_OTHER;
}

static bool kind_reusable(struct span kind)
{
	return kind.len == 0 || span_eq(kind, SPAN("full_attention")) ||
	       span_eq(kind, SPAN("mla")) || span_eq(kind, SPAN("mla_attention")) ||
	       span_eq(kind, SPAN("sink_full")) || span_eq(kind, SPAN("sink_full_attention"));
}

/* Fills e from fields. -1 (told), or why it is refused. */
static int event_fill(struct kv_decoder *d, const struct fields *f, struct kv_event *e)
{
	struct msgpack m;
	struct msgpack_item item;
	int why = -1;

	if (span_eq(f->tag, SPAN("AllBlocksCleared"))) {
		e->kind = KV_CLEARED;
		e->reusable = true;
		return -1;
	}
	if (span_eq(f->tag, SPAN("BlockStored")))
		e->kind = KV_STORED;
	else if (span_eq(f->tag, SPAN("BlockRemoved")))
		e->kind = KV_REMOVED;
	else
		return KV_REFUSED_UNKNOWN;
	e->medium = medium_of(field_text(f, F_MEDIUM));
	e->reusable = kind_reusable(field_text(f, F_KIND));
	e->lora_name = field_text(f, F_LORA_NAME);
	if (field_number(f, F_LORA_ID, &e->lora_id))
		e->lora_id++;
	why = read_hashes(d, f, e);
	if (why < 0 && e->kind == KV_STORED)
		why = read_tokens(d, f, e);
	if (why < 0 && e->kind == KV_STORED)
		why = read_extras(d, f, e);
	if (why < 0 && field_read(f, F_PARENT, &m, &item)) {
		e->has_parent = true;
		if (hash_of(&item, &e->parent))
			why = KV_REFUSED_SHAPE;
	}
	return why;
}

/* Takes apart the array form; m stands behind the head, the tag comes next. */
static int fields_of_array(struct msgpack *m, uint32_t count, struct fields *f)
{
	const enum field *order = stored_order;
	uint32_t known = sizeof(stored_order) / sizeof(*stored_order);
	struct msgpack_item item;

	if (count == 0 || msgpack_next(m, &item) || item.type != MSGPACK_STR)
		return -EBADMSG;
	f->tag = item.bytes;
	if (span_eq(f->tag, SPAN("BlockRemoved"))) {
		order = removed_order;
		known = sizeof(removed_order) / sizeof(*removed_order);
	}
	for (uint32_t i = 0; i + 1 < count; i++) {
		if (i < known)
			f->at[order[i]] = *m;
		if (msgpack_skip(m))
			return -EBADMSG;
	}
	return 0;
}

static int fields_of_map(struct msgpack *m, uint32_t count, struct fields *f)
{
	struct msgpack_item item;

	for (uint32_t i = 0; i < count; i++) {
		struct msgpack key = *m, value;

		if (msgpack_skip(m) || msgpack_next(&key, &item))
			return -EBADMSG;
		value = *m;
		if (msgpack_skip(m))
			return -EBADMSG;
		for (unsigned int k = 0; k < FIELDS; k++)
			if (msgpack_is_str(&item, field_names[k]))
				f->at[k] = value;
		if (!msgpack_is_str(&item, "type"))
			continue;
		if (msgpack_next(&value, &item) || item.type != MSGPACK_STR)
			return -EBADMSG;
		f->tag = item.bytes;
	}
	return f->tag.len ? 0 : -EBADMSG;
}

static int load_of(struct msgpack *m, uint32_t count, struct kv_event *e)
{
	struct msgpack_item item[6];

	for (uint32_t i = 0; i < count && i < 6; i++)
		if (msgpack_next(m, &item[i]) || (i > 0 && i < 5 && item[i].type != MSGPACK_INT) ||
		    item[i].negative)
			return -EBADMSG;
	if (count < 5 || item[1].number > UINT32_MAX || item[2].number > UINT32_MAX)
		return -EBADMSG;
	e->kind = KV_LOAD;
	e->running = (uint32_t)item[1].number;
	e->waiting = (uint32_t)item[2].number;
	e->used_tokens = item[3].number;
	e->max_tokens = item[4].number;
	e->rank = count > 5 && item[5].type == MSGPACK_INT && item[5].number < INT32_MAX
			  ? (int32_t)item[5].number
			  : -1;
	return 0;
}

static bool is_load(struct msgpack m, uint32_t count)
{
	struct msgpack_item item;

	return count && msgpack_next(&m, &item) == 0 && msgpack_is_str(&item, "LoadStat");
}

static void event_tell(struct kv_decoder *d, struct msgpack m, int32_t rank, kv_sink sink,
		       void *arg)
{
	struct kv_event e = {.rank = rank};
	struct fields f = {0};
	struct msgpack_item item;
	int why = KV_REFUSED_SHAPE, err;

	if (msgpack_next(&m, &item))
		return;
	if (item.type == MSGPACK_ARRAY && is_load(m, item.count)) {
		why = load_of(&m, item.count, &e) ? KV_REFUSED_SHAPE : -1;
	} else if (item.type == MSGPACK_ARRAY || item.type == MSGPACK_MAP) {
		err = item.type == MSGPACK_MAP ? fields_of_map(&m, item.count, &f)
					       : fields_of_array(&m, item.count, &f);
		if (!err)
			why = event_fill(d, &f, &e);
	}
	if (why < 0)
		sink(arg, &e);
	else
		refuse(d, (enum kv_refusal)why);
}

/* Where the events and the rank of a batch are. */
static int batch_find(struct msgpack m, struct msgpack *ret_events, struct msgpack *ret_rank)
{
	struct msgpack_item head, key;

	if (msgpack_next(&m, &head))
		return -EBADMSG;
	if (head.type != MSGPACK_ARRAY && head.type != MSGPACK_MAP)
		return -EBADMSG;
	for (uint32_t i = 0; i < head.count; i++) {
		struct msgpack at = m;
		bool events = i == 1, rank = i == 2;

		if (head.type == MSGPACK_MAP) {
			if (msgpack_skip(&m) || msgpack_next(&at, &key))
				return -EBADMSG;
			at = m;
			events = msgpack_is_str(&key, "events");
			rank = msgpack_is_str(&key, "data_parallel_rank");
		}
		if (events)
			*ret_events = at;
		if (rank)
			*ret_rank = at;
		if (msgpack_skip(&m))
			return -EBADMSG;
	}
	return ret_events->at ? 0 : -EBADMSG;
}

static int batch_refuse(struct kv_decoder *d, enum kv_refusal why)
{
	refuse(d, why);
	return -EBADMSG;
}

int kv_events_decode(struct kv_decoder *d, const void *payload, size_t n, kv_sink sink, void *arg)
{
	struct msgpack all = msgpack_of(payload, n), m = all, events = {0}, rank_at = {0};
	struct msgpack_item item;
	int32_t rank = -1;

	if (n > KV_MESSAGE_BYTES_MAX)
		return batch_refuse(d, KV_REFUSED_TOO_LARGE);
	if (msgpack_skip(&m) || m.at != m.end)
		return batch_refuse(d, KV_REFUSED_MALFORMED);
	m = all;
	if (msgpack_next(&m, &item) == 0 && item.type == MSGPACK_ARRAY && is_load(m, item.count)) {
		event_tell(d, all, -1, sink, arg);
		return 0;
	}
	if (batch_find(all, &events, &rank_at) || msgpack_next(&events, &item) ||
	    item.type != MSGPACK_ARRAY)
		return batch_refuse(d, KV_REFUSED_SHAPE);
	m = rank_at;
	if (m.at) {
		struct msgpack_item number;

		if (msgpack_next(&m, &number) == 0 && number.type == MSGPACK_INT &&
		    number.number < INT32_MAX)
			rank = (int32_t)number.number;
	}
	for (uint32_t i = 0, count = item.count; i < count; i++) {
		struct msgpack one = events;

		msgpack_skip(&events);
		event_tell(d, one, rank, sink, arg);
	}
	return 0;
}
