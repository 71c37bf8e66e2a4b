/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From argv and a YAML file to struct config. One table (options_table.c) makes the flags, the
 * keys of the file, --help, the defaults and what --check-config prints, so that they agree.
 * Precedence: a flag over the file over the default; a list named by a flag replaces the file's.
 */
#ifndef SLUICE_CONTROLPLANE_OPTIONS_H
#define SLUICE_CONTROLPLANE_OPTIONS_H

#include <stdio.h>

#include "base/config.h"
#include "base/span.h"

#define SLUICE_VERSION "0.1.0"

enum config_action {
	CONFIG_RUN,
	CONFIG_CHECK,	  /* --check-config: print the effective configuration, exit 0 */
	CONFIG_HELP,	  /* --help */
	CONFIG_VERSION,	  /* --version */
	CONFIG_PROBE,	  /* --probe-machine: what this machine can do, as lines of text */
	CONFIG_UNINSTALL, /* --uninstall: remove our pins from bpffs, exit */
};

/* One sentence about what is wrong: "sluice.yaml:3:7: unknown key \"lisen\"". */
struct config_error {
	char text[512];
};

void config_init_defaults(struct config *cfg);
/* Frees what the struct owns and zeroes it. */
void config_fini(struct config *cfg);

/*
 * Reads the flags, and first the file that --config names. cfg: after config_init_defaults().
 * -EINVAL: a usage error, told in ret_error; the caller exits 2. cfg is to be finished either way.
 */
int config_parse_args(struct config *cfg, int argc, char *const *argv,
		      enum config_action *ret_action, struct config_error *ret_error);

/* Reads a YAML mapping of options into cfg. -EINVAL with line and column; -errno of the file. */
int config_load_file(struct config *cfg, const char *path, struct config_error *ret_error);
/* The same from memory; name stands in error messages. */
int config_load_text(struct config *cfg, const char *name, struct span text,
		     struct config_error *ret_error);

/*
 * SIGHUP: reads everything again into ret_cfg (made here, config_fini() it). Settings that only a
 * restart can change are set back to those of `running`, with a warning for each. On an error
 * ret_cfg is empty and the running configuration stays.
 */
int config_reload(const struct config *running, int argc, char *const *argv, struct config *ret_cfg,
		  struct config_error *ret_error);

void config_write_help(FILE *f);
/* As a YAML file that config_load_file() reads back to the same settings. */
void config_write_yaml(FILE *f, const struct config *cfg);

#endif
