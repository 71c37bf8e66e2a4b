/* SPDX-License-Identifier: Apache-2.0 */
/* One thread, one epoll: connections of all instances, and the engines' next steps. */
#include "sluice-sim/events.h"
#include "sluice-sim/pd.h"
#include "sluice-sim/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define IN_MAX (80u << 20)

static int epfd;
static volatile sig_atomic_t stopping;
static struct conn *all;

double server_now_ms(void)
{
	return (double)clock_mono_ns() / 1e6;
}

void conn_flush(struct conn *c)
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
	if (!want && c->closing && !c->seq && !c->pd && !c->hung)
		c->dead = true;
	if (want == c->want_write)
		return;
	c->want_write = want;
	ev.events = EPOLLIN | EPOLLRDHUP | (want ? EPOLLOUT : 0u);
	epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void token_made(struct seq *s)
{
	struct conn *c = s->owner;
	bool last = s->made >= s->max_tokens;

	c->reply.cached_tokens = s->remote ? c->reply.remote_cached : s->cached_tokens;
	if (last && !pd_finish(c))
		; /* another answer, or none */
	else if (c->reply.stream)
		reply_stream_token(&c->out, &c->reply, s->made - 1, last);
	else if (last)
		reply_whole(&c->out, &c->reply);
	if (last) {
		free(c->reply.kv_params);
		free(c->reply.ec_params);
		c->reply.kv_params = c->reply.ec_params = NULL;
		free(c->echo);
		c->echo = c->reply.echo = NULL;
		c->seq = NULL;
		c->idle_ms = server_now_ms();
		seq_free(s);
	}
	if (c->out.len)
		conn_flush(c);
}

/* What every head of this answer says. */
static void answer_begin(struct conn *c, const struct http1_head *head)
{
	struct span id = http1_field_get(head, SPAN("x-request-id"));

	c->closing = c->out.close = !head->keep_alive;
	if (!c->inst->engine.opt->request_ids)
		return;
	if (id.len && id.len < sizeof(c->out.request_id))
		snprintf(c->out.request_id, sizeof(c->out.request_id), "%.*s", SPAN_FMT(id));
	else
		snprintf(c->out.request_id, sizeof(c->out.request_id), "%016lx%016lx", mrand48(),
			 mrand48());
}

/* Serves what is whole in c->in. One request at a time; the rest waits in the buffer. */
static void conn_serve(struct conn *c)
{
	static struct http1_head head;
	struct http1_limits limits = {HEAD_BYTES_MAX * 2, HEAD_FIELDS_MAX, HEAD_BYTES_MAX};
	enum http1_refusal why;

	while (!c->seq && !c->pd && !c->hung && !c->dead && !c->closing && c->in.len) {
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
		answer_begin(c, &head);
		if (head.method == HTTP1_POST)
			api_post(c, &head, span_of(c->in.data + n, whole - (size_t)n));
		else
			api_get(c, &head);
		memmove(c->in.data, c->in.data + whole, c->in.len - whole);
		c->in.len -= whole;
		c->idle_ms = server_now_ms();
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
		if (n <= 0) { /* gone, or half-closed: a real engine takes both for gone, */
			conn_serve(c); /* after what came before */
			c->dead = true;
			return;
		}
		out_add(&c->in, buf, (size_t)n);
		c->idle_ms = server_now_ms(); /* a long body is no idleness */
	}
	conn_serve(c);
}

static void conn_free(struct conn *c)
{
	pd_gone(c);
	if (c->seq) {
		engine_cancel(&c->inst->engine, c->seq);
		seq_free(c->seq);
	}
	close(c->fd);
	free(c->in.data);
	free(c->out.data);
	free(c->echo);
	free(c);
}

/* Frees dead connections and those that were idle for 5 s, as uvicorn does. */
static void conns_sweep(void)
{
	double now = server_now_ms();
	struct conn **link = &all;

	while (*link) {
		struct conn *c = *link;

		if (!c->dead &&
		    (c->seq || c->pd || c->hung || c->out.len || now - c->idle_ms < 5000)) {
			link = &c->next;
			continue;
		}
		*link = c->next;
		conn_free(c);
	}
}

void server_unlisten(struct instance *inst)
{
	close(inst->fd);
	inst->fd = -1;
	for (struct conn *c = all; c; c = c->next)
		if (c->inst == inst && !c->seq && !c->out.len)
			c->dead = true;
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
		c->idle_ms = server_now_ms();
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
	pd_init(opt, insts);
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	for (unsigned int i = 0; i < opt->instances; i++) {
		insts[i].port = opt->port + i;
		engine_init(&insts[i].engine, opt, token_made);
		events_attach(&insts[i].engine, opt, i);
		if (instance_listen(&insts[i], opt->host))
			return 1;
	}
	while (!stopping) {
		double wait = 1000, now = server_now_ms();
		bool dirty = false;

		wait = pd_run(now);
		if (wait < 0)
			wait = 1000;
		for (unsigned int i = 0; i < opt->instances; i++) {
			double next = engine_run(&insts[i].engine, now);

			if (next >= 0 && next < wait)
				wait = next;
			if (insts[i].engine.events) {
				events_load(insts[i].engine.events, &insts[i].engine);
				events_run(insts[i].engine.events);
			}
		}
		if (opt->replay_endpoint && wait > 10) /* replays are polled for */
			wait = 10;
		for (struct conn *c = all; c; c = c->next) {
			if (!c->seq && !c->pd && !c->hung && c->in.len && !c->dead)
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
