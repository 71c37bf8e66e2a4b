/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The books: which blocks an engine holds for another, who pulls them, when a transfer is over.
 * Invariant: a hold leaves the list exactly once: pulled, released by an abort, or it is a leak,
 * which /sim/kv shows for as long as it stays.
 */
#include "sluice-sim/pd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct pd_connector *const connectors[] = {
	&pd_nixlv2, &pd_sglang, &pd_mooncake, &pd_offloading, &pd_moriio, &pd_shared_storage,
};

static const struct pd_connector *connector;
static const struct sim_options *options;
static struct instance *instances;
static struct pd_hold *holds;
static struct conn *transfers[65536]; /* legs that wait, in no order */
static unsigned int transfer_count;

const struct pd_connector *pd_find(const char *name)
{
	for (size_t i = 0; i < sizeof(connectors) / sizeof(*connectors); i++)
		if (strcmp(connectors[i]->name, name) == 0)
			return connectors[i];
	return NULL;
}

void pd_init(const struct sim_options *opt, struct instance *insts)
{
	options = opt;
	instances = insts;
	connector = opt->kv_connector ? pd_find(opt->kv_connector) : NULL;
}

struct instance *pd_instance(unsigned int port)
{
	if (port < options->port || port >= options->port + options->instances)
		return NULL;
	return &instances[port - options->port];
}

unsigned int pd_block_tokens(void)
{
	return options->block_size;
}

/* ---- holds ---- */

struct pd_hold *pd_hold_find(const struct instance *inst, const char *key)
{
	for (struct pd_hold *h = holds; h; h = h->next)
		if ((!inst || h->inst == inst) && strcmp(h->key, key) == 0)
			return h;
	return NULL;
}

/* A decode leg that came before its prefill. */
static struct conn *reader_waiting(const char *key)
{
	for (unsigned int i = 0; i < transfer_count; i++)
		if (!transfers[i]->pd->due_ms && strcmp(transfers[i]->pd->key, key) == 0)
			return transfers[i];
	return NULL;
}

static struct pd_hold *hold_new(struct conn *c)
{
	struct pd_hold *h = calloc(1, sizeof(*h));

	if (connector->meets)
		h->reader = reader_waiting(c->pd->key);
	snprintf(h->key, sizeof(h->key), "%s", c->pd->key);
	h->inst = c->inst;
	h->tokens = c->pd->prompt_tokens;
	h->blocks = c->pd->blocks;
	h->writer = c;
	h->since_ms = server_now_ms();
	h->next = holds;
	holds = h;
	return h;
}

static void hold_free(struct pd_hold *h)
{
	struct pd_hold **link = &holds;

	while (*link != h)
		link = &(*link)->next;
	*link = h->next;
	json_decref(h->params);
	free(h);
}

static struct pd_hold *hold_of_reader(const struct conn *c)
{
	for (struct pd_hold *h = holds; h; h = h->next)
		if (h->reader == c)
			return h;
	return NULL;
}

/* ---- answers that are no answers ---- */

/* No event before the blocks are here: so a failure can be the first. */
static void stream_head_alone(struct conn *c)
{
	struct reply r = c->reply;

	r.api = SIM_COMPLETION;
	reply_stream_head(&c->out, &r);
}

/* What reply_stream_head() has beyond the head. */
static void stream_first_event(struct conn *c)
{
	struct out both = {0};
	const char *end;

	reply_stream_head(&both, &c->reply);
	end = memmem(both.data, both.len, "\r\n\r\n", 4);
	out_add(&c->out, end + 4, both.len - (size_t)(end + 4 - both.data));
	free(both.data);
}

enum pd_verdict pd_fail(struct conn *c, const char *why)
{
	static const char event[] =
		"data: {\"error\": {\"message\": \"Internal server error\", \"type\": "
		"\"InternalServerError\", \"param\": null, \"code\": 500}}\n\n";

	fprintf(stderr, "sim-%u: a leg failed: %s\n", c->inst->port, why);
	c->inst->pd.failed++;
	if (!c->reply.stream) {
		reply_error(&c->out, 500, "InternalServerError", "Internal server error", NULL,
			    c->inst->port);
		return PD_ANSWERED;
	}
	if (!c->pd) /* else its head is out */
		stream_head_alone(c);
	out_printf(&c->out, "%zx\r\n%s\r\n", sizeof(event) - 1, event);
	out_printf(&c->out, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
	return PD_ANSWERED;
}

enum pd_verdict pd_refuse(struct conn *c, const char *why)
{
	fprintf(stderr, "sim-%u: a leg refused: %s\n", c->inst->port, why);
	c->inst->pd.refused++;
	reply_error(&c->out, 400, "BadRequestError", why, NULL, c->inst->port);
	return PD_ANSWERED;
}

static bool one(json_t *body, const char *name, bool needed)
{
	json_t *v = json_object_get(body, name);

	return v ? json_is_integer(v) && json_integer_value(v) == 1 : !needed;
}

const char *pd_one_token(json_t *body)
{
	json_t *sampling = json_object_get(body, "sampling_params");
	bool responses = json_object_get(body, "max_output_tokens");

	if (!json_is_false(json_object_get(body, "stream")))
		return "a prefill leg must not stream";
	if (json_object_get(body, "stream_options"))
		return "a prefill leg has no stream_options";
	if (json_object_get(body, "token_ids") && !json_object_get(body, "prompt"))
		return one(sampling, "max_tokens", true) && one(sampling, "min_tokens", false)
			       ? ""
			       : "a prefill leg makes one token";
	if (!one(body, "max_output_tokens", false) || !one(body, "max_tokens", !responses) ||
	    !one(body, "max_completion_tokens", false) || !one(body, "min_tokens", false))
		return "a prefill leg makes one token";
	return "";
}

/* ---- failures on order ---- */

static bool failure_due(struct conn *c, const char *leg, const char *what)
{
	struct pd_failure *f = &c->inst->pd.failure;

	if (!f->count || strcmp(f->leg, leg) != 0 || strcmp(f->what, what) != 0)
		return false;
	f->count--;
	c->inst->pd.injected++;
	return true;
}

void pd_order_failure(struct conn *c, json_t *body)
{
	struct pd_failure *f = &c->inst->pd.failure;
	const char *leg = json_string_value(json_object_get(body, "leg"));
	const char *what = json_string_value(json_object_get(body, "what"));

	snprintf(f->leg, sizeof(f->leg), "%s", leg ? leg : "");
	snprintf(f->what, sizeof(f->what), "%s", what ? what : "");
	f->count = (unsigned int)json_integer_value(json_object_get(body, "count"));
	reply_json(&c->out, 200, "{}", c->inst->port, true);
	if (strcmp(f->what, "refused") == 0)
		server_unlisten(c->inst);
}

/* What a leg meets instead of being served. */
static enum pd_verdict failed_on_order(struct conn *c, const char *leg)
{
	if (failure_due(c, leg, "reset")) {
		c->dead = true;
		return PD_ANSWERED;
	}
	if (failure_due(c, leg, "hang"))
		return PD_ON_ITS_WAY;
	if (failure_due(c, leg, "status-500"))
		return pd_fail(c, "on order");
	if (failure_due(c, leg, "status-503")) {
		reply_error(&c->out, 503, "ServiceUnavailableError", "On order.", NULL,
			    c->inst->port);
		return PD_ANSWERED;
	}
	if (failure_due(c, leg, "status-429")) {
		reply_error(&c->out, 429, "rate_limit_exceeded", "On order.", NULL, c->inst->port);
		return PD_ANSWERED;
	}
	if (failure_due(c, leg, "status-400")) {
		reply_error(&c->out, 400, "BadRequestError", "On order.", "messages",
			    c->inst->port);
		return PD_ANSWERED;
	}
	return PD_PLAIN;
}

/* ---- legs ---- */

static struct pd_leg *leg_new(struct conn *c, enum pd_role role, struct seq *s, const char *key)
{
	struct pd_leg *leg = calloc(1, sizeof(*leg));

	leg->role = role;
	leg->prompt_tokens = s->prompt_tokens;
	leg->blocks = (s->prompt_tokens + options->block_size - 1) / options->block_size;
	leg->since_ms = server_now_ms();
	snprintf(leg->key, sizeof(leg->key), "%s", key);
	c->pd = leg;
	return leg;
}

enum pd_verdict pd_prefills(struct conn *c, struct seq *s, const char *key)
{
	enum pd_verdict v = failed_on_order(c, "prefill");

	if (v != PD_PLAIN)
		return v;
	leg_new(c, PD_PREFILLS, s, key);
	c->inst->pd.prefills++;
	if (connector->meets)
		hold_new(c);
	return PD_PLAIN;
}

static void transfer_begin(struct conn *c)
{
	double ms = engine_sample(&c->inst->engine, options->kv_transfer_ms,
				  options->kv_transfer_sd_ms) +
		    options->kv_transfer_ms_per_token * c->pd->prompt_tokens;

	c->pd->due_ms = server_now_ms() + ms / options->time_scale;
}

static enum pd_verdict decode_waits(struct conn *c, struct seq *s, struct pd_hold *h,
				    const char *key)
{
	enum pd_verdict v = failed_on_order(c, "decode");
	struct pd_leg *leg;

	if (v != PD_PLAIN)
		return v;
	leg = leg_new(c, PD_DECODES, s, key);
	leg->parked = s;
	if (h)
		h->reader = c;
	c->inst->pd.decodes++;
	if (transfer_count == sizeof(transfers) / sizeof(*transfers))
		return pd_fail(c, "too many transfers");
	transfers[transfer_count++] = c;
	if (h && h->ready)
		transfer_begin(c);
	if (c->reply.stream) {
		stream_head_alone(c);
		conn_flush(c);
	}
	return PD_ON_ITS_WAY;
}

enum pd_verdict pd_loads_nothing(struct conn *c)
{
	enum pd_verdict v = failed_on_order(c, "encode");

	if (failure_due(c, "encode", "no-params")) {
		free(c->reply.ec_params);
		c->reply.ec_params = NULL;
	}
	return v;
}

enum pd_verdict pd_pulls(struct conn *c, struct seq *s, struct pd_hold *h)
{
	return decode_waits(c, s, h, h->key);
}

enum pd_verdict pd_meets(struct conn *c, struct seq *s, const struct instance *prefiller,
			 const char *key)
{
	struct pd_hold *h = pd_hold_find(prefiller, key);

	if (h && h->reader)
		return pd_fail(c, "two decode legs in one room");
	return decode_waits(c, s, h, key);
}

enum pd_verdict pd_loads(struct conn *c, struct seq *s, bool hit)
{
	enum pd_verdict v = failed_on_order(c, "decode");

	if (v != PD_PLAIN)
		return v;
	leg_new(c, PD_DECODES, s, "load");
	c->inst->pd.decodes++;
	c->inst->pd.transfers += hit;
	return PD_PLAIN;
}

void pd_stream_one(struct conn *c, const char *json)
{
	stream_head_alone(c);
	out_printf(&c->out, "%zx\r\ndata: %s\n\n\r\n", strlen(json) + 8, json);
	out_printf(&c->out, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

enum pd_verdict pd_begin(struct conn *c, const struct http1_head *head, json_t *body, struct seq *s)
{
	enum pd_verdict v;

	(void)head;
	if (!connector)
		return PD_PLAIN;
	v = pd_encode_begin(c, body, s);
	return v == PD_PLAIN && !c->reply.ec_params ? connector->begin(c, body, s) : v;
}

/* Another answer than the good one, for a prefill that was computed. */
static bool answer_spoilt(struct conn *c)
{
	static char big[(1 << 20) + 4096];

	if (failure_due(c, "prefill", "no-params")) {
		free(c->reply.kv_params);
		c->reply.kv_params = NULL;
	} else if (failure_due(c, "prefill", "malformed")) {
		reply_json(&c->out, 200, "{\"id\":\"x\",\"kv_transfer_params\":{\"do_remote_",
			   c->inst->port, true);
		return true;
	} else if (failure_due(c, "prefill", "garbage")) {
		out_add(&c->out, "SSH-2.0-Sim\r\n\r\n", 15);
		return true;
	} else if (failure_due(c, "prefill", "too-large")) {
		memset(big, ' ', sizeof(big) - 1);
		memcpy(big, "{}", 2);
		reply_json(&c->out, 200, big, c->inst->port, true);
		return true;
	} else if (failure_due(c, "prefill", "late-reset")) {
		c->dead = true;
		return true;
	}
	return false;
}

/* The prefill of a pair that meets is computed: its answer waits for the transfer. */
static bool finish_meeting(struct conn *c)
{
	struct pd_hold *h = pd_hold_find(c->inst, c->pd->key);

	h->ready = true;
	if (answer_spoilt(c)) {
		pd_gone(c);
		return false;
	}
	if (h->reader)
		transfer_begin(h->reader);
	return false;
}

bool pd_finish(struct conn *c)
{
	struct pd_leg *leg = c->pd;
	struct pd_hold *h;
	bool sent;

	if (!leg)
		return true;
	if (connector->meets)
		return finish_meeting(c);
	if (connector->finished) {
		connector->finished(c);
		sent = leg->role != PD_PREFILLS || !answer_spoilt(c);
		free(leg);
		c->pd = NULL;
		return sent;
	}
	h = hold_new(c);
	h->ready = true;
	h->writer = NULL;
	h->params = connector->params ? connector->params(c, h) : NULL;
	if (h->params)
		c->reply.kv_params = json_dumps(h->params, JSON_COMPACT);
	sent = !answer_spoilt(c);
	if (!sent || (!c->reply.kv_params && !connector->stores))
		hold_free(h); /* nobody will ever know of these blocks */
	free(leg);
	c->pd = NULL;
	return sent;
}

static void transfer_forget(const struct conn *c)
{
	for (unsigned int i = 0; i < transfer_count; i++)
		if (transfers[i] == c)
			transfers[i] = transfers[--transfer_count];
}

/* A decode leg that dies tells the prefill engine, whatever it had begun; one that prefills frees
 * what it held in the making. */
static void leg_free(struct conn *c)
{
	if (c->pd->parked)
		seq_free(c->pd->parked);
	free(c->pd);
	c->pd = NULL;
}

/* The other half of a pair cannot go on. */
static void half_fails(struct conn *c)
{
	transfer_forget(c);
	pd_fail(c, "its other half is gone");
	if (c->seq)
		c->dead = true; /* it still computes: its connection's end stops it */
	else
		leg_free(c);
	conn_flush(c);
}

void pd_gone(struct conn *c)
{
	struct pd_leg *leg = c->pd;
	struct pd_hold *h;
	struct conn *other = NULL;

	free(c->reply.kv_params);
	c->reply.kv_params = NULL;
	free(c->reply.ec_params);
	c->reply.ec_params = NULL;
	if (!leg)
		return;
	c->inst->pd.aborted++;
	transfer_forget(c);
	h = leg->role == PD_DECODES ? hold_of_reader(c) : pd_hold_find(c->inst, leg->key);
	if (h && (h->reader == c || h->writer == c)) {
		if (connector->meets)
			other = h->reader == c ? h->writer : h->reader;
		h->inst->pd.released += h->reader == c;
		hold_free(h);
	}
	leg_free(c);
	if (other)
		half_fails(other);
}

/* The blocks are here: the prefill engine lets go, the sequence decodes. */
static void writer_answers(struct conn *w)
{
	free(w->pd);
	w->pd = NULL;
	if (w->reply.stream)
		reply_stream_token(&w->out, &w->reply, 0, true);
	else
		reply_whole(&w->out, &w->reply);
	conn_flush(w);
}

/* It fails half-way: the blocks stay where they are, for whoever asks again. */
static void transfer_fails(struct conn *c, struct pd_hold *h)
{
	struct seq *s = c->pd->parked;

	if (h && connector->meets) {
		if (h->writer)
			writer_answers(h->writer);
		hold_free(h);
	} else if (h) {
		h->reader = NULL;
	}
	pd_fail(c, "transfer, on order");
	free(c->pd);
	c->pd = NULL;
	seq_free(s);
	conn_flush(c);
}

static void transfer_end(struct conn *c)
{
	struct pd_hold *h = hold_of_reader(c);
	struct seq *s = c->pd->parked;
	struct conn *writer = NULL;

	if (failure_due(c, "decode", "transfer")) {
		transfer_fails(c, h);
		return;
	}
	if (h) {
		h->inst->pd.transfers++;
		writer = h->writer;
		hold_free(h);
	}
	if (writer)
		writer_answers(writer);
	free(c->pd);
	c->pd = NULL;
	if (c->reply.stream)
		stream_first_event(c);
	s->remote = true;
	c->seq = s;
	if (engine_submit(&c->inst->engine, s, server_now_ms())) {
		c->seq = NULL;
		seq_free(s);
		c->dead = true;
	}
}

double pd_run(double now_ms)
{
	double soonest = -1;

	for (unsigned int i = 0; i < transfer_count;) {
		struct conn *c = transfers[i];

		if (c->pd->due_ms && c->pd->due_ms <= now_ms && !c->dead) {
			transfers[i] = transfers[--transfer_count];
			transfer_end(c);
			continue;
		}
		if (c->pd->due_ms && (soonest < 0 || c->pd->due_ms - now_ms < soonest))
			soonest = c->pd->due_ms > now_ms ? c->pd->due_ms - now_ms : 0;
		i++;
	}
	return soonest;
}

void pd_report(struct conn *c)
{
	const struct pd_books *b = &c->inst->pd;
	uint32_t requests = 0, blocks = 0;
	double oldest = 0, now = server_now_ms();
	char text[768];

	for (const struct pd_hold *h = holds; h; h = h->next) {
		if (h->inst != c->inst || !h->ready || connector->stores)
			continue;
		requests++;
		blocks += h->blocks;
		if (now - h->since_ms > oldest)
			oldest = now - h->since_ms;
	}
	snprintf(text, sizeof(text),
		 "{\"connector\":\"%s\",\"held_requests\":%u,\"held_blocks\":%u,\"oldest_ms\":%.0f,"
		 "\"prefills\":%llu,\"decodes\":%llu,\"transfers\":%llu,\"released\":%llu,"
		 "\"aborted\":%llu,\"refused\":%llu,\"failed\":%llu,\"injected\":%llu,"
		 "\"queries\":%llu,\"encodes\":%llu,\"ec_used\":%llu,\"encoded_here\":%llu,"
		 "\"running\":%u}",
		 connector ? connector->name : "off", requests, blocks, oldest, b->prefills,
		 b->decodes, b->transfers, b->released, b->aborted, b->refused, b->failed,
		 b->injected, b->queries, b->encodes, b->ec_used, b->encoded_here,
		 c->inst->engine.running_count + c->inst->engine.waiting_count);
	reply_json(&c->out, 200, text, c->inst->port, true);
}

void pd_query(struct conn *c)
{
	char text[96];

	snprintf(text, sizeof(text), "{\"0\": {\"engine_id\": \"sim-engine-%u\"}}", c->inst->port);
	c->inst->pd.queries++;
	reply_json(&c->out, 200, text, c->inst->port, true);
}
