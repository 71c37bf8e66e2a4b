/* SPDX-License-Identifier: Apache-2.0 */
/* One function a table. Absent members print as 0 or "-". */
#include "sluicectl/tables.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"

static const char *text(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s && *s ? s : "-";
}

static double number(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

void table_endpoints(json_t *answer)
{
	json_t *e;
	size_t i;

	printf("%-20s %-22s %-9s %7s %7s %5s %8s %9s %8s %7s %7s %-15s %-15s\n", "NAME", "ADDRESS",
	       "STATE", "WAITING", "RUNNING", "KV%", "INFLIGHT", "PICKS", "TTFT ms", "HIT%",
	       "AGE ms", "TTFT ERR% P90", "ITL ERR% P90");
	json_array_foreach(json_object_get(answer, "endpoints"), i, e)
	{
		double prompt = number(e, "prompt_tokens_total");

		printf("%-20s %-22s %-9s %7.0f %7.0f %5.1f %8.0f %9.0f %8.1f %7.1f %7.0f "
		       "%7.1f %7.1f %7.1f %7.1f\n",
		       text(e, "name"), text(e, "address"), text(e, "state"), number(e, "waiting"),
		       number(e, "running"), number(e, "kv_used") * 100,
		       number(e, "inflight_requests"), number(e, "requests_total"),
		       number(e, "ttft_us") / 1000,
		       prompt > 0 ? 100 * number(e, "cached_tokens_total") / prompt : 0,
		       number(e, "load_age_ms"), 100 * number(e, "ttft_error_mean"),
		       100 * number(e, "ttft_error_p90"), 100 * number(e, "itl_error_mean"),
		       100 * number(e, "itl_error_p90"));
	}
}

void table_top(json_t *answer)
{
	static json_t *before;
	static uint64_t before_ns;
	json_t *list = json_object_get(answer, "endpoints"), *e, *old;
	uint64_t now_ns = clock_mono_ns();
	double seconds = (double)(now_ns - before_ns) / 1e9, picks = 0, running = 0;
	size_t i;

	table_endpoints(answer);
	json_array_foreach(list, i, e)
	{
		old = json_object_get(before, text(e, "address"));
		picks += old ? number(e, "requests_total") - json_number_value(old) : 0;
		running += number(e, "inflight_requests");
	}
	printf("\n%zu endpoints, %.0f requests in flight", json_array_size(list), running);
	if (before)
		printf(", %.1f picks/s", picks / seconds);
	printf("\n");
	json_decref(before);
	before = json_object();
	before_ns = now_ns;
	json_array_foreach(list, i, e) json_object_set_new(before, text(e, "address"),
							   json_real(number(e, "requests_total")));
}

/* Why the hit rate is what it is: where the bytes of prompts were lost, by model. */
/* One line: a model, or a tenant of it. */
static void loss_print(json_t *m, const char *state)
{
	static const char *const shares[] = {"hit", "routed-away", "evicted", "differs", "cold"};
	double sum = 0, part[5];

	for (unsigned int k = 0; k < 5; k++)
		sum += part[k] = number(m, shares[k]);
	for (unsigned int k = 0; k < 5; k++)
		part[k] = sum > 0 ? 100 * part[k] / sum : 0;
	printf("%-24s %-12s %9.0f %6.1f %11.1f %8.1f %8.1f %6.1f\n", text(m, "name"), state,
	       number(m, "prompts"), part[0], part[1], part[2], part[3], part[4]);
	if (number(m, "differing") <= 0)
		return;
	printf("  %.0f prompts part from what is known at byte %.0f on average",
	       number(m, "differing"), number(m, "differs_at"));
	if (json_object_get(m, "differs_mostly_at"))
		printf(", most of them at byte %.0f", number(m, "differs_mostly_at"));
	printf(": text that changes with each request belongs at the end.\n");
}

static void losses_print(json_t *models)
{
	json_t *m, *t;
	size_t i, k;

	if (json_array_size(models))
		printf("\nOf the bytes of prompts, in percent, by model and tenant:\n%-24s %-12s "
		       "%9s "
		       "%6s %11s %8s %8s %6s\n",
		       "MODEL", "MATCHED", "PROMPTS", "HIT", "ROUTED-AWAY", "EVICTED", "DIFFERS",
		       "COLD");
	json_array_foreach(models, i, m)
	{
		loss_print(m, text(m, "state"));
		json_array_foreach(json_object_get(m, "tenants"), k, t) loss_print(t, "(tenant)");
	}
}

void table_affinity(json_t *a)
{
	double pairs = number(a, "pairs"), most = number(a, "pairs_max");
	json_t *e;
	size_t i;

	printf("%-20s %-22s %10s %10s %6s\n", "NAME", "ADDRESS", "BLOCKS", "CAP", "FILL%");
	json_array_foreach(json_object_get(a, "endpoints"), i, e)
	{
		double blocks = number(e, "blocks"), cap = number(e, "blocks_max");

		printf("%-20s %-22s %10.0f %10.0f %6.1f\n", text(e, "name"), text(e, "address"),
		       blocks, cap, cap > 0 ? 100 * blocks / cap : 0);
	}
	printf("\nThe index holds %.0f of at most %.0f pairs (%.1f %%) in %.1f MB; a block is %.0f "
	       "bytes of prompt.\n",
	       pairs, most, most > 0 ? 100 * pairs / most : 0, number(a, "bytes") / 1e6,
	       number(a, "block_bytes"));
	printf("%.0f pairs were dropped as least recently used, %.0f blocks were not learned.\n",
	       number(a, "evicted"), number(a, "dropped_blocks") + number(a, "refused_blocks"));
	losses_print(json_object_get(a, "models"));
}

const char *table_endpoint;

/* Who holds how much of one prompt, and why not more. */
void table_prompt(json_t *a)
{
	double bytes = number(a, "prompt_bytes");
	json_t *e;
	size_t i;

	printf("model %s: %s\n", text(a, "model"), text(a, "state"));
	if (!json_is_true(json_object_get(a, "precise"))) {
		printf("This prompt is not known for sure as the engine sees it: matched "
		       "approximately.\n");
		return;
	}
	printf("%.0f bytes as the engine sees them\n\n%-20s %7s %7s %6s  %s\n", bytes, "NAME",
	       "BLOCKS", "TOKENS", "SHARE%", "WHY NOT MORE");
	json_array_foreach(json_object_get(a, "endpoints"), i, e)
	{
		double held = number(e, "bytes");

		if (table_endpoint && strcmp(table_endpoint, text(e, "name")) != 0 &&
		    strcmp(table_endpoint, text(e, "address")) != 0)
			continue;
		printf("%-20s %7.0f %7.0f %6.1f  %s\n", text(e, "name"), number(e, "blocks"),
		       number(e, "tokens"), bytes > 0 ? 100 * held / bytes : 0, text(e, "why"));
		printf("%-43s  at byte %.0f: \"%s\"%s\n", "", held, text(e, "text"),
		       json_is_false(json_object_get(e, "trusted"))
			       ? " (its reports contradict its events: matched approximately)"
			       : "");
	}
}

void table_drain(json_t *answer)
{
	printf("%s %s\n", text(answer, "endpoint"),
	       json_is_true(json_object_get(answer, "draining"))
		       ? "drains: no new requests, running ones finish"
		       : "takes requests again");
}

void table_requests(json_t *answer)
{
	json_t *r;
	size_t i;

	printf("%-34s %-12s %-22s %-20s %8s %8s\n", "REQUEST-ID", "PHASE", "ENDPOINT", "MODEL",
	       "AGE ms", "ATTEMPTS");
	json_array_foreach(json_object_get(answer, "requests"), i, r) printf(
		"%-34s %-12s %-22s %-20s %8.0f %8.0f\n", text(r, "request_id"), text(r, "phase"),
		text(r, "endpoint"), text(r, "model"), number(r, "age_ms"), number(r, "attempts"));
}

static void decision_head(json_t *weights)
{
	const char *name;
	json_t *w;

	printf("  %-22s %8s %8s", "CANDIDATE", "SCORE", "HIT");
	json_object_foreach(weights, name, w) printf("  %s x %g", name, json_number_value(w));
	printf("\n");
}

void table_decision(json_t *d)
{
	json_t *weights = json_object_get(d, "weights"), *c, *w;
	const char *name;
	size_t i;

	printf("%s\n\n", text(d, "why"));
	decision_head(weights);
	json_array_foreach(json_object_get(d, "candidates"), i, c)
	{
		printf("%c %-22s %8.3f %8.0f",
		       json_is_true(json_object_get(c, "chosen")) ? '*' : ' ',
		       text(c, json_object_get(c, "name") ? "name" : "endpoint"),
		       number(c, "score"), number(c, "hit_blocks"));
		json_object_foreach(weights, name, w) printf(
			"  %*.3f", (int)(snprintf(NULL, 0, "%s x %g", name, json_number_value(w))),
			json_number_value(json_object_get(json_object_get(c, "scores"), name)));
		printf("\n");
	}
	printf("\nexpected cached: %.0f of about %.0f prompt tokens",
	       number(d, "cached_tokens_expected"), number(d, "prompt_tokens"));
	if (json_object_get(d, "cached_tokens_reported"))
		printf("; the engine reported %.0f of %.0f", number(d, "cached_tokens_reported"),
		       number(d, "prompt_tokens_reported"));
	printf("\n");
	if (json_object_get(d, "prefill")) {
		printf("\nprefill leg: ");
		table_decision(json_object_get(d, "prefill"));
	}
	if (json_object_get(d, "encode")) {
		printf("\nencode leg: ");
		table_decision(json_object_get(d, "encode"));
	}
}

void table_version(json_t *answer)
{
	printf("sluiced %s, ABI %.0f\n", text(answer, "version"), number(answer, "abi"));
}
