/* SPDX-License-Identifier: Apache-2.0 */
/* Events gather in a buffer and leave as batches; the last REPLAY_MAX messages can be had again. */
#include "sluice-sim/events.h"

#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "base/clock.h"

#define REPLAY_MAX 10000

struct message {
	uint64_t seq;
	char *bytes;
	size_t len;
};

struct events {
	const struct sim_options *opt;
	void *pub, *router;
	char endpoint[128], replay[128], topic[256];
	unsigned int number, rank;	 /* of the instance; within its engine */
	uint32_t running, waiting, used; /* as last told */
	uint64_t next, base;	/* messages sent since the beginning; the number of the first */
	msgpack_sbuffer events; /* of the batch that gathers */
	msgpack_packer packer;
	unsigned int count;
	uint64_t *fresh; /* blocks stored since the last events_stored(), deepest first */
	size_t fresh_count, fresh_size;
	struct message kept[REPLAY_MAX];
	struct message held; /* on its way, to be overtaken */
};

static void *zmq;

static void number_from_clock(struct events *ev);

static void fail(const char *what, const char *endpoint)
{
	fprintf(stderr, "sluice-sim: %s %s: %s\n", what, endpoint, zmq_strerror(zmq_errno()));
	exit(1);
}

/* "tcp://127.0.0.1:5557", the n-th port from there. */
static void endpoint_of(const char *base, unsigned int n, char *to, size_t size)
{
	const char *colon = strrchr(base, ':');

	if (!colon || strncmp(base, "tcp://", 6) != 0) {
		fprintf(stderr, "sluice-sim: %s: not tcp://ADDR:PORT\n", base);
		exit(2);
	}
	snprintf(to, size, "%.*s:%lu", (int)(colon - base), base, strtoul(colon + 1, NULL, 10) + n);
}

static void *socket_open(int type, const char *endpoint, int hwm, bool connects)
{
	void *s = zmq_socket(zmq, type);
	int linger = 0;

	zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(s, ZMQ_SNDHWM, &hwm, sizeof(hwm));
	if ((connects ? zmq_connect(s, endpoint) : zmq_bind(s, endpoint)) < 0)
		fail("cannot publish at", endpoint);
	return s;
}

static struct events *events_new(const struct sim_options *opt, unsigned int n)
{
	struct events *ev;
	int hwm = opt->event_hwm ? (int)opt->event_hwm : 100000;

	if (!zmq) {
		zmq = zmq_ctx_new();
		zmq_ctx_set(zmq, ZMQ_MAX_SOCKETS, 4096);
	}
	ev = calloc(1, sizeof(*ev));
	ev->opt = opt;
	msgpack_sbuffer_init(&ev->events);
	msgpack_packer_init(&ev->packer, &ev->events, msgpack_sbuffer_write);
	endpoint_of(opt->zmq_endpoint, opt->zmq_connect ? 0 : n, ev->endpoint,
		    sizeof(ev->endpoint));
	ev->pub = socket_open(ZMQ_PUB, ev->endpoint, hwm, opt->zmq_connect);
	if (opt->replay_endpoint) {
		endpoint_of(opt->replay_endpoint, n, ev->replay, sizeof(ev->replay));
		ev->router = socket_open(ZMQ_ROUTER, ev->replay, 100000, false);
	}
	ev->number = n;
	ev->rank = n % opt->ranks;
	snprintf(ev->topic, sizeof(ev->topic), "kv@%s:%u@%s", opt->host, opt->port + n, opt->model);
	return ev;
}

void events_attach(struct engine *e, const struct sim_options *opt, unsigned int n)
{
	if (!opt->zmq_endpoint)
		return;
	e->events = events_new(opt, n);
	e->stored = events_stored;
	e->changed = events_changed;
	engine_forget(e); /* a new cache, observed */
	number_from_clock(e->events);
}

void events_free(struct events *ev)
{
	if (!ev)
		return;
	zmq_close(ev->pub);
	if (ev->router)
		zmq_close(ev->router);
	for (size_t i = 0; i < REPLAY_MAX; i++)
		free(ev->kept[i].bytes);
	free(ev->held.bytes);
	free(ev->fresh);
	msgpack_sbuffer_destroy(&ev->events);
	free(ev);
}

/* ---- events ---- */

static void text(struct events *ev, const char *t)
{
	if (t)
		msgpack_pack_str_with_body(&ev->packer, t, strlen(t));
	else
		msgpack_pack_nil(&ev->packer);
}

/* The next field, by name where events are maps. */
static void field(struct events *ev, const char *name)
{
	if (ev->opt->map_events)
		text(ev, name);
}

static void event_begin(struct events *ev, const char *tag, unsigned int fields)
{
	if (ev->opt->map_events)
		msgpack_pack_map(&ev->packer, fields + 1);
	else
		msgpack_pack_array(&ev->packer, fields + 1);
	field(ev, "type");
	text(ev, tag);
	ev->count++;
}

static void flush(struct events *ev);

static void event_end(struct events *ev)
{
	if (ev->count >= (ev->opt->event_batch ? ev->opt->event_batch : 1))
		flush(ev);
}

/* Blocks [from, to) of the sequence. */
static void stored(struct events *ev, const struct seq *s, uint32_t from, uint32_t to)
{
	uint32_t size = ev->opt->block_size;

	event_begin(ev, "BlockStored", 8);
	field(ev, "block_hashes");
	msgpack_pack_array(&ev->packer, to - from);
	for (uint32_t i = from; i < to; i++)
		msgpack_pack_uint64(&ev->packer, s->chain[i]);
	field(ev, "parent_block_hash");
	if (from)
		msgpack_pack_uint64(&ev->packer, s->chain[from - 1]);
	else
		msgpack_pack_nil(&ev->packer);
	field(ev, "token_ids");
	msgpack_pack_array(&ev->packer, (size_t)(to - from) * size);
	for (uint32_t i = from * size; i < to * size; i++)
		msgpack_pack_uint32(&ev->packer, s->tokens[i]);
	field(ev, "block_size");
	msgpack_pack_uint32(&ev->packer, size);
	field(ev, "lora_id");
	if (s->adapter)
		msgpack_pack_uint32(&ev->packer, 1);
	else
		msgpack_pack_nil(&ev->packer);
	field(ev, "medium");
	text(ev, "GPU");
	field(ev, "lora_name");
	text(ev, s->adapter);
	field(ev, "extra_keys");
	msgpack_pack_array(&ev->packer, to - from);
	for (uint32_t i = from; i < to; i++) {
		unsigned int keys = (s->adapter != NULL) + (i == 0 && *s->salt);

		if (!keys) {
			msgpack_pack_nil(&ev->packer);
			continue;
		}
		msgpack_pack_array(&ev->packer, keys);
		if (s->adapter)
			text(ev, s->adapter);
		if (i == 0 && *s->salt)
			text(ev, s->salt);
	}
	event_end(ev);
}

void events_changed(void *arg, uint64_t hash, bool is_stored)
{
	struct events *ev = arg;

	if (!is_stored && ev->opt->event_keep)
		return;
	if (!is_stored) {
		event_begin(ev, "BlockRemoved", 2);
		field(ev, "block_hashes");
		msgpack_pack_array(&ev->packer, 1);
		msgpack_pack_uint64(&ev->packer, hash);
		field(ev, "medium");
		text(ev, "GPU");
		event_end(ev);
		return;
	}
	if (ev->fresh_count == ev->fresh_size) {
		ev->fresh_size = ev->fresh_size ? ev->fresh_size * 2 : 256;
		ev->fresh = realloc(ev->fresh, ev->fresh_size * sizeof(*ev->fresh));
		if (!ev->fresh)
			abort();
	}
	ev->fresh[ev->fresh_count++] = hash;
}

void events_stored(struct events *ev, const struct cache *cache, const struct seq *s)
{
	size_t left = ev->fresh_count;
	uint32_t run = 0, i;

	/* The cache stores a chain from its end, so the list read backwards rises. */
	for (i = 0; i < s->chain_count; i++) {
		bool fresh = left && ev->fresh[left - 1] == s->chain[i];

		left -= fresh;
		if (fresh && cache_match(cache, &s->chain[i], 1))
			continue;
		if (run < i && s->tokens)
			stored(ev, s, run, i);
		run = i + 1;
	}
	if (run < i && s->tokens)
		stored(ev, s, run, i);
	ev->fresh_count = 0;
}

void events_cleared(struct events *ev)
{
	event_begin(ev, "AllBlocksCleared", 0);
	event_end(ev);
}

/* As TensorRT-LLM: numbers go on after a restart, and the first message says what became of blocks.
 */
static void number_from_clock(struct events *ev)
{
	if (!ev->opt->clock_sequence)
		return;
	ev->base = clock_wall_ns();
	events_cleared(ev);
}

/* ---- messages ---- */

static void send_parts(struct events *ev, void *socket, const struct message *m)
{
	unsigned char seq[8];

	for (unsigned int i = 0; i < 8; i++)
		seq[i] = (unsigned char)(m->seq >> (56 - 8 * i));
	zmq_send(socket, ev->topic, strlen(ev->topic), ZMQ_SNDMORE | ZMQ_DONTWAIT);
	zmq_send(socket, seq, sizeof(seq), ZMQ_SNDMORE | ZMQ_DONTWAIT);
	zmq_send(socket, m->bytes, m->len, ZMQ_DONTWAIT);
}

static bool happens(double percent)
{
	return percent > 0 && drand48() * 100 < percent;
}

/* Sends, unless this message's lot is another. */
static void publish(struct events *ev, const struct message *m)
{
	if (happens(ev->opt->event_loss))
		return;
	if (!ev->held.bytes && happens(ev->opt->event_reorder)) {
		ev->held = (struct message){m->seq, malloc(m->len), m->len};
		memcpy(ev->held.bytes, m->bytes, m->len);
		return;
	}
	send_parts(ev, ev->pub, m);
	if (happens(ev->opt->event_duplicate))
		send_parts(ev, ev->pub, m);
	if (ev->held.bytes) {
		send_parts(ev, ev->pub, &ev->held);
		free(ev->held.bytes);
		ev->held.bytes = NULL;
	}
}

/* One more message, kept for replays; its payload is freed. */
static void message_out(struct events *ev, msgpack_sbuffer *payload)
{
	struct message *m = &ev->kept[ev->next % REPLAY_MAX];

	free(m->bytes);
	*m = (struct message){ev->base + ev->next++, malloc(payload->size), payload->size};
	memcpy(m->bytes, payload->data, payload->size);
	msgpack_sbuffer_destroy(payload);
	publish(ev, m);
}

static void flush(struct events *ev)
{
	msgpack_sbuffer head, whole;
	msgpack_packer p;

	if (!ev->count)
		return;
	msgpack_sbuffer_init(&head);
	msgpack_packer_init(&p, &head, msgpack_sbuffer_write);
	msgpack_pack_array(&p, 3);
	msgpack_pack_double(&p, (double)clock_wall_ns() / 1e9);
	msgpack_pack_array(&p, ev->count);
	msgpack_sbuffer_init(&whole);
	msgpack_sbuffer_write(&whole, head.data, head.size);
	msgpack_sbuffer_write(&whole, ev->events.data, ev->events.size);
	msgpack_packer_init(&p, &whole, msgpack_sbuffer_write);
	msgpack_pack_uint32(&p, ev->rank);
	msgpack_sbuffer_destroy(&head);
	msgpack_sbuffer_clear(&ev->events);
	ev->count = 0;
	message_out(ev, &whole);
}

void events_load(struct events *ev, const struct engine *e)
{
	uint32_t used = cache_used(e->cache) * ev->opt->block_size;
	msgpack_sbuffer whole;
	msgpack_packer p;

	if (!ev->opt->load_stat || (e->running_count == ev->running &&
				    e->waiting_count == ev->waiting && used == ev->used))
		return;
	flush(ev);
	ev->running = e->running_count;
	ev->waiting = e->waiting_count;
	ev->used = used;
	msgpack_sbuffer_init(&whole);
	msgpack_packer_init(&p, &whole, msgpack_sbuffer_write);
	msgpack_pack_array(&p, 6);
	msgpack_pack_str_with_body(&p, "LoadStat", 8);
	msgpack_pack_uint32(&p, ev->running);
	msgpack_pack_uint32(&p, ev->waiting);
	msgpack_pack_uint32(&p, used);
	msgpack_pack_uint32(&p, ev->opt->kv_blocks * ev->opt->block_size);
	msgpack_pack_uint32(&p, ev->rank);
	message_out(ev, &whole);
}

/* [identity, "", start] -> [identity, "", topic, seq, payload]…, at last seq ~0. */
static void replay_answer(struct events *ev)
{
	char id[64], rest[64];
	unsigned char start[8];
	uint64_t from = 0;
	int id_len = zmq_recv(ev->router, id, sizeof(id), ZMQ_DONTWAIT), n;
	struct message last = {~0ULL, "", 0};

	if (id_len < 0)
		return;
	zmq_recv(ev->router, rest, sizeof(rest), ZMQ_DONTWAIT);
	n = zmq_recv(ev->router, start, sizeof(start), ZMQ_DONTWAIT);
	for (int i = 0; i < n && i < 8; i++)
		from = from << 8 | start[i];
	from = from > ev->base ? from - ev->base : 0;
	if (ev->next > REPLAY_MAX && from < ev->next - REPLAY_MAX)
		from = ev->next - REPLAY_MAX;
	for (; from < ev->next; from++) {
		zmq_send(ev->router, id, (size_t)id_len, ZMQ_SNDMORE | ZMQ_DONTWAIT);
		zmq_send(ev->router, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
		send_parts(ev, ev->router, &ev->kept[from % REPLAY_MAX]);
	}
	zmq_send(ev->router, id, (size_t)id_len, ZMQ_SNDMORE | ZMQ_DONTWAIT);
	zmq_send(ev->router, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
	send_parts(ev, ev->router, &last);
}

void events_run(struct events *ev)
{
	flush(ev);
	for (unsigned int i = 0; ev->router && i < 16; i++) {
		zmq_pollitem_t item = {.socket = ev->router, .events = ZMQ_POLLIN};

		if (zmq_poll(&item, 1, 0) <= 0)
			return;
		replay_answer(ev);
	}
}

uint64_t events_count(const struct events *ev)
{
	return ev->next + (ev->count > 0);
}

void events_restart(struct events *ev)
{
	ev->next = 0;
	ev->count = 0;
	ev->fresh_count = 0;
	msgpack_sbuffer_clear(&ev->events);
	number_from_clock(ev);
}

/* One rank's entry. Returns its length. */
static size_t source_write(const struct events *ev, unsigned int rank, char *to, size_t size)
{
	char endpoint[128], replay[128] = "null", quoted[132];
	unsigned int n = ev->number - ev->rank + rank;
	int len;

	endpoint_of(ev->opt->zmq_endpoint, ev->opt->zmq_connect ? 0 : n, endpoint,
		    sizeof(endpoint));
	if (ev->opt->replay_endpoint) {
		endpoint_of(ev->opt->replay_endpoint, n, replay, sizeof(replay));
		snprintf(quoted, sizeof(quoted), "\"%s\"", replay);
	} else {
		snprintf(quoted, sizeof(quoted), "null");
	}
	len = snprintf(
		to, size,
		"\"%u\":{\"enable_kv_cache_events\":true,\"publisher\":\"zmq\",\"endpoint\":\"%s\","
		"\"replay_endpoint\":%s,\"buffer_steps\":%d,\"hwm\":100000,"
		"\"max_queue_size\":100000,\"topic\":\"kv@%s:%u@%s\"}",
		rank, endpoint, quoted, REPLAY_MAX, ev->opt->host, ev->opt->port + n,
		ev->opt->model);
	return (size_t)len < size ? (size_t)len : size - 1;
}

void events_sources(const struct events *ev, char *to, size_t size)
{
	unsigned int first = ev->opt->rank_sources ? 0 : ev->rank,
		     end = ev->opt->rank_sources ? ev->opt->ranks : ev->rank + 1;
	size_t n = (size_t)snprintf(to, size, "{");

	for (unsigned int rank = first; rank < end && n + 1 < size; rank++) {
		n += (size_t)snprintf(to + n, size - n, "%s", rank > first ? "," : "");
		n += source_write(ev, rank, to + n, size - n);
	}
	snprintf(to + n, size - n, "}");
}
