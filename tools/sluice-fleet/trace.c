/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a Mooncake trace: one JSON object a line, of which four members matter. */
#include "sluice-fleet/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int read_row(const char *line, struct fleet_request *r)
{
	static uint32_t ids[TRACE_IDS_MAX];
	const char *at = member(line, "\"timestamp\""), *in = member(line, "\"input_length\"");
	const char *out = member(line, "\"output_length\""), *list = member(line, "\"hash_ids\"");
	uint32_t *kept;

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
	kept = malloc((r->id_count + 1) * sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	memcpy(kept, ids, r->id_count * sizeof(*kept));
	r->ids = kept;
	return 0;
}

int trace_read(const char *path, struct trace *ret)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t room = 0, rows_max = 0;
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
		err = read_row(line, &ret->rows[ret->count]);
		ret->count += !err;
	}
	free(line);
	fclose(f);
	return err;
}

void trace_free(struct trace *t)
{
	for (uint32_t i = 0; i < t->count; i++)
		free((void *)t->rows[i].ids);
	free(t->rows);
	memset(t, 0, sizeof(*t));
}
