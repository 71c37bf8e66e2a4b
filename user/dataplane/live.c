/* SPDX-License-Identifier: Apache-2.0 */
/* Rows under a sequence number, and their JSON. */
#include "dataplane/live.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/json_write.h"

static_assert(sizeof(struct live_info) % 8 == 0, "copied by words");

struct live_row *live_take(struct live_table *table)
{
	for (uint32_t i = 0; i < LIVE_ROWS_MAX; i++) {
		struct live_row *row = &table->rows[table->hint++ % LIVE_ROWS_MAX];

		if (row->used)
			continue;
		row->used = true;
		return row;
	}
	return NULL;
}

void live_write(struct live_row *row, const struct live_info *info)
{
	uint64_t words[sizeof(*info) / 8];
	uint32_t sequence;

	if (!row)
		return;
	memcpy(words, info, sizeof(words));
	sequence = atomic_load_explicit(&row->sequence, memory_order_relaxed);
	atomic_store_explicit(&row->sequence, sequence + 1, memory_order_relaxed);
	for (size_t i = 0; i < sizeof(words) / 8; i++) /* release: after the odd number */
		atomic_store_explicit(&row->words[i], words[i], memory_order_release);
	atomic_store_explicit(&row->sequence, sequence + 2, memory_order_release);
}

void live_release(struct live_row *row)
{
	static const struct live_info empty;

	if (!row)
		return;
	live_write(row, &empty);
	row->used = false;
}

bool live_read(struct live_row *row, struct live_info *ret)
{
	uint32_t before = atomic_load_explicit(&row->sequence, memory_order_acquire);
	uint64_t words[sizeof(*ret) / 8];

	for (size_t i = 0; i < sizeof(words) / 8; i++)
		words[i] = atomic_load_explicit(&row->words[i], memory_order_acquire);
	if ((before & 1) || atomic_load_explicit(&row->sequence, memory_order_relaxed) != before)
		return false;
	memcpy(ret, words, sizeof(words));
	return ret->begin_ns != 0;
}

const unsigned int live_age_limits_s[LIVE_AGES - 1] = {1, 10, 60};

void live_count_ages(struct live_table *table, uint64_t now_ns, uint64_t ret[LIVE_AGES])
{
	for (uint32_t i = 0; i < LIVE_ROWS_MAX; i++) {
		struct live_info info;
		unsigned int k = 0;

		if (!live_read(&table->rows[i], &info))
			continue;
		while (k < LIVE_AGES - 1 &&
		       now_ns > info.begin_ns + live_age_limits_s[k] * NS_PER_S)
			k++;
		ret[k]++;
	}
}

static void string_write(const char *name, const char *text, FILE *f)
{
	fprintf(f, "\"%s\":", name);
	json_string_write(f, span_of_str(text));
	fputc(',', f);
}

void live_write_json(struct live_table *table, uint64_t now_ns, bool *first, FILE *f)
{
	for (uint32_t i = 0; i < LIVE_ROWS_MAX; i++) {
		struct live_info info;

		if (!live_read(&table->rows[i], &info))
			continue;
		fputs(*first ? "{" : ",{", f);
		*first = false;
		string_write("request_id", info.id, f);
		string_write("path", info.path, f);
		string_write("model", info.model, f);
		string_write("endpoint", info.endpoint, f);
		string_write("phase", info.phase, f);
		fprintf(f,
			"\"age_ms\":%llu,\"attempts\":%u,\"hit_blocks\":%u,\"prompt_bytes\":%llu}",
			(unsigned long long)(now_ns > info.begin_ns
						     ? (now_ns - info.begin_ns) / NS_PER_MS
						     : 0),
			info.attempts, info.hit_blocks, (unsigned long long)info.prompt_bytes);
	}
}
