/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that are no answers to prompts: models, metrics, tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sluice-sim/reply.h"

static void model_put(struct out *o, const char *id, const char *root, const char *parent,
		      unsigned int len_max)
{
	long long now = (long long)time(NULL);

	out_printf(o,
		   "{\"id\":\"%s\",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"vllm\","
		   "\"root\":\"%s\",\"parent\":%s%s%s,\"max_model_len\":",
		   id, now, root, parent ? "\"" : "", parent ? parent : "null", parent ? "\"" : "");
	if (len_max)
		out_printf(o, "%u", len_max);
	else
		out_printf(o, "null");
	out_printf(o,
		   ",\"permission\":[{\"id\":\"modelperm-sim\",\"object\":\"model_permission\","
		   "\"created\":%lld,\"allow_create_engine\":false,\"allow_sampling\":true,"
		   "\"allow_logprobs\":true,\"allow_search_indices\":false,\"allow_view\":true,"
		   "\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,"
		   "\"is_blocking\":false}]}",
		   now);
}

void reply_models(struct out *o, const struct sim_options *opt, unsigned int port)
{
	struct out body = {0};
	char *list = strdup(opt->lora_modules ? opt->lora_modules : ""), *save = NULL;

	out_printf(&body, "{\"object\":\"list\",\"data\":[");
	model_put(&body, opt->model, opt->model, NULL, opt->max_model_len);
	for (char *name = strtok_r(list, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
		out_printf(&body, ",");
		model_put(&body, name, name, opt->model, 0);
	}
	out_printf(&body, "]}");
	reply_page(o, "application/json", &body, port);
	free(body.data);
	free(list);
}

/* Distinct adapters of a list of sequences, by commas. */
static void adapters_put(struct out *o, const struct seq *list)
{
	for (const struct seq *s = list; s; s = s->next) {
		const struct seq *before = list;

		if (!s->adapter)
			continue;
		while (before != s &&
		       (!before->adapter || strcmp(before->adapter, s->adapter) != 0))
			before = before->next;
		if (before == s)
			out_printf(o, "%s%s", o->len ? "," : "", s->adapter);
	}
	out_add(o, "", 1);
}

static void lora_put(struct out *o, const struct engine *e)
{
	struct out running = {0}, waiting = {0};

	adapters_put(&running, e->running);
	adapters_put(&waiting, e->waiting);
	out_printf(o,
		   "# HELP vllm:lora_requests_info Running stats on lora requests.\n"
		   "# TYPE vllm:lora_requests_info gauge\n"
		   "vllm:lora_requests_info{max_lora=\"%u\",running_lora_adapters=\"%s\","
		   "waiting_lora_adapters=\"%s\"} %.6f\n",
		   e->opt->max_loras, running.data, waiting.data, (double)time(NULL));
	free(running.data);
	free(waiting.data);
}

static void series(struct out *o, const char *type, const char *name, const char *model,
		   double value)
{
	out_printf(o, "# HELP vllm:%s Simulated.\n# TYPE vllm:%s %s\n", name, name, type);
	out_printf(o, "vllm:%s{engine=\"0\",model_name=\"%s\"} %.9g\n", name, model, value);
}

/* Histograms that nobody here reads: a page of a real one's size costs a scraper as much. */
static void histogram(struct out *o, const char *name, const char *model, double count)
{
	static const char *const le[] = {"0.001", "0.005", "0.01", "0.02", "0.04", "0.06",  "0.08",
					 "0.1",	  "0.25",  "0.5",  "0.75", "1.0",  "2.5",   "5.0",
					 "7.5",	  "10.0",  "20.0", "40.0", "80.0", "160.0", "+Inf"};

	out_printf(o, "# HELP vllm:%s Simulated.\n# TYPE vllm:%s histogram\n", name, name);
	for (size_t i = 0; i < sizeof(le) / sizeof(*le); i++)
		out_printf(o, "vllm:%s_bucket{engine=\"0\",le=\"%s\",model_name=\"%s\"} %.9g\n",
			   name, le[i], model, count);
	out_printf(o, "vllm:%s_count{engine=\"0\",model_name=\"%s\"} %.9g\n", name, model, count);
	out_printf(o, "vllm:%s_sum{engine=\"0\",model_name=\"%s\"} 0.0\n", name, model);
}

void reply_metrics(struct out *o, const struct engine *e, const char *model, unsigned int port)
{
	static const char *const histograms[] = {
		"time_to_first_token_seconds",	  "inter_token_latency_seconds",
		"e2e_request_latency_seconds",	  "request_queue_time_seconds",
		"request_prefill_time_seconds",	  "request_decode_time_seconds",
		"request_inference_time_seconds", "request_prompt_tokens",
		"request_generation_tokens",	  "iteration_tokens_total"};
	struct out b = {0};

	const struct sim_fake *fake = &e->opt->fake;
	double kv = e->held < e->opt->kv_blocks ? (double)e->held / e->opt->kv_blocks : 1;

	series(&b, "gauge", "num_requests_running", model,
	       fake->given ? fake->running : e->running_count);
	series(&b, "gauge", "num_requests_waiting", model,
	       fake->given ? fake->waiting : e->waiting_count);
	series(&b, "gauge", "kv_cache_usage_perc", model, fake->given ? fake->kv_usage : kv);
	series(&b, "counter", "num_preemptions_total", model, (double)e->preemptions);
	series(&b, "counter", "prefix_cache_queries_total", model, (double)e->queries);
	series(&b, "counter", "prefix_cache_hits_total", model, (double)e->hits);
	series(&b, "counter", "prompt_tokens_total", model, (double)e->prompt_total);
	series(&b, "counter", "generation_tokens_total", model, (double)e->generated_total);
	series(&b, "counter", "request_success_total", model, (double)e->successes);
	for (size_t i = 0; i < sizeof(histograms) / sizeof(*histograms); i++)
		histogram(&b, histograms[i], model, (double)e->successes);
	out_printf(&b,
		   "# TYPE vllm:cache_config_info gauge\n"
		   "vllm:cache_config_info{block_size=\"%u\",engine=\"0\",num_gpu_blocks=\"%u\"} "
		   "1.0\n",
		   e->opt->block_size, e->opt->kv_blocks);
	if (e->opt->lora_modules)
		lora_put(&b, e);
	reply_page(o, "text/plain; version=1.0.0; charset=utf-8", &b, port);
	free(b.data);
}
