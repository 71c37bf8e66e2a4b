/* SPDX-License-Identifier: Apache-2.0 */
/* The scorer that deploy/scheduling.md shows: it is the file, it compiles, and it does as it says.
 */
#include "sched_pool.h"

void score_free_seats(const struct sched_view *view, const struct plugin *p, float *scores);
#include "../../deploy/examples/free_seats.c"

static const struct plugin_type rows[] = {
/* clang-format off */
#define ROW { "free-seats-scorer", PLUGIN_SCORER, .score = score_free_seats, PARAMS(NUM("seats", 256, 1, 1e6)) },
	ROW
	/* clang-format on */
};

static char *read_all(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 20);

	assert_non_null(f);
	assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
	fclose(f);
	return text;
}

static void the_page_shows_the_file_and_the_row(void **state)
{
	char *page = read_all("deploy/scheduling.md"),
	     *file = read_all("deploy/examples/free_seats.c");
	unsigned int lines = 0;

	(void)state;
	assert_non_null(strstr(page, file));
	assert_non_null(
		strstr(page, "{ \"free-seats-scorer\", PLUGIN_SCORER, .score = score_free_seats,\n"
			     "  PARAMS(NUM(\"seats\", 256, 1, 1e6)) },"));
	for (const char *c = file; *c; c++)
		lines += *c == '\n';
	assert_true(lines <= 30);
	free(page);
	free(file);
}

static void it_scores_by_the_seats_that_are_free(void **state)
{
	struct sched_candidate c[4] = {{.known = true, .running = 64},
				       {.known = true, .running = 60, .waiting = 68},
				       {.known = true, .waiting = 512},
				       {.known = false}};
	struct sched_view view = {.candidates = c, .count = 4};
	struct plugin p;
	float scores[4];

	(void)state;
	plugin_init(&p, &rows[0]);
	p.type->score(&view, &p, scores);
	assert_float_equal(scores[0], 0.75, 1e-6);
	assert_float_equal(scores[1], 0.5, 1e-6);
	assert_float_equal(scores[2], -1, 1e-6);
	assert_float_equal(scores[3], -1, 1e-6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_page_shows_the_file_and_the_row),
		T(it_scores_by_the_seats_that_are_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
