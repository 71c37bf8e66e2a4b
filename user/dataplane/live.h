/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that run now, for whoever asks: a bounded table per worker, read by any thread.
 * The owner writes a row under a sequence number and every word is atomic, so that a reader never
 * waits, and never shows half of one request and half of another.
 */
#ifndef SLUICE_DATAPLANE_LIVE_H
#define SLUICE_DATAPLANE_LIVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define LIVE_ROWS_MAX 1024 /* per worker; requests beyond them run unseen */

struct live_info {
	uint64_t begin_ns; /* 0: the row is empty */
	uint64_t prompt_bytes;
	char phase[16];
	char id[64], path[48], model[64], endpoint[64];
	uint32_t attempts, hit_blocks;
};

struct live_row {
	_Atomic uint32_t sequence; /* odd while it changes */
	bool used;		   /* the owner's */
	_Atomic uint64_t words[sizeof(struct live_info) / 8];
};

struct live_table {
	uint32_t hint; /* where the next search begins */
	struct live_row rows[LIVE_ROWS_MAX];
};

/* Owner: a free row, or NULL when all are in use. */
struct live_row *live_take(struct live_table *table);
/* Owner: row may be NULL. */
void live_write(struct live_row *row, const struct live_info *info);
void live_release(struct live_row *row);

/* False if the row is empty or in motion. Any thread. */
bool live_read(struct live_row *row, struct live_info *ret);
/* Writes the rows as JSON objects, each after a comma but the first (*first). Any thread. */
/* Adds the running requests by age: ret[i] are younger than live_age_limits_s[i], the rest last. */
#define LIVE_AGES 4
extern const unsigned int live_age_limits_s[LIVE_AGES - 1];
void live_count_ages(struct live_table *table, uint64_t now_ns, uint64_t ret[LIVE_AGES]);
void live_write_json(struct live_table *table, uint64_t now_ns, bool *first, FILE *f);

#endif
