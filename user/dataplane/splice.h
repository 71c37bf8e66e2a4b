/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Splice, the agent's side: takes two connections to the point where the kernel can join them,
 * steps aside without a word, and closes the account when both are over.
 *
 *   can_take: the client's handshake was seen -> prepare: a source port of ours, mark, MSS
 *   -> head and first content by the relay -> ARM (one system call) -> DRAIN: the endpoint speaks
 *   to the client past us, we send what we had -> SPLICED: all of it acknowledged -> our operations
 *   are taken back, a last look for late bytes -> AWAY: both sockets closed without a word
 *   -> the end, told by splice_sweep.c -> account
 *
 * Invariant: a flow is armed only when nothing read from the endpoint is unsent; after that a
 * sequence number tells its content, whichever way the packet goes.
 */
#ifndef SLUICE_DATAPLANE_SPLICE_H
#define SLUICE_DATAPLANE_SPLICE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "dataplane/path.h"
#include "sluice/splice.h"

struct access_log;

enum splice_phase {
	SPLICE_PHASE_NONE,
	SPLICE_PHASE_PREPARED,
	SPLICE_PHASE_DRAIN, /* armed */
	SPLICE_PHASE_RECV,  /* the endpoint's receive is being taken back */
	SPLICE_PHASE_POLL,  /* the client's poll is being taken back */
	SPLICE_PHASE_AWAY,  /* no sockets any more */
};

/* What is known of a flow at its end. */
struct splice_end {
	uint64_t cookie; /* 0: none */
	uint64_t bytes;	 /* delivered to the client since the switch, as acknowledged */
	uint64_t first_ns, last_ns, packets;
	uint32_t flags; /* SLUICE_FLOW_* of both sides */
	bool idle, orphan;
	struct sluice_flow_key client; /* orphan: whose note tells the rest */
};

/* Of a request; zeroed with it. */
struct splice_attempt {
	struct sluice_flow_key client, endpoint;
	uint64_t cookie;
	uint8_t phase;
	bool over; /* end is set: the account is due once the sockets are closed */
	struct sluice_handshake handshake; /* the client's */
	uint32_t client_options;	   /* TCPI_OPT_* */
	struct splice_end end;
};

extern const struct path_ops splice_ops;

/* Are the programs loaded? After path_start(). */
bool splice_is_up(void);
/* An interface that traffic takes, and one that it takes no more; after path_start(). Any thread.
 */
int splice_attach(int ifindex, const char *name);
void splice_detach(int ifindex, const char *name, bool gone);

void splice_write_metrics(FILE *f);

/* splice_sweep.c: the thread that hears of ends and deletes what is long over. */
int splice_sweep_start(uint32_t owner, uint64_t idle_ms);
void splice_sweep_stop(void);
/* Flows in the map, as the sweep last saw it. */
uint64_t splice_sweep_flows(void);

/* To the worker that owns the cookie. False: its queue is full, try again. The sweep's thread. */
bool splice_end_post(unsigned int worker, const struct splice_end *end);
unsigned int splice_cookie_worker(uint64_t cookie);
uint32_t splice_cookie_owner(uint64_t cookie);

#endif
