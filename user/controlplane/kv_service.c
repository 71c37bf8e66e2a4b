/* SPDX-License-Identifier: Apache-2.0 */
/* Made in the order in which each needs the other; ended the other way round. */
#include "controlplane/kv_service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "base/clock.h"
#include "base/json_write.h"
#include "base/log.h"
#include "controlplane/kv_explain.h"
#include "controlplane/kv_learner.h"
#include "controlplane/kv_listener.h"

struct kv_service {
	struct kv_shared shared;
	struct kv_listener *listener;
	struct kv_learner *learner;
};

/* "auto", "off" or a port. */
static bool mode_valid(const char *mode)
{
	char *end;
	unsigned long port = strtoul(mode, &end, 10);

	return strcmp(mode, "auto") == 0 || strcmp(mode, "off") == 0 ||
	       (*mode >= '0' && *mode <= '9' && !*end && port && port < 65536);
}

static int start(struct kv_service *s, char *ret_error, size_t error_bytes)
{
	const struct config *config = s->shared.config;
	int err = kv_models_new(&config->tokenizers, &s->shared.models, ret_error, error_bytes);

	if (err)
		return err;
	err = kv_index_new(config->kv_index_bytes_max, clock_wall_ns(), &s->shared.index);
	if (!err)
		err = kv_listener_start(&s->shared, &s->listener);
	if (!err)
		err = kv_learner_start(&s->shared, &s->learner);
	if (err)
		snprintf(ret_error, error_bytes, "KV events: %s", strerror(-err));
	return err;
}

int kv_service_new(const struct config *config, struct store *store, struct kv_service **ret,
		   char *ret_error, size_t error_bytes)
{
	const char *mode = config->kv_events ? config->kv_events : "auto";
	struct kv_service *s;
	int err;

	*ret = NULL;
	if (!mode_valid(mode)) {
		snprintf(ret_error, error_bytes,
			 "kv-events: \"%.64s\" is neither auto, off nor a port", mode);
		return -EINVAL;
	}
	if (config->tokenizers.count == 0 || strcmp(mode, "off") == 0)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->shared.config = config;
	s->shared.store = store;
	pthread_mutex_init(&s->shared.lock, NULL);
	err = start(s, ret_error, error_bytes);
	if (err)
		kv_service_free(s);
	else
		*ret = s;
	return err;
}

void kv_service_deafen(struct kv_service *s)
{
	if (!s)
		return;
	kv_learner_stop(s->learner);
	kv_listener_stop(s->listener);
	s->learner = NULL;
	s->listener = NULL;
}

void kv_service_free(struct kv_service *s)
{
	if (!s)
		return;
	kv_service_deafen(s);
	kv_index_free(s->shared.index);
	kv_models_free(s->shared.models);
	free(s);
}

struct kv_index *kv_service_index(struct kv_service *s)
{
	return s ? s->shared.index : NULL;
}

struct kv_models *kv_service_models(struct kv_service *s)
{
	return s ? s->shared.models : NULL;
}

static void figure(FILE *f, const char *name, const char *type, const char *help, uint64_t value)
{
	fprintf(f,
		"# HELP sluice_kv_index_%s %s\n# TYPE sluice_kv_index_%s %s\n"
		"sluice_kv_index_%s %llu\n",
		name, help, name, type, name, (unsigned long long)value);
}

static void series_write(FILE *f, const char *name, const char *label, const char *value,
			 uint64_t figure)
{
	fprintf(f, "sluice_%s{%s=\"", name, label);
	metric_label_write(f, value);
	fprintf(f, "\"} %llu\n", (unsigned long long)figure);
}

/* One figure of each endpoint whose events are heard. */
static void write_each(struct kv_service *s, const struct kv_trust *trust, FILE *f,
		       const struct endpoint_snapshot *snap, unsigned int which)
{
	static const char *const names[][3] = {
		{"kv_endpoint_blocks", "gauge", "Blocks that events say the endpoint holds"},
		{"kv_expected_tokens_total", "counter",
		 "Cached tokens that the precise index expected of answers"},
		{"kv_reported_tokens_total", "counter",
		 "Cached tokens that the engine reported with them"},
		{"kv_page_hit_tokens_total", "counter",
		 "Cached tokens that the engine's metrics page counts, whoever asked"},
		{"kv_page_query_tokens_total", "counter",
		 "Prompt tokens that the engine's metrics page counts, whoever asked"},
		{"kv_event_next", "gauge", "Number of the message that is expected next"},
		{"kv_trusted", "gauge", "0: expectations did not come true, matched approximately"},
	};

	fprintf(f, "# HELP sluice_%s %s\n# TYPE sluice_%s %s\n", names[which][0], names[which][2],
		names[which][0], names[which][1]);
	for (uint32_t v = 0; v < snap->view_count && v < LABEL_VALUES_MAX; v++) {
		const struct endpoint *ep = snap->views[v];
		const struct kv_trust_slot *t = &trust->slots[ep->slot];
		uint64_t figures[] = {kv_index_endpoint_pairs(s->shared.index, ep->slot),
				      t->expected,
				      t->reported,
				      ep->page_hit_tokens,
				      ep->page_query_tokens,
				      s->shared.next[ep->slot],
				      kv_trusted(trust, ep->slot, ep->generation)};

		if (kv_index_bound(s->shared.index, ep->slot))
			series_write(f, names[which][0], "endpoint", ep->name, figures[which]);
	}
}

static void write_endpoints(struct kv_service *s, const struct kv_trust *trust, FILE *f)
{
	struct endpoint_snapshot *snap = store_snapshot(s->shared.store);

	for (unsigned int which = 0; which < 7; which++)
		write_each(s, trust, f, snap, which);
	snapshot_put(snap);
}

static void write_losses(const struct kv_models *models, FILE *f)
{
	fprintf(f,
		"# HELP sluice_kv_prompt_bytes_total Bytes of precisely matched prompts, by what "
		"became of them\n# TYPE sluice_kv_prompt_bytes_total counter\n");
	for (unsigned int i = 0; i < models->count; i++)
		for (unsigned int k = 0; k < KV_LOSSES; k++)
			fprintf(f, "sluice_kv_prompt_bytes_total{model=\"%s\",share=\"%s\"} %llu\n",
				models->items[i].name, kv_loss_names[k],
				(unsigned long long)models->items[i].losses.all.bytes[k]);
}

/* ,"prompts":…, the shares, and where prompts part. */
static void losses_write(const struct kv_losses *l, FILE *f)
{
	uint64_t differing = l->differing;
	uint32_t mostly;

	fprintf(f, ",\"prompts\":%llu,\"differing\":%llu,\"differs_at\":%llu",
		(unsigned long long)l->prompts, (unsigned long long)differing,
		(unsigned long long)(differing ? l->differs_at / differing : 0));
	if (kv_losses_offset(l, &mostly))
		fprintf(f, ",\"differs_mostly_at\":%u", mostly);
	for (unsigned int k = 0; k < KV_LOSSES; k++)
		fprintf(f, ",\"%s\":%llu", kv_loss_names[k], (unsigned long long)l->bytes[k]);
}

static void model_write(const struct kv_model *m, FILE *f)
{
	bool first = true;

	fputs("{\"name\":", f);
	json_string_write(f, span_of_str(m->name));
	fprintf(f, ",\"state\":\"%s\"", kv_model_state_name(m));
	losses_write(&m->losses.all, f);
	fputs(",\"tenants\":[", f);
	for (unsigned int i = 0; i < KV_TENANTS_MAX; i++) {
		const struct kv_tenant *t = &m->losses.tenants[i];

		if (!atomic_load_explicit(&t->ready, memory_order_acquire))
			continue;
		fputs(first ? "{\"name\":" : ",{\"name\":", f);
		json_string_write(f, span_of_str(t->name));
		losses_write(&t->losses, f);
		fputc('}', f);
		first = false;
	}
	fputs("]}", f);
}

void kv_service_write_losses(struct kv_service *s, FILE *f)
{
	if (!s)
		return;
	fputs(",\"models\":[", f);
	for (unsigned int i = 0; i < s->shared.models->count; i++) {
		if (i)
			fputc(',', f);
		model_write(&s->shared.models->items[i], f);
	}
	fputc(']', f);
}

void kv_service_write_metrics(struct kv_service *s, const struct kv_trust *trust, FILE *f)
{
	struct kv_index_stats stats;

	if (!s)
		return;
	kv_index_read_stats(s->shared.index, &stats);
	figure(f, "pairs", "gauge", "Block and endpoint pairs in the precise index", stats.pairs);
	figure(f, "pairs_max", "gauge", "Pairs that it has room for", stats.pairs_max);
	figure(f, "doubles", "gauge", "Pairs of one endpoint that cover the same bytes",
	       stats.doubles);
	figure(f, "unknown_total", "counter", "Blocks removed or continued, but never seen",
	       stats.unknown);
	figure(f, "forks_lost_total", "counter", "Lengths of blocks that were not kept",
	       stats.lengths_refused + stats.lengths_dropped);
	fprintf(f, "# HELP sluice_kv_model_precise 1: prompts of the model are matched precisely\n"
		   "# TYPE sluice_kv_model_precise gauge\n");
	for (unsigned int i = 0; i < s->shared.models->count; i++)
		series_write(f, "kv_model_precise", "model", s->shared.models->items[i].name,
			     s->shared.models->items[i].state == KV_MODEL_PRECISE);
	write_losses(s->shared.models, f);
	write_endpoints(s, trust, f);
}

int kv_service_explain(struct kv_service *s, const struct kv_trust *trust,
		       const struct endpoint_snapshot *snap, struct span body, FILE *f)
{
	struct kv_explainer x = {kv_service_index(s), kv_service_models(s), trust};

	return kv_explain(&x, snap, body, f);
}
