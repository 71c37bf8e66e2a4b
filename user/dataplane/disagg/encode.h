/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The encode stage: each image, audio or video part goes to an encode pod by itself, all at once;
 * what they answer (ec_transfer_params) is merged into the next leg. A part whose encoding fails is
 * left to the next leg's pod, which can do it too.
 */
#ifndef SLUICE_DATAPLANE_DISAGG_ENCODE_H
#define SLUICE_DATAPLANE_DISAGG_ENCODE_H

#include "dataplane/disagg/disagg.h"
#include "dataplane/disagg/media.h"

struct encode_leg {
	struct leg leg;
	struct encode *encode;
	struct sched_pick pick;
	bool picked;
	uint8_t tries;
	uint16_t tried[PD_PREFILL_TRIES];
	struct media_part part;
	struct answer ec;
};

struct encode {
	struct disagg *pd;
	struct encode_leg legs[PD_ENCODE_PARTS_MAX];
	uint32_t count, running;
	char before[MODEL_NAME_BYTES_MAX * 6 + 128]; /* the leg's body before the part, … */
	const char *after;			     /* … and after it */
	struct encode *next_free;
};

/* Has the request media, and are there pods to encode it? */
bool encode_wanted(const struct request *req);
/* Begins the legs; encode_done(pd) follows, once, unless this is false: nothing to wait for. */
bool encode_begin(struct disagg *pd);
/* Merges what was answered into pd->ec (NULL: nothing). */
void encode_merge(struct disagg *pd);
/* disagg.c: all legs are over. */
void encode_done(struct disagg *pd);
/* Cuts what runs and frees the stage; the merged parameters stay. Idempotent. */
void encode_end(struct disagg *pd);

#endif
