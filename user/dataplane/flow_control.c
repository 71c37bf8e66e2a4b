/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits, who goes, who is told to come back. */
#include "dataplane/flow_control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "dataplane/request.h"
#include "scheduler/admission.h"

#define HEAD_BASE	  (1LL << 32)
#define DISPATCHES_MAX	  64 /* of one loop turn */
#define EVICTION_PAUSE_NS (5 * NS_PER_MS)

#define container(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

void flow_shared_init(struct flow_shared *shared, const struct setup *setup, uint64_t stale_ms)
{
	memset(shared, 0, sizeof(*shared));
	shared->setup = setup;
	shared->stale_ns = (stale_ms ? stale_ms : LOAD_STALE_MS) * NS_PER_MS;
}

int flow_init(struct worker *w, struct flow_shared *shared)
{
	w->flow = calloc(1, sizeof(*w->flow));
	if (!w->flow)
		return -ENOMEM;
	w->flow->shared = shared;
	return flow_queue_init(&w->flow->queue);
}

void flow_fini(struct worker *w)
{
	if (w->flow)
		flow_queue_fini(&w->flow->queue);
	free(w->flow);
	w->flow = NULL;
}

/* ---- bands ---- */

/* The band of a priority, made if there is room; else the nearest existing one below or above. */
static uint8_t band_of(struct flow_shared *s, int32_t priority)
{
	uint64_t name = 1ULL << 32 | (uint32_t)priority;
	uint8_t nearest = 0;
	int64_t gap, least = INT64_MAX;

	for (uint8_t i = 0; i < FLOW_BANDS_MAX; i++) {
		uint64_t there = s->bands[i].name;

		if (!there && !atomic_compare_exchange_strong(&s->bands[i].name, &there, name))
			there = s->bands[i].name;
		else if (!there)
			return i;
		if (there == name)
			return i;
		gap = (int64_t)(int32_t)(uint32_t)there - priority;
		if (llabs(gap) < least) {
			least = llabs(gap);
			nearest = i;
		}
	}
	return nearest;
}

static int32_t band_priority(const struct flow_shared *s, uint8_t band)
{
	return (int32_t)(uint32_t)s->bands[band].name;
}

static const struct flow_band *band_limits(const struct flow_shared *s, uint8_t band)
{
	const struct flow_setup *f = &s->setup->flow;
	int32_t priority = band_priority(s, band);

	for (unsigned int i = 0; i < f->band_count; i++)
		if (f->bands[i].priority == priority)
			return &f->bands[i];
	return priority < 0 ? &f->negative : &f->usual;
}

static const struct plugin *fairness_of(const struct flow_shared *s, uint8_t band)
{
	return s->setup->plugins[band_limits(s, band)->fairness];
}

/* This worker's band of the highest priority that has something waiting; -1: none. */
static int highest_waiting(const struct flow_control *fc)
{
	int best = -1;

	for (uint8_t i = 0; i < FLOW_BANDS_MAX; i++)
		if (fc->queue.bands[i].count &&
		    (best < 0 ||
		     band_priority(fc->shared, i) > band_priority(fc->shared, (uint8_t)best)))
			best = i;
	return best;
}

static int lowest_waiting(const struct flow_control *fc)
{
	int best = -1;

	for (uint8_t i = 0; i < FLOW_BANDS_MAX; i++)
		if (fc->queue.bands[i].count &&
		    (best < 0 ||
		     band_priority(fc->shared, i) < band_priority(fc->shared, (uint8_t)best)))
			best = i;
	return best;
}

/* Rank among the bands that exist: 0 is the highest. Band 0 always exists. */
static struct admission_bands rank_of(const struct flow_shared *s, uint8_t band)
{
	struct admission_bands b = {.priority = band_priority(s, band)};
	bool zero = false;

	b.high = b.low = b.priority;
	for (uint8_t i = 0; i < FLOW_BANDS_MAX && s->bands[i].name; i++) {
		int32_t p = band_priority(s, i);

		b.count++;
		b.rank += p > b.priority;
		b.high = p > b.high ? p : b.high;
		b.low = p < b.low ? p : b.low;
		zero |= p == 0;
	}
	if (!zero) {
		b.count++;
		b.rank += b.priority < 0;
		b.high = b.high < 0 ? 0 : b.high;
		b.low = b.low > 0 ? 0 : b.low;
	}
	return b;
}

/* ---- refusals ---- */

static double saturation(struct worker *w, uint32_t *ret_ready)
{
	struct flow_shared *s = w->flow->shared;
	double full = 1;

	*ret_ready = 0;
	if (w->snapshot)
		full = admission_saturation(s->setup, w->snapshot, clock_mono_ns(), s->stale_ns,
					    ret_ready);
	s->saturation_ppm = (uint64_t)(full * 1e6);
	return full;
}

static void drop(struct request *req, int status, const char *reason, const char *message)
{
	flow_end(req);
	respond_dropped(req, status, reason, message);
}

static void drop_full(struct request *req)
{
	uint32_t ready;

	saturation(req->worker, &ready);
	metric_inc(M_FLOW_FULL);
	if (ready)
		drop(req, 429, "rejected-saturated", "Too many requests are waiting already.");
	else
		drop(req, 503, "rejected-no-endpoints", "No engine is ready.");
}

static void expired(struct timer *t)
{
	struct flow_item *item = container(t, struct flow_item, timer);
	struct request *req = container(item, struct request, flow);
	uint32_t ready;

	saturation(req->worker, &ready);
	metric_inc(M_FLOW_EXPIRED);
	drop(req, ready ? 429 : 503, "rejected-ttl-expired",
	     "The request has waited for as long as it may.");
}

/* ---- the queue ---- */

static void count_queued(struct flow_shared *s, const struct flow_item *item, int sign)
{
	int64_t bytes = (int64_t)item->bytes * sign;

	atomic_fetch_add(&s->queued, sign);
	atomic_fetch_add(&s->bytes, bytes);
	atomic_fetch_add(&s->bands[item->band].queued, sign);
	atomic_fetch_add(&s->bands[item->band].bytes, bytes);
}

static void leave_queue(struct request *req)
{
	struct flow_control *fc = req->worker->flow;

	timer_clear(&req->flow.timer);
	flow_queue_remove(&fc->queue, &req->flow);
	count_queued(fc->shared, &req->flow, -1);
}

static void publish_head(struct worker *w)
{
	struct flow_control *fc = w->flow;
	int band = highest_waiting(fc);

	fc->shared->heads[w->index] =
		band < 0 ? 0 : HEAD_BASE + band_priority(fc->shared, (uint8_t)band);
}

void flow_end(struct request *req)
{
	struct flow_item *item = &req->flow;
	struct flow_control *fc = req->worker->flow;

	if (item->flow)
		leave_queue(req);
	if (item->running) {
		*item->link_running = item->next_running;
		if (item->next_running)
			item->next_running->link_running = item->link_running;
		item->running = false;
	}
	if (fc && item->since_ns && req->sse.usage.known &&
	    strcmp(fairness_of(fc->shared, item->band)->type->name, "program-aware-fairness") == 0)
		flow_queue_served(&fc->queue, item->band, item->tenant,
				  req->sse.usage.prompt_tokens +
					  2.0 * req->sse.usage.completion_tokens,
				  fairness_of(fc->shared, item->band)->params[5], clock_mono_ns());
	item->since_ns = 0;
}

static bool limits_allow(const struct flow_shared *s, const struct flow_item *item)
{
	const struct flow_setup *f = &s->setup->flow;
	const struct flow_band *b = band_limits(s, item->band);
	const struct flow_shared_band *now = &s->bands[item->band];

	return (f->requests_max <= 0 || s->queued + 1 <= f->requests_max) &&
	       (f->bytes_max <= 0 || (double)s->bytes + (double)item->bytes <= f->bytes_max) &&
	       now->queued + 1 <= b->requests_max &&
	       (double)now->bytes + (double)item->bytes <= b->bytes_max;
}

static uint64_t order_key(const struct flow_shared *s, const struct request *req, uint64_t ttl_ms)
{
	const char *order = s->setup->plugins[band_limits(s, req->flow.band)->ordering]->type->name;
	uint64_t now = req->flow.since_ns;

	if (strcmp(order, "edf-ordering-policy") == 0)
		return ttl_ms ? now + ttl_ms * NS_PER_MS : UINT64_MAX;
	if (strcmp(order, "slo-deadline-ordering-policy") == 0)
		return req->slo_ttft_ms ? req->begin_ns + req->slo_ttft_ms * NS_PER_MS : UINT64_MAX;
	return now;
}

/* Room for one of a higher priority: the lowest one that waits goes. */
static bool displace(struct worker *w, int32_t priority)
{
	struct flow_control *fc = w->flow;
	int band = lowest_waiting(fc);
	struct flow_item *item;

	if (!fc->shared->setup->flow.evicts || band < 0 ||
	    band_priority(fc->shared, (uint8_t)band) >= priority)
		return false;
	item = flow_queue_last(&fc->queue, (uint8_t)band);
	metric_inc(M_FLOW_EVICTED);
	drop(container(item, struct request, flow), 429, "evicted-queue-pressure",
	     "A request of higher priority took its place in the queue.");
	return true;
}

/* False: it was answered, there is no room. */
static bool enqueue(struct request *req)
{
	struct worker *w = req->worker;
	struct flow_control *fc = w->flow;
	struct flow_item *item = &req->flow;
	uint64_t ttl_ms = fc->shared->setup->flow.ttl_ms;
	uint32_t ready;

	if (!limits_allow(fc->shared, item) &&
	    (!displace(w, item->priority) || !limits_allow(fc->shared, item))) {
		drop_full(req);
		return false;
	}
	saturation(w, &ready);
	if (!ready)
		ttl_ms = fc->shared->setup->flow.empty_pool_ttl_ms;
	item->key = order_key(fc->shared, req, ttl_ms);
	flow_queue_push(&fc->queue, item,
			strcmp(fairness_of(fc->shared, item->band)->type->name,
			       "global-strict-fairness-policy") == 0);
	count_queued(fc->shared, item, 1);
	item->timer.fired = expired;
	if (ttl_ms)
		timer_set(&w->timers, &item->timer, ttl_ms);
	return true;
}

/* ---- dispatch ---- */

/* Does another worker hold something more important? It goes first, at its next turn. */
static bool others_first(const struct worker *w, int32_t priority)
{
	const struct flow_shared *s = w->flow->shared;

	for (unsigned int i = 0; i < WORKERS_MAX; i++)
		if (i != w->index && s->heads[i] > HEAD_BASE + priority)
			return true;
	return false;
}

static void evict_one(struct worker *w, int32_t priority, double full)
{
	struct flow_control *fc = w->flow;
	struct flow_item *worst = fc->evictable;
	uint64_t now = clock_mono_ns();
	struct request *req;

	if (!fc->shared->setup->flow.evicts || priority < 0 || full < 1 || !worst ||
	    now - fc->evicted_ns < EVICTION_PAUSE_NS)
		return;
	for (struct flow_item *x = worst->next_running; x; x = x->next_running)
		if (x->priority < worst->priority) /* the list is newest first */
			worst = x;
	fc->evicted_ns = now;
	metric_inc(M_FLOW_EVICTED);
	req = container(worst, struct request, flow);
	if (req->committed)
		client_abort(req->client);
	else
		drop(req, 429, "evicted-priority",
		     "The engines are full and a request of higher priority waits.");
}

static void go(struct request *req)
{
	struct worker *w = req->worker;
	struct flow_item *item = &req->flow;

	leave_queue(req);
	metric_inc(M_FLOW_DISPATCHED);
	metric_observe_us(H_FLOW_QUEUE, (clock_mono_ns() - item->since_ns) / NS_PER_US);
	if (item->priority < 0) {
		item->running = true;
		item->next_running = w->flow->evictable;
		item->link_running = &w->flow->evictable;
		if (item->next_running)
			item->next_running->link_running = &item->next_running;
		w->flow->evictable = item;
	}
	request_dispatch(req);
}

static void dispatch(struct worker *w)
{
	struct flow_control *fc = w->flow;

	if (fc->dispatching) /* what went has ended at once: the loop below goes on */
		return;
	fc->dispatching = true;
	for (int i = 0; i < DISPATCHES_MAX && fc->queue.count; i++) {
		uint8_t band = (uint8_t)highest_waiting(fc);
		struct admission_bands rank = rank_of(fc->shared, band);
		const struct setup *setup = fc->shared->setup;
		uint32_t ready;
		double full = saturation(w, &ready);

		if (!ready || full >= admission_ceiling(setup->plugins[setup->flow.usage_limit],
							&rank, full, &fc->calls)) {
			evict_one(w, rank.priority, full);
			break;
		}
		if (others_first(w, rank.priority))
			break;
		go(container(flow_queue_next(&fc->queue, band, fairness_of(fc->shared, band),
					     clock_mono_ns()),
			     struct request, flow));
	}
	fc->dispatching = false;
	publish_head(w);
}

void flow_turn(struct worker *w)
{
	struct flow_control *fc = w->flow;
	int band;

	if (!fc || !fc->queue.count)
		return;
	while (w->draining && (band = highest_waiting(fc)) >= 0) {
		metric_inc(M_FLOW_SHUTDOWN);
		drop(container(flow_queue_last(&fc->queue, (uint8_t)band), struct request, flow),
		     503, "rejected-shutting-down", "The gateway is shutting down.");
	}
	dispatch(w);
}

uint32_t flow_sleep_ms(const struct worker *w, uint32_t usual_ms)
{
	return w->flow && w->flow->queue.count ? FLOW_TURN_MS : usual_ms;
}

/* ---- who is it ---- */

static uint32_t header_ms(const struct request *req, struct span name, struct span old)
{
	struct span v = http1_field_get(&req->head, name);
	uint64_t n = 0;

	if (!v.len)
		v = http1_field_get(&req->head, old);
	for (size_t i = 0; i < v.len; i++) {
		if (v.ptr[i] < '0' || v.ptr[i] > '9' || n > 1000000000)
			return 0; /* a bad SLO is none */
		n = n * 10 + (uint64_t)(v.ptr[i] - '0');
	}
	return (uint32_t)n;
}

struct span flow_tenant(const struct request *req)
{
	static const char *const agent_fields[] = {"x-claude-code-session-id", "x-session-affinity",
						   "session-id", "session_id"};
	struct span id = http1_field_get(&req->head, SPAN("x-llm-d-inference-fairness-id"));
	const struct setup *setup = req->worker->flow->shared->setup;

	for (unsigned int i = 0; !id.len && setup->knows_agents && i < 4; i++)
		id = http1_field_get(&req->head, span_of_str(agent_fields[i]));
	return id.len ? id : SPAN("default-flow");
}

static void identify(struct request *req)
{
	struct flow_item *item = &req->flow;
	struct span tenant = flow_tenant(req), name;

	name = http1_field_get(&req->head, SPAN("x-llm-d-inference-objective"));
	if (!name.len)
		name = http1_field_get(&req->head, SPAN("x-gateway-inference-objective"));
	item->priority = setup_objective(req->worker->flow->shared->setup, name);
	item->tenant = XXH3_64bits(tenant.ptr, tenant.len);
	req->slo_ttft_ms = header_ms(req, SPAN("x-llm-d-slo-ttft-ms"), SPAN("x-slo-ttft-ms"));
	req->slo_tpot_ms = header_ms(req, SPAN("x-llm-d-slo-tpot-ms"), SPAN("x-slo-tpot-ms"));
}

void flow_begin(struct request *req)
{
	struct worker *w = req->worker;
	uint32_t ready;

	if (!w->flow) {
		request_dispatch(req);
		return;
	}
	identify(req);
	if (!w->flow->shared->setup->flow.on) {
		if (req->flow.priority < 0 && saturation(w, &ready) >= 1 && ready) {
			metric_inc(M_FLOW_SHED);
			drop(req, 429, "rejected-saturated", "The engines are full.");
		} else {
			request_dispatch(req);
		}
		return;
	}
	req->flow.band = band_of(w->flow->shared, req->flow.priority);
	req->flow.bytes = req->body_bytes;
	req->flow.since_ns = clock_mono_ns();
	request_show(req, "queued");
	if (enqueue(req))
		dispatch(w);
}

void flow_write_metrics(FILE *f, const struct flow_shared *s, bool llm_d_names)
{
	for (int names = 0; names < (llm_d_names ? 2 : 1); names++) {
		const char *prefix = names ? "llm_d_epp_" : "sluice_";

		fprintf(f,
			"# HELP %sflow_control_pool_saturation How full the pool is; 1 is full\n"
			"# TYPE %sflow_control_pool_saturation gauge\n"
			"%sflow_control_pool_saturation %.6f\n"
			"# HELP %sflow_control_queue_size Requests that wait\n"
			"# TYPE %sflow_control_queue_size gauge\n",
			prefix, prefix, prefix, (double)s->saturation_ppm / 1e6, prefix, prefix);
		for (uint8_t i = 0; i < FLOW_BANDS_MAX && s->bands[i].name; i++)
			fprintf(f, "%sflow_control_queue_size{priority=\"%d\"} %lld\n", prefix,
				band_priority(s, i), (long long)s->bands[i].queued);
		fprintf(f,
			"# HELP %sflow_control_queue_bytes Bytes of requests that wait\n"
			"# TYPE %sflow_control_queue_bytes gauge\n",
			prefix, prefix);
		for (uint8_t i = 0; i < FLOW_BANDS_MAX && s->bands[i].name; i++)
			fprintf(f, "%sflow_control_queue_bytes{priority=\"%d\"} %lld\n", prefix,
				band_priority(s, i), (long long)s->bands[i].bytes);
	}
}
