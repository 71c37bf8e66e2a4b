/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control thread asks one endpoint over one kept connection, one question at a time:
 * its load (/metrics), its models (/v1/models), its health (/health).
 *
 *   idle --a job is due--> connecting --> asking --answer whole--> idle (connection kept)
 *                              '-----------'---- refused, stalled, malformed --> closed, idle
 *
 * All functions run on the control thread. Invariant: at most METRICS_PAGE_MAX bytes of an answer
 * are read and, of /v1/models alone, held.
 */
#ifndef SLUICE_CONTROLPLANE_POLLER_H
#define SLUICE_CONTROLPLANE_POLLER_H

#include "controlplane/http_reply.h"
#include "controlplane/metrics_parse.h"
#include "controlplane/store.h"

enum poll_job {
	JOB_HEALTH,
	JOB_MODELS,
	JOB_METRICS,
	JOBS
};

/* What all pollers of one loop share. */
struct poller_env {
	const struct config *config;
	struct store *store;
	int epoll_fd;
	char *buffer; /* POLL_BUFFER_BYTES to receive into */
};

#define POLL_BUFFER_BYTES (256 * 1024)

struct poller {
	struct poller_env *env;
	struct endpoint *ep; /* a reference */
	int fd;		     /* -1 closed */
	bool connecting, asking, kept, retried;
	enum poll_job job;
	uint64_t due_ns[JOBS], started_ns, progress_ns;
	bool other_page; /* trtllm-serve has its page at /prometheus/metrics */
	unsigned int probe_failures;
	double start_time, queries; /* of the last page: they tell a restart */
	char *body;
	size_t body_len, body_size;
	struct http_reply reply;
	struct metrics_parser parser;
};

/* Takes a reference to ep. NULL when memory is short. */
struct poller *poller_new(struct poller_env *env, struct endpoint *ep, uint64_t now_ns);
void poller_free(struct poller *p);

/* The slot's endpoint has a new object (new labels, or its engine restarted). */
void poller_set_endpoint(struct poller *p, struct endpoint *ep);

/* Starts what is due, gives up what is late. Returns when to call again at the latest. */
uint64_t poller_tick(struct poller *p, uint64_t now_ns);

/* The connection is readable or writable. */
void poller_event(struct poller *p, uint32_t events, uint64_t now_ns);

#endif
