/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When tokens come. The batch model: steps of step_ms + step_ms_per_seq x running, plus the
 * prefill of up to chunk_tokens at prefill_tokens_per_s; each step gives every decoding sequence a
 * token. The constant model: each sequence has its own clock (TTFT, then ITL).
 * Blocks are finite: what the running sequences hold alone narrows the prefix cache; when it is
 * more than there is, the youngest sequence is preempted and computes its prompt again later.
 * No I/O, no clock of its own: a test drives it by hand.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sluice-sim/sim.h"

void engine_init(struct engine *e, const struct sim_options *opt, void (*token)(struct seq *))
{
	*e = (struct engine){
		.opt = opt, .token = token, .random = 0x9e3779b97f4a7c15ULL ^ (opt->seed + 1)};
	e->waiting_end = &e->waiting;
	e->cache = cache_new(opt->kv_blocks ? opt->kv_blocks : 1);
}

void engine_forget(struct engine *e)
{
	cache_free(e->cache);
	e->cache = cache_new(e->opt->kv_blocks ? e->opt->kv_blocks : 1);
	cache_observe(e->cache, e->changed, e->events);
}

void engine_fini(struct engine *e)
{
	cache_free(e->cache);
}

static uint32_t blocks_of(const struct engine *e, uint32_t tokens)
{
	return (tokens + e->opt->block_size - 1) / e->opt->block_size;
}

static void cache_fit(struct engine *e)
{
	cache_limit(e->cache,
		    e->unstored < e->opt->kv_blocks ? e->opt->kv_blocks - e->unstored : 1);
}

static void blocks_hold(struct engine *e, struct seq *s, uint32_t n)
{
	s->held += n;
	s->unstored += n;
	e->held += n;
	e->unstored += n;
	cache_fit(e);
}

static void blocks_release(struct engine *e, struct seq *s)
{
	e->held -= s->held;
	e->unstored -= s->unstored;
	s->held = s->unstored = 0;
	cache_fit(e);
}

/* Tokens of the prompt that need no work; the last one is always computed. */
static uint32_t cached_tokens(const struct engine *e, const struct seq *s)
{
	uint32_t hit = e->opt->cache ? cache_match(e->cache, s->chain, s->chain_count) : 0;
	uint32_t most = (s->prompt_tokens - 1) / e->opt->block_size;

	return (hit < most ? hit : most) * e->opt->block_size;
}

static double uniform(struct engine *e)
{
	e->random ^= e->random << 13;
	e->random ^= e->random >> 7;
	e->random ^= e->random << 17;
	return ((double)(e->random >> 11) + 1) / 9007199254740993.0; /* never 0 */
}

/* Normal about the mean; as llm-d-inference-sim has it: sd at most 30 %, samples within 70 %. */
double engine_sample(struct engine *e, double mean, double sd)
{
	double v;

	sd = sd < 0.3 * mean ? sd : 0.3 * mean;
	if (sd <= 0)
		return mean;
	v = mean + sd * sqrt(-2 * log(uniform(e))) * cos(2 * M_PI * uniform(e));
	return v < 0.3 * mean ? 0.3 * mean : v > 1.7 * mean ? 1.7 * mean : v;
}

/* What a duration of the constant models becomes, as busy as the engine is now. */
static double slowed(const struct engine *e, double ms)
{
	const struct sim_options *o = e->opt;
	double load = 1;

	if (o->time_factor > 1 && o->max_num_seqs > 1 && e->running_count)
		load += (o->time_factor - 1) * (e->running_count - 1) / (o->max_num_seqs - 1);
	return ms * load / o->time_scale;
}

static double first_token_ms(struct engine *e, const struct seq *s)
{
	const struct sim_options *o = e->opt;

	if (s->remote)
		return slowed(e, engine_sample(e, o->itl_ms, o->itl_sd_ms));
	if (o->ttft_ms > 0)
		return slowed(e, engine_sample(e, o->ttft_ms, o->ttft_sd_ms));
	return slowed(e,
		      o->prefill_overhead_ms + (s->prompt_tokens - s->cached_tokens) *
						       engine_sample(e, o->prefill_ms_per_token,
								     o->prefill_sd_ms_per_token));
}

/* May its adapter run beside those that do? */
static bool adapter_fits(const struct engine *e, const struct seq *s)
{
	unsigned int others = 0;

	if (!s->adapter)
		return true;
	for (const struct seq *r = e->running; r; r = r->next) {
		const struct seq *before = e->running;

		if (!r->adapter)
			continue;
		if (strcmp(r->adapter, s->adapter) == 0)
			return true;
		while (before != r &&
		       (!before->adapter || strcmp(before->adapter, r->adapter) != 0))
			before = before->next;
		others += before == r;
	}
	return others < e->opt->max_loras;
}

static void admit(struct engine *e, double now_ms)
{
	struct seq **end = &e->running;

	while (e->waiting && e->running_count < e->opt->max_num_seqs) {
		struct seq *s = e->waiting;
		uint32_t cached = cached_tokens(e, s);
		uint32_t need = blocks_of(e, s->prompt_tokens + s->made - cached);

		if ((e->running && e->held + need > e->opt->kv_blocks) || !adapter_fits(e, s))
			return;
		e->waiting = s->next;
		if (!e->waiting)
			e->waiting_end = &e->waiting;
		e->waiting_count--;
		s->next = NULL;
		while (*end) /* oldest first: they prefill first, and are preempted last */
			end = &(*end)->next;
		*end = s;
		e->running_count++;
		s->state = SEQ_PREFILL;
		s->prefilled = s->remote && !s->made ? s->prompt_tokens - 1 : cached;
		blocks_hold(e, s, need);
		if (s->made) /* it comes back after a preemption */
			continue;
		s->cached_tokens = cached;
		e->queries += s->prompt_tokens;
		e->hits += s->cached_tokens;
		e->prompt_total += s->prompt_tokens;
		if (e->opt->constant)
			s->due_ms = now_ms + first_token_ms(e, s);
	}
}

bool engine_full(const struct engine *e)
{
	return e->waiting_count >= e->opt->max_waiting &&
	       (e->waiting_count || e->running_count >= e->opt->max_num_seqs);
}

int engine_submit(struct engine *e, struct seq *s, double now_ms)
{
	if (engine_full(e))
		return -EBUSY;
	s->next = NULL;
	s->state = SEQ_WAITING;
	*e->waiting_end = s;
	e->waiting_end = &s->next;
	e->waiting_count++;
	if (e->step_end_ms == 0 || e->opt->constant)
		engine_run(e, now_ms);
	return 0;
}

static void running_remove(struct engine *e, struct seq *s)
{
	struct seq **link = &e->running;

	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	e->running_count--;
	blocks_release(e, s);
}

void engine_cancel(struct engine *e, struct seq *s)
{
	struct seq **link = &e->waiting;

	if (s->state == SEQ_PREFILL || s->state == SEQ_DECODE) {
		running_remove(e, s);
	} else if (s->state == SEQ_WAITING) {
		while (*link != s)
			link = &(*link)->next;
		*link = s->next;
		if (e->waiting_end == &s->next)
			e->waiting_end = link;
		e->waiting_count--;
	}
	s->state = SEQ_DONE;
}

/* Out of the batch, and the first that comes in again. */
static void preempt(struct engine *e, struct seq *s)
{
	running_remove(e, s);
	s->state = SEQ_WAITING;
	s->next = e->waiting;
	if (!e->waiting)
		e->waiting_end = &s->next;
	e->waiting = s;
	e->waiting_count++;
	e->preemptions++;
}

static void prompt_store(struct engine *e, struct seq *s)
{
	uint32_t stored = s->unstored < s->chain_count ? s->unstored : s->chain_count;

	s->unstored -= stored;
	e->unstored -= stored;
	cache_fit(e);
	if (!e->opt->cache)
		return;
	cache_store(e->cache, s->chain, s->chain_count);
	if (e->stored)
		e->stored(e->events, e->cache, s);
}

static void token_made(struct engine *e, struct seq *s)
{
	if (s->state == SEQ_PREFILL)
		prompt_store(e, s);
	s->state = SEQ_DECODE;
	s->made++;
	if (s->made % e->opt->block_size == 0)
		blocks_hold(e, s, 1);
	e->generated_total++;
	if (s->made >= s->max_tokens) {
		running_remove(e, s);
		s->state = SEQ_DONE;
		e->successes++;
	}
	e->token(s);
}

/* Tokens to compute before the next one comes: after a preemption also those already made. */
static uint32_t work_left(const struct seq *s)
{
	return s->prompt_tokens + s->made - s->prefilled;
}

/* A step of the batch is over. */
static void step_finish(struct engine *e)
{
	uint32_t budget = e->opt->chunk_tokens;
	struct seq *next;

	for (struct seq *s = e->running; s; s = next) {
		next = s->next;
		if (s->state == SEQ_DECODE) {
			token_made(e, s);
		} else if (budget) {
			uint32_t want = work_left(s);
			uint32_t n = want < budget ? want : budget;

			s->prefilled += n;
			budget -= n;
			if (!work_left(s))
				token_made(e, s);
		}
	}
	while (e->held > e->opt->kv_blocks && e->running_count > 1) {
		for (next = e->running; next->next; next = next->next)
			;
		preempt(e, next);
	}
}

static double step_length(const struct engine *e)
{
	uint32_t want = 0;

	for (const struct seq *s = e->running; s; s = s->next)
		if (s->state == SEQ_PREFILL)
			want += work_left(s);
	if (want > e->opt->chunk_tokens)
		want = e->opt->chunk_tokens;
	return (e->opt->step_ms + e->opt->step_ms_per_seq * e->running_count +
		want * 1000.0 / e->opt->prefill_tokens_per_s) /
	       e->opt->time_scale;
}

static double constant_run(struct engine *e, double now_ms)
{
	double soonest = -1;
	struct seq *next;

	admit(e, now_ms);
	for (struct seq *s = e->running; s; s = next) {
		next = s->next;
		while (s->state != SEQ_DONE && s->due_ms <= now_ms) {
			s->due_ms += slowed(e, engine_sample(e, e->opt->itl_ms, e->opt->itl_sd_ms));
			if (s->made + 1 >= s->max_tokens) {
				token_made(e, s);
				break;
			}
			token_made(e, s);
		}
	}
	admit(e, now_ms);
	for (struct seq *s = e->running; s; s = s->next)
		if (soonest < 0 || s->due_ms - now_ms < soonest)
			soonest = s->due_ms > now_ms ? s->due_ms - now_ms : 0;
	return soonest;
}

double engine_run(struct engine *e, double now_ms)
{
	if (e->opt->constant)
		return constant_run(e, now_ms);
	while (e->step_end_ms && e->step_end_ms <= now_ms) {
		double end = e->step_end_ms;

		step_finish(e);
		admit(e, end);
		e->step_end_ms = e->running ? end + step_length(e) : 0;
	}
	if (!e->step_end_ms) {
		admit(e, now_ms);
		if (e->running)
			e->step_end_ms = now_ms + step_length(e);
	}
	return e->step_end_ms ? e->step_end_ms - now_ms : -1;
}
