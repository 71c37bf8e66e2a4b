/* SPDX-License-Identifier: Apache-2.0 */
/* Event streams of a real engine, cut anywhere: what is seen in them, and what stands open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sse.h"

static const char stream[] =
	"data: "
	"{\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}"
	"]}\n\n"
	": keep-alive\n\n"
	"data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"a\\n\"}}]}\n\n"
	"event: x\r\ndata: {\"choices\":[]}\r\n\r\n"
	"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":198,\"completion_tokens\":7,"
	"\"prompt_tokens_details\":{\"cached_tokens\":192}}}\n\n"
	"data: [DONE]\n\n";

/* Bytes after the last event that ends within [0, n). */
static size_t open_at(size_t n)
{
	for (size_t i = n; i > 0; i--)
		if (stream[i - 1] == '\n' && i > 1 &&
		    (stream[i - 2] == '\n' || (i > 2 && !memcmp(stream + i - 3, "\n\r", 2))))
			return n - i;
	return n;
}

static void check_end(const struct sse *s)
{
	assert_int_equal(s->events, 5);
	assert_true(s->content && s->done && !s->first_is_error);
	assert_true(s->usage.known);
	assert_int_equal(s->usage.prompt_tokens, 198);
	assert_int_equal(s->usage.completion_tokens, 7);
	assert_int_equal(s->usage.cached_tokens, 192);
	assert_int_equal(s->kept, 0);
}

static size_t feed(struct sse *s, size_t from, size_t to)
{
	char *copy = malloc(to - from ? to - from : 1);
	size_t open;

	assert_non_null(copy);
	memcpy(copy, stream + from, to - from);
	open = sse_feed(s, copy, to - from);
	free(copy);
	return open;
}

static void two_pieces_say_the_same_as_one(void **state)
{
	size_t n = sizeof(stream) - 1;

	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		struct sse s = {0};

		assert_int_equal(feed(&s, 0, cut), open_at(cut));
		assert_true((s.kept == 0) == (open_at(cut) == 0));
		assert_int_equal(feed(&s, cut, n), 0);
		check_end(&s);
	}
}

static void byte_by_byte_says_the_same(void **state)
{
	struct sse s = {0};

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(stream); i++)
		assert_int_equal(feed(&s, i, i + 1), open_at(i + 1) ? 1 : 0);
	check_end(&s);
}

static void first_event_that_is_an_error_is_told(void **state)
{
	static const char text[] = "data: {\"error\": {\"code\": 503}}\n\ndata: [DONE]\n\n";
	struct sse s = {0};

	(void)state;
	assert_int_equal(sse_feed(&s, text, sizeof(text) - 1), 0);
	assert_true(s.first_is_error && s.done && !s.content);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_pieces_say_the_same_as_one),
		cmocka_unit_test(byte_by_byte_says_the_same),
		cmocka_unit_test(first_event_that_is_an_error_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
