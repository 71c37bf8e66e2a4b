/* SPDX-License-Identifier: Apache-2.0 */
/* One walk over argv by the table of flags.h; help and version come first, wherever they stand. */
#include "common/flags.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/options.h"

int flags_refuse(const struct flags *f, const char *flag, const char *what)
{
	fprintf(stderr, "%s: %s: %s (see --help)\n", f->tool, flag, what);
	return 2;
}

static void default_print(const struct flag *row)
{
	const char *text;
	double n;

	switch (row->kind) {
	case FLAG_TEXT:
		text = *(char *const *)row->value;
		if (text)
			printf(" (%s)", text);
		break;
	case FLAG_COUNT:
		if (*(const unsigned int *)row->value)
			printf(" (%u)", *(const unsigned int *)row->value);
		break;
	case FLAG_REAL:
	case FLAG_MILLIS:
		n = *(const double *)row->value;
		if (n > 0)
			printf(" (%g%s)", n, row->kind == FLAG_MILLIS ? "ms" : "");
		break;
	case FLAG_BOOL:
		printf(" (%s)", *(const bool *)row->value ? "on" : "off");
		break;
	default:
		break;
	}
}

static void help(const struct flags *f)
{
	char text[80];

	printf("Usage: %s %s\n%s\n\n", f->tool, f->synopsis, f->about);
	if (f->more)
		f->more();
	for (size_t i = 0; i < f->count; i++) {
		const struct flag *row = &f->rows[i];

		snprintf(text, sizeof(text), "--%s%s%s%s", row->kind == FLAG_BOOL ? "[no-]" : "",
			 row->name, row->placeholder ? " " : "",
			 row->placeholder ? row->placeholder : "");
		printf("  %-34s  %s", text, row->help);
		default_print(row);
		printf("\n");
	}
	printf("  %-34s  %s\n  %-34s  %s\n", "--version", "print the version and exit", "--help",
	       "print this and exit");
}

static int millis_parse(const char *text, double *ret)
{
	char *end;
	double n = strtod(text, &end);

	if (end == text || !(n >= 0) || isinf(n))
		return -EINVAL;
	if (strcmp(end, "us") == 0 || strcmp(end, "µs") == 0)
		n /= 1000;
	else if (strcmp(end, "s") == 0)
		n *= 1000;
	else if (*end && strcmp(end, "ms") != 0)
		return -EINVAL;
	*ret = n;
	return 0;
}

static int count_parse(const char *text, unsigned int *ret)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || n > UINT_MAX)
		return -EINVAL;
	*ret = (unsigned int)n;
	return 0;
}

static int real_parse(const char *text, double *ret)
{
	char *end;
	double n = strtod(text, &end);

	if (end == text || *end || !(n >= 0) || isinf(n))
		return -EINVAL;
	*ret = n;
	return 0;
}

static int bool_parse(const char *text, bool *ret)
{
	if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
		return -EINVAL;
	*ret = text[0] == 't';
	return 0;
}

static int value_parse(const struct flag *row, char *text)
{
	struct flag_texts *list = row->value;

	switch (row->kind) {
	case FLAG_TEXT:
		*(char **)row->value = text;
		return 0;
	case FLAG_TEXTS:
		if (list->count == FLAG_TEXTS_MAX)
			return -EINVAL;
		list->items[list->count++] = text;
		return 0;
	case FLAG_COUNT:
		return count_parse(text, row->value);
	case FLAG_REAL:
		return real_parse(text, row->value);
	case FLAG_MILLIS:
		return millis_parse(text, row->value);
	case FLAG_BOOL:
		return bool_parse(text, row->value);
	default:
		return 0;
	}
}

/* The row of "--name" or "--name=value"; *ret_no: it was "--no-name". */
static const struct flag *row_find(const struct flags *f, const char *arg, bool *ret_no)
{
	size_t len = strcspn(arg, "=");

	*ret_no = false;
	if (strncmp(arg, "--", 2) != 0)
		return NULL;
	for (size_t i = 0; i < f->count; i++) {
		const struct flag *row = &f->rows[i];
		size_t n = strlen(row->name);

		if (len == n + 2 && strncmp(arg + 2, row->name, n) == 0)
			return row;
		if (row->kind == FLAG_BOOL && !arg[len] && len == n + 5 &&
		    strncmp(arg, "--no-", 5) == 0 && strcmp(arg + 5, row->name) == 0) {
			*ret_no = true;
			return row;
		}
	}
	return NULL;
}

int flags_parse(const struct flags *f, int argc, char **argv)
{
	size_t words = 0;

	for (int a = 1; a < argc; a++) {
		if (strcmp(argv[a], "--help") == 0) {
			help(f);
			return 0;
		}
		if (strcmp(argv[a], "--version") == 0) {
			printf("%s %s\n", f->tool, SLUICE_VERSION);
			return 0;
		}
	}
	for (int a = 1; a < argc; a++) {
		bool no;
		const struct flag *row = row_find(f, argv[a], &no);
		char *flag = argv[a], *value = strchr(argv[a], '=');

		if (flag[0] != '-' && words < f->words_max) {
			f->words[words++] = flag;
			continue;
		}
		if (!row)
			return flags_refuse(f, flag,
					    flag[0] == '-' ? "unknown flag" : "unexpected word");
		if (row->kind == FLAG_BOOL && !value) {
			*(bool *)row->value = !no;
			continue;
		}
		if (!value && a + 1 == argc)
			return flags_refuse(f, flag, "needs a value");
		if (value_parse(row, value ? value + 1 : argv[++a]))
			return flags_refuse(f, flag, "bad value");
	}
	return FLAGS_GO_ON;
}
