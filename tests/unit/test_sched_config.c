/* SPDX-License-Identifier: Apache-2.0 */
/* An EndpointPickerConfig: what it becomes, and what is said where about one that cannot be. */
#include "sched_pool.h"

#include <unistd.h>

#include "scheduler/config/params.h"
#include "scheduler/config/setup.h"

#define HEAD "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

static struct setup *load(const char *text)
{
	struct setup *s = NULL;
	char *error = NULL;

	if (setup_from_text("t.yaml", span_of_str(text), &s, &error))
		fail_msg("%s", error ? error : "?");
	assert_null(error);
	return s;
}

struct bad {
	const char *what, *text, *says[3]; /* parts of the sentence */
};

static const struct bad bad_files[] = {
	{"empty", "", {"t.yaml", "not an EndpointPickerConfig"}},
	{"not YAML", HEAD "plugins: [", {"t.yaml:"}},
	{"another version",
	 "apiVersion: llm-d.ai/v2\nkind: EndpointPickerConfig\n",
	 {"t.yaml:1:1: ", "llm-d.ai/v1alpha1 or inference.networking.x-k8s.io/v1alpha1"}},
	{"another kind", "apiVersion: llm-d.ai/v1alpha1\nkind: Pod\n", {"t.yaml:2:1: "}},
	{"unknown section", HEAD "plugin: []\n", {"t.yaml:3:1: ", "\"plugin\"", "plugins"}},
	{"section in another case", HEAD "Plugins: []\n", {"t.yaml:3:1: ", "\"Plugins\""}},
	{"key twice", HEAD "plugins: []\nplugins: []\n", {"t.yaml:4:1: ", "twice"}},
	{"unknown type",
	 HEAD "plugins:\n- type: queue-scoorer\n",
	 {"t.yaml:4:3: ", "\"queue-scoorer\"", "queue-scorer, "}},
	{"no type", HEAD "plugins:\n- name: a\n", {"t.yaml:4:3: ", "without a type"}},
	{"name twice",
	 HEAD "plugins:\n- type: queue-scorer\n- {name: queue-scorer, type: random-picker}\n",
	 {"t.yaml:5:3: ", "two plugins are named \"queue-scorer\""}},
	{"unknown parameter",
	 HEAD "plugins:\n- type: load-aware-scorer\n  parameters:\n    treshold: 4\n",
	 {"t.yaml:6:5: ", "no parameter \"treshold\"", "known: threshold"}},
	{"unknown parameter, deeper",
	 HEAD "plugins:\n- type: token-producer\n  parameters: {vllm: {uri: x}}\n",
	 {"t.yaml:5:23: ", "\"vllm.uri\"", "known: url, timeout, mmTimeout"}},
	{"not a number",
	 HEAD "plugins:\n- type: load-aware-scorer\n  parameters: {threshold: many}\n",
	 {"t.yaml:5:16: ", "\"many\" is not a number"}},
	{"out of range",
	 HEAD "plugins:\n- type: prefix-cache-scorer\n  parameters: {matchLengthWeight: 2}\n",
	 {"t.yaml:5:16: ", "2 is not in 0 to 1"}},
	{"not one of the words",
	 HEAD "plugins:\n- type: latency-scorer\n"
	      "  parameters: {headroomSelectionStrategy: some}\n",
	 {"least|most", "\"some\""}},
	{"a parameter for one that takes none but by name",
	 HEAD "plugins:\n- type: soft-reflective-ceiling-policy\n  parameters: {x: 1}\n",
	 {"t.yaml:5:16: ", "known: none"}},
	{"unknown reference",
	 HEAD "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: p\n  plugins:\n"
	      "  - pluginRef: kv\n",
	 {"t.yaml:8:5: ", "no plugin is named \"kv\"", "listed are: queue-scorer"}},
	{"a weight that is none",
	 HEAD "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: p\n  plugins:\n"
	      "  - {pluginRef: queue-scorer, weight: heavy}\n",
	 {"t.yaml:8:31: ", "a weight is a number"}},
	{"profile twice",
	 HEAD "schedulingProfiles:\n- name: p\n- name: p\n",
	 {"t.yaml:5:3: ", "two profiles"}},
	{"two pickers",
	 HEAD "plugins:\n- type: random-picker\n- type: max-score-picker\nschedulingProfiles:\n"
	      "- name: p\n  plugins:\n  - pluginRef: random-picker\n  - pluginRef: "
	      "max-score-picker\n",
	 {"t.yaml:10:5: ", "second picker"}},
	{"profiles without a handler",
	 HEAD "schedulingProfiles:\n- name: p\n- name: q\n",
	 {"no profile handler"}},
	{"single handler, two profiles",
	 HEAD "plugins:\n- type: single-profile-handler\nschedulingProfiles:\n- name: p\n- name: "
	      "q\n",
	 {"t.yaml:4:1: ", "one profile, not 2"}},
	{"two handlers",
	 HEAD "plugins:\n- type: single-profile-handler\n- type: header-profile-handler\n",
	 {"t.yaml:5:1: ", "second profile handler"}},
	{"decider that is not listed",
	 HEAD "plugins:\n- type: disagg-profile-handler\n"
	      "  parameters: {deciders: {prefill: prefix-based-pd-decider}}\n"
	      "schedulingProfiles:\n- name: decode\n- name: prefill\n",
	 {"t.yaml:4:1: ", "no decider is named \"prefix-based-pd-decider\""}},
	{"prefill-first asks nobody",
	 HEAD "plugins:\n- type: always-disagg-pd-decider\n- type: disagg-profile-handler\n"
	      "  parameters: {stageOrder: prefill-first, deciders: {prefill: "
	      "always-disagg-pd-decider}}\nschedulingProfiles:\n- name: decode\n- name: prefill\n",
	 {"prefill-first"}},
	{"both forms of the handler",
	 HEAD "plugins:\n- type: disagg-profile-handler\n"
	      "  parameters: {profiles: {decode: d}, prefillProfile: p}\n"
	      "schedulingProfiles:\n- name: d\n- name: p\n",
	 {"not both"}},
	{"unknown gate", HEAD "featureGates: [flow]\n", {"t.yaml:3:16: ", "flowControl"}},
	{"band twice",
	 HEAD "flowControl:\n  priorityBands: [{priority: 1}, {priority: 1}]\n",
	 {"t.yaml:4:34: ", "two bands of priority 1"}},
	{"less than nothing",
	 HEAD "flowControl: {maxRequests: -1}\n",
	 {"t.yaml:3:15: ", "0 or more"}},
	{"a fairness that is an ordering",
	 HEAD "plugins:\n- type: edf-ordering-policy\nflowControl:\n  defaultPriorityBand:\n"
	      "    fairnessPolicyRef: edf-ordering-policy\n",
	 {"t.yaml:7:5: ", "cannot stand here"}},
	{"a detector that is not listed",
	 HEAD "flowControl: {saturationDetector: {pluginRef: concurrency-detector}}\n",
	 {"t.yaml:3:36: ", "concurrency-detector"}},
	{"a producer nobody makes",
	 HEAD "plugins:\n- type: prefix-cache-scorer\n"
	      "  parameters: {prefixMatchInfoProducerName: mine}\n",
	 {"t.yaml:4:1: ", "no producer is named \"mine\""}},
	{"a source that is none",
	 HEAD "plugins:\n- type: queue-scorer\ndataLayer:\n  sources: [{pluginRef: "
	      "queue-scorer}]\n",
	 {"t.yaml:6:14: ", "cannot stand here"}},
	{"a syncer",
	 HEAD "dataLayer: {crossReplicaSyncerPluginRef: x}\n",
	 {"t.yaml:3:13: ", "no type"}},
	{"discovery without a path",
	 HEAD "plugins:\n- type: file-discovery\ndataLayer: {discovery: {pluginRef: "
	      "file-discovery}}\n",
	 {"path is required"}},
	{"a condition without its maximum",
	 HEAD "plugins:\n- type: utilization-filter\n"
	      "  parameters: {conditions: [{metric: waiting-queue}]}\n",
	 {"metric and maxValue"}},
	{"by-label without a label",
	 HEAD "plugins:\n- type: by-label\n  parameters: {validValues: [a]}\n",
	 {"label is required"}},
	{"holdback without its least",
	 HEAD "plugins:\n- type: priority-holdback-policy\n",
	 {"minCeiling is required"}},
	{"an alias before its anchor", HEAD "plugins: *a\n", {"t.yaml:3:10: ", "anchor"}},
};

static void what_is_wrong_is_told_with_its_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(bad_files) / sizeof(bad_files[0]); i++) {
		const struct bad *b = &bad_files[i];
		struct setup *s = NULL;
		char *error = NULL;

		if (setup_from_text("t.yaml", span_of_str(b->text), &s, &error) != -EINVAL)
			fail_msg("%s: taken", b->what);
		assert_null(s);
		assert_non_null(error);
		for (int k = 0; k < 3 && b->says[k]; k++)
			if (!strstr(error, b->says[k]))
				fail_msg("%s: \"%s\" is not in: %s", b->what, b->says[k], error);
		free(error);
	}
}

static void samples_load(void **state)
{
	static const struct {
		const char *path;
		unsigned int profiles;
		bool alpha;
	} files[] = {{"tests/data/epp/default.yaml", 1, false},
		     {"tests/data/epp/flow.yaml", 1, true},
		     {"tests/data/epp/disagg.yaml", 3, true},
		     {"tests/data/epp/helm-values.yaml", 1, false},
		     {"tests/data/epp/every-type.yaml", 1, true}};

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct setup *s = NULL;
		char *error = NULL, *text = NULL;
		size_t bytes;
		FILE *f;

		if (setup_from_file(files[i].path, &s, &error))
			fail_msg("%s", error);
		assert_int_equal(s->profile_count, files[i].profiles);
		assert_int_equal(s->has_alpha, files[i].alpha);
		f = open_memstream(&text, &bytes);
		setup_explain(f, s, "# ");
		fclose(f);
		assert_true(bytes > 200 && strncmp(text, "# profiles: ", 12) == 0);
		free(text);
		setup_free(s);
	}
}

static void parameters_and_defaults_arrive(void **state)
{
	struct setup *s = load(HEAD "plugins:\n"
				    "- &p {name: a, type: prefix-cache-scorer, parameters: "
				    "{MatchLengthWeight: 0.25}}\n"
				    "- {name: b, type: load-aware-scorer}\n"
				    "- {name: sel, type: label-selector-filter, parameters: "
				    "{matchLabels: {gpu: h100}, matchExpressions: [{key: zone, "
				    "operator: NotIn, values: [x, y]}]}}\n"
				    "schedulingProfiles:\n- name: p\n  plugins:\n"
				    "  - {pluginRef: a, weight: 2.5}\n  - pluginRef: b\n"
				    "  - pluginRef: sel\n");
	const struct profile *p = &s->profiles[0]->profile;

	(void)state;
	assert_int_equal(p->scorer_count, 2);
	assert_string_equal(plugin_name(&p->scorers[0]), "a");
	assert_true(p->scorers[0].weight == 2.5 && p->scorers[1].weight == 1);
	assert_true(p->scorers[0].params[0] == 0.25 && p->scorers[0].params[1] == 8192);
	assert_true(p->scorers[1].params[0] == 128);
	assert_string_equal(p->picker.type->name, "max-score-picker");
	assert_int_equal(p->filters[0].rule_count, 2);
	assert_string_equal(p->filters[0].rules[0].values, "h100");
	assert_int_equal(p->filters[0].rules[1].op, LABEL_NOT_IN);
	assert_string_equal(p->filters[0].rules[1].values, "x|y");
	/* What nobody listed was added. */
	assert_int_not_equal(setup_plugin_find(s, "approx-prefix-cache-producer"), SETUP_NONE);
	setup_free(s);
}

static void flow_control_is_read(void **state)
{
	struct setup *s = load(
		HEAD
		"featureGates: [flowControl]\nplugins:\n- type: edf-ordering-policy\n"
		"- type: concurrency-detector\n  parameters: {maxConcurrency: 3}\n"
		"flowControl:\n  maxRequests: 2k\n  maxBytes: 64Mi\n  defaultRequestTTL: 1m30s\n"
		"  defaultPriorityBand: {maxRequests: 7}\n"
		"  priorityBands:\n  - {priority: 5, maxBytes: 1Ki, orderingPolicyRef: "
		"edf-ordering-policy}\n"
		"  saturationDetector: {pluginRef: concurrency-detector}\n");

	(void)state;
	assert_true(s->flow.on && s->flow.requests_max == 2000 && s->flow.bytes_max == 67108864);
	assert_int_equal(s->flow.ttl_ms, 90000);
	assert_int_equal(s->flow.empty_pool_ttl_ms, 90000);
	assert_true(s->flow.usual.requests_max == 7 && s->flow.negative.requests_max == 7);
	assert_int_equal(s->flow.band_count, 1);
	assert_int_equal(s->flow.bands[0].priority, 5);
	assert_true(s->flow.bands[0].bytes_max == 1024 && s->flow.bands[0].requests_max == 5000);
	assert_string_equal(plugin_name(s->plugins[s->flow.bands[0].ordering]),
			    "edf-ordering-policy");
	assert_string_equal(plugin_name(s->plugins[s->flow.detector]), "concurrency-detector");
	assert_true(s->plugins[s->flow.detector]->params[0] == 3);
	setup_free(s);
}

static void legs_have_their_profiles_and_deciders(void **state)
{
	struct setup *s = load(HEAD "plugins:\n- type: disagg-profile-handler\n  parameters: "
				    "{profiles: {prefill: first}, deciders: {prefill: d}}\n"
				    "- {name: d, type: prefix-based-pd-decider, parameters: "
				    "{nonCachedTokens: 64}}\n"
				    "schedulingProfiles: [{name: decode}, {name: first}]\n");

	(void)state;
	assert_int_equal(s->handler, HANDLER_DISAGG);
	assert_int_equal(s->decode, 0);
	assert_int_equal(s->prefill, 1);
	assert_int_equal(s->encode, SETUP_NONE);
	assert_true(s->has_prefill_decider && !s->has_encode_decider);
	assert_string_equal(s->prefill_decider.type->name, "prefix-based-pd-decider");
	assert_true(s->prefill_decider.params[0] == 64);
	setup_free(s);
}

static void every_type_has_sound_rows(void **state)
{
	unsigned int count = 0;

	(void)state;
	for (int table = 0; table < 2; table++)
		for (const struct plugin_type *t = table ? other_types : plugin_types; t->name;
		     t++) {
			struct plugin p;

			count++;
			assert_ptr_equal(plugin_find(t->name, strlen(t->name)), t); /* once */
			if (t->flags & (PLUGIN_NO_EFFECT | PLUGIN_REFUSED))
				assert_non_null(t->note);
			plugin_init(&p, t);
			for (int i = 0; t->params && t->params[i].name; i++) {
				const struct plugin_param *row = &t->params[i];

				assert_true(i < PLUGIN_PARAMS_MAX);
				assert_true(row->kind != PARAM_WORD || row->words);
				if (row->max > row->min && row->min >= 0 && row->value >= 0)
					assert_true(row->value <= row->max);
			}
			plugin_fini(&p);
		}
	assert_true(count >= 97);
}

static void times_and_amounts_as_others_write_them(void **state)
{
	static const struct {
		const char *text;
		double ms;
	} times[] = {{"5s", 5000}, {"1m30s", 90000}, {"200ms", 200}, {"0", 0}, {"1.5h", 5.4e6}};
	static const struct {
		const char *text;
		double n;
	} amounts[] = {{"5k", 5000}, {"64Mi", 67108864}, {"1500m", 1.5}, {"1e3", 1000}, {"7", 7}};
	static const char *const bad[] = {"", "5", "s", "-5s", "5s5", "1x", "5 s"};
	double x;

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(duration_read(times[i].text, &x), 0);
		assert_true(x == times[i].ms);
		assert_int_equal(quantity_read(amounts[i].text, &x), 0);
		assert_true(x == amounts[i].n);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(duration_read(bad[i], &x), -EINVAL);
	assert_int_equal(quantity_read("5KB", &x), -EINVAL);
	assert_int_equal(quantity_read("inf", &x), -EINVAL);
}

static struct scheduler *make_file(const char *path, bool alpha, char **ret_error)
{
	struct config cfg = {.scheduler_config = (char *)path,
			     .decisions_max = 16,
			     .allow_experimental_plugins = alpha};
	struct scheduler *sched = NULL;

	return scheduler_new(&cfg, NULL, 1, &sched, ret_error) ? NULL : sched;
}

static void alpha_types_need_leave_to_run(void **state)
{
	char *error = NULL;
	struct scheduler *sched;

	(void)state;
	assert_null(make_file("tests/data/epp/disagg.yaml", false, &error));
	assert_non_null(strstr(error, "--allow-experimental-plugins"));
	free(error);
	sched = make_file("tests/data/epp/disagg.yaml", true, &error);
	assert_non_null(sched);
	scheduler_free(sched);
	assert_null(make_file("tests/data/epp/every-type.yaml", true, &error));
	assert_non_null(strstr(error, "disaggregatedset-rollout-screener"));
	free(error);
}

static void a_leg_is_served_by_its_profile(void **state)
{
	char *error = NULL;
	struct scheduler *sched = make_file("tests/data/epp/disagg.yaml", true, &error);
	struct sched_request req = request("x");
	struct sched_pick pick;

	(void)state;
	pods[1].role = SLUICE_ROLE_PREFILL;
	pods[2].role = SLUICE_ROLE_PREFILL;
	for (int i = 3; i < PODS; i++)
		pods[i].role = SLUICE_ROLE_DECODE;
	pods[0].role = SLUICE_ROLE_DECODE;
	pods[2].labels[0] = (struct label){"kubernetes.io/hostname", "node-1"};
	pods[0].labels[0] = (struct label){"kubernetes.io/hostname", "node-1"};
	pods[0].label_count = pods[2].label_count = 1;
	req.role = SLUICE_ROLE_DECODE;
	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick), 0);
	assert_int_equal(pick.profile, 1);
	assert_int_equal(pick.candidates, 6);
	req.role = SLUICE_ROLE_PREFILL;
	req.peer = &pods[0]; /* on the host of pod 2 */
	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick), 0);
	assert_int_equal(pick.profile, 0);
	assert_int_equal(pick.endpoint->slot, 2);
	scheduler_free(sched);
}

static struct span header_of(const void *arg, const char *name)
{
	return strcmp(name, "EPP-Profile") == 0 ? span_of_str(arg) : (struct span){"", 0};
}

static void a_header_names_the_profile(void **state)
{
	struct setup *s = load(HEAD "plugins:\n- type: header-profile-handler\n"
				    "schedulingProfiles: [{name: decode}, {name: fast}]\n");
	char path[] = "/tmp/sluice-epp-XXXXXX", *error = NULL;
	int fd = mkstemp(path);
	static const char text[] = HEAD "plugins:\n- type: header-profile-handler\n"
					"schedulingProfiles: [{name: decode}, {name: fast}]\n";
	struct sched_request req = request("x");
	struct scheduler *sched;
	struct sched_pick pick;

	(void)state;
	setup_free(s);
	assert_true(fd >= 0 && write(fd, text, sizeof(text) - 1) == sizeof(text) - 1);
	close(fd);
	sched = make_file(path, true, &error);
	unlink(path);
	assert_non_null(sched);
	req.header = header_of;
	req.header_arg = "fast";
	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick), 0);
	assert_int_equal(pick.profile, 1);
	req.header_arg = "";
	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick), 0);
	assert_int_equal(pick.profile, 0);
	req.header_arg = "slow";
	assert_int_equal(scheduler_pick(scheduler_worker(sched, 0), &snap, &req, &pick), -EBUSY);
	scheduler_free(sched);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_wrong_is_told_with_its_place),   T(samples_load),
		T(parameters_and_defaults_arrive),	   T(flow_control_is_read),
		T(legs_have_their_profiles_and_deciders),  T(every_type_has_sound_rows),
		T(times_and_amounts_as_others_write_them), T(alpha_types_need_leave_to_run),
		T(a_leg_is_served_by_its_profile),	   T(a_header_names_the_profile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
