/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of a worker and its fixed pools. */
#include "dataplane/worker.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "dataplane/adopt.h"
#include "dataplane/disagg/disagg.h"
#include "dataplane/flow_control.h"
#include "dataplane/request.h"
#include "dataplane/upstream.h"

#define RING_ENTRIES	 2048
#define TICK_MS		 100
#define UPSTREAMS_MAX(w) ((w)->cfg->connections_max * 2)

/* Reserved, zeroed and without pages until touched. */
static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

struct client *worker_client_new(struct worker *w)
{
	struct client *c = w->clients_free;

	if (c)
		w->clients_free = c->next_free;
	else if (w->clients_fresh < w->cfg->connections_max)
		c = &w->clients[w->clients_fresh++];
	else
		return NULL;
	memset(c, 0, sizeof(*c));
	w->clients_used++;
	return c;
}

void worker_client_free(struct client *c)
{
	struct worker *w = c->worker;

	c->next_free = w->clients_free;
	w->clients_free = c;
	w->clients_used--;
}

struct request *worker_request_new(struct worker *w)
{
	struct request *req = w->requests_free;

	if (req)
		w->requests_free = req->next_free;
	else if (w->requests_fresh < w->cfg->connections_max)
		req = &w->requests[w->requests_fresh++];
	else
		return NULL;
	memset(req, 0, offsetof(struct request, scan)); /* the rest is written before it is read */
	w->live++;
	return req;
}

void worker_request_free(struct request *req)
{
	struct worker *w = req->worker;

	if (req->says.span_count > 512) /* a prompt of many parts: give its pages back */
		madvise((void *)(((uintptr_t)req->spans + 8191) & ~4095UL),
			sizeof(req->spans) - 8192, MADV_DONTNEED);
	req->next_free = w->requests_free;
	w->requests_free = req;
	w->live--;
}

struct upstream *worker_upstream_new(struct worker *w)
{
	struct upstream *up = w->upstreams_free;

	if (up)
		w->upstreams_free = up->next_free;
	else if (w->upstreams_fresh < UPSTREAMS_MAX(w))
		up = &w->upstreams[w->upstreams_fresh++];
	else
		return NULL;
	memset(up, 0, sizeof(*up));
	up->worker = w;
	up->fd = -1;
	return up;
}

void worker_upstream_free(struct upstream *up)
{
	up->next_free = up->worker->upstreams_free;
	up->worker->upstreams_free = up;
}

static int pools_init(struct worker *w)
{
	size_t n = w->cfg->connections_max;

	w->clients = reserve(n * sizeof(struct client));
	w->requests = reserve(n * sizeof(struct request));
	w->upstreams = reserve(UPSTREAMS_MAX(w) * sizeof(struct upstream));
	w->pieces = reserve((PROMPT_SPANS_MAX + 8192) * sizeof(struct sched_piece));
	if (!w->clients || !w->requests || !w->upstreams || !w->pieces)
		return -ENOMEM;
	if (getrandom(w->random, sizeof(w->random), 0) != sizeof(w->random))
		return -EIO;
	if (disagg_init(w) || kv_prompter_init(&w->prompter, w->kv_index, w->kv_models))
		return -ENOMEM;
	return blocks_init(&w->blocks, w->budget);
}

static void pools_fini(struct worker *w)
{
	size_t n = w->cfg->connections_max;

	munmap(w->clients, n * sizeof(struct client));
	munmap(w->requests, n * sizeof(struct request));
	munmap(w->upstreams, UPSTREAMS_MAX(w) * sizeof(struct upstream));
	munmap(w->pieces, (PROMPT_SPANS_MAX + 8192) * sizeof(struct sched_piece));
	disagg_fini(w);
	kv_prompter_fini(&w->prompter);
	flow_fini(w);
	blocks_fini(&w->blocks);
	snapshot_put(w->snapshot);
}

static void worker_loop(struct worker *w)
{
	uint64_t expired_ms = 0;
	bool closed = false;

	timers_init(&w->timers, clock_mono_ns() / NS_PER_MS);
	listeners_arm(w);
	while (!w->stop) {
		uint64_t now_ms = ring_clock(&w->ring) / NS_PER_MS;
		int err;

		timers_run(&w->timers, now_ms);
		if (now_ms - expired_ms >= 500) {
			upstream_expire(w, now_ms);
			expired_ms = now_ms;
		}
		if ((w->draining || w->handing_over) && !closed) {
			listeners_close(w);
			if (w->handing_over)
				clients_hand_over(w);
			closed = true;
		}
		w->idle = (w->draining && w->live == w->away) ||
			  (w->handing_over && w->clients_used == w->away && w->late_count == 0);
		flow_turn(w);
		path_turn(w);
		err = ring_turn(&w->ring, flow_sleep_ms(w, TICK_MS));
		if (err) {
			log_error("worker %u: io_uring: %s", w->index, strerror(-err));
			return;
		}
		endpoint_mailbox_take(&w->mailbox, &w->snapshot);
		if (w->paused)
			listeners_arm(w);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	int err;

	if (w->cfg->pin_workers) {
		cpu_set_t all, one;
		unsigned int skip = w->index;

		CPU_ZERO(&one);
		sched_getaffinity(0, sizeof(all), &all);
		skip %= (unsigned int)CPU_COUNT(&all);
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &all) && skip-- == 0)
				CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	err = ring_init(&w->ring, RING_ENTRIES, &w->blocks);
	if (err) {
		log_error("worker %u: no io_uring: %s", w->index, strerror(-err));
		w->failed = true;
		return NULL;
	}
	worker_loop(w);
	w->failed = !w->stop;
	listeners_close(w);
	ring_fini(&w->ring);
	return NULL;
}

int worker_start(struct worker *w)
{
	int err = pools_init(w);

	if (!err)
		err = listeners_open(w);
	if (!err)
		err = -pthread_create(&w->thread, NULL, worker_main, w);
	w->started = err == 0;
	return err;
}

void worker_drain(struct worker *w)
{
	w->draining = true;
}

void worker_hand_over(struct worker *w, int successor_fd)
{
	w->successor_fd = successor_fd;
	w->handing_over = true;
}

void worker_stop(struct worker *w)
{
	w->stop = true;
	if (!w->started)
		return;
	pthread_join(w->thread, NULL);
	metric_add(M_DRAIN_CUT, w->live - w->away);
	pools_fini(w);
}
