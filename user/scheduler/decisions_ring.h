/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the decisions kept: decisions.c fills and finds, decisions_print.c prints. */
#ifndef SLUICE_SCHEDULER_DECISIONS_RING_H
#define SLUICE_SCHEDULER_DECISIONS_RING_H

#include <stdatomic.h>

#include "scheduler/decisions.h"

struct decision_entry {
	_Atomic uint64_t id_hash, position, bytes;
};

struct decision_ring {
	uint64_t *words; /* records; read and written by atomics, word by word */
	uint64_t bytes, entry_count;
	struct decision_entry *entries;		  /* entry of a record: sequence % entry_count */
	uint64_t position, lap_entries, sequence; /* the writer's */
	_Atomic uint64_t announced; /* position up to which the writer may have written */
	_Atomic uint64_t written;   /* records put */
};

struct decision_profile {
	unsigned int scorer_count;
	const char *scorers[DECISION_SCORERS_MAX];
	double weights[DECISION_SCORERS_MAX];
};

struct decisions {
	unsigned int workers;
	struct decision_profile profiles[DECISION_PROFILES_MAX];
	struct decision_ring rings[];
};

#endif
