/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flags of the tools, one row each: the parser, --help, the defaults that it shows and (through
 * tools/man/options.awk) the manual page come from the same table. sluiced has its own, with YAML.
 */
#ifndef SLUICE_TOOLS_FLAGS_H
#define SLUICE_TOOLS_FLAGS_H

#include <stddef.h>

enum flag_kind {
	FLAG_TEXT,    /* char * */
	FLAG_TEXTS,   /* struct flag_texts: repeatable */
	FLAG_COUNT,   /* unsigned int */
	FLAG_REAL,    /* double >= 0 */
	FLAG_MILLIS,  /* double of milliseconds: 5, 5ms, 40us, 1.5s */
	FLAG_BOOL,    /* bool: --name, --name=false, --no-name */
	FLAG_IGNORED, /* takes a value, which is not used */
};

#define FLAG_TEXTS_MAX 16
struct flag_texts {
	const char *items[FLAG_TEXTS_MAX];
	unsigned int count;
};

struct flag {
	const char *name;	 /* without the dashes */
	const char *placeholder; /* of the value; NULL for FLAG_BOOL */
	enum flag_kind kind;
	void *value; /* holds the default until it is parsed */
	const char *help;
};

struct flags {
	const char *tool, *synopsis, *about;
	const struct flag *rows;
	size_t count;
	void (*more)(void); /* prints more of the help, before the flags; may be NULL */
	const char **words; /* receives up to words_max words that are no flags, NULL after them */
	size_t words_max;
};

#define FLAGS_GO_ON (-1)

/*
 * Sets the values that argv names. FLAGS_GO_ON, or the exit status: 0 after --help and --version,
 * 2 after a sentence about a wrong usage. Values of text point into argv.
 */
int flags_parse(const struct flags *f, int argc, char **argv);
/* Prints "TOOL: FLAG: what (see --help)" and returns 2, the exit status of a wrong usage. */
int flags_refuse(const struct flags *f, const char *flag, const char *what);

#endif
