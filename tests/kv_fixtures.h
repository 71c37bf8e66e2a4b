/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tests/data/vllm/kv_events: JSON lines, payloads in hex. */
#ifndef SLUICE_TESTS_KV_FIXTURES_H
#define SLUICE_TESTS_KV_FIXTURES_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline size_t fixture_unhex(const char *hex, uint8_t **ret)
{
	size_t n = strlen(hex) / 2;

	*ret = malloc(n ? n : 1);
	for (size_t i = 0; i < n; i++) {
		unsigned int byte;

		if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
			abort();
		(*ret)[i] = (uint8_t)byte;
	}
	return n;
}

/* The whole file as an array of objects; json_decref() it. */
static inline json_t *fixture_rows(const char *name)
{
	char path[128], *line = NULL;
	json_t *rows = json_array();
	size_t size = 0;
	FILE *f;

	snprintf(path, sizeof(path), "tests/data/vllm/kv_events/%s", name);
	f = fopen(path, "r");
	if (!f)
		abort();
	while (getline(&line, &size, f) > 0) {
		json_t *row = json_loads(line, 0, NULL);

		if (!row || json_array_append_new(rows, row))
			abort();
	}
	free(line);
	fclose(f);
	return rows;
}

#endif
