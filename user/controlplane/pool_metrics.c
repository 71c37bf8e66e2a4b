/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load by role, so that prefill and decode pods can be scaled each by itself. Saturation is that of
 * llm-d's utilization-detector: the mean over a pool of max(waiting / 5, KV cache in use / 0.8), so
 * 1 is full. Pods without a role count as decode.
 */
#include "controlplane/exporter.h"

#include "base/health.h"
#include "base/load.h"

#define WAITING_FULL 5.0
#define KV_FULL	     0.8

struct pool {
	double ready, waiting, running, tokens, saturation, known;
};

static void pool_add(struct pool *p, const struct config *cfg, const struct endpoint *ep,
		     uint64_t now_ns)
{
	const struct sluice_endpoint_load *load = ep->load;
	double queue, kv;

	p->ready += health_may_pick(ep);
	p->tokens += (double)load_read(load->inflight_tokens);
	if (!endpoint_load_is_fresh(cfg, ep, now_ns))
		return;
	queue = load_read(load->waiting) / WAITING_FULL;
	kv = load_read(load->kv_used_ppm) / 1e6 / KV_FULL;
	p->waiting += load_read(load->waiting);
	p->running += load_read(load->running);
	p->saturation += queue > kv ? queue : kv;
	p->known++;
}

void pool_metrics_write(FILE *f, const struct config *cfg, const struct endpoint_snapshot *snap,
			uint64_t now_ns)
{
	static const struct {
		const char *name;
		uint8_t role;
	} roles[] = {{"prefill", SLUICE_ROLE_PREFILL},
		     {"decode", SLUICE_ROLE_DECODE},
		     {"encode", SLUICE_ROLE_ENCODE}};
	static const char *const names[] = {"ready", "waiting", "running", "inflight_tokens",
					    "saturation"};
	static const char *const helps[] = {
		"Endpoints of a role that take requests", "Requests waiting there",
		"Requests running there", "Prompt tokens sent there and not prefilled yet",
		"Mean of max(waiting / 5, KV cache / 0.8) there: 1 is full"};
	struct pool pools[3] = {{0}};

	for (uint32_t i = 0; i < snap->view_count; i++)
		for (int r = 0; r < 3; r++) {
			uint8_t role = snap->views[i]->role;

			if (role & roles[r].role || (!role && roles[r].role == SLUICE_ROLE_DECODE))
				pool_add(&pools[r], cfg, snap->views[i], now_ns);
		}
	for (int m = 0; m < 5; m++) {
		fprintf(f, "# HELP sluice_pool_%s %s\n# TYPE sluice_pool_%s gauge\n", names[m],
			helps[m], names[m]);
		for (int r = 0; r < 3; r++) {
			const struct pool *p = &pools[r];
			double mean = p->known ? p->saturation / p->known : 0;
			double v[] = {p->ready, p->waiting, p->running, p->tokens, mean};

			fprintf(f, "sluice_pool_%s{role=\"%s\"} %.9g\n", names[m], roles[r].name,
				v[m]);
		}
	}
}
