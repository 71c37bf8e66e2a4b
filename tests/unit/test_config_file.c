/* SPDX-License-Identifier: Apache-2.0 */
/* The YAML file: what it may say, and where a refusal points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/options.h"
#include "controlplane/options_table.h"

static void refusals_say_line_and_column(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"lisen: 1\n", "f:1:1: unknown key \"lisen\""},
		{"cors: true\nworkers: x\n", "f:2:10: workers: \"x\" is not a number"},
		{"cors: true\n  workers\n", "f:1:7: cors: \"true workers\" is not true or false"},
		{"workers: 1\nworkers: 2\n", "f:2:1: workers is here twice"},
		{"workers: [1]\n", "f:1:10: workers takes one value, not a list"},
		{"endpoint:\n  - a:1\n  - [b]\n", "f:3:5: endpoint: items are plain texts"},
		{"endpoint:\n  - a:1\n  - ''\n", "f:3:5: endpoint: an empty value"},
		{"workers: {a: 1}\n", "f:1:10: workers takes a plain value"},
		{"workers:\n", "no value"},
		{"admin: ~\n", "f:1:8: admin: no value"},
		{"- a\n", "f:1:1: the file is a mapping"},
		{"text\n", "f:1:1: the file is a mapping"},
		{"? [a]\n: 1\n", "f:1:3: a key is a plain text"},
		{"workers: &a 1\n", "f:1:10: anchors and tags have no meaning here"},
		{"workers: !!int 1\n", "anchors and tags"},
		{"workers: *a\n", "f:1:10: workers takes a plain value"},
		{"idle-timeout: 10\n", "f:1:15: idle-timeout: \"10\" is not a duration"},
		{"cors: \"tr\\0ue\"\n", "f:1:7: cors: a NUL byte"},
		{"workers: 1\n---\nworkers: 2\n", "f:2:1: a second document"},
		{"endpoint: [a:1\n", "f:2:"},
		{"\xff\xfe\xfd", "f:"},
		{"a: \"\xc3\x28\"\n", "f:1:"},
	};
	struct config_error e;
	struct config c;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int err;

		config_init_defaults(&c);
		e.text[0] = '\0';
		err = config_load_text(&c, "f", span_of_str(cases[i].text), &e);
		if (err != -EINVAL || !strstr(e.text, cases[i].says))
			fail_msg("%s: got %d \"%s\"", cases[i].text, err, e.text);
		config_fini(&c);
	}
}

static void an_empty_file_is_all_defaults(void **state)
{
	static const char *const texts[] = {"", "# nothing\n", "---\n", "{}\n"};
	struct config_error e = {""};
	struct config c;

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		config_init_defaults(&c);
		if (config_load_text(&c, "f", span_of_str(texts[i]), &e))
			fail_msg("\"%s\": %s", texts[i], e.text);
		assert_string_equal(c.admin, "127.0.0.1:9090");
		config_fini(&c);
	}
}

static void what_is_printed_reads_back_the_same(void **state)
{
	static const char text[] =
		"listen: ['unix:/tmp/a \"b\\', '[::1]:80']\n"
		"endpoint: \"e:1,label.zone=\\xfc\\ty\"\n"
		"admin: ''\nweight-kv: 0.1\nidle-timeout: 90s\nbody-bytes-max: 3KB\n"
		"log-level: warn\nbpf: off\nworkers: 7\nretries-max: 0\n";
	struct config_error e = {""};
	struct config a, b;
	char *out = NULL;
	size_t size = 0;
	FILE *f;

	(void)state;
	config_init_defaults(&a);
	if (config_load_text(&a, "a", span_of_str(text), &e))
		fail_msg("%s", e.text);
	assert_null(a.admin);
	assert_int_equal(a.body_bytes_max, 3072);
	f = open_memstream(&out, &size);
	config_write_yaml(f, &a);
	fclose(f);
	config_init_defaults(&b);
	if (config_load_text(&b, "b", span_of(out, size), &e))
		fail_msg("%s in\n%s", e.text, out);
	for (unsigned int i = 0; i < option_row_count; i++)
		if (!option_equal(&a, &b, &option_rows[i]))
			fail_msg("%s differs in\n%s", option_rows[i].name, out);
	free(out);
	config_fini(&a);
	config_fini(&b);
}

static void every_prefix_is_refused_or_taken_without_harm(void **state)
{
	static const char text[] = "listen: [a:1, \"b:2\"]\nworkers: 3\nendpoint:\n  - c:1\n";
	struct config_error e;
	struct config c;

	(void)state;
	for (size_t n = 0; n < sizeof(text); n++) {
		int err;

		config_init_defaults(&c);
		err = config_load_text(&c, "f", span_of(text, n), &e);
		assert_true(err == 0 || err == -EINVAL);
		config_fini(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals_say_line_and_column),
		cmocka_unit_test(an_empty_file_is_all_defaults),
		cmocka_unit_test(what_is_printed_reads_back_the_same),
		cmocka_unit_test(every_prefix_is_refused_or_taken_without_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
