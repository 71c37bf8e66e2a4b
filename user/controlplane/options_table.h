/* SPDX-License-Identifier: Apache-2.0 */
/* The table of options and the values in it; private to options*.c and config_file.c. */
#ifndef SLUICE_CONTROLPLANE_OPTIONS_TABLE_H
#define SLUICE_CONTROLPLANE_OPTIONS_TABLE_H

#include "controlplane/options.h"

enum option_type {
	OPTION_STRING,
	OPTION_LIST,	 /* repeatable */
	OPTION_BOOL,	 /* --name, --no-name, --name=true|false */
	OPTION_COUNT,	 /* a plain number, uint64_t */
	OPTION_SIZE,	 /* bytes: 64KB, 1GiB; uint64_t */
	OPTION_DURATION, /* 10ms, 5s, 2m; uint64_t of milliseconds */
	OPTION_WEIGHT,	 /* double >= 0 */
	OPTION_WORKERS,	 /* unsigned int */
	OPTION_LEVEL,	 /* error, warn, info, debug; unsigned int */
	OPTION_ADDRESS,	 /* string: host:port, [v6]:port or unix:/path; "" none */
};

struct option_row {
	const char *name;  /* flag and YAML key */
	const char *group; /* set on the first row of a group: its title in --help */
	enum option_type type;
	bool reloads; /* SIGHUP may change it */
	size_t offset;
	uint64_t def, min, max;	 /* of numbers; max 0: no bound */
	const char *def_text;	 /* of strings, lists and weights */
	const char *placeholder; /* in --help; NULL: by type */
	const char *help;
};

extern const struct option_row option_rows[];
extern const unsigned int option_row_count;

const struct option_row *option_find(struct span name);
static inline void *option_field(const struct config *cfg, const struct option_row *row)
{
	return (char *)cfg + row->offset;
}

/* Parses text into the field; a list is appended to. -EINVAL with the reason, -ENOMEM. */
int option_set(struct config *cfg, const struct option_row *row, struct span text,
	       struct config_error *ret_error);
/* Empties a list. */
void option_clear(struct config *cfg, const struct option_row *row);
bool option_equal(const struct config *a, const struct config *b, const struct option_row *row);
/* The field's text, as option_set() reads it; item is the index in a list. */
void option_format(const struct config *cfg, const struct option_row *row, size_t item, char *buf,
		   size_t size);

int list_append(struct string_list *list, const char *text, size_t len);
void list_clear(struct string_list *list);

#endif
