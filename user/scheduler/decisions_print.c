/* SPDX-License-Identifier: Apache-2.0 */
/* A decision as JSON and as one sentence. For the admin thread. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "scheduler/decisions_ring.h"

static void put_string(FILE *f, const char *s, size_t max)
{
	json_string_write(f, span_of(s, strnlen(s, max)));
}

static const struct decision_profile *profile_of(const struct decisions *set,
						 const struct decision *d)
{
	return &set->profiles[d->profile % DECISION_PROFILES_MAX];
}

static double weight_sum(const struct decision_profile *p)
{
	double sum = 0;

	for (unsigned int i = 0; i < p->scorer_count; i++)
		sum += fabs(p->weights[i]);
	return sum;
}

static const struct endpoint *find_endpoint(const struct endpoint_snapshot *snap,
					    const struct decision_candidate *c)
{
	for (unsigned int i = 0; snap && i < snap->view_count; i++)
		if (snap->views[i]->slot == c->slot &&
		    (uint16_t)snap->views[i]->generation == c->generation)
			return snap->views[i];
	return NULL;
}

static void write_candidate(FILE *f, const struct decisions *set, const struct decision *d,
			    unsigned int n, const struct endpoint_snapshot *snap)
{
	const struct decision_candidate *c = &d->candidates[n];
	const struct endpoint *ep = find_endpoint(snap, c);
	const struct decision_profile *p = profile_of(set, d);
	char gone[32];

	snprintf(gone, sizeof(gone), "slot %u", c->slot);
	fputs("{\"endpoint\":", f);
	if (ep)
		put_string(f, ep->address, sizeof(ep->address));
	else
		put_string(f, n == d->chosen ? d->endpoint : gone, sizeof(d->endpoint));
	if (ep) {
		fputs(",\"name\":", f);
		put_string(f, ep->name, sizeof(ep->name));
	}
	fprintf(f, ",\"chosen\":%s,\"hit_blocks\":%u,\"score\":%.4f,\"scores\":{",
		n == d->chosen ? "true" : "false", c->hit_blocks, c->total * weight_sum(p) / 65535);
	for (unsigned int i = 0; i < d->scorer_count && i < p->scorer_count; i++) {
		fprintf(f, "%s", i ? "," : "");
		put_string(f, p->scorers[i], 64);
		fprintf(f, ":%.3f", c->scores[i] / 254.0);
	}
	fputs("}}", f);
}

static void explain_path(FILE *f, const struct path_choice *path)
{
	fprintf(f, "; its bytes took the %s", path_name(path->taken));
	for (unsigned int i = 0; i < PATHS; i++)
		if (path->refused[i])
			fprintf(f, "; no %s: %s", path_name(i),
				path_refusal_text(path->refused[i]));
}

static void write_path(FILE *f, const struct path_choice *path)
{
	const char *gap = "";

	fprintf(f, ",\"path\":\"%s\",\"path_refused\":{", path_name(path->taken));
	for (unsigned int i = 0; i < PATHS; i++) {
		if (!path->refused[i])
			continue;
		fprintf(f, "%s\"%s\":\"%s\"", gap, path_name(i),
			path_refusal_name(path->refused[i]));
		gap = ",";
	}
	fputs("}", f);
}

void decision_explain(FILE *f, const struct decisions *set, const struct decision *d)
{
	const struct decision_candidate *c = &d->candidates[d->chosen];
	const struct decision_profile *p = profile_of(set, d);
	unsigned int better_hit = 0, best = 0;
	double most = -1;

	for (unsigned int i = 0; i < d->candidate_count; i++)
		better_hit += d->candidates[i].hit_blocks > c->hit_blocks;
	for (unsigned int i = 0; i < d->scorer_count && i < p->scorer_count; i++) {
		if (c->scores[i] * p->weights[i] <= most)
			continue;
		most = c->scores[i] * p->weights[i];
		best = i;
	}
	fprintf(f, "%.64s had the best score of %u candidate%s", d->endpoint, d->candidate_count,
		d->candidate_count == 1 ? "" : "s");
	if (d->candidate_count > 1 && p->scorer_count)
		fprintf(f, ", most of it from %s", p->scorers[best]);
	fprintf(f, "; %u of %u prompt blocks were expected in its cache (about %u of %u tokens)",
		d->hit_blocks, d->total_blocks, d->cached_tokens_expected, d->prompt_tokens);
	if (better_hit)
		fprintf(f, ", while %u other%s held more but scored less for load", better_hit,
			better_hit == 1 ? "" : "s");
	if (d->excluded_count)
		fprintf(f, "; %u endpoint%s had been tried before", d->excluded_count,
			d->excluded_count == 1 ? "" : "s");
	if (d->done && d->failed)
		fputs("; it did not answer", f);
	else if (d->done && d->usage_known)
		fprintf(f, "; the engine then reported %u of %u tokens cached",
			d->cached_tokens_reported, d->prompt_tokens_reported);
	else if (d->done)
		fputs("; the engine reported no usage", f);
	else
		fputs("; it is still running", f);
	explain_path(f, &d->path);
	fputs(".", f);
}

static void write_outcome(FILE *f, const struct decision *d)
{
	fprintf(f, ",\"done\":%s", d->done ? "true" : "false");
	if (d->done)
		fprintf(f, ",\"failed\":%s", d->failed ? "true" : "false");
	if (d->usage_known)
		fprintf(f, ",\"prompt_tokens_reported\":%u,\"cached_tokens_reported\":%u",
			d->prompt_tokens_reported, d->cached_tokens_reported);
	if (d->ttft_us)
		fprintf(f, ",\"ttft_us\":%u", d->ttft_us);
	if (d->itl_us)
		fprintf(f, ",\"itl_us\":%u", d->itl_us);
}

/* The choice of the pod that computed this request's prompt, beside the one that answered. */
static void write_helper(FILE *f, struct decisions *set, const struct decision *d,
			 const struct endpoint_snapshot *snap, uint16_t role, const char *name)
{
	struct decision *helper = NULL;

	if (d->role != SLUICE_ROLE_PREFILL && d->role != SLUICE_ROLE_ENCODE)
		helper = decisions_find_leg(
			set, span_of(d->request_id, strnlen(d->request_id, DECISION_ID_BYTES)),
			role);
	if (!helper)
		return;
	fprintf(f, ",\"%s\":", name);
	decision_write_json(f, set, helper, snap);
	free(helper);
}

void decision_write_json(FILE *f, struct decisions *set, const struct decision *d,
			 const struct endpoint_snapshot *snap)
{
	const struct decision_profile *p = profile_of(set, d);
	char *why = NULL;
	size_t why_bytes = 0;
	FILE *text = open_memstream(&why, &why_bytes);

	fprintf(f, "{\"decision\":%" PRIu64 ",\"request_id\":", d->id);
	put_string(f, d->request_id, sizeof(d->request_id));
	fprintf(f, ",\"time_unix_ms\":%" PRIu64 ",\"endpoint\":", d->wall_ns / 1000000);
	put_string(f, d->endpoint, sizeof(d->endpoint));
	fprintf(f, ",\"prompt_tokens\":%u,\"cached_tokens_expected\":%u", d->prompt_tokens,
		d->cached_tokens_expected);
	fprintf(f, ",\"hit_blocks\":%u,\"total_blocks\":%u,\"block_bytes\":%u", d->hit_blocks,
		d->total_blocks, d->block_bytes);
	write_outcome(f, d);
	write_path(f, &d->path);
	fputs(",\"weights\":{", f);
	for (unsigned int i = 0; i < p->scorer_count; i++) {
		fprintf(f, "%s", i ? "," : "");
		put_string(f, p->scorers[i], 64);
		fprintf(f, ":%g", p->weights[i]);
	}
	fputs("},\"candidates\":[", f);
	for (unsigned int i = 0; i < d->candidate_count; i++) {
		fprintf(f, "%s", i ? "," : "");
		write_candidate(f, set, d, i, snap);
	}
	fputs("],\"why\":", f);
	if (text) {
		decision_explain(text, set, d);
		fclose(text);
	}
	put_string(f, why ? why : "", why_bytes);
	free(why);
	write_helper(f, set, d, snap, SLUICE_ROLE_PREFILL, "prefill");
	write_helper(f, set, d, snap, SLUICE_ROLE_ENCODE, "encode");
	fputs("}", f);
}
