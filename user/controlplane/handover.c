/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The predecessor's side: one successor at a time, moved on by the main loop's ticks; nothing here
 * waits. Invariant: until READY is read, this process serves as if nothing happened, and a
 * successor that dies is only a line in the log.
 */
#include "controlplane/handover.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd_pass.h"
#include "base/log.h"
#include "controlplane/handover_env.h"

enum state {
	NONE,
	STARTING, /* a channel is open */
	FAILED,	  /* none is, the last one came to nothing */
	SERVING,
};

struct handover {
	struct handover_ops ops;
	char *const *argv;
	char exe[512], path[108];
	int listen_fd;	      /* -1: no path */
	pthread_mutex_t lock; /* guards what follows: sluicectl asks on another thread */
	enum state state;
	int channel_fd;
	pid_t pid; /* of the successor; 0 until it said HELLO */
	bool ours; /* we started it: it is ours to reap */
	uint64_t until_ns;
	int give_err;
};

extern char **environ;

static int path_listen(struct handover *h, const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	strcpy(sun.sun_path, path);
	h->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (h->listen_fd < 0)
		return -errno;
	unlink(path); /* an earlier process's: whoever serves now is us */
	if (bind(h->listen_fd, (struct sockaddr *)&sun, sizeof(sun)) || chmod(path, 0600) ||
	    listen(h->listen_fd, 4))
		return -errno;
	strcpy(h->path, path);
	return 0;
}

/* What to start: the name we were called by, which a new version stands under, else ourselves. */
static void exe_find(struct handover *h)
{
	ssize_t n = readlink("/proc/self/exe", h->exe, sizeof(h->exe) - 1);

	h->exe[n > 0 ? n : 0] = '\0';
	if (strchr(h->argv[0], '/'))
		snprintf(h->exe, sizeof(h->exe), "%s", h->argv[0]);
}

int handover_new(char *const *argv, const struct handover_ops *ops, struct handover **ret)
{
	struct handover *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->ops = *ops;
	h->argv = argv;
	h->listen_fd = h->channel_fd = -1;
	pthread_mutex_init(&h->lock, NULL);
	exe_find(h);
	*ret = h;
	return 0;
}

int handover_listen(struct handover *h, const struct config *cfg)
{
	int err = 0;

	if (cfg->handover && *cfg->handover)
		err = path_listen(h, cfg->handover);
	if (err)
		log_error("cannot listen for a successor at %s: %s", cfg->handover, strerror(-err));
	return err;
}

void handover_close(struct handover *h)
{
	if (!h)
		return;
	if (h->path[0] && h->state != SERVING)
		unlink(h->path);
	if (h->listen_fd >= 0)
		close(h->listen_fd);
	if (h->channel_fd >= 0)
		close(h->channel_fd);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* ---- a successor is there ---------------------------------------------------------------------
 */

static void begin(struct handover *h, int channel_fd, pid_t pid)
{
	h->channel_fd = channel_fd;
	h->pid = pid;
	h->ours = pid != 0;
	h->state = STARTING;
	h->until_ns = clock_mono_ns() + HANDOVER_START_MS * NS_PER_MS;
}

static void give_up(struct handover *h, const char *why)
{
	log_warn("the successor (%d) %s; this process goes on", (int)h->pid, why);
	if (h->ours)
		kill(h->pid, SIGKILL);
	if (h->ours)
		waitpid(h->pid, NULL, 0);
	close(h->channel_fd);
	h->channel_fd = -1;
	h->state = FAILED;
}

/* Only root and our own user may have our sockets. */
static bool trusted(int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
	       (who.uid == 0 || who.uid == geteuid());
}

static void accept_successor(struct handover *h)
{
	int fd = accept4(h->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	if (h->state == STARTING || h->state == SERVING || !trusted(fd)) {
		log_warn("a successor is refused: %s",
			 trusted(fd) ? "there is one" : "of another user");
		close(fd);
		return;
	}
	begin(h, fd, 0);
}

void handover_give(struct handover *h, uint32_t kind, const char *text, int fd)
{
	struct fd_pass record = {.kind = kind};
	int err;

	snprintf(record.text, sizeof(record.text), "%s", text);
	err = fd_pass_send(h->channel_fd, &record, &fd, fd >= 0);
	if (err && !h->give_err)
		h->give_err = err;
}

static void give_all(struct handover *h)
{
	struct fd_pass end = {.kind = FD_PASS_END, .value = (uint64_t)getpid()};
	int room = 4 << 20; /* the kernel bounds it by net.core.wmem_max */

	setsockopt(h->channel_fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	h->give_err = 0;
	h->ops.sockets(h->ops.arg, h);
	if (!h->give_err)
		h->give_err = fd_pass_send(h->channel_fd, &end, NULL, 0);
	if (h->give_err)
		give_up(h, "cannot be given our sockets");
}

static void listen_to(struct handover *h)
{
	int fds[FD_PASS_MAX], err;
	struct fd_pass record;
	unsigned int count;

	err = fd_pass_receive(h->channel_fd, &record, fds, &count);
	while (!err && count)
		close(fds[--count]);
	if (err == -EAGAIN && clock_mono_ns() > h->until_ns)
		give_up(h, "takes too long");
	else if (err && err != -EAGAIN)
		give_up(h, "ended before it was ready");
	if (err)
		return;
	if (record.kind == FD_PASS_HELLO) {
		h->pid = (pid_t)record.value;
		log_info("a successor (%d) starts", (int)h->pid);
		give_all(h);
	} else if (record.kind == FD_PASS_READY) {
		log_info("the successor (%d) serves", (int)h->pid);
		h->state = SERVING;
	}
}

bool handover_tick(struct handover *h)
{
	bool serving;

	pthread_mutex_lock(&h->lock);
	if (h->listen_fd >= 0)
		accept_successor(h);
	if (h->state == STARTING)
		listen_to(h);
	serving = h->state == SERVING;
	pthread_mutex_unlock(&h->lock);
	return serving;
}

/* ---- we start it ourselves --------------------------------------------------------------------
 */

/* Our environment without what was meant for this process alone. Freed by the caller. */
static char **environment(char *channel)
{
	size_t n = 0, kept = 0;
	char **env;

	while (environ[n])
		n++;
	env = calloc(n + 2, sizeof(*env));
	for (size_t i = 0; env && i < n; i++)
		if (strncmp(environ[i], HANDOVER_ENV "=", sizeof(HANDOVER_ENV)) != 0 &&
		    strncmp(environ[i], "LISTEN_", 7) != 0)
			env[kept++] = environ[i];
	if (env)
		env[kept] = channel;
	return env;
}

static int program_start(struct handover *h, int channel_fd, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	char channel[64], **env;
	sigset_t none;
	int err;

	snprintf(channel, sizeof(channel), HANDOVER_ENV "=%d", channel_fd);
	env = environment(channel);
	if (!env)
		return -ENOMEM;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, channel_fd, channel_fd); /* clears CLOEXEC */
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	err = -posix_spawn(ret_pid, h->exe, &actions, &attr, h->argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	free(env);
	return err;
}

static int spawn_locked(struct handover *h, pid_t *ret_pid)
{
	int pair[2], err;

	if (h->state == STARTING || h->state == SERVING)
		return -EALREADY;
	if (getpid() == 1) /* its end would take the container and the successor along */
		return -EPERM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	err = program_start(h, pair[1], ret_pid);
	close(pair[1]);
	if (err) {
		close(pair[0]);
		log_error("cannot start %s: %s", h->exe, strerror(-err));
		return err;
	}
	begin(h, pair[0], *ret_pid);
	return 0;
}

int handover_spawn(struct handover *h, pid_t *ret_pid)
{
	int err;

	pthread_mutex_lock(&h->lock);
	err = spawn_locked(h, ret_pid);
	pthread_mutex_unlock(&h->lock);
	return err;
}

int handover_channel(const struct handover *h)
{
	return h->channel_fd;
}

pid_t handover_successor(const struct handover *h)
{
	return h->pid;
}

void handover_write_json(struct handover *h, FILE *f)
{
	static const char *const names[] = {"none", "starting", "failed", "serving"};

	pthread_mutex_lock(&h->lock);
	fprintf(f, "{\"pid\":%d,\"state\":\"%s\",\"successor\":%d}\n", (int)getpid(),
		names[h->state], (int)h->pid);
	pthread_mutex_unlock(&h->lock);
}
