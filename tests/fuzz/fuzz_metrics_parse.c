/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A metrics page of any bytes, split by the first byte: whole and in pieces must mean the same, and
 * no figure may be negative or not a number.
 */
#include <stdlib.h>
#include <string.h>

#include "controlplane/metrics_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct metrics_parser whole, pieces;
	size_t step, n;
	char *block;

	if (size < 1)
		return 0;
	step = (size_t)data[0] + 1;
	data++;
	size--;
	metrics_parser_reset(&whole);
	metrics_parser_feed(&whole, (const char *)data, size);
	metrics_parser_finish(&whole);
	metrics_parser_reset(&pieces);
	/* Each piece ends where the block ends, so that reading past it is seen. */
	block = malloc(step);
	for (size_t at = 0; at < size; at += n) {
		n = size - at < step ? size - at : step;
		memcpy(block + step - n, data + at, n);
		metrics_parser_feed(&pieces, block + step - n, n);
	}
	free(block);
	metrics_parser_finish(&pieces);
	if (size < METRICS_LINE_MAX && memcmp(&whole.found, &pieces.found, sizeof(whole.found)))
		abort();
	if (!(whole.found.waiting >= 0) || !(whole.found.running >= 0) ||
	    !(whole.found.kv_usage >= 0) || whole.found.adapter_count > ADAPTERS_MAX)
		abort();
	return 0;
}
