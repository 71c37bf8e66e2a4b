/* SPDX-License-Identifier: Apache-2.0 */
/* Odd messages' texts: known once they were granted, forgotten oldest first, never half of two. */
#include "kv/kv_pieces.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct kv_pieces *pieces;
static char text[KV_PIECE_WISH_BYTES_MAX];

static struct kv_wish wish_of(const char *message)
{
	return (struct kv_wish){.before = KV_BEFORE_USER, .message = span_of_str(message)};
}

static void grant(const char *message, const char *as)
{
	struct kv_wish w = wish_of(message), got;

	assert_int_equal(kv_pieces_get(pieces, &w, text, sizeof(text)), -ENOENT);
	assert_true(kv_pieces_wanted(pieces, &got));
	assert_true(span_eq(got.message, w.message));
	kv_pieces_grant(pieces, as, as ? strlen(as) : 0);
	assert_false(kv_pieces_wanted(pieces, &got));
}

static void what_was_granted_is_known(void **state)
{
	struct kv_wish w = wish_of("m"), other = wish_of("m"), got;

	(void)state;
	grant("m", "its text");
	assert_int_equal(kv_pieces_get(pieces, &w, text, sizeof(text)), 8);
	assert_memory_equal(text, "its text", 8);
	assert_int_equal(kv_pieces_get(pieces, &w, text, 7), -ENOSPC);
	grant("refused", NULL);
	w = wish_of("refused");
	assert_int_equal(kv_pieces_get(pieces, &w, text, sizeof(text)), -ENOTSUP);
	/* everything about a wish counts */
	other.lead = true;
	assert_int_equal(kv_pieces_get(pieces, &other, text, sizeof(text)), -ENOENT);
	other.lead = false;
	other.before = KV_BEFORE_ODD;
	other.odd = SPAN("tool");
	assert_int_equal(kv_pieces_get(pieces, &other, text, sizeof(text)), -ENOENT);
	other.odd = SPAN("");
	other.tools = SPAN("tool");
	assert_int_equal(kv_pieces_get(pieces, &other, text, sizeof(text)), -ENOENT);
	for (unsigned int i = 0; i < 3; i++) {
		assert_true(kv_pieces_wanted(pieces, &got));
		kv_pieces_put_back(pieces);
	}
	assert_false(kv_pieces_wanted(pieces, &got));
}

static void wishes_are_few_short_and_single(void **state)
{
	struct kv_wish w, got;
	char name[16];
	unsigned int n = 0;

	(void)state;
	memset(text, 'x', sizeof(text));
	w = wish_of("");
	w.message = span_of(text, sizeof(text));
	w.tools = SPAN("t");
	assert_int_equal(kv_pieces_get(pieces, &w, name, 1), -ENOENT); /* too long */
	assert_false(kv_pieces_wanted(pieces, &got));
	for (unsigned int i = 0; i < 3 * KV_PIECE_WISHES_MAX; i++) {
		snprintf(name, sizeof(name), "m%u", i % (2 * KV_PIECE_WISHES_MAX));
		w = wish_of(name);
		kv_pieces_get(pieces, &w, text, sizeof(text));
	}
	for (; kv_pieces_wanted(pieces, &got); n++)
		kv_pieces_put_back(pieces);
	assert_int_equal(n, KV_PIECE_WISHES_MAX);
}

/* A text that can be told from any other: its length and bytes follow from its number. */
static size_t number_text(unsigned int number, char *to)
{
	size_t len = 1000 + number % 7 * 1111;

	memset(to, 'a' + (int)(number % 26), len);
	memcpy(to, &number, sizeof(number));
	return len;
}

/* Wishes for it, and grants whatever is wished for: readers do, too. */
static void number_grant(unsigned int number)
{
	static char mine[16384];
	char name[16];
	struct kv_wish w, got;

	snprintf(name, sizeof(name), "m%u", number);
	w = wish_of(name);
	kv_pieces_get(pieces, &w, mine, sizeof(mine));
	while (kv_pieces_wanted(pieces, &got)) {
		snprintf(name, sizeof(name), "%.*s", SPAN_FMT(got.message));
		kv_pieces_grant(pieces, mine,
				number_text((unsigned int)strtoul(name + 1, NULL, 10), mine));
	}
}

/* 1: right; 0: unknown. Anything else ends the test. */
static unsigned int number_check(unsigned int number, char *got, char *want)
{
	char name[16];
	struct kv_wish w;
	int n;

	snprintf(name, sizeof(name), "m%u", number);
	w = wish_of(name);
	n = kv_pieces_get(pieces, &w, got, 16384);
	if (n == -ENOENT)
		return 0;
	if (n < 0 || (size_t)n != number_text(number, want) || memcmp(got, want, (size_t)n) != 0)
		abort();
	return 1;
}

static void the_oldest_are_forgotten_when_the_ring_is_full(void **state)
{
	static char got[16384], want[16384];
	unsigned int known = 0;
	struct kv_wish w;

	(void)state;
	for (unsigned int i = 0; i < 12000; i++) { /* 50 MB into 16 */
		number_grant(i);
		assert_int_equal(number_check(i, got, want), 1);
	}
	for (unsigned int i = 0; i < 12000; i++)
		known += number_check(i, got, want);
	assert_in_range(known, 2500, 4200);
	assert_int_equal(number_check(0, got, want), 0);
	while (kv_pieces_wanted(pieces, &w))
		kv_pieces_put_back(pieces);
}

static _Atomic bool stop;
static _Atomic unsigned int newest, right;

static void *reader(void *arg)
{
	char *got = malloc(16384), *want = malloc(16384);
	unsigned int seed = (unsigned int)(uintptr_t)arg;

	while (!stop) {
		unsigned int back = (unsigned int)rand_r(&seed) % 4200, last = newest;

		right += number_check(last > back ? last - back : 0, got, want);
	}
	free(got);
	free(want);
	return NULL;
}

/* The writer overwrites just what readers copy: they notice. */
static void readers_never_see_half_of_two(void **state)
{
	pthread_t threads[2];

	(void)state;
	stop = false;
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, reader, (void *)(i + 1));
	for (unsigned int i = 20000; i < 30000 || right < 5000; i++) {
		number_grant(i);
		newest = i;
	}
	stop = true;
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

static int begin(void **state)
{
	(void)state;
	pieces = kv_pieces_new();
	return pieces ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	kv_pieces_free(pieces);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_granted_is_known, begin, end),
		cmocka_unit_test_setup_teardown(wishes_are_few_short_and_single, begin, end),
		cmocka_unit_test_setup_teardown(the_oldest_are_forgotten_when_the_ring_is_full,
						begin, end),
		cmocka_unit_test_setup_teardown(readers_never_see_half_of_two, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
