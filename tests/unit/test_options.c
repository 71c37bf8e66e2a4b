/* SPDX-License-Identifier: Apache-2.0 */
/* Flags, units, defaults, the file's precedence and the reload. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "controlplane/options.h"
#include "controlplane/options_table.h"
#include "sluice/limits.h"

#define ARGS_MAX 16

struct parsed {
	struct config cfg;
	enum config_action action;
	struct config_error error;
	int err;
};

static void parse(struct parsed *p, const char *line)
{
	char copy[2048], *argv[ARGS_MAX] = {"sluiced"}, *save = NULL;
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *s = strtok_r(copy, " ", &save); s; s = strtok_r(NULL, " ", &save))
		argv[argc++] = s;
	config_init_defaults(&p->cfg);
	p->err = config_parse_args(&p->cfg, argc, argv, &p->action, &p->error);
}

static void defaults_are_those_of_limits(void **state)
{
	struct config c;

	(void)state;
	config_init_defaults(&c);
	assert_int_equal(c.head_bytes_max, HEAD_BYTES_MAX);
	assert_int_equal(c.body_bytes_max, BODY_BYTES_MAX);
	assert_int_equal(c.idle_timeout_ms, IDLE_TIMEOUT_MS);
	assert_int_equal(c.buffered_bytes_max, BUFFERED_BYTES_MAX);
	assert_int_equal(c.retries_max, RETRIES_MAX);
	assert_int_equal(c.log_level, LOG_INFO);
	assert_int_equal(c.workers, 0);
	assert_true(c.bpf && c.pin_workers && !c.cors);
	assert_true(c.weight_prefix > 2.99 && c.weight_prefix < 3.01);
	assert_string_equal(c.listen.items[0], "0.0.0.0:8080");
	assert_string_equal(c.admin, "127.0.0.1:9090");
	assert_null(c.access_log);
	config_fini(&c);
}

static void flags_set_their_fields(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "--listen 127.0.0.1:1 --listen=unix:/tmp/s --endpoint 10.0.0.1:8000,role=decode "
		  "--no-bpf --cors --workers 3 --scrape-interval=10ms --body-bytes-max 1GiB");
	assert_int_equal(p.err, 0);
	assert_int_equal(p.action, CONFIG_RUN);
	assert_int_equal(p.cfg.listen.count, 2);
	assert_string_equal(p.cfg.listen.items[1], "unix:/tmp/s");
	assert_string_equal(p.cfg.endpoints.items[0], "10.0.0.1:8000,role=decode");
	assert_false(p.cfg.bpf);
	assert_true(p.cfg.cors);
	assert_int_equal(p.cfg.workers, 3);
	assert_int_equal(p.cfg.scrape_interval_ms, 10);
	assert_int_equal(p.cfg.body_bytes_max, 1ULL << 30);
	config_fini(&p.cfg);
}

static void usage_errors_name_the_flag(void **state)
{
	static const struct {
		const char *args, *says;
	} cases[] = {
		{"--lisen 1", "unknown flag \"--lisen\""},
		{"extra", "unexpected argument \"extra\""},
		{"--endpoint", "--endpoint needs a value"},
		{"--endpoint 1.1.1.1:1 --workers many", "workers: \"many\" is not a number"},
		{"--endpoint 1.1.1.1:1 --workers -1", "workers: \"-1\" is not a number"},
		{"--endpoint 1.1.1.1:1 --workers 65", "workers: 65 is outside 0 to 64"},
		{"--endpoint 1.1.1.1:1 --head-timeout 5", "head-timeout: \"5\" is not a duration"},
		{"--endpoint 1.1.1.1:1 --head-timeout 5x", "not a duration"},
		{"--endpoint 1.1.1.1:1 --scrape-interval 9ms", "outside 10ms to 24h"},
		{"--endpoint 1.1.1.1:1 --body-bytes-max 99999999999999999999", "not a size"},
		{"--endpoint 1.1.1.1:1 --body-bytes-max 18446744073709551615GiB", "not a size"},
		{"--endpoint 1.1.1.1:1 --body-bytes-max KB", "not a size"},
		{"--endpoint 1.1.1.1:1 --listen 8080", "listen: \"8080\" is not HOST:PORT"},
		{"--endpoint 1.1.1.1:1 --listen ::1:80", "is not HOST:PORT"},
		{"--endpoint 1.1.1.1:1 --admin 1.1.1.1:65536", "is not HOST:PORT"},
		{"--endpoint 1.1.1.1:1 --cors=maybe", "is not true or false"},
		{"--endpoint 1.1.1.1:1 --no-cors=true", "takes no value"},
		{"--endpoint 1.1.1.1:1 --no-workers", "unknown flag"},
		{"--endpoint 1.1.1.1:1 --weight-kv -1", "is not a weight"},
		{"--endpoint 1.1.1.1:1 --weight-kv nan", "is not a weight"},
		{"--endpoint 1.1.1.1:1 --log-level loud", "is not error, warn"},
		{"--endpoint 1.1.1.1:1 --endpoints f", "not both"},
		{"--config /nonexistent/x", "/nonexistent/x: No such file"},
		{"--cors", "no engines"},
	};
	struct parsed p;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		parse(&p, cases[i].args);
		if (p.err >= 0 || !strstr(p.error.text, cases[i].says))
			fail_msg("%s: got %d \"%s\"", cases[i].args, p.err, p.error.text);
		config_fini(&p.cfg);
	}
}

static void actions_need_no_endpoints(void **state)
{
	static const struct {
		const char *args;
		enum config_action action;
	} cases[] = {
		{"--help", CONFIG_HELP},
		{"--version", CONFIG_VERSION},
		{"--uninstall --bpffs-dir /x", CONFIG_UNINSTALL},
		{"--check-config --endpoint 1.1.1.1:1", CONFIG_CHECK},
	};
	struct parsed p;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		parse(&p, cases[i].args);
		assert_int_equal(p.err, 0);
		assert_int_equal(p.action, cases[i].action);
		config_fini(&p.cfg);
	}
}

static void write_file(char *path, const char *text)
{
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void a_flag_wins_over_the_file_and_replaces_its_list(void **state)
{
	char path[] = "/tmp/test_options.XXXXXX", line[256];
	struct parsed p;

	(void)state;
	write_file(path, "endpoint: [1.1.1.1:1, 1.1.1.1:2]\nlisten: 127.0.0.1:7\nworkers: 2\n"
			 "cors: true\n");
	snprintf(line, sizeof(line), "--workers 5 --endpoint 2.2.2.2:2 --no-cors --config %s",
		 path);
	parse(&p, line);
	unlink(path);
	assert_int_equal(p.err, 0);
	assert_int_equal(p.cfg.workers, 5);
	assert_false(p.cfg.cors);
	assert_int_equal(p.cfg.endpoints.count, 1);
	assert_string_equal(p.cfg.endpoints.items[0], "2.2.2.2:2");
	assert_int_equal(p.cfg.listen.count, 1);
	assert_string_equal(p.cfg.listen.items[0], "127.0.0.1:7");
	config_fini(&p.cfg);
}

static void a_reload_changes_only_what_may_change(void **state)
{
	char path[] = "/tmp/test_options.XXXXXX";
	char *argv[] = {"sluiced", "--config", path};
	struct parsed p;
	struct config next;
	FILE *f;

	(void)state;
	write_file(path, "endpoint: 1.1.1.1:1\nworkers: 2\n");
	config_init_defaults(&p.cfg);
	assert_int_equal(config_parse_args(&p.cfg, 3, argv, &p.action, &p.error), 0);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("endpoint: [1.1.1.1:1, 2.2.2.2:2]\nworkers: 4\nlog-level: debug\n", f);
	fclose(f);
	log_set_level(LOG_ERROR);
	assert_int_equal(config_reload(&p.cfg, 3, argv, &next, &p.error), 0);
	assert_int_equal(next.workers, 2);
	assert_int_equal(next.endpoints.count, 2);
	assert_int_equal(next.log_level, LOG_DEBUG);
	config_fini(&next);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("endpoint: [", f);
	fclose(f);
	assert_int_equal(config_reload(&p.cfg, 3, argv, &next, &p.error), -EINVAL);
	assert_null(next.endpoints.items);
	unlink(path);
	config_fini(&p.cfg);
}

static void every_option_is_in_the_help(void **state)
{
	char *text = NULL, want[80];
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	(void)state;
	config_write_help(f);
	fclose(f);
	for (unsigned int i = 0; i < option_row_count; i++) {
		snprintf(want, sizeof(want), "%s%s ",
			 option_rows[i].type == OPTION_BOOL ? "--[no-]" : "--",
			 option_rows[i].name);
		if (!strstr(text, want))
			fail_msg("no %s in --help", want);
		assert_true(option_row_count < 255);
	}
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_are_those_of_limits),
		cmocka_unit_test(flags_set_their_fields),
		cmocka_unit_test(usage_errors_name_the_flag),
		cmocka_unit_test(actions_need_no_endpoints),
		cmocka_unit_test(a_flag_wins_over_the_file_and_replaces_its_list),
		cmocka_unit_test(a_reload_changes_only_what_may_change),
		cmocka_unit_test(every_option_is_in_the_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
