/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker: one thread, one ring, its own connections, requests and kept endpoint connections.
 * Workers share nothing but the endpoint maps, the prefix index and the bytes budget.
 */
#ifndef SLUICE_DATAPLANE_WORKER_H
#define SLUICE_DATAPLANE_WORKER_H

#include <pthread.h>

#include "base/access_log.h"
#include "base/config.h"
#include "base/endpoint.h"
#include "base/inherited.h"
#include "dataplane/blocks.h"
#include "dataplane/live.h"
#include "dataplane/ring.h"
#include "dataplane/timers.h"
#include "kv/kv_prompter.h"
#include "scheduler/scheduler.h"

struct client;
struct flow_control;
struct request;
struct upstream;

struct listener {
	struct op op;
	struct worker *worker;
	const char *address;
	int fd;
	bool shared; /* other processes may have it too: never shut down, only closed */
};

#define LISTENERS_MAX	128  /* a predecessor with more workers leaves several to one */
#define ACCEPT_LATE_MAX 4096 /* the backlog: what one turn may accept too many */

struct worker {
	unsigned int index;
	const struct config *cfg;
	struct budget *budget;
	struct access_log *log;
	struct sched_worker *sched;
	const struct rewrites *rewrites; /* NULL: none */
	struct endpoint_mailbox mailbox;
	struct endpoint_snapshot *snapshot; /* NULL until the store posts one */
	struct ring ring;
	struct blocks blocks;
	struct timers timers;
	struct listener listeners[LISTENERS_MAX];
	unsigned int listener_count;
	bool paused; /* full: accepting waits */
	int late[ACCEPT_LATE_MAX];
	unsigned int late_count; /* accepted while full; served first when there is room */

	/* Fixed pools: free lists over reserved memory. */
	struct client *clients, *clients_free;
	struct request *requests, *requests_free;
	struct upstream *upstreams, *upstreams_free;
	uint32_t clients_fresh, requests_fresh, upstreams_fresh, clients_used;

	struct upstream *kept[ENDPOINTS_MAX]; /* idle connections by slot, the youngest first */
	uint16_t kept_count[ENDPOINTS_MAX];

	/* A successor takes over (adopt.c). Set by main before handing_over, before the start. */
	struct inherited *inherited; /* sockets that are open already; NULL: none */
	unsigned int peers;	     /* workers of this process */
	int successor_fd, adopt_fd;  /* -1 none */
	struct op adopt_op;
	bool successor_lost;
	_Atomic bool handing_over;

	uint32_t away;			 /* of live ones: spliced, without sockets */
	uint32_t live, retrying;	 /* requests; those on a second endpoint: retry budget */
	struct live_table running;	 /* for /state/requests */
	uint64_t random[2];		 /* request ids */
	const struct kv_index *kv_index; /* set before the start; NULL: no events are heard */
	struct kv_models *kv_models;
	struct kv_prompter prompter;
	struct kv_prompt kv_prompt;	   /* of the pick that is being made */
	struct sched_piece *pieces;	   /* scratch of one pick */
	struct flow_control *flow;	   /* NULL: every request goes at once */
	struct disagg_pool *disagg;	   /* requests of several legs */
	_Atomic bool draining, stop, idle; /* set by main; idle: nothing is running any more */
	_Atomic bool failed;		   /* its ring is gone: the process must not go on */
	pthread_t thread;
	bool started;
};

/* Listens on every address of cfg->listen and starts the thread. -errno with the address logged. */
int worker_start(struct worker *w);
/* Stops accepting; running requests go on, kept connections close after their answer. */
void worker_drain(struct worker *w);
/*
 * Stops accepting without touching the sockets, which successor_fd's process has too. Connections
 * move there between two requests; idle: none is left. successor_fd stays the caller's.
 */
void worker_hand_over(struct worker *w, int successor_fd);
/* The listening sockets and their addresses (cfg's), for a successor; ret_fds and ret_addresses
   have room for LISTENERS_MAX. Returns how many. While the worker runs and accepts. */
unsigned int worker_sockets(const struct worker *w, int *ret_fds, const char **ret_addresses);
/* Ends the thread; what still runs is cut. */
void worker_stop(struct worker *w);

/* From the pools; NULL when none is left. */
struct client *worker_client_new(struct worker *w);
void worker_client_free(struct client *c);
struct request *worker_request_new(struct worker *w);
void worker_request_free(struct request *req);
struct upstream *worker_upstream_new(struct worker *w);
void worker_upstream_free(struct upstream *up);

/* listener.c */
int listeners_open(struct worker *w);
void listeners_arm(struct worker *w);
void listeners_close(struct worker *w);

#endif
