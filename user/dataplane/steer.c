/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage 9, the path of endpoints on this kernel: their sends go straight to the client's socket.
 *
 *   can_take   a TCP client, a free slot, and the endpoint was not found to be elsewhere
 *   prepare    the slot is named to the kernel: our two sockets are its, the connection expected
 *   hand_over  the first content has passed by the relay and nothing is unsent: the word changes
 *              from what we have relayed to the same with the redirect bit, or not at all
 *   received   out of credit: what the kernel passes to us again is relayed as it is, until the
 *              word can be changed once more (again)
 *   ending     the endpoint's FIN came to us: when all that was redirected is in the client's
 *              stream the client's connection ends too
 *
 * Invariant: one writer of the client's stream at a time. What the answer says is not seen here but
 * for the ends of its last messages, where the usage is; its connection closes with it. Left to
 * relay.c: all until the first content; to bpf/steer.bpf.c: each send.
 */
#include "dataplane/steer.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/health.h"
#include "base/log.h"
#include "base/metrics.h"
#include "dataplane/request.h"
#include "dataplane/steer_slots.h"
#include "dataplane/upstream.h"
#include "sluice/limits.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define WATCH_MS		     1000
#define FALLEN_MS		     50 /* relayed for now: is there credit again? */
#define ENDING_MS		     2 /* until all that was redirected is in the client's stream */
#define ENDING_LOOKS		     5000		      /* of those; then it never will be */
#define SEND_BUFFER		     (4 * STEER_CREDIT_BYTES) /* small segments take twice their bytes */

static struct steer_maps maps;
/* Generation + 1 of an endpoint that was found not to be on this kernel; 0: not known to be. */
static _Atomic uint32_t elsewhere[ENDPOINTS_MAX];

static struct sluice_steer_flow *flow_of(const struct request *req)
{
	return req->path.own;
}

static uint32_t slot_of(const struct request *req)
{
	return (uint32_t)(flow_of(req) - maps.flows);
}

static enum path_refusal steer_start(const struct config *cfg)
{
	int err = cfg->bpf ? steer_maps_open(&maps, cfg) : -ENOTSUP;

	if (!err)
		err = steer_slots_init(maps.flows, cfg->workers);
	if (!err)
		return PATH_FITS;
	steer_maps_close(&maps);
	return err == -EINVAL || err == -EOPNOTSUPP ? PATH_NO_KERNEL_TOO_OLD : PATH_NO_NO_BPF;
}

static void steer_stop(void)
{
	steer_slots_fini();
	steer_maps_close(&maps);
}

static enum path_refusal steer_can_take(struct request *req)
{
	const struct endpoint *ep = req->pick.endpoint;

	if (!req->client->peer[0])
		return PATH_NO_NOT_TCP;
	if (atomic_load_explicit(&elsewhere[ep->slot], memory_order_relaxed) == ep->generation + 1)
		return PATH_NO_ENDPOINT_ELSEWHERE;
	return steer_slots_left(req->worker->index) ? PATH_FITS : PATH_NO_FULL;
}

static enum path_refusal steer_prepare(struct upstream *up)
{
	struct request *req = up->req;
	int fd = req->client->fd, slot = steer_slot_take(req->worker->index);
	struct sluice_steer_flow *f;
	uint64_t cookie;

	if (slot < 0)
		return PATH_NO_FULL;
	f = req->path.own = &maps.flows[slot];
	if (steer_own(&maps, up->fd, (uint32_t)slot, SLUICE_STEER_UPSTREAM) ||
	    steer_own(&maps, fd, (uint32_t)slot, SLUICE_STEER_CLIENT) ||
	    steer_add_client(&maps, fd, &cookie)) {
		steer_disown(&maps, fd);
		steer_slot_give(req->worker->index, (uint32_t)slot);
		req->path.own = NULL;
		return PATH_NO_FULL;
	}
	f->client = cookie;
	f->endpoint = up->endpoint->slot;
	return PATH_FITS;
}

/* Bytes that the client has acknowledged and bytes that wait to be, of its whole stream. */
static void client_position(const struct client *c, uint64_t *ret_acked, uint64_t *ret_waiting)
{
	struct tcp_info info = {0};
	socklen_t size = sizeof(info);
	int waiting = 0;

	getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &size);
	ioctl(c->fd, SIOCOUTQ, &waiting);
	*ret_acked = info.tcpi_bytes_acked;
	*ret_waiting = (uint64_t)waiting;
}

/* The buffer bounds the credit: a send that finds it full would be lost to the endpoint's poll. */
static uint64_t credit_of(const struct client *c)
{
	int wanted = SEND_BUFFER / 2, got = 0;
	socklen_t size = sizeof(got);

	if (setsockopt(c->fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof(wanted)))
		setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted));
	getsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &got, &size);
	return (uint64_t)got / 4 < STEER_CREDIT_BYTES ? (uint64_t)got / 4 : STEER_CREDIT_BYTES;
}

/* True if the flow is redirected now. The client's socket has all that was relayed. */
static bool redirect(struct upstream *up, struct sluice_steer_flow *f)
{
	struct client *c = up->req->client;
	uint64_t acked, waiting;
	__u64 settled;

	if (c->out || c->send_op.pending || (up->in && block_used(up->in)))
		return false;
	settled = steer_settled_word(up->read_bytes, f->redirected);
	if (__atomic_load_n(&f->word, __ATOMIC_RELAXED) != settled)
		return false;
	client_position(c, &acked, &waiting);
	if (waiting > STEER_RESUME_BYTES)
		return false;
	f->base = acked + waiting - f->redirected;
	f->acked = acked;
	return __atomic_compare_exchange_n(&f->word, &settled, settled | SLUICE_STEER_REDIRECT,
					   false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static void received(struct op *op, int res, unsigned int flags);
static void look(struct timer *t);

static enum path_refusal steer_hand_over(struct upstream *up)
{
	struct request *req = up->req;
	struct sluice_steer_flow *f = flow_of(req);

	if (!(__atomic_load_n(&f->state, __ATOMIC_ACQUIRE) & SLUICE_STEER_SEEN)) {
		atomic_store_explicit(&elsewhere[up->endpoint->slot], up->endpoint->generation + 1,
				      memory_order_relaxed);
		return PATH_NO_ENDPOINT_ELSEWHERE;
	}
	if (req->is_sse && !req->first_ns)
		return PATH_LATER; /* the time to the first token is the relay's to measure */
	if (!f->credit) {
		f->request_ns = req->sent_ns;
		f->credit = credit_of(req->client);
		steer_tail_begin(&maps, slot_of(req));
	}
	if (!redirect(up, f))
		return PATH_LATER;
	up->recv_op.done = received;
	up->timer.fired = look;
	timer_set(&up->worker->timers, &up->timer, WATCH_MS);
	return PATH_FITS;
}

static void steer_again(struct upstream *up)
{
	struct sluice_steer_flow *f = flow_of(up->req);

	if (!steer_is_redirected(__atomic_load_n(&f->word, __ATOMIC_RELAXED)))
		redirect(up, f);
}

static void receive_on(struct upstream *up)
{
	if (!up->recv_op.pending && !up->paused && !up->closing)
		ring_recv_offer(&up->worker->ring, &up->recv_op, up->fd, true);
}

static void progress_note(struct request *req, const struct sluice_steer_flow *f)
{
	uint64_t last_ns = __atomic_load_n(&f->last_ns, __ATOMIC_RELAXED);

	if (last_ns > req->progress_ns)
		req->progress_ns = req->last_ns = last_ns;
}

/* The answer is over as far as the endpoint goes. */
static void finish(struct upstream *up, const char *cause)
{
	struct request *req = up->req;
	struct client *c = req->client;

	progress_note(req, flow_of(req));
	if (cause) {
		metric_inc(M_STREAM_CUT);
		req->error = cause;
		c->reset = up->framing == HTTP1_UNTIL_CLOSE;
	}
	health_report(up->endpoint, cause ? HEALTH_RESET : HEALTH_OK);
	forward_end(req, false);
	client_answer_end(c, false);
}

static bool answer_is_whole(const struct upstream *up, const struct sluice_steer_flow *f)
{
	if (up->framing == HTTP1_CHUNKED)
		return steer_tail_is_last_chunk(f->tail);
	return up->read_bytes + f->redirected >= up->answer_bytes;
}

/* The endpoint has closed. Is all that it sent in the client's stream? */
static void end(struct upstream *up)
{
	struct sluice_steer_flow *f = flow_of(up->req);
	uint64_t acked, waiting;

	client_position(up->req->client, &acked, &waiting);
	if (!up->req->client->out && acked + waiting < f->base + f->redirected &&
	    ++up->ending < ENDING_LOOKS) {
		timer_set(&up->worker->timers, &up->timer, ENDING_MS);
		return;
	}
	finish(up, answer_is_whole(up, f) ? NULL : "the engine closed the connection");
}

static void received(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, recv_op);
	struct block *b = ring_offer_take(&up->worker->ring, flags, res);

	if (up->closing || !up->req) {
		block_free(&up->worker->blocks, b);
		if (up->closing)
			upstream_release_if_quiet(up);
		return;
	}
	if (b) {
		up->read_bytes += (uint64_t)res;
		up->req->bytes_out += (uint64_t)res;
		client_send(up->req->client, b);
		if (up->req && up->req->client->out_bytes >= up->worker->cfg->relay_bytes_max) {
			up->paused = true;
			metric_inc(M_RELAY_PAUSED);
			ring_cancel(&up->worker->ring, &up->recv_op);
		}
	} else if (res == 0) {
		up->ending = 1;
		end(up);
		return;
	} else if (res != -ENOBUFS && res != -EINTR && res != -ECANCELED) {
		finish(up, "the engine closed the connection");
		return;
	}
	receive_on(up);
}

/* Ending: has it all arrived? Fallen back to the relay: is there credit again? Else: does it live?
 */
static void look(struct timer *t)
{
	struct upstream *up = container(t, struct upstream, timer);
	struct request *req = up->req;
	struct sluice_steer_flow *f = flow_of(req);
	uint64_t now_ns = req->worker->ring.now_ns;

	if (up->ending) {
		end(up);
		return;
	}
	progress_note(req, f);
	if (up->endpoint->probe_failed && now_ns > req->progress_ns &&
	    (now_ns - req->progress_ns) / NS_PER_MS >= up->worker->cfg->stall_timeout_ms) {
		metric_inc(M_STREAM_STALLED);
		finish(up, "the stream stalled and the engine fails its probe");
		return;
	}
	steer_again(up);
	timer_set(&up->worker->timers, t,
		  steer_is_redirected(__atomic_load_n(&f->word, __ATOMIC_RELAXED)) ? WATCH_MS
										   : FALLEN_MS);
}

/* Usage stands in one of the last messages, whoever passed them on. */
static void usage_take(struct request *req, uint32_t slot)
{
	struct sluice_steer_tail tail;

	if (steer_tail_end(&maps, slot, &tail))
		return;
	for (uint32_t i = 0; i < SLUICE_STEER_TAILS; i++) {
		uint32_t k = (tail.count + i) % SLUICE_STEER_TAILS; /* the oldest first */

		usage_read(span_of(tail.text[k], tail.bytes[k]), &req->sse.usage);
	}
}

static void steer_let_go(struct upstream *up)
{
	struct request *req = up->req;
	struct sluice_steer_flow *f = flow_of(req);

	if (!f)
		return;
	/* From here on the endpoint's sends come to us, and we are about to close. */
	__atomic_fetch_and(&f->word, ~SLUICE_STEER_REDIRECT, __ATOMIC_SEQ_CST);
	req->bytes_out += f->redirected;
	req->kernel_packets = f->steered;
	if (f->credit)
		usage_take(req, slot_of(req));
	metric_add(M_STEER_BYTES, f->redirected);
	metric_add(M_STEER_OUT_OF_CREDIT, f->out_of_credit);
	steer_disown(&maps, req->client->fd);
	steer_slot_give(req->worker->index, slot_of(req));
	req->path.own = NULL;
}

static void steer_turn(struct worker *w)
{
	steer_slots_sweep(w->index);
}

const struct path_ops steer_ops = {
	.path = PATH_STEER,
	.closes_client = true,
	.start = steer_start,
	.stop = steer_stop,
	.can_take = steer_can_take,
	.prepare = steer_prepare,
	.hand_over = steer_hand_over,
	.again = steer_again,
	.let_go = steer_let_go,
	.turn = steer_turn,
};
