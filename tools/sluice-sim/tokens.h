/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real tokenizer.json in a simulated engine: ids of a real vocabulary whose bytes, one after the
 * other, are the prompt as a chat template renders it. Which ids is the longest match's choice, not
 * the merges': another tokenization of the same bytes, as good as any for caches and events.
 */
#ifndef SLUICE_SIM_TOKENS_H
#define SLUICE_SIM_TOKENS_H

#include <jansson.h>

#include "sluice-sim/server.h"

struct token_list {
	uint32_t *ids;
	size_t count, size;
};

/* --tokenizer, --template-extra. 0 or -errno, with the reason on stderr. */
int tokens_load(const char *path, const char *template_extra);
bool tokens_loaded(void);

/* The prompt of a request of any API, as ids. free() ids. */
void tokens_of_request(json_t *body, struct token_list *ret);

/* POST /tokenize and /detokenize. */
void tokens_tokenize(struct conn *c, json_t *body);
void tokens_detokenize(struct conn *c, json_t *body);

/* A sequence of these ids, whose list it takes over; block hashes are chained over ids. */
struct seq *tokens_seq_new(const struct sim_options *opt, struct token_list *list,
			   const char *model, const char *salt);

#endif
