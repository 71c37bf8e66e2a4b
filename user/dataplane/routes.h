/* SPDX-License-Identifier: Apache-2.0 */
/* The allow-list: what a client may ask for. Everything else is 404 and never reaches a pod. */
#ifndef SLUICE_DATAPLANE_ROUTES_H
#define SLUICE_DATAPLANE_ROUTES_H

#include <stdbool.h>

#include "base/http1.h"
#include "base/span.h"

enum route_action {
	ROUTE_FORWARD,
	ROUTE_MODELS,
	ROUTE_MODEL, /* the one that the path names */
	ROUTE_HEALTH,
	ROUTE_VERSION
};
enum route_api {
	API_OPENAI,
	API_ANTHROPIC
};

struct route {
	struct span path;
	enum http1_method method; /* GET also allows HEAD */
	enum route_action action;
	enum route_api api;
	bool generates; /* a decode endpoint's work */
};

/* The route of that path, or NULL. */
const struct route *route_find(struct span path);
/* Does the route take this method? */
bool route_takes(const struct route *route, enum http1_method method);
/* The API whose errors that path speaks, also for unknown paths. */
enum route_api route_api_of(struct span path);

#endif
