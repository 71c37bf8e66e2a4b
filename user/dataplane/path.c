/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which way an answer takes: asks the paths in the order of preference, keeps the reasons against.
 * What a path does is in its own file; a new one is a row of `table`.
 */
#include "dataplane/path.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "dataplane/request.h"
#include "dataplane/splice.h"
#include "dataplane/steer.h"
#include "dataplane/upstream.h"

/* The best first. */
static const struct path_ops *const table[] = {
	&steer_ops,
	&splice_ops,
};

#define TABLE_ROWS (sizeof(table) / sizeof(table[0]))

static unsigned int allowed; /* mask of 1 << enum path; set before the workers run */
static enum path_refusal unavailable[PATHS]; /* why a path cannot be had at all */

int path_parse(const char *name, unsigned int *ret_mask)
{
	if (!name || strcmp(name, "auto") == 0)
		*ret_mask = 1 << PATH_STEER | 1 << PATH_SPLICE;
	else if (strcmp(name, "relay") == 0)
		*ret_mask = 0;
	else if (strcmp(name, "splice") == 0)
		*ret_mask = 1 << PATH_SPLICE;
	else if (strcmp(name, "steer") == 0)
		*ret_mask = 1 << PATH_STEER;
	else
		return -EINVAL;
	return 0;
}

int path_start(const struct config *cfg)
{
	if (path_parse(cfg->path, &allowed)) {
		log_error("path: %s is none of auto, relay, splice, steer", cfg->path);
		return -EINVAL;
	}
	for (size_t i = 0; i < TABLE_ROWS; i++) {
		const struct path_ops *ops = table[i];

		if (!ops || !(allowed & 1U << ops->path) || !ops->start)
			continue;
		unavailable[ops->path] = ops->start(cfg);
		if (unavailable[ops->path])
			log_warn("path: no %s: %s", path_name(ops->path),
				 path_refusal_text(unavailable[ops->path]));
	}
	return 0;
}

void path_stop(void)
{
	for (size_t i = 0; i < TABLE_ROWS; i++)
		if (table[i] && allowed & 1U << table[i]->path && table[i]->stop)
			table[i]->stop();
	allowed = 0;
}

void path_turn(struct worker *w)
{
	for (size_t i = 0; i < TABLE_ROWS; i++)
		if (table[i] && allowed & 1U << table[i]->path && table[i]->turn &&
		    !unavailable[table[i]->path])
			table[i]->turn(w);
}

static void refusal_count(enum path path, enum path_refusal why)
{
	static const enum metric_counter first[PATHS] = {
		[PATH_STEER] = M_PATH_STEER_DISABLED, [PATH_SPLICE] = M_PATH_SPLICE_DISABLED};

	metric_inc((enum metric_counter)(first[path] + (why - PATH_NO_DISABLED)));
}

static void refuse(struct request *req, enum path path, enum path_refusal why)
{
	req->path.choice.refused[path] = (uint8_t)why;
	refusal_count(path, why);
}

/* What speaks against any kernel path, whichever it is. */
static enum path_refusal common_refusal(const struct request *req)
{
	const struct openai_request *says = &req->says;
	int64_t tokens = says->numbers[OPENAI_MAX_TOKENS];

	if (says->members[OPENAI_MAX_COMPLETION_TOKENS].end)
		tokens = says->numbers[OPENAI_MAX_COMPLETION_TOKENS];
	else if (says->members[OPENAI_MAX_OUTPUT_TOKENS].end)
		tokens = says->numbers[OPENAI_MAX_OUTPUT_TOKENS];
	else if (!says->members[OPENAI_MAX_TOKENS].end)
		tokens = INT64_MAX;
	if (!req->route->generates)
		return PATH_NO_NO_ANSWER_BODY;
	if (!says->stream && tokens < (int64_t)req->worker->cfg->path_short_tokens)
		return PATH_NO_SHORT_ANSWER;
	if (req->pd)
		return PATH_NO_LEGS;
	if (req->head.minor == 0)
		return PATH_NO_FRAMING;
	return PATH_FITS;
}

void path_choose(struct request *req)
{
	enum path_refusal common;

	req->path = (struct path_plan){0};
	if (!allowed)
		return;
	common = common_refusal(req);
	for (size_t i = 0; i < TABLE_ROWS && !req->path.ops; i++) {
		const struct path_ops *ops = table[i];
		enum path_refusal why = common;

		if (!ops || !(allowed & 1U << ops->path))
			continue;
		if (!why)
			why = unavailable[ops->path];
		if (!why)
			why = ops->can_take(req);
		if (why)
			refuse(req, ops->path, why);
		else
			req->path.ops = ops;
	}
	scheduler_note_path(req->worker->sched, &req->pick, &req->path.choice);
}

void path_prepare(struct upstream *up)
{
	struct request *req = up->req;
	enum path_refusal why = PATH_FITS;

	if (!req->path.ops)
		return;
	if (req->path.ops->prepare)
		why = req->path.ops->prepare(up);
	if (why)
		path_refuse(req, why);
	else
		req->path.prepared = true;
}

void path_moment(struct upstream *up)
{
	struct request *req = up->req;
	enum path_refusal why;

	if (!req->path.ops || !req->path.prepared)
		return;
	if (req->path.choice.taken) {
		if (req->path.ops->again)
			req->path.ops->again(up);
		return;
	}
	if (up->framing == HTTP1_UNTIL_CLOSE || up->dechunk || up->rechunk) {
		path_refuse(req, PATH_NO_FRAMING);
		return;
	}
	why = req->path.ops->hand_over(up);
	if (why == PATH_LATER)
		return;
	if (why) {
		path_refuse(req, why);
		return;
	}
	req->path.choice.taken = (uint8_t)req->path.ops->path;
	scheduler_note_path(req->worker->sched, &req->pick, &req->path.choice);
}

void path_refuse(struct request *req, enum path_refusal why)
{
	const struct path_ops *ops = req->path.ops;

	if (!ops)
		return;
	if (req->path.prepared && req->up && ops->let_go)
		ops->let_go(req->up);
	req->path.ops = NULL;
	req->path.prepared = false;
	refuse(req, ops->path, why);
	scheduler_note_path(req->worker->sched, &req->pick, &req->path.choice);
}

void path_let_go(struct upstream *up)
{
	struct request *req = up->req;

	if (!req || !req->path.ops)
		return;
	if (!req->path.choice.taken) {
		path_refuse(req, PATH_NO_ENDED_FIRST);
		return;
	}
	if (req->path.ops->let_go)
		req->path.ops->let_go(up);
	req->path.ops = NULL;
}

void path_account(struct request *req)
{
	static const enum metric_counter totals[PATHS] = {M_PATH_RELAY, M_PATH_STEER,
							  M_PATH_SPLICE};

	if (req->attempts && req->committed)
		metric_inc(totals[req->path.choice.taken]);
}
