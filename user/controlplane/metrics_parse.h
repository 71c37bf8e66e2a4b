/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine's /metrics page, read as it comes: only the dozen series that choosing needs.
 *
 *   page bytes --memchr for '\n'--> line --first bytes--> known name? --> value or labels
 *
 * Pieces may end anywhere; at most METRICS_LINE_MAX bytes of one line are kept between them, and a
 * longer line that could matter is passed over and counted in `lines_too_long`. No allocation.
 */
#ifndef SLUICE_CONTROLPLANE_METRICS_PARSE_H
#define SLUICE_CONTROLPLANE_METRICS_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sluice/limits.h"

#define METRICS_LINE_MAX (16 * 1024)

enum engine_series {
	SERIES_WAITING = 1,	 /* sum over ranks */
	SERIES_RUNNING = 2,	 /* sum over ranks */
	SERIES_KV_USAGE = 4,	 /* maximum over ranks, 0..1 */
	SERIES_BLOCK_TOKENS = 8, /* of the last rank seen */
	SERIES_BLOCKS = 16,	 /* sum over ranks */
	SERIES_LORA = 32,	 /* of the newest series */
	SERIES_START_TIME = 64,	 /* of the process */
	SERIES_QUERIES = 128,	 /* prefix cache queries, tokens, sum: only grows in one process */
	SERIES_HITS = 256,	 /* prefix cache hits, tokens, sum */
};

struct engine_metrics {
	uint32_t seen; /* mask of SERIES_* */
	uint32_t adapter_count, max_lora;
	double waiting, running, kv_usage, start_time, queries, hits, lora_time;
	uint64_t block_tokens, blocks;
	uint64_t adapters[ADAPTERS_MAX]; /* XXH32 of the name << 2 | ADAPTER_* */
	uint32_t lines_too_long;
};

struct metrics_parser {
	struct engine_metrics found;
	bool skipping; /* the rest of the present line does not matter */
	size_t kept;   /* bytes of the line begun in earlier pieces */
	char line[METRICS_LINE_MAX];
};

/* Before each page. */
void metrics_parser_reset(struct metrics_parser *p);

/* The next piece of the page. */
void metrics_parser_feed(struct metrics_parser *p, const char *bytes, size_t len);

/* After the last piece: takes a last line without newline. The result is p->found. */
void metrics_parser_finish(struct metrics_parser *p);

#endif
