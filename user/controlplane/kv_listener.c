/* SPDX-License-Identifier: Apache-2.0 */
/* One loop: what there is to hear (sync, now and then), what was heard (each message). */
#include "controlplane/kv_listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/msgpack.h"
#include "controlplane/kv_apply.h"
#include "controlplane/kv_bind.h"
#include "controlplane/kv_stream.h"

#define SYNC_MS		  100
#define REPLAY_TIMEOUT_MS 5000
#define REPLAYS_EACH	  2
#define BURST		  256  /* messages of one source before the next has its turn */
#define SWEEP_PLACES	  4096 /* of the index, each turn of the loop */
#define FRAMES_MAX	  6

struct hearing {
	struct hearing *next;
	struct endpoint *ep; /* a reference */
	struct kv_source source;
	void *sub, *monitor, *dealer; /* dealer: while a replay runs */
	struct kv_stream order;
	struct kv_applier applier;
	uint64_t replay_until_ns, gap_at; /* gap_at: number at the last replay's start */
	bool replayed;	       /* since the last beginning: what is still missing cannot be had */
	unsigned int tries;    /* to have it from gap_at on */
	bool no_replay;	       /* it did not answer */
	bool bound;	       /* comes over the bound socket */
	bool gone;	       /* to be closed */
	uint64_t unknown_seen; /* blocks that want a token, when last looked at */
	uint32_t vocab_seen;   /* version of the vocabulary then */
};

struct kv_listener {
	struct kv_shared *shared;
	void *zmq, *bound_sub;
	struct hearing *all;
	unsigned int count;
	struct kv_decoder *decoder;
	uint64_t refused[KV_REFUSALS]; /* as told to metrics */
	zmq_pollitem_t *items;
	uint64_t seen_version, snapshot_version;
	pthread_t thread;
	_Atomic bool stop;
};

struct kv_model *kv_endpoint_model(struct kv_models *models, const struct endpoint_snapshot *snap,
				   uint32_t view)
{
	for (uint32_t m = 0; m < snap->model_count; m++) {
		const struct model *model = &snap->models[m];
		struct kv_model *found;

		if (*model->parent || !(model->views[view / 64] >> (view % 64) & 1))
			continue;
		found = kv_models_find(models, span_of_str(model->name));
		if (found)
			return found;
	}
	return NULL;
}

/* ---- a message ---- */

struct frames {
	zmq_msg_t part[FRAMES_MAX];
	int count;
};

static struct span part(struct frames *f, int i)
{
	return i >= 0 && i < f->count
		       ? span_of(zmq_msg_data(&f->part[i]), zmq_msg_size(&f->part[i]))
		       : span_of(NULL, 0);
}

static void frames_close(struct frames *f)
{
	for (int i = 0; i < f->count; i++)
		zmq_msg_close(&f->part[i]);
	f->count = 0;
}

/* All parts of the next message. False: there is none. */
static bool frames_receive(void *socket, struct frames *f)
{
	int more = 1;

	f->count = 0;
	while (more) {
		zmq_msg_t over, *to = f->count < FRAMES_MAX ? &f->part[f->count] : &over;

		zmq_msg_init(to);
		if (zmq_msg_recv(to, socket, ZMQ_DONTWAIT) < 0) {
			zmq_msg_close(to);
			frames_close(f);
			return false;
		}
		more = zmq_msg_more(to);
		if (to == &over)
			zmq_msg_close(to);
		else
			f->count++;
	}
	return true;
}

static bool seq_of(struct span bytes, uint64_t *ret)
{
	uint64_t n = 0;

	if (bytes.len != 8)
		return false;
	for (unsigned int i = 0; i < 8; i++)
		n = n << 8 | (uint8_t)bytes.ptr[i];
	*ret = n;
	return true;
}

/* The engine's clock in a batch: its first number. */
static double ts_of(struct span payload)
{
	struct msgpack m = msgpack_of(payload.ptr, payload.len);
	struct msgpack_item item;

	if (msgpack_next(&m, &item) || item.type != MSGPACK_ARRAY || msgpack_next(&m, &item) ||
	    item.type != MSGPACK_FLOAT)
		return 0;
	return item.real;
}

static void refusals_tell(struct kv_listener *l)
{
	static const enum metric_counter ids[KV_REFUSALS] = {
		M_KV_REFUSED_MALFORMED, M_KV_REFUSED_TOO_LARGE, M_KV_REFUSED_SHAPE,
		M_KV_REFUSED_COUNTS, M_KV_REFUSED_UNKNOWN};

	for (unsigned int i = 0; i < KV_REFUSALS; i++) {
		metric_add(ids[i], l->decoder->refused[i] - l->refused[i]);
		l->refused[i] = l->decoder->refused[i];
	}
}

static void apply(struct kv_listener *l, struct hearing *h, uint64_t seq, struct span payload)
{
	h->applier.now_ns = clock_mono_ns();
	kv_events_decode(l->decoder, payload.ptr, payload.len, kv_apply, &h->applier);
	refusals_tell(l);
	kv_stream_applied(&h->order, seq, ts_of(payload));
	l->shared->next[h->ep->slot] = h->order.next;
}

static void replay_end(struct hearing *h)
{
	zmq_close(h->dealer);
	h->dealer = NULL;
}

static void begin_anew(struct hearing *h)
{
	kv_stream_reset(&h->order);
	h->replayed = false;
}

/* Nothing that this endpoint was known to hold counts; a new beginning. */
static void forget(struct kv_listener *l, struct hearing *h, const char *why)
{
	log_info("%s: KV events %s: its blocks are forgotten", h->ep->name, why);
	metric_inc(M_KV_FORGOTTEN);
	kv_index_bind(l->shared->index, h->ep->slot, h->ep->generation);
	l->shared->next[h->ep->slot] = 0;
	begin_anew(h);
	for (struct hearing *o = l->all; o; o = o->next) { /* its other ranks' blocks went too */
		if (o == h || o->ep != h->ep)
			continue;
		if (o->dealer)
			replay_end(o);
		begin_anew(o);
	}
}

/* ---- replay ---- */

static bool replay_begin(struct kv_listener *l, struct hearing *h, uint64_t from)
{
	int64_t bytes_max = KV_MESSAGE_BYTES_MAX;
	int linger = 0, ipv6 = 1, hwm = 100000;
	unsigned char bytes[8];

	if (!h->replayed || h->gap_at != from)
		h->tries = 0;
	/* Twice from one place: the first time there may have been nothing to tell yet. */
	if (!*h->source.replay || h->no_replay || h->tries == REPLAYS_EACH)
		return false;
	h->gap_at = from;
	h->replayed = true;
	h->tries++;
	h->dealer = zmq_socket(l->zmq, ZMQ_DEALER);
	if (!h->dealer)
		return false;
	zmq_setsockopt(h->dealer, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(h->dealer, ZMQ_RCVHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(h->dealer, ZMQ_MAXMSGSIZE, &bytes_max, sizeof(bytes_max));
	zmq_setsockopt(h->dealer, ZMQ_IPV6, &ipv6, sizeof(ipv6));
	for (unsigned int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(from >> (56 - 8 * i));
	if (zmq_connect(h->dealer, h->source.replay) < 0 ||
	    zmq_send(h->dealer, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
	    zmq_send(h->dealer, bytes, sizeof(bytes), ZMQ_DONTWAIT) < 0) {
		zmq_close(h->dealer);
		h->dealer = NULL;
		return false;
	}
	metric_inc(M_KV_REPLAYS);
	h->replay_until_ns = clock_mono_ns() + REPLAY_TIMEOUT_MS * NS_PER_MS;
	return true;
}

/* ["", topic?, seq, payload]; the last one has seq ~0. False: the replay is over. */
static bool replay_message(struct kv_listener *l, struct hearing *h, struct frames *f)
{
	struct span payload = part(f, f->count - 1);
	uint64_t seq;

	if (f->count < 2 || !seq_of(part(f, f->count - 2), &seq)) {
		/* vLLM's own ending has an empty topic; other forms end by their silence */
		return true;
	}
	if (seq == ~0ULL)
		return false;
	metric_inc(M_KV_REPLAYED);
	switch (kv_stream_judge(&h->order, seq, ts_of(payload))) {
	case KV_LATE:
		metric_inc(M_KV_LATE);
		return true;
	case KV_GAP: /* a ROUTER drops at its high-water mark: from here on again */
		if (h->gap_at != h->order.next)
			return false;
		forget(l, h, "cannot be replayed whole"); /* its buffer does not reach back */
		break;
	case KV_RESTART:
		forget(l, h, "began anew");
		break;
	case KV_APPLY:
		break;
	}
	apply(l, h, seq, payload);
	return true;
}

static void replay_read(struct kv_listener *l, struct hearing *h)
{
	struct frames f;

	for (unsigned int i = 0; i < BURST && h->dealer && frames_receive(h->dealer, &f); i++) {
		bool goes_on = replay_message(l, h, &f);

		frames_close(&f);
		h->replay_until_ns = clock_mono_ns() + REPLAY_TIMEOUT_MS * NS_PER_MS;
		if (!goes_on) /* what it left out is missed, and asked for, with the next message */
			replay_end(h);
	}
}

/* No more comes. What came counts; if it was nothing, nobody is there who replays. */
static void replay_late(struct kv_listener *l, struct hearing *h)
{
	replay_end(h);
	if (h->order.begun && h->order.next != h->gap_at)
		return;
	h->no_replay = true;
	forget(l, h, "were not replayed in time");
}

/* ---- live ---- */

static void live_message(struct kv_listener *l, struct hearing *h, uint64_t seq,
			 struct span payload)
{
	bool was_begun = h->order.begun;

	metric_inc(M_KV_MESSAGES);
	switch (kv_stream_judge(&h->order, seq, ts_of(payload))) {
	case KV_LATE:
		metric_inc(M_KV_LATE);
		return;
	case KV_RESTART:
		forget(l, h, "began anew");
		break;
	case KV_GAP:
		metric_inc(M_KV_GAPS);
		/* this message comes again with the replay, or is the first of a new beginning */
		if (replay_begin(l, h, h->order.next))
			return;
		forget(l, h, "are missing");
		break;
	case KV_APPLY: /* the first of all need not be number 0: what was before is asked for */
		if (!was_begun && seq > 0 && replay_begin(l, h, 0))
			return;
		break;
	}
	apply(l, h, seq, payload);
}

static void sub_read(struct kv_listener *l, struct hearing *h)
{
	struct frames f;

	for (unsigned int i = 0; i < BURST && !h->dealer && frames_receive(h->sub, &f); i++) {
		uint64_t seq;

		if (f.count >= 2 && seq_of(part(&f, f.count - 2), &seq))
			live_message(l, h, seq, part(&f, f.count - 1));
		else
			metric_inc(M_KV_REFUSED_SHAPE);
		frames_close(&f);
	}
}

/* The connection was lost: what the engine did meanwhile is unknown, unless a replay tells. */
static void monitor_read(struct kv_listener *l, struct hearing *h)
{
	struct frames f;

	(void)l;
	while (frames_receive(h->monitor, &f)) {
		struct span first = part(&f, 0);
		uint16_t event = 0;

		if (first.len >= 2)
			memcpy(&event, first.ptr, sizeof(event));
		h->no_replay = false;
		if (event == ZMQ_EVENT_DISCONNECTED && h->order.begun)
			forget(l, h, "lost their connection");
		frames_close(&f);
	}
}

static void bound_read(struct kv_listener *l)
{
	struct frames f;

	for (unsigned int i = 0; i < BURST && frames_receive(l->bound_sub, &f); i++) {
		struct span address = kv_topic_address(part(&f, 0));
		struct hearing *h = l->all;
		uint64_t seq;

		while (h && !(h->bound && span_eq(address, span_of_str(h->ep->address))))
			h = h->next;
		if (h && f.count >= 3 && seq_of(part(&f, f.count - 2), &seq))
			live_message(l, h, seq, part(&f, f.count - 1));
		else
			metric_inc(M_KV_REFUSED_SHAPE);
		frames_close(&f);
	}
}

/* ---- who is heard ---- */

static int sub_open(struct kv_listener *l, struct hearing *h)
{
	static unsigned int numbers;
	int hwm = 100000, linger = 0, ipv6 = 1, again_ms = 100, again_max_ms = 2000;
	int64_t bytes_max = KV_MESSAGE_BYTES_MAX;
	char name[64];

	h->sub = zmq_socket(l->zmq, ZMQ_SUB);
	h->monitor = zmq_socket(l->zmq, ZMQ_PAIR);
	if (!h->sub || !h->monitor)
		return -ENOMEM;
	zmq_setsockopt(h->sub, ZMQ_RCVHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(h->sub, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(h->sub, ZMQ_IPV6, &ipv6, sizeof(ipv6));
	zmq_setsockopt(h->sub, ZMQ_MAXMSGSIZE, &bytes_max, sizeof(bytes_max));
	zmq_setsockopt(h->sub, ZMQ_RECONNECT_IVL, &again_ms, sizeof(again_ms));
	zmq_setsockopt(h->sub, ZMQ_RECONNECT_IVL_MAX, &again_max_ms, sizeof(again_max_ms));
	zmq_setsockopt(h->sub, ZMQ_SUBSCRIBE, h->source.topic, strlen(h->source.topic));
	zmq_setsockopt(h->monitor, ZMQ_LINGER, &linger, sizeof(linger));
	snprintf(name, sizeof(name), "inproc://monitor-%u", numbers++);
	if (zmq_socket_monitor(h->sub, name, ZMQ_EVENT_DISCONNECTED) < 0 ||
	    zmq_connect(h->monitor, name) < 0 || zmq_connect(h->sub, h->source.events) < 0)
		return -zmq_errno();
	log_info("%s: KV events of rank %u from %s%s%s", h->ep->name, h->source.rank,
		 h->source.events, *h->source.replay ? ", replay from " : "", h->source.replay);
	return 0;
}

static void hearing_free(struct hearing *h)
{
	if (h->dealer)
		replay_end(h);
	if (h->sub) {
		zmq_socket_monitor(h->sub, NULL, 0);
		zmq_close(h->sub);
	}
	if (h->monitor)
		zmq_close(h->monitor);
	endpoint_put(h->ep);
	free(h);
}

static void hearing_new(struct kv_listener *l, struct endpoint *ep, struct vocab *vocab,
			const struct kv_source *source)
{
	struct hearing *h = l->count < KV_SOURCES_MAX ? calloc(1, sizeof(*h)) : NULL;
	int err = 0;

	if (!h) {
		metric_inc(M_KV_SOURCES_REFUSED);
		return;
	}
	h->ep = endpoint_get(ep);
	h->bound = !source;
	if (source) {
		h->source = *source;
		err = sub_open(l, h);
	}
	if (err) {
		log_error("%s: cannot hear KV events from %s: %s", ep->name, h->source.events,
			  zmq_strerror(-err));
		hearing_free(h);
		return;
	}
	h->applier = (struct kv_applier){.index = l->shared->index,
					 .vocab = vocab,
					 .slot = ep->slot,
					 .generation = ep->generation,
					 .load = ep->load};
	if (!kv_index_bound(l->shared->index, ep->slot))
		kv_index_bind(l->shared->index, ep->slot, ep->generation);
	h->next = l->all;
	l->all = h;
	l->count++;
	replay_begin(l, h, 0); /* it may have run for long */
}

static bool heard(const struct kv_listener *l, const struct endpoint *ep)
{
	for (const struct hearing *h = l->all; h; h = h->next)
		if (h->ep->slot == ep->slot && h->ep->generation == ep->generation && !h->gone)
			return true;
	return false;
}

static void endpoint_hear(struct kv_listener *l, const struct endpoint_snapshot *snap,
			  uint32_t view)
{
	struct endpoint *ep = snap->views[view];
	struct kv_model *model = kv_endpoint_model(l->shared->models, snap, view);
	struct kv_known known;

	if (!model || heard(l, ep))
		return;
	pthread_mutex_lock(&l->shared->lock);
	known = l->shared->known[ep->slot];
	pthread_mutex_unlock(&l->shared->lock);
	if (known.told && known.generation == ep->generation)
		for (unsigned int i = 0; i < known.count; i++)
			hearing_new(l, ep, model->vocab, &known.sources[i]);
	if (l->bound_sub && !heard(l, ep))
		hearing_new(l, ep, model->vocab, NULL);
}

static void gone_close(struct kv_listener *l)
{
	struct hearing **link = &l->all;

	while (*link) {
		struct hearing *h = *link;

		if (!h->gone) {
			link = &h->next;
			continue;
		}
		kv_index_forget(l->shared->index, h->ep->slot);
		*link = h->next;
		l->count--;
		hearing_free(h);
	}
}

/* Makes what is heard what the store and the learner say. */
static void sync(struct kv_listener *l)
{
	struct endpoint_snapshot *snap = store_snapshot(l->shared->store);
	uint64_t version;

	pthread_mutex_lock(&l->shared->lock);
	version = l->shared->version;
	pthread_mutex_unlock(&l->shared->lock);
	if (version != l->seen_version || snap->version != l->snapshot_version) {
		l->seen_version = version;
		l->snapshot_version = snap->version;
		for (struct hearing *h = l->all; h; h = h->next) {
			bool there = false;

			for (uint32_t v = 0; v < snap->view_count && !there; v++)
				there = snap->views[v]->slot == h->ep->slot &&
					snap->views[v]->generation == h->ep->generation;
			h->gone = !there;
		}
		gone_close(l);
		for (uint32_t v = 0; v < snap->view_count; v++)
			endpoint_hear(l, snap, v);
	}
	snapshot_put(snap);
}

/* ---- the loop ---- */

static int items_fill(struct kv_listener *l)
{
	int n = 0;

	if (l->bound_sub)
		l->items[n++] = (zmq_pollitem_t){.socket = l->bound_sub, .events = ZMQ_POLLIN};
	for (struct hearing *h = l->all; h; h = h->next) {
		if (h->bound)
			continue;
		l->items[n++] = (zmq_pollitem_t){.socket = h->dealer ? h->dealer : h->sub,
						 .events = ZMQ_POLLIN};
		l->items[n++] = (zmq_pollitem_t){.socket = h->monitor, .events = ZMQ_POLLIN};
	}
	return n;
}

/*
 * Blocks were lost because their tokens were not learned yet. They are by now: begin anew, if the
 * engine can tell it all again.
 */
static void learned_look(struct kv_listener *l, struct hearing *h)
{
	struct vocab *v = h->applier.vocab;
	uint32_t version = atomic_load(&v->version);
	uint64_t unknown = h->applier.applied.unlearned;

	if (!v->learned || h->dealer || !*h->source.replay || unknown == h->unknown_seen ||
	    version == h->vocab_seen ||
	    atomic_load(&v->wanted_head) != atomic_load(&v->wanted_tail))
		return;
	h->unknown_seen = unknown;
	h->vocab_seen = version;
	h->no_replay = false;
	forget(l, h, "are told again, now that their tokens are known");
	replay_begin(l, h, 0);
}

static void turn(struct kv_listener *l)
{
	int n = items_fill(l), at = 0;
	uint64_t now;

	zmq_poll(l->items, n, SYNC_MS);
	now = clock_mono_ns();
	if (l->bound_sub && l->items[at++].revents)
		bound_read(l);
	for (struct hearing *h = l->all; h; h = h->next) {
		if (h->bound)
			continue;
		if (l->items[at++].revents) {
			if (h->dealer)
				replay_read(l, h);
			else
				sub_read(l, h);
		}
		if (l->items[at++].revents)
			monitor_read(l, h);
		if (h->dealer && now > h->replay_until_ns)
			replay_late(l, h);
		learned_look(l, h);
	}
	kv_index_sweep(l->shared->index, SWEEP_PLACES);
}

static void *run(void *arg)
{
	struct kv_listener *l = arg;
	uint64_t sync_at = 0;

	pthread_setname_np(pthread_self(), "kv-events");
	while (!l->stop) {
		uint64_t now = clock_mono_ns();

		if (now >= sync_at) {
			sync(l);
			sync_at = now + SYNC_MS * NS_PER_MS;
		}
		turn(l);
	}
	for (struct hearing *h = l->all; h; h = h->next)
		h->gone = true;
	gone_close(l);
	return NULL;
}

static int bind_sub(struct kv_listener *l, const char *address)
{
	int linger = 0, ipv6 = 1, fd;
	int64_t bytes_max = KV_MESSAGE_BYTES_MAX;

	if (!address || !*address)
		return 0;
	l->bound_sub = zmq_socket(l->zmq, ZMQ_SUB);
	if (!l->bound_sub)
		return -ENOMEM;
	zmq_setsockopt(l->bound_sub, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(l->bound_sub, ZMQ_IPV6, &ipv6, sizeof(ipv6));
	zmq_setsockopt(l->bound_sub, ZMQ_MAXMSGSIZE, &bytes_max, sizeof(bytes_max));
	zmq_setsockopt(l->bound_sub, ZMQ_SUBSCRIBE, "", 0);
	fd = kv_bind_socket(address);
	if (fd >= 0)
		zmq_setsockopt(l->bound_sub, ZMQ_USE_FD, &fd, sizeof(fd));
	if (zmq_bind(l->bound_sub, address) < 0) {
		log_error("kv-events-bind %s: %s", address, zmq_strerror(zmq_errno()));
		return -EADDRNOTAVAIL;
	}
	return 0;
}

static void listener_free(struct kv_listener *l)
{
	if (l->bound_sub)
		zmq_close(l->bound_sub);
	if (l->zmq)
		zmq_ctx_term(l->zmq);
	free(l->decoder);
	free(l->items);
	free(l);
}

int kv_listener_start(struct kv_shared *shared, struct kv_listener **ret)
{
	struct kv_listener *l = calloc(1, sizeof(*l));
	int err = -ENOMEM;

	if (!l)
		return err;
	l->shared = shared;
	l->snapshot_version = ~0ULL;
	l->decoder = calloc(1, sizeof(*l->decoder));
	l->items = calloc(2 * KV_SOURCES_MAX + 1, sizeof(*l->items));
	l->zmq = zmq_ctx_new();
	if (l->decoder && l->items && l->zmq) {
		zmq_ctx_set(l->zmq, ZMQ_MAX_SOCKETS, 4 * KV_SOURCES_MAX);
		err = bind_sub(l, shared->config->kv_events_bind);
	}
	if (!err)
		err = -pthread_create(&l->thread, NULL, run, l);
	if (err)
		listener_free(l);
	else
		*ret = l;
	return err;
}

void kv_listener_stop(struct kv_listener *l)
{
	if (!l)
		return;
	l->stop = true;
	pthread_join(l->thread, NULL);
	listener_free(l);
}
