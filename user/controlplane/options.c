/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags to struct config, the table printed as help and as YAML, and the reload at SIGHUP.
 * The table is options_table.c, the values options_value.c, the file config_file.c.
 */
#include "controlplane/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "controlplane/options_table.h"
#include "sluice/limits.h"

static const struct {
	const char *name;
	enum config_action action;
	const char *help;
} actions[] = {
	{"check-config", CONFIG_CHECK, "print the effective configuration as YAML and exit"},
	{"probe-machine", CONFIG_PROBE,
	 "try what this machine can do, in namespaces of its own, print it and exit"},
	{"uninstall", CONFIG_UNINSTALL, "remove every pinned map and program and exit"},
	{"version", CONFIG_VERSION, "print the version and exit"},
	{"help", CONFIG_HELP, "print this and exit"},
};

__attribute__((format(printf, 2, 3))) static int usage(struct config_error *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

void config_init_defaults(struct config *cfg)
{
	struct config_error e;

	*cfg = (struct config){0};
	for (unsigned int i = 0; i < option_row_count; i++) {
		const struct option_row *row = &option_rows[i];
		char number[32];

		snprintf(number, sizeof(number), "%llu%s", (unsigned long long)row->def,
			 row->type == OPTION_DURATION ? "ms" : "");
		if (row->type == OPTION_LEVEL)
			*(unsigned int *)option_field(cfg, row) = (unsigned int)row->def;
		else if (row->def_text)
			option_set(cfg, row, span_of_str(row->def_text), &e);
		else if (row->type != OPTION_STRING && row->type != OPTION_LIST)
			option_set(cfg, row, span_of_str(number), &e);
	}
}

void config_fini(struct config *cfg)
{
	for (unsigned int i = 0; i < option_row_count; i++) {
		const struct option_row *row = &option_rows[i];

		if (row->type == OPTION_LIST)
			list_clear(option_field(cfg, row));
		else if (row->type == OPTION_STRING || row->type == OPTION_ADDRESS)
			free(*(char **)option_field(cfg, row));
	}
	free(cfg->config_file);
	*cfg = (struct config){0};
}

/* One flag of argv: name without dashes, and its value if one is attached by '='. */
struct flag {
	struct span name, value;
	bool has_value, negated;
	const struct option_row *row; /* NULL: config or an action */
};

static int split_flag(const char *arg, struct flag *ret, struct config_error *e)
{
	const char *equals = strchr(arg, '=');

	if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0')
		return usage(e, "unexpected argument \"%s\"", arg);
	*ret = (struct flag){.name = span_of_str(arg + 2)};
	if (equals) {
		ret->name.len = (size_t)(equals - arg - 2);
		ret->value = span_of_str(equals + 1);
		ret->has_value = true;
	}
	ret->row = option_find(ret->name);
	if (!ret->row && span_starts_with(ret->name, SPAN("no-"))) {
		ret->row = option_find(span_of(ret->name.ptr + 3, ret->name.len - 3));
		ret->negated = ret->row != NULL;
		if (ret->row && ret->row->type != OPTION_BOOL)
			return usage(e, "unknown flag \"%s\"", arg);
	}
	return 0;
}

/* Gives the flag its value from the next argument where it needs one. */
static int take_value(struct flag *flag, int argc, char *const *argv, int *i,
		      struct config_error *e)
{
	if (flag->row && flag->row->type == OPTION_BOOL) {
		if (flag->negated && flag->has_value)
			return usage(e, "--%.*s takes no value", SPAN_FMT(flag->name));
		if (!flag->has_value)
			flag->value = flag->negated ? SPAN("false") : SPAN("true");
		return 0;
	}
	if (flag->has_value)
		return 0;
	if (*i + 1 >= argc)
		return usage(e, "--%.*s needs a value", SPAN_FMT(flag->name));
	flag->value = span_of_str(argv[++*i]);
	return 0;
}

static bool find_action(struct span name, enum config_action *ret)
{
	for (unsigned int i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		if (span_eq(name, span_of_str(actions[i].name))) {
			*ret = actions[i].action;
			return true;
		}
	return false;
}

/* Walks argv once: with `file` set finds --config only, else sets everything else. */
static int walk_args(struct config *cfg, int argc, char *const *argv, bool file,
		     enum config_action *ret_action, struct config_error *e)
{
	bool seen[256] = {false};
	struct flag flag = {0};
	int err;

	for (int i = 1; i < argc; i++) {
		err = split_flag(argv[i], &flag, e);
		if (err)
			return err;
		if (!flag.row && !flag.has_value && find_action(flag.name, ret_action))
			continue;
		if (!flag.row && !span_eq(flag.name, SPAN("config")))
			return usage(e, "unknown flag \"%s\"", argv[i]);
		err = take_value(&flag, argc, argv, &i, e);
		if (err)
			return err;
		if (!flag.row && file) {
			free(cfg->config_file);
			cfg->config_file = strndup(flag.value.ptr, flag.value.len);
		}
		if (!flag.row || file)
			continue;
		if (!seen[flag.row - option_rows])
			option_clear(cfg, flag.row);
		seen[flag.row - option_rows] = true;
		err = option_set(cfg, flag.row, flag.value, e);
		if (err)
			return err;
	}
	return 0;
}

static int check_whole(const struct config *cfg, struct config_error *e)
{
	if (cfg->endpoints.count == 0 && !cfg->endpoints_file && !cfg->scheduler_config)
		return usage(e, "no engines: give --endpoint HOST:PORT or --endpoints FILE");
	if (cfg->endpoints.count && cfg->endpoints_file)
		return usage(e, "give either --endpoint or --endpoints, not both");
	if (cfg->endpoints.count > ENDPOINTS_MAX)
		return usage(e, "more than %d endpoints", ENDPOINTS_MAX);
	if (cfg->bpf && !cfg->bpffs_dir)
		return usage(e, "bpffs-dir: an empty value");
	return 0;
}

int config_parse_args(struct config *cfg, int argc, char *const *argv,
		      enum config_action *ret_action, struct config_error *e)
{
	int err;

	e->text[0] = '\0';
	*ret_action = CONFIG_RUN;
	err = walk_args(cfg, argc, argv, true, ret_action, e);
	if (err || *ret_action == CONFIG_HELP || *ret_action == CONFIG_VERSION)
		return err;
	if (cfg->config_file)
		err = config_load_file(cfg, cfg->config_file, e);
	if (!err)
		err = walk_args(cfg, argc, argv, false, ret_action, e);
	if (!err && *ret_action != CONFIG_UNINSTALL && *ret_action != CONFIG_PROBE)
		err = check_whole(cfg, e);
	if (err && !e->text[0])
		usage(e, "%s", strerror(-err));
	return err;
}

/* Puts the running value back, whatever its type. */
static int copy_option(struct config *to, const struct config *from, const struct option_row *row)
{
	const struct string_list *list = option_field(from, row);
	size_t n = row->type == OPTION_LIST ? list->count : 1;
	struct config_error e;
	char text[4096];
	int err = 0;

	option_clear(to, row);
	for (size_t i = 0; i < n && !err; i++) {
		option_format(from, row, i, text, sizeof(text));
		err = option_set(to, row, span_of_str(text), &e);
	}
	return err;
}

int config_reload(const struct config *running, int argc, char *const *argv, struct config *ret_cfg,
		  struct config_error *e)
{
	enum config_action action;
	int err;

	config_init_defaults(ret_cfg);
	err = config_parse_args(ret_cfg, argc, argv, &action, e);
	for (unsigned int i = 0; i < option_row_count && !err; i++) {
		const struct option_row *row = &option_rows[i];

		if (row->reloads || option_equal(running, ret_cfg, row))
			continue;
		log_warn("%s changes at a restart only; the running value stays", row->name);
		err = copy_option(ret_cfg, running, row);
	}
	if (err)
		config_fini(ret_cfg);
	return err;
}

static const char *placeholder_of(const struct option_row *row)
{
	if (row->placeholder)
		return row->placeholder;
	switch (row->type) {
	case OPTION_SIZE:
		return "SIZE";
	case OPTION_DURATION:
		return "TIME";
	case OPTION_LEVEL:
		return "LEVEL";
	default:
		return "N";
	}
}

static void write_help_row(FILE *f, const struct config *defaults, const struct option_row *row)
{
	const struct string_list *list = option_field(defaults, row);
	char flag[64], def[256] = "";

	if (row->type == OPTION_BOOL)
		snprintf(flag, sizeof(flag), "--[no-]%s", row->name);
	else
		snprintf(flag, sizeof(flag), "--%s %s", row->name, placeholder_of(row));
	if (row->type != OPTION_LIST || list->count)
		option_format(defaults, row, 0, def, sizeof(def));
	fprintf(f, "  %-29s %s", flag, row->help);
	if (row->type == OPTION_BOOL)
		fprintf(f, " (%s)", strcmp(def, "true") == 0 ? "on" : "off");
	else if (def[0])
		fprintf(f, " (%s)", def);
	fputc('\n', f);
}

void config_write_help(FILE *f)
{
	struct config defaults;

	config_init_defaults(&defaults);
	fputs("Usage: sluiced [--config FILE] [FLAG]…\n"
	      "An inference gateway: sends each prompt where its KV cache is.\n\n"
	      "  --config FILE                 read settings from a YAML file; flags win over it\n",
	      f);
	for (unsigned int i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		fprintf(f, "  --%-27s %s\n", actions[i].name, actions[i].help);
	for (unsigned int i = 0; i < option_row_count; i++) {
		if (option_rows[i].group)
			fprintf(f, "\n%s\n", option_rows[i].group);
		write_help_row(f, &defaults, &option_rows[i]);
	}
	fputs("\nKeys of the file are the flags' names without the dashes. Sizes: 512, 64KB, 1GiB\n"
	      "(KB is 1024 bytes). Times: 10ms, 5s, 2m, 1h. See sluiced(8), sluice-limits(7).\n",
	      f);
	config_fini(&defaults);
}

/* Double-quoted, so that every byte survives. */
static void write_quoted(FILE *f, const char *text)
{
	fputc('"', f);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			fprintf(f, "\\x%02x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

static void write_yaml_list(FILE *f, const struct option_row *row, const struct string_list *list)
{
	fprintf(f, "%s:%s\n", row->name, list->count ? "" : " []");
	for (size_t i = 0; i < list->count; i++) {
		fputs("  - ", f);
		write_quoted(f, list->items[i]);
		fputc('\n', f);
	}
}

void config_write_yaml(FILE *f, const struct config *cfg)
{
	char text[4096];

	for (unsigned int i = 0; i < option_row_count; i++) {
		const struct option_row *row = &option_rows[i];

		if (row->group)
			fprintf(f, "%s# %s\n", i ? "\n" : "", row->group);
		if (row->type == OPTION_LIST) {
			write_yaml_list(f, row, option_field(cfg, row));
			continue;
		}
		option_format(cfg, row, 0, text, sizeof(text));
		fprintf(f, "%s: ", row->name);
		if (row->type == OPTION_STRING || row->type == OPTION_ADDRESS)
			write_quoted(f, text);
		else
			fputs(text, f);
		fputc('\n', f);
	}
}
