/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The splice's housekeeper, a thread of its own: hears of ends from the ring, looks at the whole
 * map now and then for those whose event was lost, tells the workers, and deletes entries after
 * their grace time. Flows of an agent that is gone are adopted: their account is closed here.
 *
 *   event or find -> FIN both ways: told at once ---------------> deleted after GRACE_FIN
 *                 -> RST: told if nothing moved for RST_WAIT ---> deleted after GRACE_RST
 *                         (else it was forged: the flow is open again)
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "dataplane/splice.h"
#include "dataplane/splice_maps.h"

#define TICK_MS	     50
#define WALK_MS	     1000
#define GRACE_FIN_NS (3 * NS_PER_S)
#define GRACE_RST_NS (20 * NS_PER_S)
#define RST_WAIT_NS  (1 * NS_PER_S)
#define RST_MOVED_NS                                                                               \
	(300 * NS_PER_MS)		/* an endpoint that got it may have had so much on its way \
					 */
#define LOST_NS	      (500 * NS_PER_MS) /* an event older than this does not come any more */
#define OWNER_DEAD_NS (5 * NS_PER_S)
#define BUCKETS	      8192

/* An end on its way from its event to its deletion. */
struct ending {
	struct ending *next, *next_in_bucket;
	struct sluice_flow_key client, endpoint;
	uint64_t cookie, found_ns, armed_ns;
	struct splice_end end;
	bool rst, told, given_back;
};

static struct {
	pthread_t thread;
	_Atomic bool stop;
	bool started;
	uint32_t owner;
	uint64_t idle_ns;
	_Atomic uint64_t flows;
	struct ending *first, **last;
	struct ending *buckets[BUCKETS];
	struct ring_buffer *ring;
} sweep;

static struct ending **bucket_of(uint64_t cookie)
{
	return &sweep.buckets[(cookie * 0x9e3779b97f4a7c15ULL) >> 51];
}

static bool is_known(uint64_t cookie)
{
	for (struct ending *e = *bucket_of(cookie); e; e = e->next_in_bucket)
		if (e->cookie == cookie)
			return true;
	return false;
}

static struct ending *ending_new(const struct sluice_flow *endpoint, uint64_t now_ns)
{
	struct ending *e = calloc(1, sizeof(*e)), **bucket = bucket_of(endpoint->cookie);

	if (!e)
		return NULL; /* the next walk finds it again */
	e->client = endpoint->peer;
	e->endpoint = endpoint->key;
	e->cookie = endpoint->cookie;
	e->armed_ns = endpoint->armed_ns;
	e->found_ns = now_ns;
	e->next_in_bucket = *bucket;
	*bucket = e;
	*sweep.last = e;
	sweep.last = &e->next;
	return e;
}

static void ending_forget(struct ending *e)
{
	struct ending **at = bucket_of(e->cookie);

	while (*at != e)
		at = &(*at)->next_in_bucket;
	*at = e->next_in_bucket;
	free(e);
}

static void control(struct ending *e, enum sluice_control_op op)
{
	struct sluice_control c = {.op = op, .client = e->client, .endpoint = e->endpoint};

	splice_control(&c);
}

/* The last figures of both entries; false if they are gone or belong to a newer flow. */
static bool figures_read(struct ending *e, struct sluice_flow *client, struct sluice_flow *endpoint)
{
	return splice_flow_read(&e->endpoint, endpoint) == 0 &&
	       splice_flow_read(&e->client, client) == 0 && endpoint->cookie == e->cookie &&
	       client->cookie == e->cookie && endpoint->armed_ns == e->armed_ns;
}

static void end_fill(struct ending *e, const struct sluice_flow *client,
		     const struct sluice_flow *endpoint)
{
	uint64_t acked = client->acked_bytes, sent = endpoint->sent_bytes;

	e->end.cookie = e->cookie;
	e->end.bytes = acked < sent ? acked : sent; /* its FIN is acknowledged too */
	e->end.first_ns = endpoint->first_ns;
	e->end.last_ns = endpoint->last_ns;
	e->end.packets = endpoint->data_packets;
	e->end.flags = client->flags | endpoint->flags;
	e->end.client = e->client;
	e->end.orphan = splice_cookie_owner(e->cookie) != sweep.owner;
}

/* Did the flow go on after the RST? Then nobody heeded it. */
static bool rst_was_forged(const struct sluice_flow *endpoint)
{
	return endpoint->last_ns > endpoint->end_ns + RST_MOVED_NS;
}

/* One step of an ending. True: it is through. */
static bool ending_step(struct ending *e, uint64_t now_ns)
{
	uint64_t age_ns = now_ns - e->found_ns;
	struct sluice_flow client, endpoint;

	if (!e->told && (!e->rst || age_ns >= RST_WAIT_NS)) {
		if (!figures_read(e, &client, &endpoint))
			return true;
		if (e->rst && rst_was_forged(&endpoint)) {
			metric_inc(M_FLOWS_FORGED);
			control(e, SLUICE_CONTROL_REOPEN);
			return true;
		}
		end_fill(e, &client, &endpoint);
		e->told = splice_end_post(e->end.orphan ? 0 : splice_cookie_worker(e->cookie),
					  &e->end);
	}
	if (!e->told || age_ns < (e->rst ? GRACE_RST_NS : GRACE_FIN_NS))
		return false;
	if (!figures_read(e, &client, &endpoint))
		return true;
	if (e->rst && !e->given_back && rst_was_forged(&endpoint))
		control(e, SLUICE_CONTROL_REOPEN);
	else
		control(e, SLUICE_CONTROL_DELETE);
	return true;
}

static void endings_step(uint64_t now_ns)
{
	struct ending **at = &sweep.first;

	while (*at) {
		struct ending *e = *at;

		if (!ending_step(e, now_ns)) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		if (sweep.last == &e->next)
			sweep.last = at;
		ending_forget(e);
	}
}

/* Ours, or of an agent that is gone. */
static bool is_ours(uint64_t cookie, uint64_t now_ns)
{
	uint32_t owner = splice_cookie_owner(cookie);

	return owner == sweep.owner || splice_owner_seen(owner) + OWNER_DEAD_NS < now_ns;
}

static int event_heard(void *ctx, void *data, size_t size)
{
	const struct sluice_flow_event *event = data;
	struct sluice_flow endpoint;
	struct ending *e;

	(void)ctx, (void)size;
	if (is_known(event->cookie) || splice_flow_read(&event->endpoint, &endpoint) ||
	    endpoint.cookie != event->cookie || !is_ours(event->cookie, event->now_ns))
		return 0;
	e = ending_new(&endpoint, clock_mono_ns());
	if (e)
		e->rst = event->flags & SLUICE_FLOW_RST;
	return 0;
}

/* An entry of the endpoint's side, met on the walk. */
static void flow_met(const struct sluice_flow *f, uint64_t now_ns)
{
	uint64_t moved_ns = f->last_ns > f->armed_ns ? f->last_ns : f->armed_ns;
	uint64_t quiet_ns = now_ns > moved_ns ? now_ns - moved_ns : 0;
	bool told = f->flags & SLUICE_FLOW_TOLD && now_ns > f->end_ns + LOST_NS;
	bool closed = f->state == SLUICE_FLOW_CLOSED;
	bool half = f->flags & SLUICE_FLOW_FIN && quiet_ns > FLOW_FIN_MS * NS_PER_MS;
	bool idle = quiet_ns > sweep.idle_ns;
	struct ending *e;

	if ((!told && !closed && !half && !idle) || is_known(f->cookie) ||
	    !is_ours(f->cookie, now_ns))
		return;
	e = ending_new(f, now_ns);
	if (!e)
		return;
	e->rst = f->flags & SLUICE_FLOW_RST && !closed;
	e->given_back = closed || half || idle;
	if (told && !closed)
		metric_inc(M_FLOWS_MISSED);
	if (closed || (!half && !idle))
		return;
	e->end.idle = idle;
	metric_inc(M_FLOWS_IDLE);
	control(e, SLUICE_CONTROL_CLOSE);
}

static void flows_walk(uint64_t now_ns)
{
	static struct sluice_flow found[SPLICE_WALK];
	bool more = true, first = true;
	uint64_t flows = 0;

	while (more && !sweep.stop) {
		unsigned int n = splice_flows_walk(first, found, &more);

		first = false;
		for (unsigned int i = 0; i < n; i++) {
			if (found[i].direction != SLUICE_FROM_ENDPOINT)
				continue;
			flows++;
			flow_met(&found[i], now_ns);
		}
	}
	sweep.flows = flows;
}

static void *sweep_main(void *arg)
{
	uint64_t walked_ns = 0;

	(void)arg;
	while (!sweep.stop) {
		uint64_t now_ns;

		ring_buffer__poll(sweep.ring, TICK_MS);
		now_ns = clock_mono_ns();
		if (now_ns - walked_ns >= WALK_MS * NS_PER_MS) {
			splice_owner_alive(sweep.owner, now_ns);
			flows_walk(now_ns);
			walked_ns = now_ns;
		}
		endings_step(now_ns);
	}
	return NULL;
}

int splice_sweep_start(uint32_t owner, uint64_t idle_ms)
{
	int err;

	sweep.owner = owner;
	sweep.idle_ns = idle_ms * NS_PER_MS;
	sweep.last = &sweep.first;
	sweep.stop = false;
	sweep.ring = ring_buffer__new(splice_events_fd(), event_heard, NULL, NULL);
	if (!sweep.ring)
		return -errno;
	splice_owner_alive(owner, clock_mono_ns());
	err = -pthread_create(&sweep.thread, NULL, sweep_main, NULL);
	sweep.started = err == 0;
	return err;
}

void splice_sweep_stop(void)
{
	if (!sweep.started)
		return;
	sweep.stop = true;
	pthread_join(sweep.thread, NULL);
	sweep.started = false;
	ring_buffer__free(sweep.ring);
	while (sweep.first) { /* who comes next finds them in the map */
		struct ending *e = sweep.first;

		sweep.first = e->next;
		ending_forget(e);
	}
	splice_owner_forget(sweep.owner);
}

uint64_t splice_sweep_flows(void)
{
	return sweep.flows;
}
