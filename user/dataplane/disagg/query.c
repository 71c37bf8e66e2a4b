/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names and numbers that connectors write: hosts, ranks, ids, and the prefill engine's own id,
 * which its bootstrap server tells once (GET /query) and the worker remembers until the pod fails.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/disagg/pool.h"

/* xorshift128+, Vigna 2014: unique, not secret. */
uint64_t pd_random(struct worker *w)
{
	uint64_t *s = w->random, x = s[0], y = s[1];

	s[0] = y;
	x ^= x << 23;
	s[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
	return s[1] + y;
}

void pd_transfer_id(struct disagg *pd, const char *prefix)
{
	unsigned long long a = pd_random(pd->worker), b = pd_random(pd->worker);

	snprintf(pd->transfer_id, sizeof(pd->transfer_id), "%s%016llx%016llx", prefix, a, b);
}

/* "10.0.0.1:8000" -> 10.0.0.1, "[::1]:8000" -> ::1, with brackets in a URL. */
static void host_of(const struct endpoint *ep, char *to, size_t size, bool in_url)
{
	const char *colon = strrchr(ep->address, ':'), *from = ep->address;
	size_t n = colon ? (size_t)(colon - from) : strlen(from);

	if (!in_url && n > 2 && *from == '[') {
		from++;
		n -= 2;
	}
	snprintf(to, size, "%.*s", (int)n, from);
}

static unsigned int number_label(const struct endpoint *ep, const char *label, unsigned int other)
{
	const char *text = endpoint_label(ep, label);

	return text ? (unsigned int)strtoul(text, NULL, 10) : other;
}

void pd_names(struct disagg *pd)
{
	const struct endpoint *decode = pd->req->pick.endpoint, *prefill = pd->prefill.endpoint;

	host_of(prefill, pd->prefill_host, sizeof(pd->prefill_host), false);
	host_of(prefill, pd->prefill_url_host, sizeof(pd->prefill_url_host), true);
	host_of(decode, pd->decode_host, sizeof(pd->decode_host), false);
	pd->prefill_rank = number_label(prefill, PD_RANK_LABEL, 0);
	pd->decode_rank = number_label(decode, PD_RANK_LABEL, 0);
	pd->bootstrap_port = (uint16_t)number_label(
		prefill, PD_BOOTSTRAP_LABEL, (unsigned int)pd->worker->cfg->pd_bootstrap_port);
}

unsigned int pd_bootstrap_port(const struct disagg *pd)
{
	return pd->bootstrap_port;
}

bool pd_params_have(const struct disagg *pd, const char *name)
{
	char text[4096];
	size_t overlap = strlen(name) - 1, n;

	for (uint64_t at = pd->params.start; at < pd->params.end; at += sizeof(text) - overlap) {
		n = body_copy(pd->answer, at, pd->params.end, text, sizeof(text));
		if (memmem(text, n, name, overlap + 1))
			return true;
	}
	return false;
}

/* ---- the engine's id ---- */

bool query_known(struct disagg *pd)
{
	const struct engine_id *known = &pd->worker->disagg->engine_ids[pd->prefill_slot];

	if (!known->id[0] || known->generation != pd->prefill.endpoint->generation)
		return false;
	snprintf(pd->engine_id, sizeof(pd->engine_id), "%s", known->id);
	return true;
}

void query_forget(struct disagg *pd)
{
	pd->worker->disagg->engine_ids[pd->prefill_slot].id[0] = '\0';
}

/* {"0": {"engine_id": "…"}}: the one of the pod's rank, else the first. */
bool query_answered(struct disagg *pd)
{
	static const char name[] = "\"engine_id\"";
	struct engine_id *known = &pd->worker->disagg->engine_ids[pd->prefill_slot];
	char text[8192], rank[16];
	size_t n = body_copy(pd->leg.answer, 0, pd->leg.answer_bytes, text, sizeof(text));
	int rank_len = snprintf(rank, sizeof(rank), "\"%u\"", pd->prefill_rank);
	const char *end = text + n, *p = memmem(text, n, rank, (size_t)rank_len), *id;

	p = memmem(p ? p : text, (size_t)(end - (p ? p : text)), name, sizeof(name) - 1);
	if (!p)
		return false;
	for (p += sizeof(name) - 1; p < end && (*p == ' ' || *p == ':'); p++)
		;
	if (p == end || *p != '"')
		return false;
	for (id = ++p; p < end && *p != '"'; p++)
		if (*p == '\\' || (unsigned char)*p < ' ')
			return false;
	if (p == end || p == id || (size_t)(p - id) >= sizeof(known->id))
		return false;
	snprintf(known->id, sizeof(known->id), "%.*s", (int)(p - id), id);
	known->generation = pd->prefill.endpoint->generation;
	return query_known(pd);
}
