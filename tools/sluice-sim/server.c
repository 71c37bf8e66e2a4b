/* SPDX-License-Identifier: Apache-2.0 */
/* One thread, one epoll: connections of all instances, and the engines' next steps. */
#include "sluice-sim/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/http1.h"
#include "common/sim_text.h"
#include "sluice-sim/reply.h"

#define IN_MAX (80u << 20)

struct instance {
	int fd;
	unsigned int port;
	struct engine engine;
};

struct conn {
	struct instance *inst;
	int fd;
	struct out in, out;
	size_t sent;
	struct seq *seq; /* running request */
	struct reply reply;
	char id[80], model[256];
	bool dead, want_write;
	double idle_ms;
	struct conn *next;
};

static int epfd;
static volatile sig_atomic_t stopping;
static struct conn *all;

static double now_ms(void)
{
	return (double)clock_mono_ns() / 1e6;
}

static void conn_flush(struct conn *c)
{
	struct epoll_event ev = {.data.ptr = c};
	bool want;

	while (c->sent < c->out.len) {
		size_t end = c->out.len;
		ssize_t n;

		for (unsigned int i = c->out.cut_count; i-- > 0;)
			if (c->out.cuts[i] > c->sent && c->out.cuts[i] < end)
				end = c->out.cuts[i];
		n = send(c->fd, c->out.data + c->sent, end - c->sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			c->dead = true;
			return;
		}
		c->sent += (size_t)n;
	}
	if (c->sent == c->out.len)
		c->sent = c->out.len = c->out.cut_count = 0;
	want = c->out.len > 0;
	if (want == c->want_write)
		return;
	c->want_write = want;
	ev.events = EPOLLIN | EPOLLRDHUP | (want ? EPOLLOUT : 0u);
	epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void seq_free(struct seq *s)
{
	free(s->chain);
	free(s);
}

static void token_made(struct seq *s)
{
	struct conn *c = s->owner;
	bool last = s->made >= s->max_tokens;

	c->reply.cached_tokens = s->cached_tokens;
	if (c->reply.stream)
		reply_stream_token(&c->out, &c->reply, s->made - 1, last);
	else if (last)
		reply_whole(&c->out, &c->reply);
	if (last) {
		c->seq = NULL;
		c->idle_ms = now_ms();
		seq_free(s);
	}
	if (c->out.len)
		conn_flush(c);
}

/* The prompt as text: every string below the prompt members, in order. */
static void prompt_text(json_t *v, struct out *to)
{
	const char *key;
	json_t *item;
	size_t i;

	if (json_is_string(v)) {
		out_add(to, json_string_value(v), json_string_length(v));
	} else if (json_is_integer(v)) {
		int id = (int)json_integer_value(v);

		out_add(to, &id, sizeof(id));
	} else if (json_is_array(v)) {
		json_array_foreach(v, i, item) prompt_text(item, to);
	} else if (json_is_object(v)) {
		json_object_foreach(v, key, item) prompt_text(item, to);
	}
}

static struct seq *seq_new(const struct sim_options *opt, const struct out *prompt,
			   const char *model, const char *salt)
{
	struct seq *s = calloc(1, sizeof(*s));
	uint64_t hash = XXH64(model, strlen(model), XXH64(salt, strlen(salt), 0));
	uint32_t bytes = opt->block_size * SIM_TOKEN_BYTES;

	s->prompt_tokens = (uint32_t)(prompt->len / SIM_TOKEN_BYTES) + 1;
	s->chain_count = (uint32_t)(prompt->len / bytes);
	s->chain = malloc((s->chain_count + 1) * sizeof(uint64_t));
	for (uint32_t i = 0; i < s->chain_count; i++) {
		hash = XXH64(prompt->data + (size_t)i * bytes, bytes, hash);
		s->chain[i] = hash;
	}
	return s;
}

static bool model_known(const struct sim_options *opt, const char *model)
{
	const char *p = opt->lora_modules ? opt->lora_modules : "";
	size_t n = strlen(model);

	if (strcmp(model, opt->model) == 0)
		return true;
	for (; n && *p; p += strcspn(p, ", "), p += strspn(p, ", "))
		if (strcspn(p, ", ") == n && memcmp(p, model, n) == 0)
			return true;
	return false;
}

static uint32_t int_member(json_t *body, const char *name, uint32_t otherwise)
{
	json_t *v = json_object_get(body, name);

	json_int_t n = json_integer_value(v);

	return !json_is_integer(v) ? otherwise
	       : n < 0		   ? 0
	       : n > INT32_MAX	   ? INT32_MAX
				   : (uint32_t)n;
}

static void embeddings(struct conn *c, uint32_t tokens)
{
	char body[512];

	snprintf(body, sizeof(body),
		 "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"model\":\"%s\",\"data\":[{"
		 "\"index\":0,\"object\":\"embedding\",\"embedding\":[0.5,-0.5,0.25,-0.25]}],"
		 "\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":0}}",
		 c->id, c->reply.created, c->model, tokens, tokens);
	reply_json(&c->out, 200, body, c->inst->port, true);
}

/* Injected failures, as llm-d-inference-sim names them. True if one was answered. */
static bool failure_injected(struct conn *c)
{
	static const struct {
		const char *name, *type;
		int status;
	} kinds[] = {{"rate_limit", "rate_limit_exceeded", 429},
		     {"invalid_api_key", "invalid_api_key", 401},
		     {"context_length", "BadRequestError", 400},
		     {"server_error", "InternalServerError", 500},
		     {"invalid_request", "BadRequestError", 400},
		     {"model_not_found", "NotFoundError", 404}};
	const struct sim_options *opt = c->inst->engine.opt;
	size_t n = sizeof(kinds) / sizeof(*kinds), chosen[sizeof(kinds) / sizeof(*kinds)];
	size_t count = 0, i;

	if (opt->failure_rate <= 0 || drand48() * 100 >= opt->failure_rate)
		return false;
	for (i = 0; i < n; i++)
		if (!opt->failure_types || strstr(opt->failure_types, kinds[i].name))
			chosen[count++] = i;
	if (!count)
		return false;
	i = chosen[(size_t)(drand48() * (double)count)];
	reply_error(&c->out, kinds[i].status, kinds[i].type, "Injected.", NULL, c->inst->port);
	return true;
}

static void generate(struct conn *c, const struct http1_head *head, json_t *body, enum sim_api api)
{
	static const char *const parts[] = {"system", "instructions", "messages",
					    "prompt", "input",	      "tools"};
	const struct sim_options *opt = c->inst->engine.opt;
	const char *model = json_string_value(json_object_get(body, "model"));
	const char *salt = json_string_value(json_object_get(body, "cache_salt"));
	struct span id = http1_field_get(head, SPAN("x-request-id"));
	struct out prompt = {0};
	char text[512];
	struct seq *s;

	snprintf(c->model, sizeof(c->model), "%s", model ? model : opt->model);
	for (char *p = c->model; *p; p++) /* it is printed into JSON as it is */
		if ((unsigned char)*p < ' ' || *p == '"' || *p == '\\')
			*p = '?';
	if (!model_known(opt, c->model)) {
		snprintf(text, sizeof(text), "The model `%s` does not exist. Valid aliases: %s.",
			 c->model, opt->model);
		reply_error(&c->out, 404, "NotFoundError", text, "model", c->inst->port);
		return;
	}
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		prompt_text(json_object_get(body, parts[i]), &prompt);
	snprintf(c->id, sizeof(c->id), "%s%.*s", api == SIM_CHAT ? "chatcmpl-" : "cmpl-",
		 (int)(id.len > 60 ? 60 : id.len), id.ptr ? id.ptr : "");
	c->reply = (struct reply){
		.api = api,
		.stream = json_is_true(json_object_get(body, "stream")),
		.usage = json_is_true(
			json_object_get(json_object_get(body, "stream_options"), "include_usage")),
		.details = opt->details,
		.id = c->id,
		.model = c->model,
		.prompt_hash = sim_prompt_hash(prompt.data ? prompt.data : "", prompt.len),
		.created = (long long)time(NULL),
		.port = c->inst->port,
	};
	c->reply.max_tokens = int_member(
		body, "max_completion_tokens",
		int_member(body, "max_tokens",
			   int_member(body, "max_output_tokens", opt->default_max_tokens)));
	s = seq_new(opt, &prompt, c->model, salt ? salt : "");
	free(prompt.data);
	c->reply.prompt_tokens = s->prompt_tokens;
	if (api == SIM_EMBEDDINGS) {
		embeddings(c, s->prompt_tokens);
		seq_free(s);
		return;
	}
	if ((uint64_t)s->prompt_tokens + c->reply.max_tokens > opt->max_model_len) {
		snprintf(text, sizeof(text),
			 "This model's maximum context length is %u tokens. However, your request "
			 "has %u input tokens.",
			 opt->max_model_len, s->prompt_tokens);
		reply_error(&c->out, 400, "BadRequestError", text, "input_tokens", c->inst->port);
		seq_free(s);
		return;
	}
	if (!c->reply.max_tokens)
		c->reply.max_tokens = 1;
	s->max_tokens = c->reply.max_tokens;
	s->owner = c;
	if (engine_full(&c->inst->engine)) {
		seq_free(s);
		reply_error(&c->out, 503, "ServiceUnavailableError", "The queue is full.", NULL,
			    c->inst->port);
		return;
	}
	c->seq = s;
	if (c->reply.stream)
		reply_stream_head(&c->out, &c->reply);
	conn_flush(c); /* the head of a stream goes at once, also while the request waits */
	if (engine_submit(&c->inst->engine, s, now_ms())) {
		c->seq = NULL; /* cannot be: it was asked above */
		seq_free(s);
		c->dead = true;
	}
}

static void tokenize(struct conn *c, json_t *body)
{
	struct out prompt = {0};
	char text[128];

	prompt_text(json_object_get(body, "prompt"), &prompt);
	prompt_text(json_object_get(body, "messages"), &prompt);
	snprintf(text, sizeof(text),
		 "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[],\"token_strs\":null}",
		 prompt.len / SIM_TOKEN_BYTES + 1, c->inst->engine.opt->max_model_len);
	reply_json(&c->out, 200, text, c->inst->port, true);
	free(prompt.data);
}

static void rerank(struct conn *c, json_t *body)
{
	json_t *documents = json_object_get(body, "documents");
	struct out text = {0};

	out_printf(&text, "{\"id\":\"rerank-sim\",\"model\":\"%s\",\"results\":[",
		   c->inst->engine.opt->model);
	for (size_t i = 0; i < json_array_size(documents); i++)
		out_printf(&text, "%s{\"index\":%zu,\"relevance_score\":%.4f}", i ? "," : "", i,
			   1.0 / (double)(i + 1));
	out_printf(&text, "]}");
	out_add(&text, "", 1);
	reply_json(&c->out, 200, text.data, c->inst->port, true);
	free(text.data);
}

static void post(struct conn *c, const struct http1_head *head, struct span body)
{
	static const struct {
		const char *path;
		enum sim_api api;
	} paths[] = {{"/v1/chat/completions", SIM_CHAT},
		     {"/v1/completions", SIM_COMPLETION},
		     {"/v1/responses", SIM_RESPONSES},
		     {"/v1/messages", SIM_MESSAGES},
		     {"/v1/embeddings", SIM_EMBEDDINGS}};
	json_t *json = json_loadb(body.ptr, body.len, JSON_ALLOW_NUL, NULL);

	if (!json_is_object(json)) {
		reply_error(&c->out, 400, "BadRequestError", "The body is not a JSON object.", NULL,
			    c->inst->port);
		json_decref(json);
		return;
	}
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		if (!span_eq(head->path, span_of_str(paths[i].path)))
			continue;
		if (!failure_injected(c))
			generate(c, head, json, paths[i].api);
		json_decref(json);
		return;
	}
	if (span_eq(head->path, SPAN("/tokenize")))
		tokenize(c, json);
	else if (span_eq(head->path, SPAN("/detokenize")))
		reply_json(&c->out, 200, "{\"prompt\":\"\"}", c->inst->port, true);
	else if (span_eq(head->path, SPAN("/rerank")) || span_eq(head->path, SPAN("/v1/rerank")) ||
		 span_eq(head->path, SPAN("/v2/rerank")))
		rerank(c, json);
	else
		reply_json(&c->out, 404, "{\"detail\":\"Not Found\"}", c->inst->port, true);
	json_decref(json);
}

static void get(struct conn *c, const struct http1_head *head)
{
	const struct sim_options *opt = c->inst->engine.opt;

	if (span_eq(head->path, SPAN("/v1/models")))
		reply_models(&c->out, opt, c->inst->port);
	else if (span_eq(head->path, SPAN("/metrics")))
		reply_metrics(&c->out, &c->inst->engine, opt->model, c->inst->port);
	else if (span_eq(head->path, SPAN("/health")) || span_eq(head->path, SPAN("/ping")))
		reply_json(&c->out, 200, "", c->inst->port, true);
	else if (span_eq(head->path, SPAN("/version")))
		reply_json(&c->out, 200, "{\"version\":\"0.32.0-sim\"}", c->inst->port, true);
	else
		reply_json(&c->out, 404, "{\"detail\":\"Not Found\"}", c->inst->port, true);
}

/* Serves what is whole in c->in. One request at a time; the rest waits in the buffer. */
static void conn_serve(struct conn *c)
{
	static struct http1_head head;
	struct http1_limits limits = {HEAD_BYTES_MAX * 2, HEAD_FIELDS_MAX, HEAD_BYTES_MAX};
	enum http1_refusal why;

	while (!c->seq && !c->dead && c->in.len) {
		ssize_t n = http1_request_parse(&head, c->in.data, c->in.len, 0, &limits, &why);
		size_t whole;

		if (n == -EAGAIN)
			return;
		if (n < 0 || head.framing == HTTP1_CHUNKED) { /* a gateway sends lengths */
			c->dead = true;
			return;
		}
		whole = (size_t)n + (head.framing == HTTP1_LENGTH_BODY ? head.content_length : 0);
		if (whole > IN_MAX)
			c->dead = true;
		if (c->in.len < whole)
			return;
		if (head.method == HTTP1_POST)
			post(c, &head, span_of(c->in.data + n, whole - (size_t)n));
		else
			get(c, &head);
		memmove(c->in.data, c->in.data + whole, c->in.len - whole);
		c->in.len -= whole;
		c->idle_ms = now_ms();
		conn_flush(c);
	}
}

static void conn_read(struct conn *c)
{
	static char buf[256 * 1024];

	for (;;) {
		ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) { /* gone, or half-closed: a real engine takes both for gone */
			c->dead = true;
			return;
		}
		out_add(&c->in, buf, (size_t)n);
	}
	conn_serve(c);
}

static void conn_free(struct conn *c)
{
	if (c->seq) {
		engine_cancel(&c->inst->engine, c->seq);
		seq_free(c->seq);
	}
	close(c->fd);
	free(c->in.data);
	free(c->out.data);
	free(c);
}

/* Frees dead connections and those that were idle for 5 s, as uvicorn does. */
static void conns_sweep(void)
{
	double now = now_ms();
	struct conn **link = &all;

	while (*link) {
		struct conn *c = *link;

		if (!c->dead && (c->seq || c->out.len || now - c->idle_ms < 5000)) {
			link = &c->next;
			continue;
		}
		*link = c->next;
		conn_free(c);
	}
}

static void conn_accept(struct instance *inst)
{
	int one = 1, fd;

	while ((fd = accept4(inst->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = calloc(1, sizeof(*c));
		struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};

		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		c->inst = inst;
		c->fd = fd;
		c->idle_ms = now_ms();
		c->next = all;
		all = c;
		epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
	}
}

static int instance_listen(struct instance *inst, const char *host)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons((uint16_t)inst->port)};
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)(uintptr_t)inst | 1};
	int one = 1;

	inet_pton(AF_INET, host, &sin.sin_addr);
	inst->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(inst->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(inst->fd, (struct sockaddr *)&sin, sizeof(sin)) || listen(inst->fd, 4096)) {
		fprintf(stderr, "sluice-sim: cannot listen on %s:%u: %s\n", host, inst->port,
			strerror(errno));
		return -1;
	}
	return epoll_ctl(epfd, EPOLL_CTL_ADD, inst->fd, &ev);
}

static void stop(int sig)
{
	(void)sig;
	stopping = 1;
}

static void serve_events(struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;

		if (events[i].data.u64 & 1) {
			conn_accept((struct instance *)(uintptr_t)(events[i].data.u64 & ~1ULL));
			continue;
		}
		if (events[i].events & (EPOLLHUP | EPOLLERR))
			c->dead = true;
		if (!c->dead && (events[i].events & (EPOLLIN | EPOLLRDHUP)))
			conn_read(c);
		if (!c->dead && (events[i].events & EPOLLOUT))
			conn_flush(c);
	}
}

int server_run(const struct sim_options *opt)
{
	struct instance *insts = calloc(opt->instances, sizeof(*insts));
	struct epoll_event events[512];
	double swept = 0;

	epfd = epoll_create1(EPOLL_CLOEXEC);
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	for (unsigned int i = 0; i < opt->instances; i++) {
		insts[i].port = opt->port + i;
		engine_init(&insts[i].engine, opt, token_made);
		if (instance_listen(&insts[i], opt->host))
			return 1;
	}
	while (!stopping) {
		double wait = 1000, now = now_ms();
		bool dirty = false;

		for (unsigned int i = 0; i < opt->instances; i++) {
			double next = engine_run(&insts[i].engine, now);

			if (next >= 0 && next < wait)
				wait = next;
		}
		for (struct conn *c = all; c; c = c->next) {
			if (!c->seq && c->in.len && !c->dead)
				conn_serve(c);
			dirty |= c->dead;
		}
		if (dirty || now - swept > 500) {
			conns_sweep();
			swept = now;
		}
		serve_events(events, epoll_wait(epfd, events, 512, wait < 1 ? 1 : (int)wait));
	}
	return 0;
}
