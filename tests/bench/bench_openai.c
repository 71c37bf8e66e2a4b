/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a request's body: GB/s of the scanner over 200 KB prompts of several kinds, beside
 * jansson (a tree) and yajl (events). Medians of ROUNDS; the body lies in 16 KB and 128 KB slices
 * as it does in receive buffers.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "base/clock.h"
#include "dataplane/openai.h"

#define BODY_BYTES  (200 * 1024)
#define ROUNDS	    9
#define SLICE_FIRST (16 * 1024)
#define SLICE	    (128 * 1024)

static char body[BODY_BYTES + 65536];
static struct prompt_span spans[PROMPT_SPANS_MAX];

struct text {
	const char *name, *piece;
	size_t message_bytes; /* of one message's content */
	double goal_gb_s;     /* 0: none */
	size_t body_bytes;
};

static const struct text texts[] = {
	{"ordinary text, one message", "The quick brown fox jumps over the lazy dog, and so on. ",
	 BODY_BYTES, 3, BODY_BYTES},
	{"ordinary text, messages of 2 KB",
	 "The quick brown fox jumps over the lazy dog, and so on. ", 2048, 3, BODY_BYTES},
	{"ordinary text, messages of 60 bytes",
	 "The quick brown fox jumps over the lazy dog, and so on. ", 50, 0, BODY_BYTES},
	{"ordinary text, a body of 2 KB, one message",
	 "The quick brown fox jumps over the lazy dog, and so on. ", 2048, 0, 2048},
	{"short keys and strings, as tools have",
	 "\",\"parameters\":{\"type\":\"object\",\"properties\":{\"location\":{\"type\":"
	 "\"string\",\"description\":\"City and country\"},\"unit\":{\"type\":\"string\","
	 "\"enum\":[\"celsius\",\"fahrenheit\"]}},\"required\":[\"location\"]},\"x\":\"",
	 300, 0, BODY_BYTES},
	{"source code: an escape every 40 bytes",
	 "\\tif (a < b) return \\\"x\\\";\\n    int value = table[i].count + 1; ", 8192, 0,
	 BODY_BYTES},
	{"full of escapes", "\\n\\t\\\"a\\\\b\\/\\u00e9\\u4e2d\\r\\f", BODY_BYTES, 2, BODY_BYTES},
	{"Chinese",
	 "\xe5\xbf\xab\xe9\x80\x9f\xe7\x9a\x84\xe6\xa3\x95\xe8\x89\xb2\xe7\x8b\x90\xe7\x8b"
	 "\xb8",
	 BODY_BYTES, 2, BODY_BYTES},
	{"Russian", "\xd0\xb1\xd1\x8b\xd1\x81\xd1\x82\xd1\x80\xd0\xb0\xd1\x8f ", BODY_BYTES, 2,
	 BODY_BYTES},
	{"emoji", "\xf0\x9f\x98\x80\xf0\x9f\x9a\x80\xf0\x9f\xa6\x8a", BODY_BYTES, 2, BODY_BYTES},
	{"German: now and then a umlaut",
	 "Der schnelle braune Fuchs springt \xc3\xbc"
	 "ber den faulen Hund. ",
	 BODY_BYTES, 2, BODY_BYTES},
};

static size_t body_make(const struct text *t)
{
	size_t n = (size_t)sprintf(body, "{\"model\":\"m\",\"stream\":true,\"messages\":[");
	size_t bytes = t->body_bytes;
	size_t piece = strlen(t->piece);

	for (bool first = true; n < bytes; first = false) {
		size_t until = n + t->message_bytes < bytes ? n + t->message_bytes : bytes;

		n += (size_t)sprintf(body + n, "%s{\"role\":\"user\",\"content\":\"",
				     first ? "" : ",");
		do {
			memcpy(body + n, t->piece, piece);
			n += piece;
		} while (n < until);
		n += (size_t)sprintf(body + n, "\"}");
	}
	return n + (size_t)sprintf(body + n, "]}");
}

static void run_ours(size_t n)
{
	static struct openai_scan scan;
	static struct openai_request req;
	size_t at = n < SLICE_FIRST ? n : SLICE_FIRST;

	openai_scan_init(&scan, &req, spans);
	openai_scan_feed(&scan, body, at);
	for (; at < n; at += SLICE)
		openai_scan_feed(&scan, body + at, n - at < SLICE ? n - at : SLICE);
	if (openai_scan_finish(&scan) || strcmp(req.model, "m") != 0 || !req.stream)
		abort();
}

static void run_jansson(size_t n)
{
	json_t *json = json_loadb(body, n, 0, NULL);

	if (!json)
		abort();
	json_decref(json);
}

static int on_string(void *ctx, const unsigned char *s, size_t n)
{
	(void)s;
	*(size_t *)ctx += n;
	return 1;
}

static void run_yajl(size_t n)
{
	static const yajl_callbacks callbacks = {.yajl_string = on_string};
	size_t sum = 0;
	yajl_handle h = yajl_alloc(&callbacks, NULL, &sum);

	if (yajl_parse(h, (unsigned char *)body, n) != yajl_status_ok ||
	    yajl_complete_parse(h) != yajl_status_ok)
		abort();
	yajl_free(h);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double gb_per_s(void (*run)(size_t n), size_t n, unsigned int repeat)
{
	double rounds[ROUNDS];

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = clock_mono_ns();

		for (unsigned int k = 0; k < repeat; k++)
			run(n);
		rounds[i] = (double)n * repeat / (double)(clock_mono_ns() - start);
	}
	qsort(rounds, ROUNDS, sizeof(rounds[0]), by_value);
	return rounds[ROUNDS / 2];
}

/* With an argument: only the texts whose names have it in them, and of ours alone. */
int main(int argc, char **argv)
{
	printf("%-44s %8s %8s %8s   GB/s\n", "200 KB chat body", "sluice", "yajl", "jansson");
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		size_t n = body_make(&texts[i]);
		double ours;

		if (argc > 1 && !strstr(texts[i].name, argv[1]))
			continue;
		ours = gb_per_s(run_ours, n, (unsigned int)(200 * BODY_BYTES / n));

		if (argc > 1) {
			printf("%-44s %8.2f\n", texts[i].name, ours);
			continue;
		}
		printf("%-44s %8.2f %8.2f %8.2f", texts[i].name, ours, gb_per_s(run_yajl, n, 10),
		       gb_per_s(run_jansson, n, 5));
		if (texts[i].goal_gb_s > 0)
			printf("   goal %.0f %s", texts[i].goal_gb_s,
			       ours >= texts[i].goal_gb_s ? "met" : "MISSED");
		printf("\n");
	}
	return 0;
}
