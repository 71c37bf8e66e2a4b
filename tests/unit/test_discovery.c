/* SPDX-License-Identifier: Apache-2.0 */
/* --endpoint, the endpoints file, /v1/models and the reader of engines' answers. */
#include "controlplane/discovery.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "controlplane/http_reply.h"
#include "controlplane/models.h"

static void flags_say_address_name_role_and_labels(void **state)
{
	struct origin o;
	char error[256];

	(void)state;
	assert_int_equal(origin_parse_flag("10.0.0.1:8000,name=a,role=decode,label.zone=eu=1", &o,
					   error, sizeof(error)),
			 0);
	assert_string_equal(o.name, "a");
	assert_int_equal(o.role, SLUICE_ROLE_DECODE);
	assert_int_equal(o.label_count, 2);
	assert_string_equal(o.labels[0].key, ROLE_LABEL);
	assert_string_equal(o.labels[1].value, "eu=1");
	assert_int_equal(((struct sockaddr_in *)o.addrs)->sin_port, htons(8000));
	assert_string_equal(o.host, "");
	origin_fini(&o);
	assert_int_equal(origin_parse_flag("[::1]:1", &o, error, sizeof(error)), 0);
	assert_int_equal(o.addrs[0].ss_family, AF_INET6);
	origin_fini(&o);
	assert_int_equal(origin_parse_flag("vllm.prod.svc:65535", &o, error, sizeof(error)), 0);
	assert_string_equal(o.host, "vllm.prod.svc");
	assert_int_equal(o.addr_count, 0);
	origin_fini(&o);
}

static void bad_flags_say_what_is_wrong(void **state)
{
	static const struct {
		const char *flag, *says;
	} cases[] = {
		{"", "ip:port"},
		{"10.0.0.1", "ip:port"},
		{"10.0.0.1:", "ip:port"},
		{":8000", "ip:port"},
		{"10.0.0.1:0", "ip:port"},
		{"10.0.0.1:65536", "ip:port"},
		{"10.0.0.1:+80", "ip:port"},
		{"10.0.0.1:80x", "ip:port"},
		{"10.0.0:80", "neither"},
		{"10.0.0.256:80", "neither"},
		{"a b:80", "neither"},
		{"-a:80", "neither"},
		{"::1:80", "brackets"},
		{"[::1:80", "bracket"},
		{"[10.0.0.1]:80", "IPv6"},
		{"[]:80", "IPv6"},
		{"http://a:80", "brackets"},
		{"10.0.0.1:80,", "is not name"},
		{"10.0.0.1:80,name", "is not name"},
		{"10.0.0.1:80,name=", "1 to 63"},
		{"10.0.0.1:80,name="
		 "0123456789012345678901234567890123456789012345678901234567890123",
		 "1 to 63"},
		{"10.0.0.1:80,role=cook", "unknown role"},
		{"10.0.0.1:80,role=decode,role=decode", "twice"},
		{"10.0.0.1:80,label.=x", "no name"},
		{"10.0.0.1:80,label.a=x,label.a=y", "twice"},
		{"10.0.0.1:80,weight=3", "unknown option"},
	};
	struct origin o;
	char error[256];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		*error = 0;
		assert_int_equal(origin_parse_flag(cases[i].flag, &o, error, sizeof(error)),
				 -EINVAL);
		if (!strstr(error, cases[i].says))
			fail_msg("\"%s\" says: %s", cases[i].flag, error);
	}
}

static void roles_are_those_of_the_label(void **state)
{
	uint8_t role = 0;

	(void)state;
	assert_int_equal(role_parse("both", &role), 0);
	assert_int_equal(role, SLUICE_ROLE_PREFILL | SLUICE_ROLE_DECODE);
	assert_int_equal(role_parse("encode-prefill-decode", &role), 0);
	assert_int_equal(role, 7);
	assert_int_equal(role_parse("Decode", &role), -EINVAL);
}

static const char good_file[] = "# pods\n"
				"endpoints:\n"
				"- name: a\n"
				"  namespace: default\n"
				"  address: 10.0.0.1\n"
				"  port: \"8000\"\n"
				"  labels: {llm-d.ai/role: prefill, zone: eu}\n"
				"- {name: b, namespace: prod, address: '::1', port: 8001}\n";

static void the_reference_format_is_read(void **state)
{
	struct origin_list list = {0};
	char error[256];

	(void)state;
	assert_int_equal(
		endpoints_file_parse(good_file, strlen(good_file), &list, error, sizeof(error)), 0);
	assert_int_equal(list.count, 2);
	assert_string_equal(list.items[0].name, "a");
	assert_int_equal(list.items[0].role, SLUICE_ROLE_PREFILL);
	assert_int_equal(list.items[0].label_count, 2);
	assert_string_equal(list.items[1].name, "prod/b");
	assert_int_equal(list.items[1].addrs[0].ss_family, AF_INET6);
	origin_list_fini(&list);
	assert_int_equal(endpoints_file_parse("endpoints: []", 13, &list, error, sizeof(error)), 0);
	assert_int_equal(list.count, 0);
	origin_list_fini(&list);
}

static void every_truncation_of_a_good_file_is_safe(void **state)
{
	struct origin_list list = {0};
	char error[256];

	(void)state;
	for (size_t len = 0; len < strlen(good_file); len++) {
		char *copy = malloc(len ? len : 1);

		memcpy(copy, good_file, len);
		if (endpoints_file_parse(copy, len, &list, error, sizeof(error)) == 0)
			origin_list_fini(&list);
		free(copy);
	}
}

static void a_broken_file_is_refused_with_line_and_column(void **state)
{
	static const struct {
		const char *file, *says;
	} cases[] = {
		{"", "1:1: the file is empty"},
		{"[]", "1:1: the file is a mapping"},
		{"{}", "1:1: the key endpoints is missing"},
		{"pods: []", "1:1: unknown key \"pods\""},
		{"endpoints: {}", "1:12: endpoints is a list"},
		{"endpoints: []\nendpoints: []", "2:1: endpoints is given twice"},
		{"endpoints:\n- a", "2:3: an endpoint is a mapping"},
		{"endpoints:\n- {name: a, address: 1.2.3.4}", "2:3: an endpoint needs"},
		{"endpoints:\n- {name: a, address: 1.2.3.4, port: 0}", "2:37: port"},
		{"endpoints:\n- {name: a, address: 1.2.3.4, port: 80a}", "2:37: port"},
		{"endpoints:\n- {name: a, address: pod, port: 80}", "2:22: address"},
		{"endpoints:\n- {name: '', address: 1.2.3.4, port: 80}", "2:10: name"},
		{"endpoints:\n- {name: a, name: b}", "2:13: name is given twice"},
		{"endpoints:\n- {name: a, adress: 1.2.3.4}", "2:13: unknown key \"adress\""},
		{"endpoints:\n- {name: a, address: 1.2.3.4, port: 80, labels: [x]}",
		 "2:49: labels is a mapping"},
		{"endpoints:\n- {name: a, address: 1.2.3.4, port: 80, labels: {x: [y]}}",
		 "a label is a word"},
		{"endpoints:\n- {name: a, address: 1.2.3.4, port: 80, "
		 "labels: {llm-d.ai/role: cook}}",
		 "unknown role \"cook\""},
		{"endpoints:\n- {name: a, address: 1.2.3.4, port: 80}\n"
		 "- {name: b, address: 1.2.3.4, port: 80}",
		 "3:3: the same address and port as endpoint 1, a"},
		{"endpoints:\n- name: a\n bad", "3:"},
		{"endpoints: [", "1:"},
		{"\xff\xfe", "1:1:"},
	};
	struct origin_list list;
	char error[256];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		*error = 0;
		if (!endpoints_file_parse(cases[i].file, strlen(cases[i].file), &list, error,
					  sizeof(error)))
			fail_msg("taken: %s", cases[i].file);
		if (!strstr(error, cases[i].says))
			fail_msg("\"%s\" says: %s", cases[i].file, error);
	}
}

static void models_know_their_parent(void **state)
{
	static const char text[] =
		"{\"object\":\"list\",\"data\":[{\"id\":\"tiny\",\"parent\":null},"
		"{\"id\":\"lora-a\",\"parent\":\"tiny\"},{\"id\":\"\"},{\"id\":5},7]}";
	struct model_name *list;
	unsigned int count;

	(void)state;
	assert_int_equal(models_parse(text, strlen(text), &list, &count), 0);
	assert_int_equal(count, 2);
	assert_string_equal(list[0].name, "tiny");
	assert_string_equal(list[0].parent, "");
	assert_string_equal(list[1].parent, "tiny");
	free(list);
	assert_int_equal(models_parse("{}", 2, &list, &count), -EBADMSG);
	assert_int_equal(models_parse("[", 1, &list, &count), -EBADMSG);
	assert_int_equal(models_parse("", 0, &list, &count), -EBADMSG);
}

static char body[256];
static size_t body_len;

static void body_gather(void *arg, const char *bytes, size_t len)
{
	(void)arg;
	assert_true(body_len + len < sizeof(body));
	memcpy(body + body_len, bytes, len);
	body_len += len;
	body[body_len] = 0;
}

/* Feeds the answer split at `split`; returns 0 more, 1 done, -EBADMSG. */
static int reply_read(struct http_reply *r, const char *text, size_t split)
{
	size_t len = strlen(text), at[] = {0, split, len};
	bool done = false;

	http_reply_reset(r);
	body_len = 0;
	*body = 0;
	for (int i = 0; i < 2; i++)
		if (at[i + 1] > at[i] &&
		    http_reply_feed(r, text + at[i], at[i + 1] - at[i], body_gather, NULL, &done))
			return -EBADMSG;
	return done;
}

static void answers_are_whole_by_length_by_chunks_or_by_the_end(void **state)
{
	static const struct {
		const char *text, *body;
		int status, end;
		bool kept;
	} cases[] = {
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", 200, 1, true},
		{"HTTP/1.1 503 x\r\ncontent-length: 0\r\nConnection: close\r\n\r\n", "", 503, 1,
		 false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n1\r\nd\r\n"
		 "0\r\nt: v\r\n\r\n",
		 "abcd", 200, 1, true},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", "", 204, 1, true},
		{"HTTP/1.1 200 OK\r\n\r\nall of it", "all of it", 200, 0, false},
	};
	static struct http_reply r;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t split = 0; split <= strlen(cases[i].text); split++) {
			assert_int_equal(reply_read(&r, cases[i].text, split), cases[i].end);
			assert_string_equal(body, cases[i].body);
			assert_int_equal(r.status, cases[i].status);
			assert_int_equal(r.keep_alive, cases[i].kept);
			assert_int_equal(http_reply_eof(&r), cases[i].end == 0);
		}
}

static void answers_that_lie_are_refused(void **state)
{
	static const char *const texts[] = {
		"garbage\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
		"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
	};
	static struct http_reply r;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		for (size_t split = 0; split <= strlen(texts[i]); split++)
			if (reply_read(&r, texts[i], split) != -EBADMSG)
				fail_msg("taken at %zu: %s", split, texts[i]);
}

static void a_head_without_end_is_given_up(void **state)
{
	static struct http_reply r;
	char *text = malloc(REPLY_HEAD_MAX * 2);
	bool done = false;

	(void)state;
	memset(text, 'a', REPLY_HEAD_MAX * 2);
	memcpy(text, "HTTP/1.1 200 OK\r\nx: ", 20);
	http_reply_reset(&r);
	assert_int_equal(http_reply_feed(&r, text, REPLY_HEAD_MAX * 2, body_gather, NULL, &done),
			 -EBADMSG);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flags_say_address_name_role_and_labels),
		cmocka_unit_test(bad_flags_say_what_is_wrong),
		cmocka_unit_test(roles_are_those_of_the_label),
		cmocka_unit_test(the_reference_format_is_read),
		cmocka_unit_test(every_truncation_of_a_good_file_is_safe),
		cmocka_unit_test(a_broken_file_is_refused_with_line_and_column),
		cmocka_unit_test(models_know_their_parent),
		cmocka_unit_test(answers_are_whole_by_length_by_chunks_or_by_the_end),
		cmocka_unit_test(answers_that_lie_are_refused),
		cmocka_unit_test(a_head_without_end_is_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
