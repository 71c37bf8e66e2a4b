/* SPDX-License-Identifier: Apache-2.0 */
/* What each plugin's file exports; plugins.c puts them into the table. No guard: plugin.h has it.
 */

/* The filters. */
#define FILTER(name)                                                                               \
	bool name(const struct sched_view *, const struct plugin *, const struct sched_candidate *)
FILTER(filter_decode);
FILTER(filter_prefill);
FILTER(filter_encode);
FILTER(filter_labels);
FILTER(filter_by_label);
FILTER(filter_context_length);
FILTER(filter_utilization);
#undef FILTER

/* Filters that compare the candidates with each other. */
#define NARROW(name) void name(const struct sched_view *, const struct plugin *, bool *)
NARROW(narrow_prefix_affinity);
NARROW(narrow_slo_tier);
NARROW(narrow_session);
NARROW(narrow_topology);
NARROW(narrow_attribute);
NARROW(narrow_utilization);
NARROW(narrow_saturated);
NARROW(narrow_concurrency);
#undef NARROW

#define SCORER(name) void name(const struct sched_view *, const struct plugin *, float *)
SCORER(score_queue);
SCORER(score_running);
SCORER(score_kv);
SCORER(score_prefix);
SCORER(score_load_aware);
SCORER(score_active);
SCORER(score_token_load);
SCORER(score_session);
SCORER(score_sluice);
SCORER(score_lora);
SCORER(score_no_hit_lru);
SCORER(score_context_length);
SCORER(score_latency);
SCORER(score_media);
SCORER(score_header_label);
SCORER(score_topology);
SCORER(score_attribute);
#undef SCORER

/* The pickers. */
uint32_t pick_max(struct sched_view *, const struct plugin *, const float *);
uint32_t pick_random(struct sched_view *, const struct plugin *, const float *);
uint32_t pick_weighted(struct sched_view *, const struct plugin *, const float *);

/* Lists and maps of parameters. */
int read_label_selector(struct plugin *, const struct node *, struct complaint *);
int read_by_label(struct plugin *, const struct node *, struct complaint *);
int read_utilization(struct plugin *, const struct node *, struct complaint *);
int read_session(struct plugin *, const struct node *, struct complaint *);
int read_attribute(struct plugin *, const struct node *, struct complaint *);
