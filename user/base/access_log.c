/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The access log's rings and its writer.
 *
 * head is the worker's, tail the writer's; each reads the other's. The writer announces that it is
 * about to sleep, then looks once more; the worker publishes, then looks whether it sleeps. Both
 * orders are sequentially consistent, so one of the two always sees the other.
 */
#include "base/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"

#define WRITE_BYTES (64 * 1024)
#define LINE_BYTES  4096 /* a record with every byte escaped fits (checked by a test) */
#define GATHER_NS   5000000
#define QUEUE_MASK  (ACCESS_LOG_QUEUE - 1)

_Static_assert((ACCESS_LOG_QUEUE & QUEUE_MASK) == 0, "the queue is a power of two");

struct access_ring {
	_Alignas(64) _Atomic uint32_t head; /* next record to commit */
	_Alignas(64) _Atomic uint32_t tail; /* next record to write */
	_Alignas(64) struct access_record *records;
};

struct access_log {
	char *path;
	int fd;
	unsigned int workers;
	pthread_t thread;
	_Alignas(64) _Atomic uint32_t sleeping;
	_Atomic bool stop, reopen;
	size_t used;	/* bytes in buf */
	uint64_t lines; /* of them */
	char *buf;
	struct access_ring rings[];
};

void access_text_copy(char *field, size_t size, struct span text)
{
	size_t n = text.len < size - 1 ? text.len : size - 1;

	if (n)
		memcpy(field, text.ptr, n);
	field[n] = '\0';
}

struct access_record *access_log_begin(struct access_log *log, unsigned int worker)
{
	struct access_record *rec;
	struct access_ring *ring;
	uint32_t head;

	if (!log)
		return NULL;
	ring = &log->rings[worker];
	head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	if (head - atomic_load_explicit(&ring->tail, memory_order_acquire) >= ACCESS_LOG_QUEUE) {
		metric_inc(M_ACCESS_LOG_DROPPED);
		return NULL;
	}
	rec = &ring->records[head & QUEUE_MASK];
	*rec = (struct access_record){0};
	return rec;
}

static void writer_wake(struct access_log *log)
{
	if (atomic_exchange(&log->sleeping, 0))
		syscall(SYS_futex, &log->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void access_log_commit(struct access_log *log, unsigned int worker)
{
	struct access_ring *ring = &log->rings[worker];

	atomic_store(&ring->head, atomic_load_explicit(&ring->head, memory_order_relaxed) + 1);
	if (atomic_load(&log->sleeping))
		writer_wake(log);
}

/* ---- one line ---------------------------------------------------------------------------------
 */

struct line {
	char *p, *end;
};

static void put(struct line *l, const char *text)
{
	while (*text && l->p < l->end)
		*l->p++ = *text++;
}

/* Bytes that are not ASCII text go as \u00xx: the log stays valid JSON whatever a client sent. */
static void put_string(struct line *l, const char *name, const char *text)
{
	char esc[8];

	put(l, ",\"");
	put(l, name);
	put(l, "\":\"");
	for (; *text && l->end - l->p > 8; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			*l->p++ = '\\';
			*l->p++ = (char)c;
		} else if (c < 0x20 || c >= 0x7f) {
			snprintf(esc, sizeof(esc), "\\u%04x", c);
			put(l, esc);
		} else {
			*l->p++ = (char)c;
		}
	}
	put(l, "\"");
}

static void put_number(struct line *l, const char *name, uint64_t v)
{
	char text[64];

	snprintf(text, sizeof(text), ",\"%s\":%llu", name, (unsigned long long)v);
	put(l, text);
}

static void put_time(struct line *l, uint64_t wall_ns)
{
	time_t s = (time_t)(wall_ns / 1000000000);
	char text[80], day[32];
	struct tm tm;

	gmtime_r(&s, &tm);
	strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text, sizeof(text), "{\"time\":\"%s.%06uZ\"", day,
		 (unsigned int)(wall_ns % 1000000000 / 1000));
	put(l, text);
}

static size_t line_format(const struct access_record *r, char *buf, size_t size)
{
	struct line l = {buf, buf + size - 2};

	put_time(&l, r->wall_ns);
	put_string(&l, "request_id", r->request_id);
	put_string(&l, "method", r->method);
	put_string(&l, "path", r->path);
	put_number(&l, "status", r->status);
	put_string(&l, "model", r->model);
	put(&l, r->stream ? ",\"stream\":true" : ",\"stream\":false");
	put_string(&l, "endpoint", r->endpoint);
	put_number(&l, "attempts", r->attempts);
	if (r->attempts)
		put_string(&l, "way", path_name(r->way.taken));
	put_number(&l, "hit_blocks", r->hit_blocks);
	put_number(&l, "total_blocks", r->total_blocks);
	if (r->usage_known) {
		put_number(&l, "prompt_tokens", r->prompt_tokens);
		put_number(&l, "completion_tokens", r->completion_tokens);
		put_number(&l, "cached_tokens", r->cached_tokens);
	}
	put_number(&l, "bytes_in", r->bytes_in);
	put_number(&l, "bytes_out", r->bytes_out);
	put_number(&l, "receive_us", r->receive_us);
	put_number(&l, "gateway_us", r->gateway_us);
	put_number(&l, "engine_ttft_us", r->engine_ttft_us);
	put_number(&l, "engine_us", r->engine_us);
	put_number(&l, "ttft_us", r->ttft_us);
	put_number(&l, "total_us", r->total_us);
	if (r->error[0])
		put_string(&l, "error", r->error);
	*l.p++ = '}';
	*l.p++ = '\n';
	return (size_t)(l.p - buf);
}

/* ---- the writer -------------------------------------------------------------------------------
 */

static int log_open(const char *path, int *ret_fd)
{
	int fd = strcmp(path, "-") == 0
			 ? fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
			 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static void writer_reopen(struct access_log *log)
{
	int fd, err;

	if (!atomic_exchange(&log->reopen, false))
		return;
	err = log_open(log->path, &fd);
	if (err) {
		log_error("access log %s: %s; the old file stays open", log->path, strerror(-err));
		return;
	}
	close(log->fd);
	log->fd = fd;
}

static void writer_flush(struct access_log *log)
{
	size_t done = 0;

	while (done < log->used) {
		ssize_t n = write(log->fd, log->buf + done, log->used - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (done == log->used) {
		metric_add(M_ACCESS_LOG_LINES, log->lines);
	} else {
		/* What the file took before it failed stays: count the lines that are not whole. */
		uint64_t whole = 0;

		for (size_t i = 0; i < done; i++)
			whole += log->buf[i] == '\n';
		metric_add(M_ACCESS_LOG_LINES, whole);
		metric_add(M_ACCESS_LOG_DROPPED, log->lines - whole);
	}
	log->used = 0;
	log->lines = 0;
}

/* Writes what one ring holds now; true if it held anything. */
static bool ring_drain(struct access_log *log, struct access_ring *ring)
{
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	uint32_t head = atomic_load(&ring->head);

	if (head == tail)
		return false;
	for (; tail != head; tail++) {
		if (WRITE_BYTES - log->used < LINE_BYTES)
			writer_flush(log);
		log->used += line_format(&ring->records[tail & QUEUE_MASK], log->buf + log->used,
					 LINE_BYTES);
		log->lines++;
		atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
	}
	return true;
}

static bool writer_drain(struct access_log *log)
{
	bool any = false;

	for (unsigned int i = 0; i < log->workers; i++)
		any |= ring_drain(log, &log->rings[i]);
	writer_flush(log);
	return any;
}

static void *writer_run(void *arg)
{
	struct access_log *log = arg;
	const struct timespec gather = {.tv_nsec = GATHER_NS};

	while (!atomic_load(&log->stop)) {
		atomic_store(&log->sleeping, 1);
		writer_reopen(log);
		if (writer_drain(log)) {
			atomic_store(&log->sleeping, 0);
			nanosleep(&gather, NULL); /* many lines in one write */
			continue;
		}
		if (!atomic_load(&log->stop) && !atomic_load(&log->reopen))
			syscall(SYS_futex, &log->sleeping, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
	}
	writer_reopen(log);
	writer_drain(log);
	return NULL;
}

void access_log_reopen(struct access_log *log)
{
	if (!log)
		return;
	atomic_store(&log->reopen, true);
	writer_wake(log);
}

static void log_release(struct access_log *log)
{
	for (unsigned int i = 0; i < log->workers; i++)
		free(log->rings[i].records);
	if (log->fd >= 0)
		close(log->fd);
	free(log->path);
	free(log->buf);
	free(log);
}

static int log_allocate(const char *path, unsigned int workers, struct access_log **ret)
{
	size_t bytes = sizeof(struct access_log) + workers * sizeof(struct access_ring);
	struct access_log *log = aligned_alloc(64, (bytes + 63) / 64 * 64);

	if (!log)
		return -ENOMEM;
	memset(log, 0, bytes);
	log->fd = -1;
	log->path = strdup(path);
	log->buf = malloc(WRITE_BYTES);
	log->workers = workers;
	for (unsigned int i = 0; i < workers; i++)
		log->rings[i].records = calloc(ACCESS_LOG_QUEUE, sizeof(struct access_record));
	*ret = log;
	for (unsigned int i = 0; i < workers; i++)
		if (!log->rings[i].records)
			return -ENOMEM;
	return log->path && log->buf ? 0 : -ENOMEM;
}

int access_log_new(const char *path, unsigned int workers, struct access_log **ret)
{
	struct access_log *log = NULL;
	sigset_t all, old;
	int err = log_allocate(path, workers, &log);

	if (!err)
		err = log_open(path, &log->fd);
	if (!err) {
		sigfillset(&all); /* signals are for the main thread */
		pthread_sigmask(SIG_BLOCK, &all, &old);
		err = -pthread_create(&log->thread, NULL, writer_run, log);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (err && log)
		log_release(log);
	if (!err)
		*ret = log;
	return err;
}

void access_log_free(struct access_log *log)
{
	if (!log)
		return;
	atomic_store(&log->stop, true);
	writer_wake(log);
	pthread_join(log->thread, NULL);
	log_release(log);
}
