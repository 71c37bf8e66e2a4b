/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page at /metrics. Label values are endpoint names only, escaped, and capped: what lies beyond
 * LABEL_VALUES_MAX is summed under "other", so that no configuration grows the page without end.
 */
#include "controlplane/exporter.h"

#include <dirent.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/health.h"
#include "base/load.h"
#include "base/metrics.h"
#include "controlplane/options.h"

enum gauge_id {
	GAUGE_READY,
	GAUGE_WAITING,
	GAUGE_RUNNING,
	GAUGE_KV,
	GAUGE_INFLIGHT,
	GAUGE_INFLIGHT_TOKENS,
	GAUGE_TTFT,
	GAUGE_ITL,
	GAUGE_PICKS,
	GAUGE_PROMPT,
	GAUGE_CACHED,
	GAUGE_TTFT_ERROR_MEAN,
	GAUGE_TTFT_ERROR_P90,
	GAUGE_ITL_ERROR_MEAN,
	GAUGE_ITL_ERROR_P90,
};

static const struct gauge {
	const char *name, *type, *help;
	bool scraped; /* known only while the scrape is fresh */
} gauges[] = {
	[GAUGE_READY] = {"endpoint_ready", "gauge", "1 if it takes new requests", false},
	[GAUGE_WAITING] = {"endpoint_waiting", "gauge", "Requests in the engine's queue", true},
	[GAUGE_RUNNING] = {"endpoint_running", "gauge", "Requests in the engine's batch", true},
	[GAUGE_KV] = {"endpoint_kv_used_ratio", "gauge", "KV cache in use", true},
	[GAUGE_INFLIGHT] = {"endpoint_inflight_requests", "gauge",
			    "Requests sent by this gateway and not finished", false},
	[GAUGE_INFLIGHT_TOKENS] = {"endpoint_inflight_tokens", "gauge",
				   "Of those, prompt tokens yet to be prefilled", false},
	[GAUGE_TTFT] = {"endpoint_ttft_average_seconds", "gauge", "Moving average of TTFT", false},
	[GAUGE_ITL] = {"endpoint_itl_average_seconds", "gauge", "Moving average of ITL", false},
	[GAUGE_PICKS] = {"endpoint_picks_total", "counter", "Requests sent there", false},
	[GAUGE_PROMPT] = {"endpoint_prompt_tokens_total", "counter",
			  "Prompt tokens that the engine reported", false},
	[GAUGE_CACHED] = {"endpoint_cached_tokens_total", "counter",
			  "Prompt tokens that the engine found in its cache", false},
	[GAUGE_TTFT_ERROR_MEAN] = {"endpoint_ttft_prediction_error_mean_ratio", "gauge",
				   "Mean error of predicted TTFT, of the measured one", false},
	[GAUGE_TTFT_ERROR_P90] = {"endpoint_ttft_prediction_error_p90_ratio", "gauge",
				  "90 % of the predicted TTFTs are no worse", false},
	[GAUGE_ITL_ERROR_MEAN] = {"endpoint_itl_prediction_error_mean_ratio", "gauge",
				  "Mean error of predicted ITL, of the measured one", false},
	[GAUGE_ITL_ERROR_P90] = {"endpoint_itl_prediction_error_p90_ratio", "gauge",
				 "90 % of the predicted ITLs are no worse", false},
};

const char *endpoint_state_name(const struct endpoint *ep)
{
	static const char *const names[] = {"free", "ready", "draining", "open", "trial"};
	uint8_t state = health_state(ep);

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}

bool endpoint_load_is_fresh(const struct config *cfg, const struct endpoint *ep, uint64_t now_ns)
{
	uint64_t at = load_read(ep->load->scraped_at_ns);

	return at && now_ns < at + cfg->load_stale_ms * NS_PER_MS;
}

static double gauge_read(const struct endpoint *ep, enum gauge_id id)
{
	const struct sluice_endpoint_load *l = ep->load;

	switch (id) {
	case GAUGE_READY:
		return health_may_pick(ep);
	case GAUGE_WAITING:
		return load_read(l->waiting);
	case GAUGE_RUNNING:
		return load_read(l->running);
	case GAUGE_KV:
		return load_read(l->kv_used_ppm) / 1e6;
	case GAUGE_INFLIGHT:
		return load_read(l->inflight_requests);
	case GAUGE_INFLIGHT_TOKENS:
		return (double)load_read(l->inflight_tokens);
	case GAUGE_TTFT:
		return load_read(l->ttft_us) / 1e6;
	case GAUGE_ITL:
		return load_read(l->itl_us) / 1e6;
	case GAUGE_PICKS:
		return (double)load_read(l->requests_total);
	case GAUGE_PROMPT:
		return (double)load_read(l->prompt_tokens_total);
	case GAUGE_CACHED:
		return (double)load_read(l->cached_tokens_total);
	case GAUGE_TTFT_ERROR_MEAN:
		return load_read(l->ttft_error_mean_ppm) / 1e6;
	case GAUGE_TTFT_ERROR_P90:
		return load_read(l->ttft_error_p90_ppm) / 1e6;
	case GAUGE_ITL_ERROR_MEAN:
		return load_read(l->itl_error_mean_ppm) / 1e6;
	case GAUGE_ITL_ERROR_P90:
		return load_read(l->itl_error_p90_ppm) / 1e6;
	}
	return 0;
}

static void head_write(FILE *f, const char *prefix, const char *name, const char *type,
		       const char *help)
{
	fprintf(f, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

static void one_write(FILE *f, const char *prefix, const char *name, const char *type,
		      const char *help, double v)
{
	head_write(f, prefix, name, type, help);
	fprintf(f, "%s%s %.17g\n", prefix, name, v);
}

static void gauge_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap,
			enum gauge_id id, uint64_t now_ns)
{
	const struct gauge *g = &gauges[id];
	bool has_other = false;
	double other = 0;

	head_write(f, "sluice_", g->name, g->type, g->help);
	for (uint32_t i = 0; i < snap->view_count; i++) {
		const struct endpoint *ep = snap->views[i];

		if (g->scraped && !endpoint_load_is_fresh(cfg, ep, now_ns))
			continue;
		if (i >= LABEL_VALUES_MAX - 1) {
			other += gauge_read(ep, id);
			has_other = true;
			continue;
		}
		fprintf(f, "sluice_%s{endpoint=\"", g->name);
		metric_label_write(f, ep->name);
		fprintf(f, "\"} %.17g\n", gauge_read(ep, id));
	}
	if (has_other)
		fprintf(f, "sluice_%s{endpoint=\"other\"} %.17g\n", g->name, other);
}

static void states_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap,
			 uint64_t now_ns)
{
	static const char *const names[] = {"ready", "draining", "open", "trial"};
	unsigned int counts[4] = {0}, stale = 0;

	for (uint32_t i = 0; i < snap->view_count; i++) {
		const char *state = endpoint_state_name(snap->views[i]);

		for (int k = 0; k < 4; k++)
			counts[k] += strcmp(state, names[k]) == 0;
		stale += !endpoint_load_is_fresh(cfg, snap->views[i], now_ns);
	}
	head_write(f, "sluice_", "endpoints", "gauge", "Endpoints by state");
	for (int k = 0; k < 4; k++)
		fprintf(f, "sluice_endpoints{state=\"%s\"} %u\n", names[k], counts[k]);
	one_write(f, "sluice_", "endpoints_stale", "gauge",
		  "Endpoints whose load is unknown or too old", stale);
}

/* ---- llm-d's names ----------------------------------------------------------------------------
 */

static void average_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap,
			  enum gauge_id id, const char *what, const char *help, uint64_t now_ns)
{
	double sum = 0, squares = 0, n = 0, mean;
	char name[80];

	for (uint32_t i = 0; i < snap->view_count; i++) {
		double v = gauge_read(snap->views[i], id);

		if (!endpoint_load_is_fresh(cfg, snap->views[i], now_ns))
			continue;
		sum += v;
		squares += v * v;
		n++;
	}
	mean = n ? sum / n : 0;
	snprintf(name, sizeof(name), "average_%s", what);
	one_write(f, "llm_d_epp_", name, "gauge", help, mean);
	snprintf(name, sizeof(name), "std_dev_%s", what);
	one_write(f, "llm_d_epp_", name, "gauge", help,
		  n ? sqrt(fmax(0, squares / n - mean * mean)) : 0);
}

static void llm_d_pool_write(FILE *f, const struct config *cfg,
			     const struct endpoint_snapshot *snap, uint64_t now_ns)
{
	double ready = 0;

	for (uint32_t i = 0; i < snap->view_count; i++)
		ready += health_may_pick(snap->views[i]);
	one_write(f, "llm_d_epp_", "ready_endpoints", "gauge", "Endpoints that take requests",
		  ready);
	average_write(f, cfg, snap, GAUGE_KV, "kv_cache_utilization", "KV cache in use", now_ns);
	average_write(f, cfg, snap, GAUGE_WAITING, "queue_size", "Requests waiting", now_ns);
	average_write(f, cfg, snap, GAUGE_RUNNING, "running_requests", "Requests running", now_ns);
	head_write(f, "llm_d_epp_", "per_endpoint_queue_size", "gauge", "Requests waiting");
	for (uint32_t i = 0; i < snap->view_count && i < LABEL_VALUES_MAX; i++) {
		if (!endpoint_load_is_fresh(cfg, snap->views[i], now_ns))
			continue;
		fputs("llm_d_epp_per_endpoint_queue_size{model_server_endpoint=\"", f);
		metric_label_write(f, snap->views[i]->name);
		fprintf(f, "\"} %.17g\n", gauge_read(snap->views[i], GAUGE_WAITING));
	}
}

/* Sums of our counters under llm-d's names. */
static void llm_d_sums_write(FILE *f)
{
	static const struct {
		const char *name, *label, *help;
		enum metric_counter from, to;
	} sums[] = {
		{"scheduler_attempts_total", "{status=\"success\"}", "Scheduling decisions",
		 M_PICKED, M_PICKED},
		{"scheduler_attempts_total", "{status=\"failure\"}", NULL, M_PICK_FAILED,
		 M_PICK_FAILED},
		{"disagg_decision_total", "{decision_type=\"prefill-decode\"}",
		 "Requests asked of the decider", M_PD_DECISION_ALWAYS, M_PD_DECISION_GAIN},
		{"disagg_decision_total", "{decision_type=\"decode-only\"}", NULL,
		 M_PD_DECISION_NEVER, M_PD_DECISION_NO_PREFILL},
		{"kv_cache_events_messages_received_total", "",
		 "Messages of engines about their KV caches", M_KV_MESSAGES, M_KV_MESSAGES},
	};

	for (unsigned int i = 0; i < sizeof(sums) / sizeof(sums[0]); i++) {
		uint64_t sum = 0;

		for (unsigned int id = sums[i].from; id <= sums[i].to; id++)
			sum += metric_total((enum metric_counter)id);
		if (sums[i].help)
			head_write(f, "llm_d_epp_", sums[i].name, "counter", sums[i].help);
		fprintf(f, "llm_d_epp_%s%s %llu\n", sums[i].name, sums[i].label,
			(unsigned long long)sum);
	}
}

static void llm_d_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap,
			uint64_t now_ns)
{
	if (snap)
		llm_d_pool_write(f, cfg, snap, now_ns);
	llm_d_sums_write(f);
	metric_histogram_write(f, H_PICK, "llm_d_epp_", "scheduler_e2e_duration_seconds",
			       "One scheduling decision");
	head_write(f, "llm_d_epp_", "info", "gauge", "Build of the endpoint picker");
	fprintf(f, "llm_d_epp_info{build_ref=\"sluice-%s\"} 1\n", SLUICE_VERSION);
}

/* ---- the process ------------------------------------------------------------------------------
 */

static unsigned int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n > 3 ? n - 3 : 0; /* ".", ".." and the directory itself */
}

static void process_write(FILE *f)
{
	static uint64_t started_ns; /* admin thread only */
	unsigned long pages = 0, resident = 0;
	struct rlimit fds = {0};
	struct rusage use = {0};
	FILE *statm = fopen("/proc/self/statm", "re");

	if (!started_ns)
		started_ns = clock_wall_ns();
	if (statm && fscanf(statm, "%lu %lu", &pages, &resident) != 2)
		resident = 0;
	if (statm)
		fclose(statm);
	getrusage(RUSAGE_SELF, &use);
	getrlimit(RLIMIT_NOFILE, &fds);
	one_write(f, "process_", "cpu_seconds_total", "counter", "CPU time used",
		  (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
			  (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
	one_write(f, "process_", "resident_memory_bytes", "gauge", "Resident memory",
		  (double)resident * (double)sysconf(_SC_PAGESIZE));
	one_write(f, "process_", "virtual_memory_bytes", "gauge", "Virtual memory",
		  (double)pages * (double)sysconf(_SC_PAGESIZE));
	one_write(f, "process_", "open_fds", "gauge", "Open descriptors", count_fds());
	one_write(f, "process_", "max_fds", "gauge", "Limit of open descriptors",
		  (double)fds.rlim_cur);
	head_write(f, "sluice_", "build_info", "gauge", "Version of this process");
	fprintf(f, "sluice_build_info{version=\"%s\",abi=\"%d\"} 1\n", SLUICE_VERSION,
		SLUICE_ABI_VERSION);
}

void exporter_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap)
{
	uint64_t now_ns = clock_mono_ns();

	metrics_write(f);
	if (snap) {
		states_write(f, cfg, snap, now_ns);
		for (unsigned int i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
			gauge_write(f, cfg, snap, (enum gauge_id)i, now_ns);
		pool_metrics_write(f, cfg, snap, now_ns);
	}
	process_write(f);
	model_metrics_write(f, cfg->llm_d_metrics);
	if (cfg->llm_d_metrics)
		llm_d_write(f, cfg, snap, now_ns);
}
