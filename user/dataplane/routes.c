/* SPDX-License-Identifier: Apache-2.0 */
/* The table of paths. An engine's administrative routes are not in it, and that is the point. */
#include "dataplane/routes.h"

static const struct route routes[] = {
	{SPAN("/v1/chat/completions"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, true},
	{SPAN("/v1/chat/completions/render"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/v1/completions"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, true},
	{SPAN("/v1/completions/render"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/v1/responses"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, true},
	{SPAN("/v1/messages"), HTTP1_POST, ROUTE_FORWARD, API_ANTHROPIC, true},
	{SPAN("/v1/messages/count_tokens"), HTTP1_POST, ROUTE_FORWARD, API_ANTHROPIC, false},
	{SPAN("/v1/embeddings"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/v1/rerank"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/v2/rerank"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/rerank"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/v1/score"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/score"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/pooling"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/classify"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/tokenize"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/detokenize"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, false},
	{SPAN("/inference/v1/generate"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, true},
	{SPAN("/generate"), HTTP1_POST, ROUTE_FORWARD, API_OPENAI, true},
	{SPAN("/v1/models"), HTTP1_GET, ROUTE_MODELS, API_OPENAI, false},
	{SPAN("/health"), HTTP1_GET, ROUTE_HEALTH, API_OPENAI, false},
	{SPAN("/version"), HTTP1_GET, ROUTE_VERSION, API_OPENAI, false},
};

/* One model, named by the rest of the path; names have slashes in them. */
static const struct route one_model = {SPAN("/v1/models/"), HTTP1_GET, ROUTE_MODEL, API_OPENAI,
				       false};

const struct route *route_find(struct span path)
{
	for (size_t i = 0; i < sizeof(routes) / sizeof(*routes); i++)
		if (span_eq(path, routes[i].path))
			return &routes[i];
	if (path.len > one_model.path.len && span_starts_with(path, one_model.path))
		return &one_model;
	return NULL;
}

bool route_takes(const struct route *route, enum http1_method method)
{
	return method == route->method || (route->method == HTTP1_GET && method == HTTP1_HEAD);
}

enum route_api route_api_of(struct span path)
{
	return span_starts_with(path, SPAN("/v1/messages")) ? API_ANTHROPIC : API_OPENAI;
}
