/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deciders: is this prompt prefilled on another pod than the one that will decode it? Asked after
 * the decode pod is chosen and before a prefill pod is. One row each in pd_deciders.c; whoever
 * reads a configuration fills a struct pd_decider, whoever runs requests calls pd_decide(). Pure
 * functions of their question: no clocks, no allocation. Any thread.
 */
#ifndef SLUICE_SCHEDULER_PD_H
#define SLUICE_SCHEDULER_PD_H

#include "scheduler/plugin.h"

struct pd_question {
	const struct endpoint_snapshot *snapshot;
	const struct sched_pick *decode; /* the chosen decode pod and what it has cached */
	const struct model *model;	 /* of the same snapshot; NULL: every pod may serve it */
	bool has_media;			 /* image, audio or video parts */
};

enum pd_reason {
	PD_BECAUSE_ALWAYS,
	PD_BECAUSE_NEVER,
	PD_BECAUSE_UNCACHED, /* enough of the prompt is not cached on the decode pod */
	PD_BECAUSE_CACHED,   /* it is not */
	PD_BECAUSE_SHORT,    /* the prompt is short */
	PD_BECAUSE_MEDIA,
	PD_BECAUSE_NO_MEDIA,
	PD_BECAUSE_GAIN, /* sooner elsewhere, transfer included */
	PD_BECAUSE_NO_GAIN,
	PD_BECAUSE_NO_PREFILL, /* no prefill pod that could be asked */
	PD_REASONS,
};

struct pd_decider {
	const struct pd_decider_type *type;
	double params[PLUGIN_PARAMS_MAX]; /* in the order of type->params */
};

struct pd_decider_type {
	const char *name; /* as EndpointPickerConfig spells it */
	const char *word; /* as --pd-decider spells it */
	bool (*decide)(const struct pd_decider *d, const struct pd_question *q,
		       enum pd_reason *ret_reason);
	struct plugin_param params[PLUGIN_PARAMS_MAX];
};

/* The table; the last row has no name. */
extern const struct pd_decider_type pd_decider_types[];

/* By either of its names, or NULL. */
const struct pd_decider_type *pd_decider_find(const char *name);
/* *d becomes a decider of that type with its default parameters. */
void pd_decider_init(struct pd_decider *d, const struct pd_decider_type *type);
/* True: a prefill leg. *ret_reason says why, either way. */
bool pd_decide(const struct pd_decider *d, const struct pd_question *q, enum pd_reason *ret_reason);
const char *pd_reason_text(enum pd_reason reason);

#endif
