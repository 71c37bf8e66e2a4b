/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One ring per worker, filled by the sweep's thread alone, emptied by the worker alone. A full ring
 * loses nothing: the sweep keeps the end and tries again. Orphans are accounted from their note.
 */
#include "dataplane/splice_ends.h"

#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "dataplane/splice_maps.h"

#define ENDS 1024 /* power of two */

static struct ends {
	_Atomic uint32_t put, taken;
	struct splice_end items[ENDS];
} ends[WORKERS_MAX];

bool splice_end_post(unsigned int worker, const struct splice_end *end)
{
	struct ends *e = &ends[worker % WORKERS_MAX];
	uint32_t put = atomic_load_explicit(&e->put, memory_order_relaxed);

	if (put - atomic_load_explicit(&e->taken, memory_order_acquire) == ENDS)
		return false;
	e->items[put % ENDS] = *end;
	atomic_store_explicit(&e->put, put + 1, memory_order_release);
	return true;
}

bool splice_end_next(unsigned int worker, struct splice_end *ret)
{
	struct ends *e = &ends[worker];
	uint32_t taken = atomic_load_explicit(&e->taken, memory_order_relaxed);

	if (taken == atomic_load_explicit(&e->put, memory_order_acquire))
		return false;
	*ret = e->items[taken % ENDS];
	atomic_store_explicit(&e->taken, taken + 1, memory_order_release);
	return true;
}

static uint64_t span_us(uint64_t from, uint64_t to)
{
	return from && to > from ? (to - from) / NS_PER_US : 0;
}

void splice_orphan_account(struct worker *w, const struct splice_end *end)
{
	struct sluice_flow_note note;
	struct access_record *r;

	if (splice_note_read(&end->client, &note))
		return; /* its agent has told it */
	splice_note_delete(&end->client);
	metric_inc(M_PATH_SPLICE);
	if (!end->idle)
		metric_inc(M_FLOWS_ADOPTED);
	r = access_log_begin(w->log, w->index);
	if (!r)
		return;
	note.request_id[sizeof(note.request_id) - 1] = '\0';
	note.model[sizeof(note.model) - 1] = '\0';
	note.endpoint[sizeof(note.endpoint) - 1] = '\0';
	note.path[sizeof(note.path) - 1] = '\0';
	r->wall_ns = note.wall_ns;
	access_text(r->request_id, span_of_str(note.request_id));
	access_text(r->method, SPAN("POST"));
	access_text(r->path, span_of_str(note.path));
	access_text(r->model, span_of_str(note.model));
	access_text(r->endpoint, span_of_str(note.endpoint));
	access_text(r->error,
		    end->flags & SLUICE_FLOW_RST ? SPAN("a peer reset the connection") : SPAN(""));
	r->status = (uint16_t)note.status;
	r->attempts = 1;
	r->stream = true;
	r->way.taken = PATH_SPLICE;
	r->bytes_in = note.bytes_in;
	r->bytes_out = note.bytes_out + end->bytes;
	r->engine_ttft_us = span_us(note.sent_ns, note.first_ns);
	r->engine_us = span_us(note.sent_ns, end->last_ns);
	r->ttft_us = span_us(note.begin_ns, note.first_ns);
	r->total_us = span_us(note.begin_ns, end->last_ns);
	access_log_commit(w->log, w->index);
}
