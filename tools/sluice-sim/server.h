/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the simulated engines: server.c has the sockets, api.c what the paths do. */
#ifndef SLUICE_SIM_SERVER_H
#define SLUICE_SIM_SERVER_H

#include "base/http1.h"
#include "sluice-sim/reply.h"
#include "sluice-sim/sim.h"

/* A failure that a test ordered: the next `count` legs of that kind meet it. */
struct pd_failure {
	char leg[16], what[24];
	unsigned int count;
};

/* Prefill and decode apart: what this engine counts. */
struct pd_books {
	unsigned long long prefills, decodes, transfers, released, aborted, refused, failed,
		injected, queries, encodes, ec_used, encoded_here;
	unsigned int next_id;
	struct pd_failure failure;
};

struct instance {
	int fd;
	unsigned int port;
	struct engine engine;
	struct pd_books pd;
};

struct conn {
	struct instance *inst;
	int fd;
	struct out in, out;
	size_t sent;
	struct seq *seq;   /* running request */
	struct pd_leg *pd; /* it is a leg of two */
	struct reply reply;
	char id[80], model[256];
	bool dead, want_write;
	bool hung;    /* never answered, on order */
	bool closing; /* when the answer is out */
	char *echo;   /* text that the reply borrows; owned */
	double idle_ms;
	struct conn *next;
};

/* Listens for all instances and serves until SIGTERM. Returns an exit status. */
int server_run(const struct sim_options *opt);
double server_now_ms(void);
/* As if the process was gone: no listener, no idle connections. */
void server_unlisten(struct instance *inst);
/* Sends what c->out holds, as far as the socket takes it. */
void conn_flush(struct conn *c);

/* One whole request: the answer is in c->out, or comes with c->seq. */
void api_post(struct conn *c, const struct http1_head *head, struct span body);
void api_get(struct conn *c, const struct http1_head *head);
void seq_free(struct seq *s);

#endif
