/* SPDX-License-Identifier: Apache-2.0 */
/* The values of options: text to field and back, with units. Round trips are exact. */
#include "controlplane/options_table.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct unit {
	const char *name;
	uint64_t factor;
};

/* KB means 1024 bytes here, as in every engine's flags; the largest exact unit is printed. */
static const struct unit size_units[] = {
	{"GiB", 1ULL << 30},
	{"MiB", 1ULL << 20},
	{"KiB", 1ULL << 10},
	{"GB", 1ULL << 30},
	{"MB", 1ULL << 20},
	{"KB", 1ULL << 10},
	{"B", 1},
	{NULL, 0},
};
static const struct unit time_units[] = {
	{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0},
};
static const char *const levels[] = {"error", "warn", "info", "debug"};

__attribute__((format(printf, 2, 3))) static int refuse(struct config_error *e, const char *fmt,
							...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int refuse_value(struct config_error *e, const struct option_row *row, struct span text,
			const char *want)
{
	return refuse(e, "%s: \"%.*s\" is not %s", row->name, (int)(text.len < 80 ? text.len : 80),
		      text.ptr, want);
}

/* Leading digits; the rest is the unit. Overflow and no digits are -EINVAL. */
static int parse_digits(struct span text, uint64_t *ret, struct span *ret_rest)
{
	uint64_t v = 0;
	size_t i = 0;

	for (; i < text.len && text.ptr[i] >= '0' && text.ptr[i] <= '9'; i++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(text.ptr[i] - '0'), &v))
			return -EINVAL;
	if (i == 0)
		return -EINVAL;
	*ret = v;
	*ret_rest = span_of(text.ptr + i, text.len - i);
	return 0;
}

static int parse_unit(struct span text, const struct unit *units, uint64_t *ret)
{
	struct span rest;
	uint64_t v;

	if (parse_digits(text, &v, &rest))
		return -EINVAL;
	if (rest.len == 0 && (!units || v == 0 || units == size_units)) {
		*ret = v;
		return 0;
	}
	for (; units && units->name; units++)
		if (span_eq_nocase(rest, span_of_str(units->name)))
			return __builtin_mul_overflow(v, units->factor, ret) ? -EINVAL : 0;
	return -EINVAL;
}

static void format_unit(uint64_t v, const struct unit *units, char *buf, size_t size)
{
	for (; units && units->name; units++)
		if (v && v % units->factor == 0) {
			snprintf(buf, size, "%llu%s", (unsigned long long)(v / units->factor),
				 units->name);
			return;
		}
	snprintf(buf, size, "%llu", (unsigned long long)v);
}

static const struct unit *units_of(const struct option_row *row)
{
	return row->type == OPTION_SIZE	      ? size_units
	       : row->type == OPTION_DURATION ? time_units
					      : NULL;
}

static int set_number(const struct option_row *row, struct span text, uint64_t *ret,
		      struct config_error *e)
{
	const struct unit *units = units_of(row);
	char lo[32], hi[32];
	uint64_t v;

	if (parse_unit(text, units, &v))
		return refuse_value(e, row, text,
				    row->type == OPTION_DURATION ? "a duration (10ms, 5s, 2m, 1h)"
				    : row->type == OPTION_SIZE	 ? "a size (512, 64KB, 1GiB)"
								 : "a number");
	if (v < row->min || (row->max && v > row->max)) {
		format_unit(row->min, units, lo, sizeof(lo));
		format_unit(row->max, units, hi, sizeof(hi));
		return refuse(e, "%s: %.*s is outside %s to %s", row->name, SPAN_FMT(text), lo, hi);
	}
	*ret = v;
	return 0;
}

static int set_bool(const struct option_row *row, struct span text, bool *ret,
		    struct config_error *e)
{
	static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (span_eq_nocase(text, span_of_str(words[i]))) {
			*ret = i & 1;
			return 0;
		}
	return refuse_value(e, row, text, "true or false");
}

static int set_weight(const struct option_row *row, struct span text, double *ret,
		      struct config_error *e)
{
	char copy[64], *end;
	double v;

	if (text.len == 0 || text.len >= sizeof(copy) ||
	    (!isdigit((unsigned char)text.ptr[0]) && text.ptr[0] != '.'))
		return refuse_value(e, row, text, "a weight (0 or more)");
	memcpy(copy, text.ptr, text.len);
	copy[text.len] = '\0';
	v = strtod(copy, &end);
	if (end != copy + text.len || !isfinite(v) || v < 0 || v > 1e6)
		return refuse_value(e, row, text, "a weight (0 to 1000000)");
	*ret = v;
	return 0;
}

static int set_level(const struct option_row *row, struct span text, unsigned int *ret,
		     struct config_error *e)
{
	for (unsigned int i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (span_eq(text, span_of_str(levels[i]))) {
			*ret = i;
			return 0;
		}
	return refuse_value(e, row, text, "error, warn, info or debug");
}

/* host:port, [v6]:port or unix:/path; whether the host exists is seen at bind. */
static bool address_is_plausible(struct span text)
{
	const char *colon = memrchr(text.ptr, ':', text.len);
	struct span rest;
	uint64_t port;

	if (span_starts_with(text, SPAN("unix:")))
		return text.len > 5 && text.len < 5 + 108;
	if (!colon || colon == text.ptr)
		return false;
	if (text.ptr[0] != '[' && memchr(text.ptr, ':', (size_t)(colon - text.ptr)))
		return false;
	if (text.ptr[0] == '[' && colon[-1] != ']')
		return false;
	return parse_digits(span_of(colon + 1, text.len - (size_t)(colon + 1 - text.ptr)), &port,
			    &rest) == 0 &&
	       rest.len == 0 && port <= 65535;
}

static int set_string(const struct option_row *row, struct span text, char **field,
		      struct config_error *e)
{
	char *copy;

	if (row->type == OPTION_ADDRESS && text.len && !address_is_plausible(text))
		return refuse_value(e, row, text, "HOST:PORT, [V6]:PORT or unix:/PATH");
	copy = text.len ? strndup(text.ptr, text.len) : NULL;
	if (text.len && !copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

int option_set(struct config *cfg, const struct option_row *row, struct span text,
	       struct config_error *e)
{
	void *field = option_field(cfg, row);
	uint64_t v;
	int err;

	if (text.len && memchr(text.ptr, '\0', text.len))
		return refuse(e, "%s: a NUL byte in the value", row->name);
	switch (row->type) {
	case OPTION_STRING:
	case OPTION_ADDRESS:
		return set_string(row, text, field, e);
	case OPTION_LIST:
		if (text.len == 0)
			return refuse(e, "%s: an empty value", row->name);
		if (strcmp(row->name, "listen") == 0 && !address_is_plausible(text))
			return refuse_value(e, row, text, "HOST:PORT, [V6]:PORT or unix:/PATH");
		return list_append(field, text.ptr, text.len);
	case OPTION_BOOL:
		return set_bool(row, text, field, e);
	case OPTION_WEIGHT:
		return set_weight(row, text, field, e);
	case OPTION_LEVEL:
		return set_level(row, text, field, e);
	case OPTION_WORKERS:
		err = set_number(row, text, &v, e);
		if (!err)
			*(unsigned int *)field = (unsigned int)v;
		return err;
	default:
		return set_number(row, text, field, e);
	}
}

int list_append(struct string_list *list, const char *text, size_t len)
{
	char **items = realloc(list->items, (list->count + 1) * sizeof(*items));

	if (!items)
		return -ENOMEM;
	list->items = items;
	items[list->count] = strndup(text, len);
	if (!items[list->count])
		return -ENOMEM;
	list->count++;
	return 0;
}

void list_clear(struct string_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct string_list){0};
}

void option_clear(struct config *cfg, const struct option_row *row)
{
	if (row->type == OPTION_LIST)
		list_clear(option_field(cfg, row));
}

void option_format(const struct config *cfg, const struct option_row *row, size_t item, char *buf,
		   size_t size)
{
	const void *field = option_field(cfg, row);
	const char *text = NULL;

	switch (row->type) {
	case OPTION_STRING:
	case OPTION_ADDRESS:
		text = *(char *const *)field;
		break;
	case OPTION_LIST:
		text = ((const struct string_list *)field)->items[item];
		break;
	case OPTION_BOOL:
		text = *(const bool *)field ? "true" : "false";
		break;
	case OPTION_LEVEL:
		text = levels[*(const unsigned int *)field & 3];
		break;
	case OPTION_WEIGHT:
		snprintf(buf, size, "%.17g", *(const double *)field);
		return;
	case OPTION_WORKERS:
		format_unit(*(const unsigned int *)field, NULL, buf, size);
		return;
	default:
		format_unit(*(const uint64_t *)field, units_of(row), buf, size);
		return;
	}
	snprintf(buf, size, "%s", text ? text : "");
}

bool option_equal(const struct config *a, const struct config *b, const struct option_row *row)
{
	const struct string_list *x = option_field(a, row), *y = option_field(b, row);
	char p[4096], q[4096];

	if (row->type != OPTION_LIST) {
		option_format(a, row, 0, p, sizeof(p));
		option_format(b, row, 0, q, sizeof(q));
		return strcmp(p, q) == 0;
	}
	if (x->count != y->count)
		return false;
	for (size_t i = 0; i < x->count; i++)
		if (strcmp(x->items[i], y->items[i]) != 0)
			return false;
	return true;
}
