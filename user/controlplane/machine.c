/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's side: a thread that starts the child, reads its lines and ends it at a deadline.
 * A child that crashes or hangs leaves the rest unknown, and the relay does it all.
 */
#include "controlplane/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json_write.h"
#include "base/log.h"
#include "base/machine.h"
#include "controlplane/interfaces.h"
#include "controlplane/machine_probes.h"

#define DEADLINE_MS    20000
#define TEXT_BYTES_MAX 8192

struct machine {
	const struct config *cfg;
	int stop_fd;
	pthread_t thread;
	pthread_mutex_t lock; /* guards found */
	char found[MACHINE_FEATURES][PROBE_FOUND_BYTES];
};

extern char **environ;

static int child_start(const struct config *cfg, pid_t *ret_pid, int *ret_fd)
{
	char *argv[] = {"sluiced", "--probe-machine", "--bpffs-dir", cfg->bpffs_dir, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	int pipes[2], err;

	if (pipe2(pipes, O_CLOEXEC))
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	err = -posix_spawn(ret_pid, "/proc/self/exe", &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	close(pipes[1]);
	if (err)
		close(pipes[0]);
	else
		*ret_fd = pipes[0];
	return err;
}

/* What the child wrote, until it ends, its time is over, or we are to stop. */
static void child_read(struct machine *m, int fd, char *text, size_t size)
{
	uint64_t until = clock_mono_ns() + DEADLINE_MS * NS_PER_MS;
	size_t len = 0;

	for (;;) {
		struct pollfd fds[] = {{.fd = fd, .events = POLLIN},
				       {.fd = m->stop_fd, .events = POLLIN}};
		uint64_t now = clock_mono_ns();
		ssize_t n;

		if (now >= until || len + 1 >= size)
			break;
		poll(fds, 2, (int)((until - now) / NS_PER_MS) + 1);
		if (fds[1].revents)
			break;
		if (!fds[0].revents)
			continue;
		n = read(fd, text + len, size - len - 1);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
}

static void line_take(struct machine *m, char *line)
{
	char *state = strchr(line, '\t'), *found = state ? strchr(state + 1, '\t') : NULL;

	if (!found)
		return;
	*state++ = '\0';
	*found++ = '\0';
	for (int i = 0; i < MACHINE_FEATURES; i++) {
		if (strcmp(machine_feature_name((enum machine_feature)i), line) != 0)
			continue;
		pthread_mutex_lock(&m->lock);
		snprintf(m->found[i], sizeof(m->found[i]), "%s", found);
		pthread_mutex_unlock(&m->lock);
		machine_feature_set((enum machine_feature)i, state[0] == 'y'   ? MACHINE_YES
							     : state[0] == 'n' ? MACHINE_NO
									       : MACHINE_UNKNOWN);
	}
}

static void log_path(const char *name, enum machine_state state, enum machine_feature lacks)
{
	if (state == MACHINE_YES)
		log_info("this machine can %s", name);
	else if (state == MACHINE_NO)
		log_info("this machine cannot %s (%s): answers are relayed", name,
			 machine_feature_name(lacks));
	else
		log_info("this machine may be able to %s: %s could not be tested", name,
			 machine_feature_name(lacks));
}

static void *machine_run(void *arg)
{
	enum machine_feature lacks = MACHINE_KERNEL;
	enum machine_state state;
	char text[TEXT_BYTES_MAX], *next = text, *line;
	struct machine *m = arg;
	pid_t pid = 0;
	int fd = -1, err = child_start(m->cfg, &pid, &fd);

	if (err) {
		log_warn("the machine's self-tests cannot start: %s", strerror(-err));
	} else {
		child_read(m, fd, text, sizeof(text));
		close(fd);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		machine_sweep(pid);
		while ((line = strsep(&next, "\n")) != NULL)
			line_take(m, line);
	}
	machine_known_set();
	state = machine_splice(&lacks);
	log_path("splice", state, lacks);
	state = machine_steer(&lacks);
	log_path("steer", state, lacks);
	return NULL;
}

struct machine *machine_new(const struct config *cfg)
{
	struct machine *m = cfg->bpf ? calloc(1, sizeof(*m)) : NULL;
	sigset_t all, old;
	int err;

	if (!m) {
		machine_known_set();
		return NULL;
	}
	m->cfg = cfg;
	pthread_mutex_init(&m->lock, NULL);
	m->stop_fd = eventfd(0, EFD_CLOEXEC);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = m->stop_fd < 0 ? -errno : -pthread_create(&m->thread, NULL, machine_run, m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		return m;
	log_warn("the machine's self-tests cannot start: %s", strerror(-err));
	if (m->stop_fd >= 0)
		close(m->stop_fd);
	free(m);
	machine_known_set();
	return NULL;
}

void machine_free(struct machine *m)
{
	uint64_t one = 1;

	if (!m)
		return;
	if (write(m->stop_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(m->thread, NULL);
	close(m->stop_fd);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* ---- shown ------------------------------------------------------------------------------------
 */

static const char *state_name(enum machine_state state)
{
	static const char *const names[] = {"unknown", "yes", "no"};

	return names[state];
}

static void features_write(struct machine *m, FILE *f)
{
	for (int i = 0; i < MACHINE_FEATURES; i++) {
		enum machine_feature feature = (enum machine_feature)i;
		char found[PROBE_FOUND_BYTES] = "";

		if (m) {
			pthread_mutex_lock(&m->lock);
			memcpy(found, m->found[i], sizeof(found));
			pthread_mutex_unlock(&m->lock);
		}
		fprintf(f, "%s\n{\"name\":\"%s\",\"state\":\"%s\",\"text\":", i ? "," : "",
			machine_feature_name(feature), state_name(machine_feature(feature)));
		json_string_write(f, span_of_str(machine_feature_text(feature)));
		fputs(",\"found\":", f);
		json_string_write(f, span_of_str(found));
		fputc('}', f);
	}
}

static void path_write(const char *name, enum machine_state state, enum machine_feature lacks,
		       FILE *f)
{
	fprintf(f, ",\n{\"name\":\"%s\",\"available\":\"%s\",\"why\":", name, state_name(state));
	if (state == MACHINE_YES)
		fputs("\"\"}", f);
	else
		fprintf(f, "\"%s: %s\"}", machine_feature_name(lacks),
			state == MACHINE_NO  ? "no"
			: machine_is_known() ? "could not be tested"
					     : "not tested yet");
}

void machine_write_json(struct machine *m, struct interfaces *ifs, FILE *f)
{
	enum machine_feature lacks = MACHINE_KERNEL;
	enum machine_state state;
	struct utsname u = {0};

	uname(&u);
	fprintf(f, "{\"known\":%s,\"kernel\":", machine_is_known() ? "true" : "false");
	json_string_write(f, span_of_str(u.release));
	fputs(",\"features\":[", f);
	features_write(m, f);
	fputs("],\n\"paths\":[{\"name\":\"relay\",\"available\":\"yes\",\"why\":\"\"}", f);
	state = machine_steer(&lacks);
	path_write("steer", state, lacks, f);
	state = machine_splice(&lacks);
	path_write("splice", state, lacks, f);
	fputs("],\n\"interfaces\":", f);
	interfaces_write_json(ifs, f);
	fputs("}\n", f);
}

static int metric_value(enum machine_state state)
{
	return state == MACHINE_YES ? 1 : state == MACHINE_NO ? 0 : -1;
}

void machine_write_metrics(FILE *f)
{
	enum machine_feature lacks;

	fputs("# HELP sluice_machine_feature What self-tests found at the start: 1 yes, 0 no, -1 "
	      "unknown\n# TYPE sluice_machine_feature gauge\n",
	      f);
	for (int i = 0; i < MACHINE_FEATURES; i++)
		fprintf(f, "sluice_machine_feature{feature=\"%s\"} %d\n",
			machine_feature_name((enum machine_feature)i),
			metric_value(machine_feature((enum machine_feature)i)));
	fputs("# HELP sluice_path_available Can answers take that path on this machine: 1 yes, 0 "
	      "no, -1 unknown\n# TYPE sluice_path_available gauge\n"
	      "sluice_path_available{path=\"relay\"} 1\n",
	      f);
	fprintf(f, "sluice_path_available{path=\"steer\"} %d\n",
		metric_value(machine_steer(&lacks)));
	fprintf(f, "sluice_path_available{path=\"splice\"} %d\n",
		metric_value(machine_splice(&lacks)));
}
