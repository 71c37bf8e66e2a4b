/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's side of a splice, phase by phase (splice.h has the picture). Each step either goes
 * on, waits for the next quiet moment, or gives the flow back to the relay by name.
 */
#include "dataplane/splice.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/health.h"
#include "base/log.h"
#include "dataplane/request.h"
#include "dataplane/splice_ends.h"
#include "dataplane/splice_maps.h"
#include "dataplane/splice_ports.h"
#include "dataplane/upstream.h"

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define LOOK_MS			     100 /* between looks at a flow that drains */

/* cookie: owner (24 bits), worker (8), sequence (12), upstream (20) */
#define UPSTREAM_BITS 20

static uint32_t owner; /* this agent's number; never 0 */
static _Atomic uint32_t sequence;

uint32_t splice_cookie_owner(uint64_t cookie)
{
	return (uint32_t)(cookie >> 40);
}

unsigned int splice_cookie_worker(uint64_t cookie)
{
	return (unsigned int)(cookie >> 32 & 0xff);
}

static uint64_t cookie_new(const struct upstream *up)
{
	const struct worker *w = up->worker;

	return (uint64_t)owner << 40 | (uint64_t)w->index << 32 |
	       (uint64_t)(sequence++ & 0xfff) << UPSTREAM_BITS | (uint64_t)(up - w->upstreams);
}

static enum path_refusal start(const struct config *cfg)
{
	int err;

	if (!cfg->bpf)
		return PATH_NO_NO_BPF;
	err = splice_maps_open(cfg);
	if (err == -EPERM || err == -EACCES)
		return PATH_NO_NO_BPF;
	if (err) {
		log_warn("splice: %s", strerror(-err));
		return PATH_NO_KERNEL_TOO_OLD;
	}
	if (getrandom(&owner, sizeof(owner), 0) != sizeof(owner))
		return PATH_NO_NO_BPF;
	owner = (owner & 0xffffff) | 1;
	splice_ports_init(cfg);
	err = splice_sweep_start(owner, cfg->flow_idle_ms);
	return err ? PATH_NO_NO_BPF : PATH_FITS;
}

static void stop(void)
{
	splice_sweep_stop();
	splice_maps_close();
}

bool splice_is_up(void)
{
	return owner != 0;
}

int splice_attach(int ifindex, const char *name)
{
	return owner ? splice_maps_attach(ifindex, name) : -ENODEV;
}

void splice_detach(int ifindex, const char *name, bool gone)
{
	(void)ifindex;
	if (owner)
		splice_maps_detach(name, gone);
}

void splice_write_metrics(FILE *f)
{
	if (!owner)
		return;
	fprintf(f,
		"# HELP sluice_flows_spliced Flows in the splice's map\n"
		"# TYPE sluice_flows_spliced gauge\nsluice_flows_spliced %llu\n",
		(unsigned long long)splice_sweep_flows());
	splice_maps_write_metrics(f);
}

/* ---- before connecting -------------------------------------------------------------------------
 */

static bool address_v4(const struct sockaddr_storage *ss, uint32_t *ret_address, uint16_t *ret_port)
{
	const struct sockaddr_in *v4 = (const void *)ss;
	const struct sockaddr_in6 *v6 = (const void *)ss;

	if (ss->ss_family == AF_INET) {
		*ret_address = v4->sin_addr.s_addr;
		*ret_port = v4->sin_port;
		return true;
	}
	if (ss->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		return false;
	memcpy(ret_address, v6->sin6_addr.s6_addr + 12, 4);
	*ret_port = v6->sin6_port;
	return true;
}

static void key_fill(struct sluice_flow_key *k, uint32_t peer, uint32_t here, uint16_t peer_port,
		     uint16_t here_port)
{
	*k = (struct sluice_flow_key){.peer = {0, 0, htonl(0xffff), peer},
				      .here = {0, 0, htonl(0xffff), here},
				      .peer_port = peer_port,
				      .here_port = here_port};
}

/* The tuple of a connected socket, as the hooks see it. */
static enum path_refusal key_of(int fd, struct sluice_flow_key *ret)
{
	struct sockaddr_storage peer, here;
	socklen_t peer_len = sizeof(peer), here_len = sizeof(here);
	uint32_t peer_addr, here_addr;
	uint16_t peer_port, here_port;

	if (getpeername(fd, (struct sockaddr *)&peer, &peer_len) ||
	    getsockname(fd, (struct sockaddr *)&here, &here_len))
		return PATH_NO_NO_TUPLE;
	if (peer.ss_family != AF_INET && peer.ss_family != AF_INET6)
		return PATH_NO_NOT_TCP;
	if (!address_v4(&peer, &peer_addr, &peer_port) ||
	    !address_v4(&here, &here_addr, &here_port))
		return PATH_NO_IPV6;
	key_fill(ret, peer_addr, here_addr, peer_port, here_port);
	return PATH_FITS;
}

static enum path_refusal can_take(struct request *req)
{
	struct splice_attempt *a = &req->splice;
	const struct sockaddr_in *to = (const void *)&req->pick.endpoint->addr;
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	struct sluice_leg leg;
	enum path_refusal why;

	*a = (struct splice_attempt){0};
	if (!splice_maps_attached())
		return PATH_NO_NO_TUPLE;
	if (to->sin_family != AF_INET)
		return PATH_NO_IPV6;
	if (ntohl(to->sin_addr.s_addr) >> 24 == 127)
		return PATH_NO_NO_TUPLE;
	why = key_of(req->client->fd, &a->client);
	if (why)
		return why;
	if (splice_leg_read(&a->client, &leg))
		return PATH_NO_NO_TUPLE;
	if (leg.flags & SLUICE_LEG_ECN)
		return PATH_NO_ECN;
	if (leg.flags & SLUICE_LEG_ODD)
		return PATH_NO_IP_OPTIONS;
	if (getsockopt(req->client->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return PATH_NO_NOT_TCP;
	a->client_options = info.tcpi_options;
	a->handshake = leg.peer;
	return PATH_FITS;
}

static enum path_refusal prepare(struct upstream *up)
{
	struct splice_attempt *a = &up->req->splice;
	const struct sockaddr_in *to = (const void *)&up->endpoint->addr;
	uint32_t mark = SLUICE_MARK, here;
	int mss = a->handshake.mss;
	uint16_t port;

	if (!(a->client_options & TCPI_OPT_TIMESTAMPS))
		mark |= SLUICE_MARK_NO_TIMESTAMPS;
	if (!(a->client_options & TCPI_OPT_SACK))
		mark |= SLUICE_MARK_NO_SACK;
	if (setsockopt(up->fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)))
		return PATH_NO_NO_BPF;
	if (mss && setsockopt(up->fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof(mss)))
		return PATH_NO_MSS;
	if (splice_ports_bind(up, &here, &port))
		return PATH_NO_NO_PORT;
	key_fill(&a->endpoint, to->sin_addr.s_addr, here, to->sin_port, htons(port));
	a->phase = SPLICE_PHASE_PREPARED;
	return PATH_FITS;
}

/* ---- joining -----------------------------------------------------------------------------------
 */

static enum path_refusal refusal_of(enum sluice_arm why)
{
	switch (why) {
	case SLUICE_ARM_JOINED:
		return PATH_FITS;
	case SLUICE_ARM_NO_LEG:
		return PATH_NO_NO_TUPLE;
	case SLUICE_ARM_ODD:
		return PATH_NO_IP_OPTIONS;
	case SLUICE_ARM_ECN:
		return PATH_NO_ECN;
	case SLUICE_ARM_MSS:
		return PATH_NO_MSS;
	case SLUICE_ARM_TIMESTAMPS:
		return PATH_NO_TIMESTAMPS;
	case SLUICE_ARM_COUNTERS:
		return PATH_NO_COUNTERS;
	case SLUICE_ARM_FULL:
		return PATH_NO_FULL;
	case SLUICE_ARM_HALF_SEEN: /* it is ending: the relay will see that */
	case SLUICE_ARM_CLIENT_SPOKE:
	case SLUICE_ARM_WINDOW:
		return PATH_LATER;
	}
	return PATH_NO_COUNTERS;
}

static int queued(int fd, unsigned long what)
{
	int n = 0;

	return ioctl(fd, what, &n) ? -1 : n;
}

/* Is every byte that we hold in the hands of the peers' stacks, or on its way? */
static bool is_quiet(const struct upstream *up)
{
	const struct request *req = up->req;
	const struct client *c = req->client;

	return !c->out && !c->send_op.pending && !c->recv_op.pending && c->state == CLIENT_BUSY &&
	       !up->in && !up->send_op.pending && !up->head &&
	       up->body_sent == req->forward_bytes && queued(c->fd, SIOCOUTQNSD) == 0 &&
	       queued(up->fd, SIOCOUTQ) == 0;
}

static void note_write(const struct request *req)
{
	struct sluice_flow_note note = {.begin_ns = req->begin_ns,
					.wall_ns =
						clock_wall_ns() - (clock_mono_ns() - req->begin_ns),
					.sent_ns = req->sent_ns,
					.first_ns = req->first_ns,
					.bytes_in = req->body_bytes,
					.bytes_out = req->bytes_out,
					.status = (uint32_t)req->status};

	access_text_copy(note.request_id, sizeof(note.request_id), span_of_str(req->id));
	access_text_copy(note.model, sizeof(note.model), span_of_str(req->says.model));
	access_text_copy(note.path, sizeof(note.path), req->head.path);
	access_text_copy(note.endpoint, sizeof(note.endpoint),
			 span_of_str(req->pick.endpoint->address));
	splice_note_write(&req->splice.client, &note);
}

static void control(struct splice_attempt *a, enum sluice_control_op op)
{
	struct sluice_control c = {.op = op, .client = a->client, .endpoint = a->endpoint};

	splice_control(&c);
}

static void look(struct timer *t);

static enum path_refusal hand_over(struct upstream *up)
{
	struct request *req = up->req;
	struct splice_attempt *a = &req->splice;
	struct sluice_control c = {.op = SLUICE_CONTROL_ARM,
				   .client = a->client,
				   .endpoint = a->endpoint,
				   .client_read = (uint32_t)req->client->read_bytes,
				   .client_written = (uint32_t)req->client->written_bytes,
				   .endpoint_read = (uint32_t)up->read_bytes,
				   .endpoint_written = (uint32_t)up->written_bytes,
				   .endpoint_slot = up->endpoint->slot};
	enum path_refusal why;

	if (req->is_sse && !req->first_ns) /* the first content is measured here */
		return PATH_LATER;
	if (up->in) {
		relay_flush(up);
		return PATH_LATER;
	}
	if (!is_quiet(up))
		return PATH_LATER;
	c.cookie = cookie_new(up);
	if (splice_control(&c))
		return PATH_NO_NO_BPF;
	why = refusal_of((enum sluice_arm)c.result);
	if (why)
		return why;
	a->cookie = c.cookie;
	a->phase = SPLICE_PHASE_DRAIN;
	note_write(req);
	request_show(req, "spliced");
	up->timer.fired = look;
	timer_set(&up->worker->timers, &up->timer, LOOK_MS);
	return PATH_FITS;
}

/* ---- stepping aside ----------------------------------------------------------------------------
 */

static void recv_back(struct op *op, int res, unsigned int flags);
static void poll_back(struct op *op, int res, unsigned int flags);

/* Bytes turned up that the client may not have: our stack speaks again until they are gone. */
static void take_back(struct upstream *up, struct block *late)
{
	struct client *c = up->req->client;

	metric_inc(M_FLOWS_LATE);
	control(&up->req->splice, SLUICE_CONTROL_DRAIN);
	up->req->splice.phase = SPLICE_PHASE_DRAIN;
	if (!c->poll_op.pending)
		client_watch(c);
	up->timer.fired = look;
	timer_set(&up->worker->timers, &up->timer, LOOK_MS);
	relay_take_back(up, late);
}

static void close_silently(int *fd)
{
	int on = 1;

	if (*fd < 0)
		return;
	setsockopt(*fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)); /* else the hooks drop its FIN */
	close(*fd);
	*fd = -1;
}

static void settle(struct upstream *up);

/* Nothing of ours is with the kernel any more. */
static void step_aside(struct upstream *up)
{
	struct client *c = up->req->client;
	char byte;

	if (!up->req->splice.over &&
	    (recv(up->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)) {
		take_back(up, NULL);
		return;
	}
	close_silently(&up->fd);
	close_silently(&c->fd);
	c->state = CLIENT_AWAY;
	up->req->splice.phase = SPLICE_PHASE_AWAY;
	up->worker->away++;
	if (up->req->splice.over)
		settle(up);
}

static void poll_step(struct upstream *up)
{
	struct client *c = up->req->client;

	up->req->splice.phase = SPLICE_PHASE_POLL;
	c->poll_op.done = poll_back;
	if (c->poll_op.pending)
		ring_cancel(&up->worker->ring, &c->poll_op);
	else
		step_aside(up);
}

static void poll_back(struct op *op, int res, unsigned int flags)
{
	struct client *c = container(op, struct client, poll_op);

	(void)res, (void)flags;
	if (c->req && c->req->up && !op->pending)
		step_aside(c->req->up);
}

static void recv_back(struct op *op, int res, unsigned int flags)
{
	struct upstream *up = container(op, struct upstream, recv_op);
	struct block *b = ring_offer_take(&up->worker->ring, flags, res);

	if (b && !up->req->splice.over) {
		up->read_bytes += (uint64_t)res;
		take_back(up, b);
		return;
	}
	block_free(&up->worker->blocks, b);
	if (!op->pending)
		poll_step(up);
}

static void recv_step(struct upstream *up)
{
	timer_clear(&up->timer);
	up->req->splice.phase = SPLICE_PHASE_RECV;
	up->recv_op.done = recv_back;
	if (up->recv_op.pending)
		ring_cancel(&up->worker->ring, &up->recv_op);
	else
		poll_step(up);
}

/* Has the client acknowledged all that our stack ever sent? */
static void look(struct timer *t)
{
	struct upstream *up = container(t, struct upstream, timer);
	struct client *c = up->req->client;
	struct splice_attempt *a = &up->req->splice;
	struct sluice_flow f;

	if (a->phase != SPLICE_PHASE_DRAIN)
		return;
	if (!c->out && !c->send_op.pending && splice_flow_read(&a->endpoint, &f) == 0 &&
	    f.cookie == a->cookie && f.state == SLUICE_FLOW_SPLICED)
		recv_step(up);
	else
		timer_set(&up->worker->timers, t, LOOK_MS);
}

/* The attempt ends on our side, in whatever phase. */
static void let_go(struct upstream *up)
{
	struct splice_attempt *a = &up->req->splice;

	switch (a->phase) {
	case SPLICE_PHASE_NONE:
		break;
	case SPLICE_PHASE_PREPARED:
		control(a, SLUICE_CONTROL_UNCAP);
		break;
	default:
		if (a->phase == SPLICE_PHASE_AWAY)
			up->worker->away--;
		if (!a->over)
			control(a, SLUICE_CONTROL_CLOSE);
	}
	a->phase = SPLICE_PHASE_NONE;
	a->cookie = 0;
}

/* ---- the end -----------------------------------------------------------------------------------
 */

/* Both sides are done and our sockets are closed: the account, and the slots are free. */
static void settle(struct upstream *up)
{
	struct request *req = up->req;
	struct client *c = req->client;
	const struct splice_end *end = &req->splice.end;

	splice_note_delete(&req->splice.client); /* nobody else is to account for it */
	req->bytes_out += end->bytes;
	req->kernel_packets = end->packets;
	if (end->last_ns > req->last_ns)
		req->last_ns = end->last_ns;
	if (!req->first_ns)
		req->first_ns = end->first_ns;
	up->body_done = end->flags & SLUICE_FLOW_FIN;
	if (end->idle)
		req->error = "idle for too long";
	else if (end->flags & SLUICE_FLOW_RST)
		req->error = "a peer reset the connection";
	health_report(up->endpoint, HEALTH_OK);
	forward_end(req, false);
	c->req = NULL;
	request_done(req);
	client_forget(c);
}

static void end_take(struct worker *w, const struct splice_end *end)
{
	uint64_t i = end->cookie & ((1U << UPSTREAM_BITS) - 1);
	struct upstream *up = &w->upstreams[i];
	struct splice_attempt *a;

	if (end->orphan) {
		splice_orphan_account(w, end);
		return;
	}
	if (i >= w->upstreams_fresh || !up->req || up->req->up != up)
		return;
	a = &up->req->splice;
	if (a->cookie != end->cookie || a->over || up->req->path.ops != &splice_ops)
		return;
	a->end = *end;
	a->over = true;
	if (a->phase == SPLICE_PHASE_AWAY)
		settle(up);
	else if (a->phase == SPLICE_PHASE_DRAIN)
		recv_step(up);
}

static void turn(struct worker *w)
{
	struct splice_end end;

	while (splice_end_next(w->index, &end))
		end_take(w, &end);
}

const struct path_ops splice_ops = {
	.path = PATH_SPLICE,
	.closes_client = true,
	.start = start,
	.stop = stop,
	.can_take = can_take,
	.prepare = prepare,
	.hand_over = hand_over,
	.let_go = let_go,
	.turn = turn,
};
