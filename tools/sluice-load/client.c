/* SPDX-License-Identifier: Apache-2.0 */
/* One thread, one epoll: kept connections, one request on each at a time. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/http1.h"
#include "base/sse.h"
#include "common/sim_text.h"
#include "sluice-load/load.h"

struct conn {
	int fd;
	unsigned int target;
	bool busy, head_done, writing, reused, keep_alive;
	struct job job;
	char head[2048];
	size_t head_bytes, sent;
	char *in; /* head, then payload (kept whole only to verify) */
	size_t in_len, in_size;
	enum http1_framing framing;
	int status;
	uint64_t left;
	struct http1_chunks chunks;
	struct sse sse;
	double began_ms, first_ms, last_ms, idle_ms;
	char request_id[128];
	char *text; /* payload, for --verify and conversations */
	size_t text_len, text_size;
	struct conn *next;
};

/* A conversation whose user thinks. */
struct turn {
	struct turn *next;
	struct session *session;
	double at_ms; /* from the start */
};

static const struct load_options *opt;
static struct result *res;
static struct sockaddr_storage targets[TARGETS_MAX];
static socklen_t target_bytes[TARGETS_MAX];
static char target_text[TARGETS_MAX][64];
static unsigned int target_count, target_next, busy_count;
static struct conn *idle, *all_busy[65536];
static struct turn *turns; /* conversations that go on, soonest first */
static int epfd;
static double start_ms;

static double now_ms(void)
{
	return (double)clock_mono_ns() / 1e6;
}

static int targets_parse(char *list)
{
	char *save = NULL;

	for (char *t = strtok_r(list, ",", &save); t; t = strtok_r(NULL, ",", &save)) {
		struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai;
		char *colon = strrchr(t, ':');
		bool v6 = t[0] == '[' && colon && colon[-1] == ']';

		if (!colon || target_count == TARGETS_MAX)
			return -1;
		snprintf(target_text[target_count], sizeof(target_text[0]), "%s", t);
		colon[v6 ? -1 : 0] = '\0';
		if (getaddrinfo(t + v6, colon + 1, &hints, &ai))
			return -1;
		memcpy(&targets[target_count], ai->ai_addr, ai->ai_addrlen);
		target_bytes[target_count++] = ai->ai_addrlen;
		freeaddrinfo(ai);
	}
	return target_count ? 0 : -1;
}

static void busy_remove(struct conn *c)
{
	for (unsigned int i = 0; i < busy_count; i++)
		if (all_busy[i] == c) {
			all_busy[i] = all_busy[--busy_count];
			return;
		}
}

static void conn_drop(struct conn *c)
{
	busy_remove(c);
	close(c->fd);
	session_free(c->job.session); /* a failed turn ends the conversation */
	free(c->job.body);
	free(c->in);
	free(c->text);
	free(c);
}

static void conn_failed(struct conn *c, uint64_t *kind)
{
	++*kind;
	conn_drop(c);
}

static struct conn *conn_open(unsigned int target)
{
	struct conn *c = calloc(1, sizeof(*c));
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
	int one = 1;

	c->target = target;
	c->fd = socket(targets[target].ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (c->fd < 0 ||
	    (connect(c->fd, (struct sockaddr *)&targets[target], target_bytes[target]) &&
	     errno != EINPROGRESS)) {
		if (c->fd >= 0)
			close(c->fd);
		free(c);
		return NULL;
	}
	c->writing = true;
	epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev);
	return c;
}

static void watch_writes(struct conn *c, bool on)
{
	struct epoll_event ev = {.events = EPOLLIN | (on ? EPOLLOUT : 0u), .data.ptr = c};

	if (c->writing == on)
		return;
	c->writing = on;
	epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void conn_write(struct conn *c)
{
	while (c->sent < c->head_bytes + c->job.body_bytes) {
		struct iovec iov[2];
		struct msghdr msg = {.msg_iov = iov};
		ssize_t n;

		if (c->sent < c->head_bytes)
			iov[msg.msg_iovlen++] =
				(struct iovec){c->head + c->sent, c->head_bytes - c->sent};
		n = c->sent > c->head_bytes ? (ssize_t)(c->sent - c->head_bytes) : 0;
		iov[msg.msg_iovlen++] =
			(struct iovec){c->job.body + n, c->job.body_bytes - (size_t)n};
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			watch_writes(c, true);
			return;
		}
		if (n <= 0) {
			conn_failed(c, &res->refused);
			return;
		}
		c->sent += (size_t)n;
	}
	watch_writes(c, false);
}

static void head_make(struct conn *c)
{
	char session[64] = "";

	if (c->job.session)
		snprintf(session, sizeof(session), "x-session-id: session-%llu\r\n",
			 (unsigned long long)session_id(c->job.session));
	c->head_bytes = (size_t)snprintf(
		c->head, sizeof(c->head),
		"POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n%s%s%s%s"
		"content-length: %zu\r\n\r\n",
		opt->path, target_text[c->target], session,
		opt->api_key ? "authorization: Bearer " : "", opt->api_key ? opt->api_key : "",
		opt->api_key ? "\r\n" : "", c->job.body_bytes);
}

static void conn_begin(struct job *job)
{
	double now = now_ms();
	struct conn *c = NULL, **link = &idle;
	unsigned int target = target_next++ % target_count;

	while (*link && !c) { /* engines close at 5 s of idleness: older ones are not used */
		struct conn *k = *link;

		if (now - k->idle_ms > 4000) {
			*link = k->next;
			close(k->fd);
			free(k->in);
			free(k->text);
			free(k);
		} else if (k->target == target) {
			*link = k->next;
			c = k;
		} else {
			link = &k->next;
		}
	}
	res->sent++;
	if (!c)
		c = conn_open(target);
	if (!c || busy_count == 65536) {
		res->refused++;
		session_free(job->session);
		free(job->body);
		return;
	}
	c->job = *job;
	c->busy = true;
	c->head_done = false;
	c->sent = c->in_len = c->text_len = 0;
	c->first_ms = c->last_ms = 0;
	c->chunks = (struct http1_chunks){0};
	c->sse = (struct sse){0};
	c->began_ms = job->at_ms >= 0 ? start_ms + job->at_ms : now;
	head_make(c);
	all_busy[busy_count++] = c;
	conn_write(c);
}

static void append(char **buf, size_t *len, size_t *size, const char *p, size_t n)
{
	if (*len + n + 1 > *size) {
		*size = (*len + n + 1) * 2;
		*buf = realloc(*buf, *size);
	}
	memcpy(*buf + *len, p, n);
	*len += n;
	(*buf)[*len] = '\0';
}

/* Every word of a simulated answer follows from the prompt: compare all of them. */
static bool answer_right(const struct conn *c)
{
	bool prompt = strcmp(opt->path, "/v1/completions") == 0;
	const char *key = prompt ? "\"text\":\"" : "\"content\":\"", *p = c->text ? c->text : "";
	char word[SIM_WORD_BYTES + 1];
	uint32_t i = 0;

	while ((p = strstr(p, key))) {
		for (p += strlen(key); *p == ' '; p += SIM_WORD_BYTES, i++) {
			sim_word(c->job.prompt_hash, i, word);
			if (strncmp(p, word, SIM_WORD_BYTES) != 0)
				return false;
		}
		if (*p != '"')
			return false;
	}
	return i == c->job.max_tokens && (!opt->stream || c->sse.done);
}

/* The conversation goes on after a while, or ends here. */
static void turn_after(struct conn *c, bool ok, double now)
{
	struct turn *t, **link = &turns;
	struct session *s = c->job.session;

	c->job.session = NULL;
	if (!ok || !s || !session_goes_on(s, opt)) {
		session_free(s);
		return;
	}
	session_answered(s, c->text);
	t = malloc(sizeof(*t));
	t->session = s;
	t->at_ms = now - start_ms + opt->think_ms;
	while (*link && (*link)->at_ms <= t->at_ms)
		link = &(*link)->next;
	t->next = *link;
	*link = t;
}

static void result_add(struct conn *c, double now)
{
	double ttft_ms = (c->first_ms ? c->first_ms : now) - c->began_ms;

	res->ok++;
	hist_add(&res->ttft, ttft_ms);
	hist_add(&res->e2e, now - c->began_ms);
	if (ttft_ms > res->slowest_ms) {
		res->slowest_ms = ttft_ms;
		snprintf(res->slowest_id, sizeof(res->slowest_id), "%s", c->request_id);
	}
}

static void conn_done(struct conn *c)
{
	double now = now_ms();
	bool ok = false;

	if (!opt->stream)
		sse_json_end(&c->sse);
	if (c->status != 200)
		res->status++;
	else if ((opt->verify && !answer_right(c)) || (opt->stream && c->sse.first_is_error))
		res->wrong++;
	else
		ok = true;
	if (ok)
		result_add(c, now);
	turn_after(c, ok, now);
	res->prompt_tokens += c->sse.usage.prompt_tokens;
	res->cached_tokens += c->sse.usage.cached_tokens;
	res->completion_tokens += c->sse.usage.completion_tokens;
	busy_remove(c);
	free(c->job.body);
	c->job.body = NULL;
	c->busy = false;
	c->reused = true;
	c->idle_ms = now;
	if (!c->keep_alive) { /* it was told so: never used again */
		epoll_ctl(epfd, EPOLL_CTL_DEL, c->fd, NULL);
		shutdown(c->fd, SHUT_RDWR);
		c->idle_ms = 0;
	}
	c->next = idle;
	idle = c;
}

/* The first of the events says when it was sent (CLOCK_MONOTONIC of the same machine). */
static void delivery_add(const char *p, size_t n)
{
	static const char said[] = ": sent ";
	const char *at = memmem(p, n, said, sizeof(said) - 1);
	unsigned long long sent;

	if (!at || !memchr(at, '\n', n - (size_t)(at - p)))
		return;
	sent = strtoull(at + sizeof(said) - 1, NULL, 10);
	hist_add(&res->delivery, (double)(clock_mono_ns() - sent) / 1e6);
}

static void payload(struct conn *c, const char *p, size_t n)
{
	uint64_t before = c->sse.events;
	double now;

	res->bytes += n;
	if (opt->verify || c->job.session)
		append(&c->text, &c->text_len, &c->text_size, p, n);
	if (!opt->stream) {
		sse_json_feed(&c->sse, p, n);
		return;
	}
	delivery_add(p, n);
	sse_feed(&c->sse, p, n);
	if (!c->sse.content || c->sse.events == before || c->sse.done ||
	    (c->first_ms && c->sse.usage.known)) /* what ends a stream is no token */
		return;
	now = now_ms();
	if (!c->first_ms)
		c->first_ms = now;
	else
		hist_add(&res->itl, now - c->last_ms);
	c->last_ms = now;
}

/* Body bytes; returns true when the answer is whole. */
static bool body_bytes(struct conn *c, const char *p, size_t n)
{
	if (c->framing != HTTP1_CHUNKED) {
		size_t mine = n < c->left ? n : (size_t)c->left;

		payload(c, p, mine);
		c->left -= mine;
		return c->left == 0;
	}
	while (n && !http1_chunks_done(&c->chunks)) {
		struct span data;
		ssize_t took = http1_chunks_next(&c->chunks, p, n, &data);

		if (took < 0)
			return false;
		if (data.len)
			payload(c, data.ptr, data.len);
		p += took;
		n -= (size_t)took;
	}
	return http1_chunks_done(&c->chunks);
}

/* Who answered: as the gateway says, or a simulated engine itself. */
static void endpoint_count(const struct http1_head *head)
{
	struct span v = http1_field_get(head, SPAN("x-gateway-destination-endpoint-served"));
	int i = 0;

	if (!v.len)
		v = http1_field_get(head, SPAN("x-inference-port"));
	if (!v.len || v.len >= sizeof(res->endpoint[0]))
		return;
	while (i < SEEN_MAX && res->endpoint_count[i] && !span_eq(span_of_str(res->endpoint[i]), v))
		i++;
	if (i == SEEN_MAX)
		return;
	snprintf(res->endpoint[i], sizeof(res->endpoint[i]), "%.*s", SPAN_FMT(v));
	res->endpoint_count[i]++;
}

static void status_count(struct conn *c, const struct http1_head *head)
{
	struct span id = http1_field_get(head, SPAN("x-request-id"));

	snprintf(c->request_id, sizeof(c->request_id), "%.*s", SPAN_FMT(id));
	if (head->status < 600)
		res->status_count[head->status]++;
}

/* Returns false when the connection is gone. */
static bool head_bytes(struct conn *c, const char *p, size_t n)
{
	static struct http1_head head;
	ssize_t took;

	append(&c->in, &c->in_len, &c->in_size, p, n);
	took = http1_response_parse(&head, c->in, c->in_len, 0, false);
	if (took == -EAGAIN)
		return true;
	if (took < 0) {
		conn_failed(c, &res->cut);
		return false;
	}
	c->head_done = true;
	c->status = head.status;
	c->framing = head.framing;
	c->keep_alive = head.keep_alive;
	c->left = head.content_length;
	endpoint_count(&head);
	status_count(c, &head);
	if (body_bytes(c, c->in + took, c->in_len - (size_t)took))
		conn_done(c);
	return true;
}

static void conn_read(struct conn *c)
{
	static char buf[65536];

	for (;;) {
		ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EAGAIN)
			return;
		if (!c->busy) { /* closed while idle: leave it to the next use */
			epoll_ctl(epfd, EPOLL_CTL_DEL, c->fd, NULL);
			c->idle_ms = 0;
			return;
		}
		if (n <= 0) {
			conn_failed(c, c->head_done ? &res->cut : &res->refused);
			return;
		}
		if (!c->head_done) {
			if (!head_bytes(c, buf, (size_t)n))
				return;
		} else if (body_bytes(c, buf, (size_t)n)) {
			conn_done(c);
		}
		if (!c->busy)
			return;
	}
}

static void timeouts(void)
{
	double now = now_ms();

	for (unsigned int i = busy_count; i-- > 0;)
		if (now - all_busy[i]->began_ms > opt->timeout_s * 1000)
			conn_failed(all_busy[i], &res->timeouts);
}

/* Asks again where a user has thought enough. */
static void turns_start(struct plan *plan)
{
	double passed = now_ms() - start_ms;

	while (turns && turns->at_ms <= passed &&
	       (opt->rate > 0 || busy_count < opt->concurrency)) {
		struct turn *t = turns;
		struct job job;

		turns = t->next;
		if (opt->duration_s > 0 && passed > opt->duration_s * 1000) {
			session_free(t->session);
		} else {
			plan_turn(plan, t->session, &job);
			job.at_ms = opt->rate > 0 ? t->at_ms : -1;
			conn_begin(&job);
		}
		free(t);
	}
}

/* Starts what is due; returns ms to wait, or -1 when nothing is left at all. */
static double jobs_start(struct plan *plan, struct job *next, bool *have)
{
	double passed, wait = 100;

	turns_start(plan);
	while (*have) {
		passed = now_ms() - start_ms;
		if (next->at_ms >= 0 ? next->at_ms > passed : busy_count >= opt->concurrency)
			break;
		if (next->at_ms < 0 && opt->duration_s > 0 && passed > opt->duration_s * 1000) {
			session_free(next->session);
			free(next->body);
			*have = false;
			break;
		}
		conn_begin(next);
		*have = plan_next(plan, next);
	}
	if (!*have && !turns && !busy_count)
		return -1;
	passed = now_ms() - start_ms;
	if (*have && next->at_ms >= 0 && next->at_ms - passed < wait)
		wait = next->at_ms - passed;
	if (turns && turns->at_ms - passed < wait)
		wait = turns->at_ms - passed;
	return wait < 0 ? 0 : wait;
}

static void progress(double *last)
{
	double now = now_ms();

	if (opt->quiet || opt->json || !isatty(2) || now - *last < 500)
		return;
	*last = now;
	fprintf(stderr, "\r%8llu sent %8llu ok %6u running ", (unsigned long long)res->sent,
		(unsigned long long)res->ok, busy_count);
}

int client_run(const struct load_options *options, struct plan *plan, struct result *ret)
{
	struct epoll_event events[512];
	struct job next;
	bool have = plan_next(plan, &next);
	double wait, shown = 0;

	opt = options;
	res = ret;
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (targets_parse(options->target)) {
		fprintf(stderr, "sluice-load: --target takes IPV4:PORT[,IPV4:PORT…]\n");
		return 1;
	}
	start_ms = now_ms();
	while ((wait = jobs_start(plan, &next, &have)) >= 0) {
		int n = epoll_wait(epfd, events, 512, (int)wait);

		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;

			if (c->busy && (events[i].events & EPOLLOUT) &&
			    c->sent < c->head_bytes + c->job.body_bytes) {
				conn_write(c);
				continue;
			}
			conn_read(c);
		}
		timeouts();
		progress(&shown);
	}
	res->elapsed_s = (now_ms() - start_ms) / 1000;
	return 0;
}
