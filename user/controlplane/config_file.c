/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The YAML file: one flat mapping, option to value, lists as sequences. Read event by event, so
 * that every refusal can say the line and column it is about. Anchors, aliases, tags and nested
 * mappings are refused: nothing here needs them.
 */
#include "controlplane/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/cleanup.h"
#include "controlplane/options_table.h"

#define CONFIG_FILE_BYTES_MAX (1 << 20)
#define CONFIG_DOUBLE_KEYS    256

struct reader {
	yaml_parser_t yaml;
	yaml_event_t event;
	bool has_event;
	const char *name;
	struct config *cfg;
	struct config_error *error;
	bool seen[CONFIG_DOUBLE_KEYS];
};

__attribute__((format(printf, 3, 4))) static int refuse_at(struct reader *r, yaml_mark_t at,
							   const char *fmt, ...)
{
	char what[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	snprintf(r->error->text, sizeof(r->error->text), "%.80s:%zu:%zu: %s", r->name, at.line + 1,
		 at.column + 1, what);
	return -EINVAL;
}

static int next_event(struct reader *r)
{
	if (r->has_event)
		yaml_event_delete(&r->event);
	r->has_event = false;
	if (!yaml_parser_parse(&r->yaml, &r->event))
		return refuse_at(r,
				 r->yaml.problem_mark.line || r->yaml.problem_mark.column
					 ? r->yaml.problem_mark
					 : r->yaml.mark,
				 "%s", r->yaml.problem ? r->yaml.problem : "not YAML");
	r->has_event = true;
	return 0;
}

static struct span scalar(const yaml_event_t *ev)
{
	return span_of((const char *)ev->data.scalar.value, ev->data.scalar.length);
}

static int set_scalar(struct reader *r, const struct option_row *row)
{
	struct config_error e = {""};
	struct span text = scalar(&r->event);
	int err;

	if (r->event.data.scalar.anchor || r->event.data.scalar.tag)
		return refuse_at(r, r->event.start_mark, "anchors and tags have no meaning here");
	if (r->event.data.scalar.plain_implicit &&
	    (span_eq(text, SPAN("~")) || span_eq(text, SPAN("null")) || text.len == 0))
		return refuse_at(r, r->event.start_mark, "%s: no value", row->name);
	err = option_set(r->cfg, row, text, &e);
	if (err == -EINVAL)
		return refuse_at(r, r->event.start_mark, "%s", e.text);
	return err;
}

static int read_sequence(struct reader *r, const struct option_row *row)
{
	int err;

	if (row->type != OPTION_LIST)
		return refuse_at(r, r->event.start_mark, "%s takes one value, not a list",
				 row->name);
	for (;;) {
		err = next_event(r);
		if (err || r->event.type == YAML_SEQUENCE_END_EVENT)
			return err;
		if (r->event.type != YAML_SCALAR_EVENT)
			return refuse_at(r, r->event.start_mark, "%s: items are plain texts",
					 row->name);
		err = set_scalar(r, row);
		if (err)
			return err;
	}
}

static int read_value(struct reader *r, const struct option_row *row)
{
	int err = next_event(r);

	if (err)
		return err;
	option_clear(r->cfg, row);
	if (r->event.type == YAML_SCALAR_EVENT)
		return set_scalar(r, row);
	if (r->event.type == YAML_SEQUENCE_START_EVENT)
		return read_sequence(r, row);
	return refuse_at(r, r->event.start_mark, "%s takes a plain value", row->name);
}

static int read_mapping(struct reader *r)
{
	const struct option_row *row;
	int err;

	for (;;) {
		err = next_event(r);
		if (err || r->event.type == YAML_MAPPING_END_EVENT)
			return err;
		if (r->event.type != YAML_SCALAR_EVENT)
			return refuse_at(r, r->event.start_mark, "a key is a plain text");
		row = option_find(scalar(&r->event));
		if (!row)
			return refuse_at(r, r->event.start_mark, "unknown key \"%.80s\"",
					 (const char *)r->event.data.scalar.value);
		if (r->seen[row - option_rows])
			return refuse_at(r, r->event.start_mark, "%s is here twice", row->name);
		r->seen[row - option_rows] = true;
		err = read_value(r, row);
		if (err)
			return err;
	}
}

static int read_document(struct reader *r)
{
	int err = 0;

	while (!err) {
		err = next_event(r);
		if (err)
			break;
		switch (r->event.type) {
		case YAML_STREAM_START_EVENT:
		case YAML_DOCUMENT_END_EVENT:
			break;
		case YAML_STREAM_END_EVENT:
			return 0;
		case YAML_DOCUMENT_START_EVENT:
			if (r->event.start_mark.line && r->seen[CONFIG_DOUBLE_KEYS - 1])
				return refuse_at(r, r->event.start_mark, "a second document");
			r->seen[CONFIG_DOUBLE_KEYS - 1] = true;
			break;
		case YAML_MAPPING_START_EVENT:
			err = read_mapping(r);
			break;
		case YAML_SCALAR_EVENT:
			if (r->event.data.scalar.length == 0)
				break; /* an empty document: all defaults */
				       /* fall through */
		default:
			return refuse_at(r, r->event.start_mark,
					 "the file is a mapping, `option: value` on each line");
		}
	}
	return err;
}

int config_load_text(struct config *cfg, const char *name, struct span text,
		     struct config_error *ret_error)
{
	struct reader r = {.name = name, .cfg = cfg, .error = ret_error};
	int err;

	if (!yaml_parser_initialize(&r.yaml))
		return -ENOMEM;
	yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text.ptr, text.len);
	err = read_document(&r);
	if (r.has_event)
		yaml_event_delete(&r.event);
	yaml_parser_delete(&r.yaml);
	return err;
}

int config_load_file(struct config *cfg, const char *path, struct config_error *ret_error)
{
	FILE *f __cleanup(file_close) = fopen(path, "re");
	char *text __cleanup(mem_free) = NULL;
	int err = errno;
	size_t n = 0;

	if (f) {
		text = malloc(CONFIG_FILE_BYTES_MAX + 1);
		if (!text)
			return -ENOMEM;
		n = fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, f);
		err = ferror(f) ? errno : 0;
		if (!err && n > CONFIG_FILE_BYTES_MAX)
			err = EFBIG;
	}
	if (err) {
		snprintf(ret_error->text, sizeof(ret_error->text), "%.200s: %s", path,
			 strerror(err));
		return -err;
	}
	return config_load_text(cfg, path, span_of(text, n), ret_error);
}
