/* SPDX-License-Identifier: Apache-2.0 */
/* From engine_metrics to endpoint_load, by relaxed atomics: each figure stands for itself. */
#include "controlplane/scrape.h"

#include "base/load.h"

static uint32_t figure(double value, double scale)
{
	value = value * scale + 0.5;
	return value >= 4294967295.0 ? UINT32_MAX : (uint32_t)value;
}

static void adapters_apply(struct adapters *a, const struct engine_metrics *m)
{
	atomic_store_explicit(&a->max, m->max_lora, memory_order_relaxed);
	for (uint32_t i = 0; i < m->adapter_count; i++)
		atomic_store_explicit(&a->known[i], m->adapters[i], memory_order_relaxed);
	atomic_store_explicit(&a->count, m->adapter_count, memory_order_relaxed);
}

void scrape_apply(struct endpoint *ep, const struct engine_metrics *m, uint64_t now_ns)
{
	struct sluice_endpoint_load *load = ep->load;

	if (m->seen & SERIES_WAITING)
		load_write(load->waiting, figure(m->waiting, 1));
	if (m->seen & SERIES_RUNNING) {
		load_write(load->running, figure(m->running, 1));
		load_write(load->inflight_at_scrape, load_read(load->inflight_requests) + 1);
	}
	if (m->seen & SERIES_KV_USAGE)
		load_write(load->kv_used_ppm, figure(m->kv_usage > 1 ? 1 : m->kv_usage, 1e6));
	if (m->seen & SERIES_BLOCK_TOKENS)
		load_write(load->block_tokens, figure((double)m->block_tokens, 1));
	if (m->seen & SERIES_BLOCKS)
		load_write(load->blocks_total, figure((double)m->blocks, 1));
	if (m->seen & SERIES_QUERIES)
		ep->page_query_tokens = m->queries > 0 ? (uint64_t)m->queries : 0;
	if (m->seen & SERIES_HITS)
		ep->page_hit_tokens = m->hits > 0 ? (uint64_t)m->hits : 0;
	if (m->seen & SERIES_LORA)
		adapters_apply(&ep->adapters, m);
	if (m->seen & (SERIES_WAITING | SERIES_RUNNING | SERIES_KV_USAGE))
		load_write(load->scraped_at_ns, now_ns);
}

bool scrape_restarted(const struct engine_metrics *m, double *start_time, double *queries)
{
	bool restarted = false;

	if (m->seen & SERIES_START_TIME) {
		double moved = m->start_time - *start_time;

		restarted = *start_time > 0 && (moved > 0.5 || moved < -0.5);
		*start_time = m->start_time;
	}
	if (m->seen & SERIES_QUERIES) {
		restarted |= m->queries < *queries;
		*queries = m->queries;
	}
	return restarted;
}
