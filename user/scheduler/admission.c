/* SPDX-License-Identifier: Apache-2.0 */
/* Saturation, ceilings by priority, and admitters. */
#include "scheduler/admission.h"

#include <math.h>
#include <string.h>

#include "base/health.h"
#include "base/load.h"
#include "scheduler/saturation.h"

#define UNSEEN_FREE 16 /* requests that an engine without a queue is taken to begin at once */

/*
 * The engine's figures are of a moment ago: what we sent and what ended since then is known. Sent:
 * it waits (or runs, nobody knows); ended: it ran.
 */
static void follow_own(struct sched_candidate *c, uint32_t then_plus_one)
{
	uint32_t then = then_plus_one - 1, now = c->own_requests, ended;

	if (!then_plus_one)
		return;
	if (now >= then) {
		c->waiting += now - then;
		return;
	}
	ended = then - now;
	if (ended <= c->running) {
		c->running -= ended;
		return;
	}
	ended -= c->running;
	c->running = 0;
	c->waiting = c->waiting > ended ? c->waiting - ended : 0;
}

void candidate_read(struct sched_candidate *c, struct endpoint *ep, uint32_t view, uint64_t now_ns,
		    uint64_t stale_ns)
{
	struct sluice_endpoint_load *load = ep->load;
	uint64_t scraped = load_read(load->scraped_at_ns), capacity;
	uint32_t unseen;

	c->endpoint = ep;
	c->view = view;
	c->hit_blocks = c->media_held = 0;
	c->predicted = c->precise = c->trusted = false;
	c->precise_tokens = 0;
	c->known = scraped && (now_ns <= scraped || now_ns - scraped <= stale_ns);
	c->waiting = load_read(load->waiting);
	c->running = load_read(load->running);
	c->own_requests = load_read(load->inflight_requests);
	c->own_tokens = load_read(load->inflight_tokens);
	c->kv_used = (float)load_read(load->kv_used_ppm) / 1e6f;
	follow_own(c, load_read(load->inflight_at_scrape));
	if (c->own_requests <= c->waiting + c->running)
		return;
	unseen = c->own_requests - c->waiting - c->running;
	c->waiting += unseen;
	capacity = (uint64_t)load_read(load->block_tokens) * load_read(load->blocks_total);
	if (capacity)
		c->kv_used += (float)c->own_tokens / (float)c->own_requests * (float)unseen /
			      (float)capacity;
	if (c->kv_used > 1)
		c->kv_used = 1;
}

/*
 * For the gate, what an engine has not shown yet waits only where its batch is not known to take
 * it: an engine without a queue begins as many again as it runs. Else each scrape would let no more
 * than the queue's threshold through.
 */
static void forgive_unseen(struct sched_candidate *c)
{
	const struct sluice_endpoint_load *load = c->endpoint->load;
	uint32_t seen = load_read(load->waiting), free = c->running + UNSEEN_FREE;

	if (seen == 0)
		c->waiting = c->waiting > free ? c->waiting - free : 0;
}

static double pod_saturation(const struct plugin *detector, const struct sched_candidate *c)
{
	if (strcmp(detector->type->name, "concurrency-detector") == 0)
		return saturation_concurrency(detector, c);
	return saturation_utilization(detector, c);
}

double admission_saturation(const struct setup *setup, const struct endpoint_snapshot *snap,
			    uint64_t now_ns, uint64_t stale_ns, uint32_t *ret_ready)
{
	const struct plugin *detector = setup->plugins[setup->flow.detector];
	double sum[2] = {0, 0}, most = 0;
	uint32_t count[2] = {0, 0};

	for (uint32_t i = 0; i < snap->view_count; i++) {
		struct endpoint *ep = snap->views[i];
		struct sched_candidate c;
		double s;

		if (ep->role == SLUICE_ROLE_ENCODE || !health_may_pick(ep))
			continue;
		candidate_read(&c, ep, i, now_ns, stale_ns);
		forgive_unseen(&c);
		s = pod_saturation(detector, &c);
		for (int stage = 0; stage < 2; stage++) {
			bool in = stage == 0 ? ep->role == 0 || (ep->role & SLUICE_ROLE_DECODE)
					     : ep->role & SLUICE_ROLE_PREFILL;

			sum[stage] += in ? s : 0;
			count[stage] += in;
		}
	}
	*ret_ready = count[0] + count[1];
	if (!*ret_ready)
		return 1;
	for (int stage = 0; stage < 2; stage++)
		if (count[stage])
			most = fmax(most, sum[stage] / count[stage]);
	return most;
}

static double holdback(const struct plugin *p, const struct admission_bands *b)
{
	double min = p->params[0], max = p->params[1], at = 0;

	if (b->count < 2)
		return max;
	if (p->params[2] == 0)
		at = (double)b->rank / (b->count - 1);
	else if (b->high > b->low)
		at = ((double)b->high - b->priority) / ((double)b->high - b->low);
	return max - at * (max - min);
}

static double soft(const struct admission_bands *b, double s, uint64_t *calls)
{
	uint64_t every;

	if (b->rank == 0 || b->count < 2 || s < 1 - b->rank * s / (b->count - 1))
		return 1;
	if (s >= 1)
		return 0;
	every = (uint64_t)llround(s / (1 - s));
	return every < 2 || ++*calls % every == 0 ? 1 : 0;
}

double admission_ceiling(const struct plugin *limit, const struct admission_bands *bands,
			 double saturation, uint64_t *calls)
{
	if (strcmp(limit->type->name, "priority-holdback-policy") == 0)
		return holdback(limit, bands);
	if (strcmp(limit->type->name, "soft-reflective-ceiling-policy") == 0)
		return soft(bands, saturation, calls);
	return limit->params[0];
}

/* ---- admitters ---- */

/* Sheddable ones are refused with probability min(1, k s^power). */
static bool admits_by_chance(const struct plugin *p, const struct sched_view *view)
{
	double sum = 0, s;

	if (view->request->priority >= 0 || !view->count)
		return true;
	for (uint32_t i = 0; i < view->count; i++)
		sum += fmax(view->candidates[i].waiting / p->params[0],
			    (double)view->candidates[i].kv_used / p->params[1]);
	s = sum / view->count;
	return plugin_random(view->rng) >= fmin(1, p->params[3] * pow(s, p->params[2]));
}

/* Sheddable ones with an SLO that nobody is predicted to meet, while nobody is idle. */
static bool admits_by_slo(const struct sched_view *view)
{
	const struct sched_request *req = view->request;

	if (req->priority >= 0 || !(req->slo_ttft_ms || req->slo_tpot_ms) || !view->any_predicted)
		return true;
	for (uint32_t i = 0; i < view->count; i++) {
		const struct sched_candidate *c = &view->candidates[i];

		if ((c->predicted && c->ttft_headroom >= 0 && c->tpot_headroom >= 0) ||
		    c->own_requests == 0 || (c->known && (double)c->kv_used < 0.02))
			return true;
	}
	return false;
}

bool admission_admits(const struct setup *setup, const struct sched_view *view)
{
	for (unsigned int i = 0; i < setup->plugin_count; i++) {
		const struct plugin *p = setup->plugins[i];

		if (!(p->type->kinds & PLUGIN_ADMITTER))
			continue;
		if (strcmp(p->type->name, "probabilistic-admitter") == 0
			    ? !admits_by_chance(p, view)
			    : !admits_by_slo(view))
			return false;
	}
	return true;
}
