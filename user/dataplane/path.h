/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One interface, three paths. The relay always works; a kernel path is a struct path_ops in a file
 * of its own (splice.c, steer.c) and a row of the table in path.c. Nothing else knows which is
 * which.
 *
 *   request.c   path_choose()    a pick is made, nothing is connected: which path, if any, may
 *                                this flow take? can_take() of each in the order of preference;
 *                                the first that does not refuse is planned (req->path.ops)
 *   forward.c   path_prepare()   planned: the attempt gets a fresh socket, not yet connected;
 *                                prepare() may bind, mark, set options. The head then says
 *                                "Connection: close" to the endpoint
 *   relay.c     path_moment()    our head went out and every byte read so far is with the client's
 *                                socket: hand_over(). PATH_FITS: taken, the request's way is
 *                                the path's from now on. PATH_LATER: asked again at the next such
 *                                moment. Else a refusal by name: the flow stays with the relay
 *   forward.c   path_let_go()    the attempt ends on the user side, whatever state the path is in:
 *                                let_go() undoes what prepare() and hand_over() did
 *
 * After hand_over() the path owns the end of the answer. It may leave up->recv_op armed (then
 * relay.c still passes on what comes), cancel it, or set up->recv_op.done and up->timer.fired to
 * functions of its own; to end the request it calls forward_end() and client_answer_end(), or
 * client_abort(). The flow's private state hangs at req->path.own.
 *
 * Invariant: every refusal is counted, noted in the decision and in the access log, and the relay
 * goes on as if nobody had asked. Worker threads only; nothing here allocates or blocks.
 */
#ifndef SLUICE_DATAPLANE_PATH_H
#define SLUICE_DATAPLANE_PATH_H

#include <stdbool.h>

#include "base/config.h"
#include "base/path.h"

struct request;
struct upstream;
struct worker;

struct path_ops {
	enum path path;
	bool closes_client; /* the client is told Connection: close on an answer that is planned so
			     */
	/* At start, before any worker runs. PATH_FITS, or why the path is not to be had: then every
	 * flow is refused so. May be NULL. */
	enum path_refusal (*start)(const struct config *cfg);
	void (*stop)(void);
	/* May this flow take it? From what is known before connecting: req->pick, client, body. */
	enum path_refusal (*can_take)(struct request *req);
	/* up->fd is fresh and not connected. Not PATH_LATER. May be NULL. */
	enum path_refusal (*prepare)(struct upstream *up);
	enum path_refusal (*hand_over)(struct upstream *up);
	/* Taken, and what the relay passed on since is with the client's socket. May be NULL. */
	void (*again)(struct upstream *up);
	/* May be NULL. req->up is still there; the sockets are closed after it. */
	void (*let_go)(struct upstream *up);
	/* Once a turn of each worker's loop. May be NULL. */
	void (*turn)(struct worker *w);
};

/* Of a request; zeroed with it. */
struct path_plan {
	const struct path_ops *ops; /* planned or taken; NULL: the relay for good */
	struct path_choice choice;
	bool prepared, told; /* told: counted and noted */
	void *own;	     /* ops' */
};

/* -EINVAL: `name` is none of auto, relay, splice, steer. *ret_mask: of 1 << enum path. */
int path_parse(const char *name, unsigned int *ret_mask);
/* Starts the paths that --path allows. Before the workers. -EINVAL, logged. */
int path_start(const struct config *cfg);
void path_stop(void);
void path_turn(struct worker *w);

void path_choose(struct request *req);
void path_prepare(struct upstream *up);
void path_moment(struct upstream *up);
void path_let_go(struct upstream *up);
/* The planned path is given up for that reason; the flow stays with the relay. */
void path_refuse(struct request *req, enum path_refusal why);
/* Each answered request ends here once: counts sluice_path_total. */
void path_account(struct request *req);

/* Is this attempt to be the last request on both connections? */
static inline bool path_is_planned(const struct path_plan *p)
{
	return p->ops;
}

#endif
