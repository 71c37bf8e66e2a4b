/* SPDX-License-Identifier: Apache-2.0 */
/* sluiced: flags -> config -> maps -> store -> workers -> wait. The only file that sees everything.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json_write.h"
#include "base/fd_pass.h"
#include "base/log.h"
#include "base/service.h"
#include "controlplane/admin.h"
#include "controlplane/bpf_sync.h"
#include "controlplane/control.h"
#include "controlplane/kernel_latency.h"
#include "controlplane/kv_service.h"
#include "controlplane/machine.h"
#include "controlplane/guard.h"
#include "controlplane/handover.h"
#include "controlplane/interfaces.h"
#include "controlplane/options.h"
#include "controlplane/store.h"
#include "controlplane/uninstall.h"
#include "dataplane/flow_control.h"
#include "dataplane/live.h"
#include "dataplane/disagg/disagg.h"
#include "dataplane/path.h"
#include "dataplane/rewrite.h"
#include "dataplane/splice.h"
#include "dataplane/worker.h"
#include "scheduler/config/setup.h"
#include "scheduler/decisions.h"
#include "scheduler/prefix_index.h"

#define READY_WAIT_MS 2000 /* for endpoints that do not answer */
#define HANDED_OVER   1	   /* of agent_wait(): a successor serves */

struct agent {
	struct config cfg;
	struct budget budget;
	struct bpf_sync *maps;
	struct prefix_index *index;
	struct scheduler *sched;
	struct flow_shared flow;
	struct store *store;
	struct kv_service *kv;
	struct kv_trust kv_trust;
	struct control *control;
	struct access_log *log;
	struct admin *admin;
	struct guard *guard;
	struct interfaces *interfaces;
	struct machine *machine;
	struct heritage heritage; /* what a predecessor left us */
	struct handover *handover;
	char *const *argv;
	struct rewrites *rewrites;
	_Atomic bool ready;
	uint64_t started_ns;
	struct worker *workers;
	unsigned int worker_count;
};

static void endpoint_lost(void *arg, uint32_t slot, uint32_t old_generation)
{
	struct agent *a = arg;

	(void)old_generation;
	prefix_index_forget(a->index, (uint16_t)slot);
}

/* What engines say of their caches goes before what the gateway remembers. */
static int kv_init(struct agent *a)
{
	char why[512] = "";
	int err = kv_service_new(&a->cfg, a->store, &a->kv, why, sizeof(why));

	if (err)
		log_error("%s", why);
	else if (a->kv)
		scheduler_set_kv(a->sched, kv_service_index(a->kv), &a->kv_trust);
	return err;
}

static int knowledge_init(struct agent *a)
{
	struct store_hooks hooks = {.arg = a, .endpoint_lost = endpoint_lost};
	char *error = NULL;
	size_t affinity_bytes;
	void *affinity;
	char why[160];
	int err = disagg_check(&a->cfg, why, sizeof(why));

	if (!err)
		err = rewrites_new(&a->cfg, why, sizeof(why), &a->rewrites);
	if (err) {
		log_error("%s", why);
		return err;
	}
	err = a->heritage.lock_fd >= 0 ? bpf_sync_succeed(&a->cfg, a->heritage.lock_fd, &a->maps)
				       : bpf_sync_new(&a->cfg, &a->maps);
	if (err)
		return err;
	affinity = bpf_sync_affinity(a->maps, &affinity_bytes);
	err = prefix_index_new(affinity, affinity_bytes, a->worker_count, &a->index);
	if (!err)
		err = scheduler_new(&a->cfg, a->index, a->worker_count, &a->sched, &error);
	if (err) {
		log_error("scheduler: %s", error ? error : strerror(-err));
		free(error);
		return err;
	}
	a->store = store_new(&a->cfg, bpf_sync_endpoints(a->maps), bpf_sync_load(a->maps), &hooks);
	return a->store ? kv_init(a) : -ENOMEM;
}

static int workers_init(struct agent *a)
{
	a->workers = calloc(a->worker_count, sizeof(*a->workers));
	if (!a->workers)
		return -ENOMEM;
	a->budget.max = a->cfg.buffered_bytes_max;
	flow_shared_init(&a->flow, scheduler_setup(a->sched), a->cfg.load_stale_ms);
	for (unsigned int i = 0; i < a->worker_count; i++) {
		struct worker *w = &a->workers[i];
		int err;

		w->index = i;
		w->peers = a->worker_count;
		w->inherited = &a->heritage.sockets;
		w->adopt_fd = a->heritage.channel_fd;
		w->successor_fd = -1;
		w->cfg = &a->cfg;
		w->budget = &a->budget;
		w->log = a->log;
		w->sched = scheduler_worker(a->sched, i);
		w->rewrites = a->rewrites;
		w->kv_index = kv_service_index(a->kv);
		w->kv_models = kv_service_models(a->kv);
		if (flow_init(w, &a->flow))
			return -ENOMEM;
		err = store_attach_worker(a->store, &w->mailbox);
		if (!err)
			err = worker_start(w);
		if (err)
			return err;
	}
	return 0;
}

static struct endpoint_snapshot *admin_snapshot(void *arg)
{
	return store_snapshot(((struct agent *)arg)->store);
}

/* Has each endpoint said what it serves? Before that a retry might find nobody to go to. */
static bool all_known(struct agent *a)
{
	struct endpoint_snapshot *snap = store_snapshot(a->store);
	bool all = true;

	for (uint32_t v = 0; v < snap->view_count; v++) {
		bool known = false;

		for (uint32_t m = 0; m < snap->model_count; m++)
			known |= snap->models[m].views[v / 64] >> (v % 64) & 1;
		all &= known;
	}
	snapshot_put(snap);
	return all;
}

/* Ready: listening, and all endpoints are known or have had their time to answer. */
static bool admin_ready(void *arg)
{
	struct agent *a = arg;

	return a->ready &&
	       (clock_mono_ns() - a->started_ns > READY_WAIT_MS * NS_PER_MS || all_known(a));
}

static void admin_requests(void *arg, FILE *f)
{
	struct agent *a = arg;
	bool first = true;

	fputc('[', f);
	for (unsigned int i = 0; a->ready && i < a->worker_count; i++)
		live_write_json(&a->workers[i].running, clock_mono_ns(), &first, f);
	fputc(']', f);
}

static bool admin_decision(void *arg, struct span request_id, FILE *f)
{
	struct agent *a = arg;
	struct decisions *set = scheduler_decisions(a->sched);
	struct decision *d = set ? decisions_find(set, request_id) : NULL;
	struct endpoint_snapshot *snap;

	if (!d)
		return false;
	snap = store_snapshot(a->store);
	decision_write_json(f, set, d, snap);
	snapshot_put(snap);
	free(d);
	return true;
}

static int admin_explain(void *arg, struct span body, FILE *f)
{
	struct agent *a = arg;
	struct endpoint_snapshot *snap = store_snapshot(a->store);
	int err = kv_service_explain(a->kv, &a->kv_trust, snap, body, f);

	snapshot_put(snap);
	return err;
}

static void admin_affinity(void *arg, FILE *f)
{
	struct agent *a = arg;
	struct endpoint_snapshot *snap = store_snapshot(a->store);
	struct prefix_index_stats st;

	prefix_index_read_stats(a->index, &st);
	fprintf(f, "{\"pairs\":%llu,\"pairs_max\":%llu,\"bytes\":%llu,\"block_bytes\":%llu,",
		(unsigned long long)st.pairs, (unsigned long long)st.pairs_max,
		(unsigned long long)st.bytes, (unsigned long long)a->cfg.prompt_block_bytes);
	fprintf(f, "\"evicted\":%llu,\"dropped_blocks\":%llu,\"refused_blocks\":%llu,",
		(unsigned long long)st.evicted, (unsigned long long)st.dropped_blocks,
		(unsigned long long)st.refused_blocks);
	fputs("\"endpoints\":[", f);
	for (uint32_t i = 0; i < snap->view_count; i++) {
		const struct endpoint *ep = snap->views[i];

		fprintf(f, "%s{\"name\":", i ? "," : "");
		json_string_write(f, span_of_str(ep->name));
		fprintf(f, ",\"address\":\"%s\",\"blocks\":%llu,\"blocks_max\":%llu}", ep->address,
			(unsigned long long)prefix_index_endpoint_pairs(a->index,
									(uint16_t)ep->slot),
			(unsigned long long)prefix_index_endpoint_capacity(a->index,
									   (uint16_t)ep->slot));
	}
	fputc(']', f);
	kv_service_write_losses(a->kv, f);
	fputc('}', f);
	snapshot_put(snap);
}

static int admin_drain(void *arg, const char *name, bool draining)
{
	struct agent *a = arg;

	return draining ? store_drain(a->store, name) : store_undrain(a->store, name);
}

static void ages_write(struct agent *a, FILE *f)
{
	uint64_t ages[LIVE_AGES] = {0};

	for (unsigned int i = 0; a->ready && i < a->worker_count; i++)
		live_count_ages(&a->workers[i].running, clock_mono_ns(), ages);
	fputs("# HELP sluice_requests_running Requests not finished, by age\n"
	      "# TYPE sluice_requests_running gauge\n",
	      f);
	for (unsigned int i = 0; i < LIVE_AGES; i++)
		fprintf(f, "sluice_requests_running{age=\"%s%us\"} %llu\n",
			i < LIVE_AGES - 1 ? "under " : "over ",
			live_age_limits_s[i < LIVE_AGES - 1 ? i : i - 1],
			(unsigned long long)ages[i]);
}

static void latency_metrics(struct agent *a, FILE *f)
{
	struct endpoint_snapshot *snap = store_snapshot(a->store);
	char path[300];

	snprintf(path, sizeof(path), "%s/splice/latency", a->cfg.bpffs_dir);
	if (a->cfg.bpf)
		kernel_latency_write(path, snap, f);
	snapshot_put(snap);
}

static void admin_metrics(void *arg, FILE *f)
{
	struct agent *a = arg;

	ages_write(a, f);
	prefix_index_write_metrics(a->index, a->cfg.llm_d_metrics, f);
	kv_service_write_metrics(a->kv, &a->kv_trust, f);
	interfaces_write_metrics(a->interfaces, f);
	machine_write_metrics(f);
	guard_write_metrics(a->guard, f);
	splice_write_metrics(f);
	latency_metrics(a, f);
	flow_write_metrics(f, &a->flow, a->cfg.llm_d_metrics);
	fprintf(f,
		"# HELP sluice_buffered_bytes Bytes in blocks that connections own\n"
		"# TYPE sluice_buffered_bytes gauge\nsluice_buffered_bytes %llu\n",
		(unsigned long long)a->budget.used);
}

static int admin_upgrade(void *arg, FILE *f)
{
	struct agent *a = arg;
	pid_t pid = 0;
	int err = handover_spawn(a->handover, &pid);

	if (!err)
		fprintf(f, "{\"pid\":%d,\"successor\":%d}\n", (int)getpid(), (int)pid);
	return err;
}

static void admin_upgrade_state(void *arg, FILE *f)
{
	handover_write_json(((struct agent *)arg)->handover, f);
}

static void admin_path(void *arg, FILE *f)
{
	struct agent *a = arg;

	machine_write_json(a->machine, a->interfaces, f);
}

static int admin_init(struct agent *a)
{
	struct admin_ops ops = {.arg = a,
				.snapshot = admin_snapshot,
				.ready = admin_ready,
				.write_requests = admin_requests,
				.write_decision = admin_decision,
				.write_affinity = admin_affinity,
				.explain_prompt = admin_explain,
				.set_draining = admin_drain,
				.write_path = admin_path,
				.upgrade = admin_upgrade,
				.write_upgrade = admin_upgrade_state,
				.write_metrics = admin_metrics};
	int err;

	if (!a->cfg.admin || !*a->cfg.admin)
		return 0;
	err = admin_adopt(&a->cfg, &ops, heritage_take(&a->heritage, a->cfg.admin), &a->admin);
	if (err)
		log_error("cannot serve the admin port at %s: %s", a->cfg.admin, strerror(-err));
	return err;
}

static int interface_attach(void *arg, int ifindex, const char *name)
{
	(void)arg;
	return splice_attach(ifindex, name);
}

static void interface_detach(void *arg, int ifindex, const char *name, bool gone)
{
	(void)arg;
	splice_detach(ifindex, name, gone);
}

/* What attaches to interfaces is told here of each; without netlink the relay does it all. */
static void interfaces_init(struct agent *a)
{
	struct interfaces_ops ops = {.arg = a,
				     .snapshot = admin_snapshot,
				     .attach = splice_is_up() ? interface_attach : NULL,
				     .detach = interface_detach};
	int err = interfaces_new(&a->cfg, &ops, &a->interfaces);

	if (err)
		log_warn("interfaces cannot be followed: %s", strerror(-err));
}

static void drained_give(struct agent *a, struct handover *h)
{
	struct endpoint_snapshot *snap = store_snapshot(a->store);

	for (uint32_t v = 0; v < snap->view_count; v++)
		if (snap->views[v]->draining)
			handover_give(h, FD_PASS_DRAINED, snap->views[v]->name, -1);
	snapshot_put(snap);
}

/* What a successor is given. */
static void sockets_give(void *arg, struct handover *h)
{
	struct agent *a = arg;

	for (unsigned int i = 0; i < a->worker_count; i++) {
		const char *addresses[LISTENERS_MAX];
		int fds[LISTENERS_MAX];
		unsigned int n = worker_sockets(&a->workers[i], fds, addresses);

		for (unsigned int k = 0; k < n; k++)
			handover_give(h, FD_PASS_LISTEN, addresses[k], fds[k]);
	}
	drained_give(a, h);
	if (a->admin)
		handover_give(h, FD_PASS_ADMIN, a->cfg.admin, admin_socket(a->admin));
	if (bpf_sync_lock_fd(a->maps) >= 0)
		handover_give(h, FD_PASS_LOCK, "", bpf_sync_lock_fd(a->maps));
}

/* A successor accepts only when it knows as much as one that has run for a while. */
static void predecessor_wait(struct agent *a)
{
	uint64_t until = clock_mono_ns() + READY_WAIT_MS * NS_PER_MS;

	while (a->heritage.channel_fd >= 0 && !all_known(a) && clock_mono_ns() < until)
		usleep(5000);
	for (unsigned int i = 0; i < a->heritage.drained_count; i++)
		if (store_drain(a->store, a->heritage.drained[i]))
			log_warn("%s was drained, and is not known any more",
				 a->heritage.drained[i]);
}

/* From now on we serve: whoever was before us may go, whoever comes after us may ask. */
static int handover_begin(struct agent *a)
{
	int err = handover_ready(&a->heritage);

	inherited_close_rest(&a->heritage.sockets);
	if (!err)
		err = handover_listen(a->handover, &a->cfg);
	if (err)
		return err;
	service_notify("READY=1");
	return 0;
}

static int agent_start(struct agent *a)
{
	struct handover_ops ops = {.arg = a, .sockets = sockets_give};
	char error[512];
	int err;

	a->worker_count =
		a->cfg.workers ? a->cfg.workers : (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
	a->cfg.workers = a->worker_count; /* from here on it is known */
	if (a->worker_count > WORKERS_MAX)
		a->worker_count = WORKERS_MAX;
	err = handover_new(a->argv, &ops, &a->handover);
	if (!err)
		err = handover_receive(&a->cfg, &a->heritage);
	if (!err)
		err = knowledge_init(a);
	if (err)
		return err;
	if (a->cfg.access_log && access_log_new(a->cfg.access_log, a->worker_count, &a->log)) {
		log_error("cannot write the access log %s", a->cfg.access_log);
		return -EIO;
	}
	err = control_start(&a->cfg, a->store, error, sizeof(error), &a->control);
	if (err) {
		log_error("%s", error);
		return err;
	}
	err = guard_new(&a->cfg, &a->guard);
	if (err)
		return err;
	err = path_start(&a->cfg);
	if (err)
		return err;
	predecessor_wait(a);
	interfaces_init(a);
	err = workers_init(a);
	if (err)
		return err;
	a->started_ns = clock_mono_ns();
	a->ready = true;
	a->machine = machine_new(&a->cfg);
	err = admin_init(a);
	return err ? err : handover_begin(a);
}

static bool all_idle(const struct agent *a)
{
	for (unsigned int i = 0; i < a->worker_count; i++)
		if (!a->workers[i].idle)
			return false;
	return true;
}

/* SIGTERM: no new connections; what runs may finish, for a while. */
static void agent_drain(struct agent *a)
{
	uint64_t until = clock_mono_ns() + a->cfg.drain_timeout_ms * NS_PER_MS;

	a->ready = false;
	log_info("draining: running requests may finish");
	for (unsigned int i = 0; i < a->worker_count; i++)
		worker_drain(&a->workers[i]);
	while (!all_idle(a) && clock_mono_ns() < until)
		usleep(20000);
}

/*
 * A successor serves: connections move there between two requests, and what runs may finish. It
 * has the service's name now, so there is time; a signal cuts it short.
 */
static void agent_hand_over(struct agent *a, const sigset_t *signals)
{
	uint64_t until = clock_mono_ns() + a->cfg.handover_timeout_ms * NS_PER_MS;
	struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};
	char state[64];

	snprintf(state, sizeof(state), "MAINPID=%d", (int)handover_successor(a->handover));
	service_notify(state);
	for (unsigned int i = 0; i < a->worker_count; i++)
		worker_hand_over(&a->workers[i], handover_channel(a->handover));
	kv_service_deafen(a->kv);
	admin_hand_over(a->admin);
	a->admin = NULL;
	while (!all_idle(a) && clock_mono_ns() < until) {
		int sig = sigtimedwait(signals, NULL, &tick);

		if (sig == SIGTERM || sig == SIGINT)
			return;
	}
	log_info("everything is handed over");
}

static void agent_stop(struct agent *a)
{
	admin_free(a->admin); /* first: it asks all the others */
	machine_free(a->machine);
	handover_close(a->handover);
	for (unsigned int i = 0; a->workers && i < a->worker_count; i++)
		worker_stop(&a->workers[i]);
	interfaces_free(a->interfaces, true);
	path_stop();
	guard_free(a->guard);
	kv_service_free(a->kv);
	control_stop(a->control);
	access_log_free(a->log);
	bpf_sync_free(a->maps);
}

static bool worker_lost(const struct agent *a)
{
	for (unsigned int i = 0; i < a->worker_count; i++)
		if (a->workers[i].failed)
			return true;
	return false;
}

/* Until SIGTERM: 0. HANDED_OVER. -EIO: a worker cannot go on, and neither can its connections. */
static int agent_wait(struct agent *a, const sigset_t *signals)
{
	pid_t pid;
	int sig;

	for (;;) {
		struct timespec tick = {.tv_nsec = 50 * 1000 * 1000};

		sig = sigtimedwait(signals, NULL, &tick);
		prefix_index_tick(a->index);
		if (sig == SIGHUP) {
			access_log_reopen(a->log);
			control_reload(a->control);
		} else if (sig == SIGUSR2) {
			handover_spawn(a->handover, &pid);
		} else if (sig > 0) {
			return 0;
		} else if (worker_lost(a)) {
			return -EIO;
		}
		if (handover_tick(a->handover))
			return HANDED_OVER;
	}
}

static void limits_raise(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
}

static void signals_block(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR2);
	sigprocmask(SIG_BLOCK, set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int agent_run(struct agent *a)
{
	sigset_t signals;
	int err;

	signals_block(&signals);
	limits_raise();
	err = agent_start(a);
	if (!err) {
		for (size_t i = 0; i < a->cfg.listen.count; i++)
			log_info("listening on %s", a->cfg.listen.items[i]);
		err = agent_wait(a, &signals);
		if (err == HANDED_OVER)
			agent_hand_over(a, &signals);
		else if (!err)
			agent_drain(a);
	}
	agent_stop(a);
	return err < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --check-config: how requests will be scheduled, as comments of the YAML. */
static int explain(const struct config *cfg)
{
	struct setup *setup;
	char *error = NULL;
	int err = setup_from_config(cfg, &setup, &error);

	if (err) {
		fprintf(stderr, "sluiced: %s\n", error ? error : strerror(-err));
		free(error);
		return 2;
	}
	fputs("\n# How requests are scheduled\n", stdout);
	setup_explain(stdout, setup, "# ");
	setup_free(setup);
	return 0;
}

/* An EndpointPickerConfig may name the file of endpoints itself. */
static int endpoints_of_setup(struct config *cfg)
{
	struct setup *setup = NULL;
	char *error = NULL;
	int err = 0;

	if (!cfg->scheduler_config || cfg->endpoints.count || cfg->endpoints_file)
		return 0;
	err = setup_from_config(cfg, &setup, &error);
	if (!err && setup->endpoints_file) {
		cfg->endpoints_file = strdup(setup->endpoints_file);
		err = cfg->endpoints_file ? 0 : -ENOMEM;
	} else if (!err) {
		err = -EINVAL;
		if (asprintf(&error, "no engines: give --endpoint, --endpoints or file-discovery") <
		    0)
			error = NULL;
	}
	if (err)
		fprintf(stderr, "sluiced: %s\n", error ? error : strerror(-err));
	free(error);
	setup_free(setup);
	return err;
}

static int uninstall(const char *bpffs_dir)
{
	int err = uninstall_pins(bpffs_dir);

	if (err)
		fprintf(stderr, "sluiced: cannot remove all of %s: %s\n", bpffs_dir,
			err == -ENOTSUP ? "it is not on a bpffs" : strerror(-err));
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct agent agent;
	enum config_action action;
	struct config_error error = {""};
	char text[512];

	agent.argv = argv;
	agent.heritage.channel_fd = agent.heritage.lock_fd = -1;
	config_init_defaults(&agent.cfg);
	if (config_parse_args(&agent.cfg, argc, argv, &action, &error)) {
		fprintf(stderr, "sluiced: %s\n", error.text);
		return 2;
	}
	if (action == CONFIG_RUN && endpoints_of_setup(&agent.cfg))
		return 2;
	log_set_level((enum log_level)agent.cfg.log_level);
	switch (action) {
	case CONFIG_HELP:
		config_write_help(stdout);
		return 0;
	case CONFIG_VERSION:
		printf("sluiced %s\n", SLUICE_VERSION);
		return 0;
	case CONFIG_CHECK:
		if (control_check(&agent.cfg, text, sizeof(text)) ||
		    rewrites_new(&agent.cfg, text, sizeof(text), &agent.rewrites)) {
			fprintf(stderr, "sluiced: %s\n", text);
			return 2;
		}
		config_write_yaml(stdout, &agent.cfg);
		return explain(&agent.cfg);
	case CONFIG_PROBE:
		return machine_probe(&agent.cfg, stdout);
	case CONFIG_UNINSTALL:
		return uninstall(agent.cfg.bpffs_dir);
	default:
		return agent_run(&agent);
	}
}
