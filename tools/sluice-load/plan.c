/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which request comes when. Text follows from ids, so that equal prefixes are equal bytes: a
 * Mooncake hash id stands for 512 tokens, of 4 bytes each. Azure rows have lengths, no prefixes.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/sim_text.h"
#include "sluice-load/load.h"

#define ID_TOKENS   512
#define PRIVATE_IDS 0x100000000ULL /* beyond every trace's ids */

struct row {
	double at_ms;
	uint32_t input, output, id_count;
	uint64_t *ids;
};

struct plan {
	const struct load_options *opt;
	struct row *rows;
	size_t row_count, next;
	uint64_t later_turns;
	double at_ms;
	uint64_t random;
};

static double uniform(struct plan *p)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return (double)(p->random >> 11) / 9007199254740992.0;
}

static struct row *row_add(struct plan *p)
{
	if ((p->row_count & (p->row_count - 1)) == 0)
		p->rows = realloc(p->rows,
				  (p->row_count ? p->row_count * 2 : 1) * sizeof(struct row));
	p->rows[p->row_count] = (struct row){0};
	return &p->rows[p->row_count++];
}

static int mooncake_row(struct plan *p, const char *line)
{
	json_t *json = json_loads(line, 0, NULL), *ids = json_object_get(json, "hash_ids");
	struct row *r;

	if (!json_is_array(ids)) {
		json_decref(json);
		return -EINVAL;
	}
	r = row_add(p);
	r->at_ms = json_number_value(json_object_get(json, "timestamp"));
	r->input = (uint32_t)json_integer_value(json_object_get(json, "input_length"));
	r->output = (uint32_t)json_integer_value(json_object_get(json, "output_length"));
	r->id_count = (uint32_t)json_array_size(ids);
	r->ids = calloc(r->id_count + 1u, sizeof(uint64_t));
	for (uint32_t i = 0; i < r->id_count; i++)
		r->ids[i] = (uint64_t)json_integer_value(json_array_get(ids, i));
	json_decref(json);
	return 0;
}

static int azure_row(struct plan *p, const char *line)
{
	int h, m, year, month, day;
	unsigned int in, out;
	double s;
	struct row *r;

	if (sscanf(line, "%d-%d-%d %d:%d:%lf,%u,%u", &year, &month, &day, &h, &m, &s, &in, &out) !=
	    8)
		return -EINVAL;
	r = row_add(p);
	r->at_ms = ((day * 24 + h) * 60 + m) * 60000.0 + s * 1000;
	r->input = in;
	r->output = out;
	return 0;
}

static int trace_read(struct plan *p, const char *path)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;
	double first;

	if (!f)
		return -errno;
	while (getline(&line, &size, f) > 0 && (!p->opt->limit || p->row_count < p->opt->limit)) {
		int err = *line == '{' ? mooncake_row(p, line) : azure_row(p, line);

		if (err && p->row_count) {
			fprintf(stderr, "sluice-load: %s: row %zu is not understood\n", path,
				p->row_count + 1);
			break;
		}
	}
	free(line);
	fclose(f);
	first = p->row_count ? p->rows[0].at_ms : 0;
	for (size_t i = 0; i < p->row_count; i++)
		p->rows[i].at_ms = (p->rows[i].at_ms - first) / p->opt->speed;
	return p->row_count ? 0 : -ENODATA;
}

struct plan *plan_new(const struct load_options *opt)
{
	struct plan *p = calloc(1, sizeof(*p));
	int err;

	p->opt = opt;
	p->random = 0x9e3779b97f4a7c15ULL ^ (opt->seed + 1);
	err = opt->trace ? trace_read(p, opt->trace) : 0;
	if (err) {
		fprintf(stderr, "sluice-load: %s: %s\n", opt->trace, strerror(-err));
		free(p);
		return NULL;
	}
	return p;
}

/* `tokens` tokens of text that follow from the id. */
static char *text_put(char *to, uint64_t id, uint32_t tokens)
{
	static const char alphabet[] = "etaoinshrdlucmfwypvbgkjqxz .,ETA";

	for (uint32_t i = 0; i < tokens; i++) {
		uint64_t x = (id * 0x9e3779b97f4a7c15ULL + i) * 0xd6e8feb86659fd93ULL;

		x ^= x >> 29;
		for (int k = 0; k < SIM_TOKEN_BYTES; k++)
			*to++ = alphabet[x >> (k * 5) & 31];
	}
	return to;
}

/* Does the path take a prompt, not messages? */
static bool takes_prompt(const struct load_options *opt)
{
	return strcmp(opt->path, "/v1/completions") == 0;
}

static uint32_t text_make(const struct row *r, uint64_t private_id, char *to)
{
	char *at = to;
	uint32_t left = r->input;

	for (uint32_t i = 0; left; i++) {
		uint32_t n = left < ID_TOKENS ? left : ID_TOKENS;
		uint64_t id = i < r->id_count ? r->ids[i] : PRIVATE_IDS + (private_id << 16) + i;

		at = text_put(at, id, n);
		left -= n;
	}
	return (uint32_t)(at - to);
}

/* The request's JSON around what was said (messages or a prompt, escaped). */
static void body_make(const struct load_options *opt, const char *said, size_t n, struct job *job)
{
	bool prompt = takes_prompt(opt);

	job->body = malloc(n + 768 + strlen(opt->model));
	job->body_bytes = (size_t)sprintf(
		job->body, "{\"model\":\"%s\",\"%s\":%s%.*s%s,\"max_tokens\":%u%s%s}", opt->model,
		prompt ? "prompt" : "messages", prompt ? "\"" : "[", (int)n, said,
		prompt ? "\"" : "]", job->max_tokens, opt->ignore_eos ? ",\"ignore_eos\":true" : "",
		opt->stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
}

/* One question, in the conversation of the job or alone. */
static void job_make(struct plan *p, const struct row *r, uint64_t private_id, struct job *job)
{
	const struct load_options *opt = p->opt;
	char *text = malloc((size_t)r->input * SIM_TOKEN_BYTES + 8);
	uint32_t n = text_make(r, private_id, text);
	struct session *s = job->session;
	const char *said;
	size_t len;

	job->max_tokens = r->output ? r->output : 1;
	if (takes_prompt(opt)) {
		job->prompt_hash = sim_prompt_hash(text, n);
		body_make(opt, text, n, job);
		free(text);
		return;
	}
	if (!s)
		s = session_new(0);
	session_ask(s, text, n);
	job->prompt_hash = session_hash(s);
	said = session_messages(s, &len);
	body_make(opt, said, len, job);
	if (!job->session)
		session_free(s);
	free(text);
}

static uint32_t prompt_length(struct plan *p)
{
	const struct load_options *opt = p->opt;

	if (opt->prompt_tokens_max <= opt->prompt_tokens)
		return opt->prompt_tokens;
	return opt->prompt_tokens +
	       (uint32_t)(uniform(p) * (opt->prompt_tokens_max - opt->prompt_tokens + 1));
}

/* A request of our own making: a group's shared prefix, then text of its own. */
static void synthetic(struct plan *p, struct job *job)
{
	const struct load_options *opt = p->opt;
	uint32_t shared = opt->groups ? opt->group_tokens / ID_TOKENS : 0;
	uint64_t ids[1024], group = opt->groups ? p->next % opt->groups : 0;
	struct row r = {.input = prompt_length(p), .output = opt->max_tokens, .ids = ids};

	for (; r.id_count < shared && r.id_count < 1024; r.id_count++)
		ids[r.id_count] = PRIVATE_IDS * 2 + (group << 16) + r.id_count;
	job->session = opt->turns > 1 ? session_new(p->next) : NULL;
	job_make(p, &r, p->next, job);
	job->at_ms = -1;
	if (opt->rate > 0) {
		job->at_ms = p->at_ms;
		p->at_ms +=
			opt->constant ? 1000 / opt->rate : -log(1 - uniform(p)) * 1000 / opt->rate;
	}
}

void plan_turn(struct plan *p, struct session *session, struct job *ret)
{
	struct row r = {.input = prompt_length(p), .output = p->opt->max_tokens};

	*ret = (struct job){.session = session};
	/* its text is nobody else's: beyond the ids of first turns */
	job_make(p, &r, (PRIVATE_IDS >> 4) + ++p->later_turns, ret);
}

bool plan_next(struct plan *p, struct job *ret)
{
	if (p->opt->trace) {
		if (p->next >= p->row_count)
			return false;
		ret->session = NULL;
		job_make(p, &p->rows[p->next], p->next, ret);
		ret->at_ms = p->opt->concurrency ? -1 : p->rows[p->next].at_ms;
	} else {
		if (p->opt->requests && p->next >= p->opt->requests)
			return false;
		synthetic(p, ret);
		if (p->opt->duration_s > 0 && ret->at_ms > p->opt->duration_s * 1000) {
			session_free(ret->session);
			free(ret->body);
			return false;
		}
	}
	p->next++;
	return true;
}
