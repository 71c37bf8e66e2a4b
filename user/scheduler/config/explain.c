/* SPDX-License-Identifier: Apache-2.0 */
/* The effective configuration in plain words, for --check-config. */
#include <string.h>

#include "scheduler/config/setup.h"

static void explain_params(FILE *f, const struct plugin *p, const char *prefix)
{
	const struct plugin_param *rows = p->type->params;

	for (unsigned int i = 0; rows && rows[i].name && i < PLUGIN_PARAMS_MAX; i++) {
		const struct plugin_param *row = &rows[i];
		const char *word = row->words;

		if (strstr(row->name, "[]") || row->kind == PARAM_TREE)
			continue;
		fprintf(f, "%s    %s: ", prefix, row->name);
		switch (row->kind) {
		case PARAM_TEXT:
			fprintf(f, "\"%s\"\n", plugin_text(p, i));
			break;
		case PARAM_BOOL:
			fprintf(f, "%s\n", p->params[i] != 0 ? "true" : "false");
			break;
		case PARAM_TIME:
			fprintf(f, "%gms\n", p->params[i]);
			break;
		case PARAM_WORD:
			for (double n = p->params[i]; n > 0; n--)
				word = strchr(word, '|') + 1;
			fprintf(f, "%.*s\n", (int)strcspn(word, "|"), word);
			break;
		default:
			fprintf(f, "%.15g\n", p->params[i]);
		}
	}
}

static void explain_plugin(FILE *f, const struct setup *s, unsigned int i, const char *prefix)
{
	const struct plugin *p = s->plugins[i];
	const struct plugin_type *t = p->type;

	fprintf(f, "%s- name: %s\n%s  type: %s", prefix, plugin_name(p), prefix, t->name);
	if (!s->plugin_lines[i])
		fputs("   # added", f);
	if (t->flags & PLUGIN_ALPHA)
		fputs("   # alpha: starts with --allow-experimental-plugins only", f);
	if (t->flags & PLUGIN_DEPRECATED)
		fputs("   # deprecated", f);
	fputc('\n', f);
	if (t->flags & PLUGIN_REFUSED)
		fprintf(f, "%s  # cannot run here: %s\n", prefix, t->note);
	else if (t->flags & PLUGIN_NO_EFFECT)
		fprintf(f, "%s  # has no effect here: %s\n", prefix, t->note);
	else if (t->note)
		fprintf(f, "%s  # %s\n", prefix, t->note);
	if (t->params && !(t->flags & PLUGIN_ANY_PARAMS)) {
		fprintf(f, "%s  parameters:\n", prefix);
		explain_params(f, p, prefix);
	}
}

static void explain_profile(FILE *f, const struct setup_profile *sp, const char *prefix)
{
	const struct profile *p = &sp->profile;

	fprintf(f, "%s- name: %s\n", prefix, sp->name);
	for (unsigned int i = 0; i < p->filter_count; i++)
		fprintf(f, "%s  filter: %s\n", prefix, plugin_name(&p->filters[i]));
	for (unsigned int i = 0; i < p->scorer_count; i++)
		fprintf(f, "%s  scorer: %s, weight %g\n", prefix, plugin_name(&p->scorers[i]),
			p->scorers[i].weight);
	fprintf(f, "%s  picker: %s\n", prefix, plugin_name(&p->picker));
}

static void explain_band(FILE *f, const struct setup *s, const struct flow_band *b,
			 const char *name, const char *prefix)
{
	fprintf(f, "%s  %s: at most %.15g requests, %.15g bytes; %s, %s\n", prefix, name,
		b->requests_max, b->bytes_max, plugin_name(s->plugins[b->fairness]),
		plugin_name(s->plugins[b->ordering]));
}

static void explain_flow(FILE *f, const struct setup *s, const char *prefix)
{
	const struct flow_setup *flow = &s->flow;
	char name[48];

	if (flow->detector == SETUP_NONE) {
		fprintf(f, "%sflow control: off\n", prefix);
		return;
	}
	fprintf(f, "%sflow control: %s; saturation by %s\n", prefix,
		flow->on ? "on" : "off: requests of negative priority are refused when saturated",
		plugin_name(s->plugins[flow->detector]));
	if (!flow->on)
		return;
	fprintf(f, "%s  ceiling by %s; evicts: %s\n", prefix,
		plugin_name(s->plugins[flow->usage_limit]), flow->evicts ? "yes" : "no");
	fprintf(f,
		"%s  queued in all: %.15g requests, %.15g bytes (0: no limit); TTL %llums, without "
		"endpoints %llums (0: none)\n",
		prefix, flow->requests_max, flow->bytes_max, (unsigned long long)flow->ttl_ms,
		(unsigned long long)flow->empty_pool_ttl_ms);
	for (unsigned int i = 0; i < flow->band_count; i++) {
		snprintf(name, sizeof(name), "priority %d", flow->bands[i].priority);
		explain_band(f, s, &flow->bands[i], name, prefix);
	}
	explain_band(f, s, &flow->usual, "other priorities", prefix);
	explain_band(f, s, &flow->negative, "other negative priorities", prefix);
}

void setup_explain(FILE *f, const struct setup *s, const char *prefix)
{
	static const char *const handlers[] = {
		"the one profile serves all", "a header names the profile",
		"the one profile serves all, by rank", "decode, prefill and encode apart"};

	fprintf(f, "%sprofiles: %s\n", prefix, handlers[s->handler]);
	for (unsigned int i = 0; i < s->profile_count; i++)
		explain_profile(f, s->profiles[i], prefix);
	if (s->has_prefill_decider)
		fprintf(f, "%sprefill if %s says so\n", prefix, s->prefill_decider.type->name);
	if (s->has_encode_decider)
		fprintf(f, "%sencode if %s says so\n", prefix, s->encode_decider.type->name);
	if (s->plugin_count)
		fprintf(f, "%splugins:\n", prefix);
	for (unsigned int i = 0; i < s->plugin_count; i++)
		explain_plugin(f, s, i, prefix);
	explain_flow(f, s, prefix);
}
