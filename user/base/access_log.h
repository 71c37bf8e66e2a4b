/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The access log: one JSON line per finished request.
 *
 *   worker w --fills a slot--> ring[w] --one writer thread--> file or stderr
 *
 * Invariant: a worker never waits. Where its ring is full the record is dropped and counted
 * (access_log_dropped_total), and so is what the file would not take.
 */
#ifndef SLUICE_BASE_ACCESS_LOG_H
#define SLUICE_BASE_ACCESS_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/path.h"
#include "base/span.h"
#include "sluice/limits.h"

/* Texts are cut to their field, always NUL-terminated; use access_text(). Times are 0 if unknown.
 */
struct access_record {
	uint64_t wall_ns; /* when the request's first byte came */
	char request_id[REQUEST_ID_BYTES_MAX + 1];
	char method[12];
	char path[128];
	char model[128];
	char endpoint[64]; /* "10.0.0.1:8000"; "" if none was picked */
	char error[96];	   /* cause, "" if none: "connect refused", "client left", … */
	uint16_t status;   /* sent to the client; 0 if it left before */
	uint16_t attempts; /* endpoints tried */
	bool stream;
	bool usage_known; /* the three token counts are the engine's */
	uint32_t hit_blocks, total_blocks;
	struct path_choice way;
	uint64_t prompt_tokens, completion_tokens, cached_tokens;
	uint64_t bytes_in, bytes_out;
	uint64_t receive_us; /* the client's: from the request's first byte to its last */
	uint64_t gateway_us; /* ours: from there until it was sent, connecting and retries included
			      */
	uint64_t engine_ttft_us; /* the engine's: from there to the first content */
	uint64_t engine_us;	 /* and to its last byte */
	uint64_t ttft_us;	 /* as the client sees it: from first byte to first content */
	uint64_t total_us;	 /* from the request's first byte to the last byte sent */
};

struct access_log;

/* path: a file to append to, or "-" for stderr. Starts the writer thread. -errno of the file. */
int access_log_new(const char *path, unsigned int workers, struct access_log **ret);
/* Writes what is queued, ends the thread, frees. NULL is fine. */
void access_log_free(struct access_log *log);
/* At SIGHUP: the writer opens the path anew before its next line. Any thread. NULL is fine. */
void access_log_reopen(struct access_log *log);

/*
 * A zeroed record to fill, or NULL (log is NULL, or the ring is full: counted). It goes out with
 * access_log_commit(), on the same worker, before the next begin. No system call but a futex wake
 * when the writer sleeps.
 */
struct access_record *access_log_begin(struct access_log *log, unsigned int worker);
void access_log_commit(struct access_log *log, unsigned int worker);

/* Copies text into a field of the record, cut to fit. */
void access_text_copy(char *field, size_t size, struct span text);
#define access_text(field, text) access_text_copy((field), sizeof(field), (text))

#endif
