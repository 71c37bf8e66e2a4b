/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any text is a configuration or an error with a place; what is read is written so that it reads
 * back to the same.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *written(const struct config *cfg)
{
	char *text = NULL;
	size_t bytes;
	FILE *f = open_memstream(&text, &bytes);

	assert(f);
	config_write_yaml(f, cfg);
	fclose(f);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_error error = {.text = ""};
	struct config read, again;
	char *first, *second;

	config_init_defaults(&read);
	if (config_load_text(&read, "f", span_of((const char *)data, size), &error)) {
		assert(strncmp(error.text, "f:", 2) == 0 && strlen(error.text) > 6);
		config_fini(&read);
		return 0;
	}
	first = written(&read);
	config_init_defaults(&again);
	if (config_load_text(&again, "f", span_of_str(first), &error)) {
		fprintf(stderr, "%s\n%s\n", error.text, first);
		abort();
	}
	second = written(&again);
	assert(strcmp(first, second) == 0);
	free(first);
	free(second);
	config_fini(&again);
	config_fini(&read);
	return 0;
}
