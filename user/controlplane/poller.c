/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One endpoint's questions and answers; see poller.h for the states.
 * A connection that the engine closed while it was idle is no sign of anything: the question is
 * asked again on a new one, once. Left to others: what load means (scrape), what health means
 * (base/health), when to look (control's loop).
 */
#include "controlplane/poller.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/health.h"
#include "base/log.h"
#include "base/metrics.h"
#include "controlplane/models.h"
#include "controlplane/scrape.h"

#define ANSWER_MS_MAX	     5000 /* a whole page, however steadily it trickles */
#define PROBE_MS_MAX	     1000
#define TOGETHER	     8 /* endpoints that are asked at the same time */
#define RETRY_AFTER_CLOSE_MS 250
#define PROBE_FAILURES_MAX   3 /* timeouts in a row before the probe counts as failed */

enum poll_end {
	END_DONE,
	END_REFUSED,
	END_STALL,
	END_CLOSED,
	END_MALFORMED,
	END_TOO_LARGE
};

static const char *const job_paths[JOBS] = {"/health", "/v1/models", "/metrics"};

struct poller *poller_new(struct poller_env *env, struct endpoint *ep, uint64_t now_ns)
{
	struct poller *p = calloc(1, sizeof(*p));
	uint64_t interval_ns = env->config->scrape_interval_ms * NS_PER_MS;

	if (!p)
		return NULL;
	p->env = env;
	p->ep = endpoint_get(ep);
	p->fd = -1;
	p->due_ns[JOB_MODELS] = p->due_ns[JOB_HEALTH] = now_ns;
	/* Spread over the interval by the golden ratio, eight at a time: pages do not come all at
	 * once, nor does each of them wake the thread. */
	p->due_ns[JOB_METRICS] =
		now_ns + interval_ns * (ep->slot / TOGETHER * 40503ULL & 0xffff) / 65536;
	return p;
}

static void connection_close(struct poller *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	p->kept = p->connecting = false;
}

void poller_free(struct poller *p)
{
	if (!p)
		return;
	connection_close(p);
	endpoint_put(p->ep);
	free(p->body);
	free(p);
}

void poller_set_endpoint(struct poller *p, struct endpoint *ep)
{
	endpoint_get(ep);
	endpoint_put(p->ep);
	p->ep = ep;
}

static uint64_t interval_ns(const struct poller *p, enum poll_job job)
{
	const struct config *c = p->env->config;
	uint64_t ms = job == JOB_METRICS  ? c->scrape_interval_ms
		      : job == JOB_MODELS ? c->models_interval_ms
					  : c->probe_interval_ms;

	return (ms ? ms : 1) * NS_PER_MS;
}

/* The next time of the job, in its own phase; missed turns are not made up for. */
static void job_reschedule(struct poller *p, enum poll_job job, uint64_t now_ns)
{
	uint64_t interval = interval_ns(p, job);

	p->due_ns[job] += interval;
	if (p->due_ns[job] <= now_ns)
		p->due_ns[job] += (now_ns - p->due_ns[job]) / interval * interval + interval;
}

static void probe_ended(struct poller *p, enum poll_end end)
{
	enum health_outcome outcome = HEALTH_OK;

	if (end == END_DONE && p->reply.status < 500) {
		p->probe_failures = 0;
		metric_inc(M_PROBES);
		health_probe_result(p->ep, HEALTH_OK);
		return;
	}
	p->probe_failures++;
	metric_inc(M_PROBES_FAILED);
	outcome = end == END_DONE      ? HEALTH_SERVER_ERROR
		  : end == END_REFUSED ? HEALTH_REFUSED
		  : end == END_STALL   ? HEALTH_TIMEOUT
				       : HEALTH_RESET;
	if (end != END_DONE && end != END_REFUSED && p->probe_failures < PROBE_FAILURES_MAX) {
		health_report(p->ep, outcome);
		return;
	}
	if (!atomic_load(&p->ep->probe_failed))
		log_warn("endpoint %s fails its health probe", p->ep->name);
	health_probe_result(p->ep, outcome);
	p->due_ns[JOB_MODELS] = clock_mono_ns() + RETRY_AFTER_CLOSE_MS * NS_PER_MS;
}

static void metrics_ended(struct poller *p, enum poll_end end, uint64_t now_ns)
{
	static const enum metric_counter reasons[] = {
		[END_REFUSED] = M_SCRAPE_CONNECT,     [END_STALL] = M_SCRAPE_STALL,
		[END_CLOSED] = M_SCRAPE_CLOSED,	      [END_MALFORMED] = M_SCRAPE_MALFORMED,
		[END_TOO_LARGE] = M_SCRAPE_TOO_LARGE,
	};

	if (end != END_DONE) {
		metric_inc(reasons[end]);
		/* Nobody listens: the probe says so now, not at its next turn. */
		if (end == END_REFUSED && !atomic_load(&p->ep->probe_failed))
			p->due_ns[JOB_HEALTH] = now_ns;
		return;
	}
	metrics_parser_finish(&p->parser);
	if (p->reply.status != 200 || !(p->parser.found.seen & (SERIES_WAITING | SERIES_RUNNING)))
		p->other_page = !p->other_page;
	if (p->reply.status != 200) {
		metric_inc(M_SCRAPE_STATUS);
		return;
	}
	if (scrape_restarted(&p->parser.found, &p->start_time, &p->queries)) {
		p->due_ns[JOB_MODELS] = now_ns;
		store_endpoint_restarted(p->env->store, p->ep);
	}
	scrape_apply(p->ep, &p->parser.found, now_ns);
	metric_inc(M_SCRAPES);
}

static void models_ended(struct poller *p, enum poll_end end, uint64_t now_ns)
{
	struct model_name *list = NULL;
	unsigned int count = 0;

	if (end == END_DONE && p->reply.status == 200 &&
	    models_parse(p->body, p->body_len, &list, &count) == 0) {
		store_set_models(p->env->store, p->ep, list, count);
		free(list);
	} else {
		metric_inc(M_MODELS_FAILED);
		/* Soon again: until it is known, nothing can be sent there by name. */
		if (p->due_ns[JOB_MODELS] > now_ns + NS_PER_S)
			p->due_ns[JOB_MODELS] = now_ns + NS_PER_S;
	}
	free(p->body);
	p->body = NULL;
	p->body_len = p->body_size = 0;
}

static void job_end(struct poller *p, enum poll_end end, uint64_t now_ns)
{
	p->asking = p->retried = false;
	if (end != END_DONE || !p->reply.keep_alive)
		connection_close(p);
	else
		p->kept = true;
	switch (p->job) {
	case JOB_HEALTH:
		probe_ended(p, end);
		break;
	case JOB_MODELS:
		models_ended(p, end, now_ns);
		break;
	default:
		metrics_ended(p, end, now_ns);
		break;
	}
	if (end != END_DONE && p->due_ns[JOB_METRICS] < now_ns + RETRY_AFTER_CLOSE_MS * NS_PER_MS)
		p->due_ns[JOB_METRICS] = now_ns + RETRY_AFTER_CLOSE_MS * NS_PER_MS;
}

static int question_send(struct poller *p)
{
	const char *path =
		p->job == JOB_METRICS && p->other_page ? "/prometheus/metrics" : job_paths[p->job];
	char text[256];
	int n = snprintf(text, sizeof(text),
			 "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: sluice\r\nAccept: */*\r\n\r\n",
			 path, p->ep->address);
	ssize_t sent = send(p->fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);

	return sent == n ? 0 : sent < 0 ? -errno : -EIO;
}

static int connection_open(struct poller *p)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u64 = p->ep->slot};
	int one = 1;

	p->fd = socket(p->ep->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (p->fd < 0)
		return -errno;
	setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(p->fd, (struct sockaddr *)&p->ep->addr, p->ep->addr_len) < 0 &&
	    errno != EINPROGRESS)
		return -errno;
	if (epoll_ctl(p->env->epoll_fd, EPOLL_CTL_ADD, p->fd, &event) < 0)
		return -errno;
	p->connecting = true;
	return 0;
}

/* The same question on a new connection, when a kept one turned out to be dead. */
static void job_begin(struct poller *p, enum poll_job job, uint64_t now_ns)
{
	int err;

	p->job = job;
	p->asking = true;
	p->started_ns = p->progress_ns = now_ns;
	http_reply_reset(&p->reply);
	metrics_parser_reset(&p->parser);
	p->body_len = 0;
	if (p->fd >= 0) {
		err = question_send(p);
		if (!err)
			return;
		connection_close(p);
	}
	if (connection_open(p))
		job_end(p, END_REFUSED, now_ns);
}

static void connected(struct poller *p, uint64_t now_ns)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = p->ep->slot};
	socklen_t len = sizeof(int);
	int err = 0;

	p->connecting = false;
	getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err || epoll_ctl(p->env->epoll_fd, EPOLL_CTL_MOD, p->fd, &event) < 0) {
		job_end(p, END_REFUSED, now_ns);
		return;
	}
	p->progress_ns = now_ns;
	if (question_send(p))
		job_end(p, END_CLOSED, now_ns);
}

static void body_take(void *arg, const char *bytes, size_t len)
{
	struct poller *p = arg;
	size_t size;
	char *grown;

	if (p->job == JOB_METRICS) {
		metrics_parser_feed(&p->parser, bytes, len);
		return;
	}
	if (p->job != JOB_MODELS || p->body_len + len > METRICS_PAGE_MAX)
		return;
	if (p->body_len + len > p->body_size) {
		size = (p->body_len + len) * 2;
		grown = realloc(p->body, size);
		if (!grown)
			return; /* the answer will not parse, which is counted */
		p->body = grown;
		p->body_size = size;
	}
	memcpy(p->body + p->body_len, bytes, len);
	p->body_len += len;
}

static void connection_ended(struct poller *p, uint64_t now_ns)
{
	bool nothing_read = p->reply.status == 0 && p->reply.head_len == 0;

	if (p->asking && http_reply_eof(&p->reply)) {
		p->reply.keep_alive = false;
		job_end(p, END_DONE, now_ns);
	} else if (p->asking && p->kept && nothing_read && !p->retried) {
		connection_close(p);
		p->retried = true;
		job_begin(p, p->job, now_ns);
	} else if (p->asking) {
		job_end(p, END_CLOSED, now_ns);
	} else {
		connection_close(p);
	}
}

static void readable(struct poller *p, uint64_t now_ns)
{
	bool done = false;
	ssize_t n;
	int err;

	do {
		n = recv(p->fd, p->env->buffer, POLL_BUFFER_BYTES, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0 || !p->asking) { /* an idle engine has nothing to say */
			connection_ended(p, now_ns);
			return;
		}
		p->progress_ns = now_ns;
		err = http_reply_feed(&p->reply, p->env->buffer, (size_t)n, body_take, p, &done);
		if (err)
			job_end(p, END_MALFORMED, now_ns);
		else if (p->reply.body_bytes > METRICS_PAGE_MAX)
			job_end(p, END_TOO_LARGE, now_ns);
		else if (done)
			job_end(p, END_DONE, now_ns);
	} while (p->asking && p->fd >= 0 && n == POLL_BUFFER_BYTES);
}

void poller_event(struct poller *p, uint32_t events, uint64_t now_ns)
{
	if (p->fd < 0)
		return;
	if (p->connecting) {
		if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
			connected(p, now_ns);
		return;
	}
	readable(p, now_ns);
}

/* When the running question is given up. */
static uint64_t deadline_ns(const struct poller *p)
{
	uint64_t whole = p->job == JOB_HEALTH ? PROBE_MS_MAX : ANSWER_MS_MAX;
	uint64_t stall = p->connecting		 ? p->env->config->connect_timeout_ms
			 : p->job == JOB_METRICS ? SCRAPE_STALL_MS
						 : whole;
	uint64_t a = p->started_ns + whole * NS_PER_MS, b = p->progress_ns + stall * NS_PER_MS;

	return a < b ? a : b;
}

uint64_t poller_tick(struct poller *p, uint64_t now_ns)
{
	uint64_t next = UINT64_MAX;

	if (p->asking) {
		if (now_ns < deadline_ns(p))
			return deadline_ns(p);
		job_end(p, END_STALL, now_ns);
	}
	for (int job = 0; job < JOBS && !p->asking; job++)
		if (p->due_ns[job] <= now_ns) {
			job_reschedule(p, (enum poll_job)job, now_ns);
			job_begin(p, (enum poll_job)job, now_ns);
		}
	if (p->asking)
		return deadline_ns(p);
	for (int job = 0; job < JOBS; job++)
		next = p->due_ns[job] < next ? p->due_ns[job] : next;
	return next;
}
