/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a Mooncake trace, one JSON object a line, of which four members matter; or Azure's CSV. */
#include "sluice-fleet/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scheduler/prefix_hash.h"

#define AZURE_BLOCK_TOKENS 512

/* The text behind "name": in the line, or NULL. */
static const char *member(const char *line, const char *name)
{
	const char *at = strstr(line, name);

	return at ? strchr(at, ':') + 1 : NULL;
}

static int read_ids(const char *text, uint32_t *ids, uint32_t max, uint32_t *ret_count)
{
	uint32_t n = 0;
	char *end;

	text = strchr(text, '[');
	if (!text)
		return -EBADMSG;
	text++;
	while (n < max) {
		unsigned long id = strtoul(text, &end, 10);

		if (end == text)
			break;
		ids[n++] = (uint32_t)id;
		text = end + strspn(end, ", ");
	}
	*ret_count = n;
	return 0;
}

static int keep_ids(struct fleet_request *r, const uint32_t *ids)
{
	uint32_t *kept = malloc((r->id_count + 1) * sizeof(*kept));
	uint64_t hash = 0x51u;

	r->hashes = malloc((r->id_count + 1) * sizeof(*r->hashes));
	if (!kept || !r->hashes) {
		free(kept);
		free(r->hashes);
		return -ENOMEM;
	}
	memcpy(kept, ids, r->id_count * sizeof(*kept));
	for (uint32_t i = 0; i < r->id_count; i++) {
		hash = prefix_mix(hash, ids[i]);
		r->hashes[i] = hash;
	}
	r->ids = kept;
	return 0;
}

static int read_row(const char *line, struct fleet_request *r)
{
	static uint32_t ids[TRACE_IDS_MAX];
	const char *at = member(line, "\"timestamp\""), *in = member(line, "\"input_length\"");
	const char *out = member(line, "\"output_length\""), *list = member(line, "\"hash_ids\"");

	memset(r, 0, sizeof(*r));
	if (!at || !in || !out || !list || read_ids(list, ids, TRACE_IDS_MAX, &r->id_count))
		return -EBADMSG;
	r->arrival_s = strtod(at, NULL) / 1000;
	r->input = (uint32_t)strtoul(in, NULL, 10);
	r->output = (uint32_t)strtoul(out, NULL, 10);
	if (r->input == 0)
		r->input = 1;
	if (r->output == 0)
		r->output = 1;
	return keep_ids(r, ids);
}

/* "2023-11-16 18:15:46.6805900,374,44" of Azure's traces: no two prompts share anything. */
static int read_azure(const char *line, double *first_s, struct fleet_request *r)
{
	static uint32_t ids[TRACE_IDS_MAX], next_id = 1;
	unsigned int input, output;
	struct tm tm = {0};
	char *rest = strptime(line, "%Y-%m-%d %H:%M:%S", &tm), *end;
	double at_s;

	if (!rest)
		return -EBADMSG;
	at_s = (double)timegm(&tm) + strtod(rest, &end);
	if (sscanf(end, ",%u,%u", &input, &output) != 2)
		return -EBADMSG;
	memset(r, 0, sizeof(*r));
	*first_s = *first_s > 0 ? *first_s : at_s;
	r->arrival_s = at_s - *first_s;
	r->input = input ? input : 1;
	r->output = output ? output : 1;
	r->id_count = (r->input + AZURE_BLOCK_TOKENS - 1) / AZURE_BLOCK_TOKENS;
	for (uint32_t i = 0; i < r->id_count && i < TRACE_IDS_MAX; i++)
		ids[i] = next_id++;
	return keep_ids(r, ids);
}

static int by_arrival(const void *a, const void *b)
{
	const struct fleet_request *x = a, *y = b;

	return (x->arrival_s > y->arrival_s) - (x->arrival_s < y->arrival_s);
}

void trace_jitter(struct trace *t, double jitter_s, uint64_t seed)
{
	if (jitter_s <= 0)
		return;
	for (uint32_t i = 0; i < t->count; i++)
		t->rows[i].arrival_s +=
			jitter_s * (double)(prefix_mix(seed, i + 1) >> 11) / 9007199254740992.0;
	qsort(t->rows, t->count, sizeof(*t->rows), by_arrival);
}

int trace_read(const char *path, struct trace *ret)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t room = 0, rows_max = 0;
	double first_s = 0;
	int err = 0;

	memset(ret, 0, sizeof(*ret));
	if (!f)
		return -errno;
	while (!err && getline(&line, &room, f) > 0) {
		if (ret->count == rows_max) {
			size_t more = rows_max ? rows_max * 2 : 4096;
			void *rows = realloc(ret->rows, more * sizeof(*ret->rows));

			if (!rows) {
				err = -ENOMEM;
				break;
			}
			ret->rows = rows;
			rows_max = more;
		}
		if (!ret->count && strncmp(line, "TIMESTAMP", 9) == 0)
			continue;
		err = *line == '{' ? read_row(line, &ret->rows[ret->count])
				   : read_azure(line, &first_s, &ret->rows[ret->count]);
		ret->count += !err;
	}
	free(line);
	fclose(f);
	return err;
}

void trace_free(struct trace *t)
{
	for (uint32_t i = 0; i < t->count; i++) {
		free((void *)t->rows[i].ids);
		free(t->rows[i].hashes);
	}
	free(t->rows);
	memset(t, 0, sizeof(*t));
}
