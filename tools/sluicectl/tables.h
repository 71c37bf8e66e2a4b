/* SPDX-License-Identifier: Apache-2.0 */
/* Tables for people out of the admin port's JSON. */
#ifndef SLUICECTL_TABLES_H
#define SLUICECTL_TABLES_H

#include <jansson.h>

void table_endpoints(json_t *answer);
/* Endpoints, with rates since the call before. */
void table_top(json_t *answer);
void table_affinity(json_t *answer);
void table_prompt(json_t *answer);
/* Of table_prompt: only this endpoint, by name or address; NULL: all. */
extern const char *table_endpoint;
void table_drain(json_t *answer);
void table_requests(json_t *answer);
void table_decision(json_t *answer);
void table_path(json_t *answer);
void table_version(json_t *answer);

#endif
