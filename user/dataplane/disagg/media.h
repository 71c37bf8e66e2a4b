/* SPDX-License-Identifier: Apache-2.0 */
/* Where a prompt's image, audio and video parts lie: whole objects of the body. */
#ifndef SLUICE_DATAPLANE_DISAGG_MEDIA_H
#define SLUICE_DATAPLANE_DISAGG_MEDIA_H

#include "dataplane/blocks.h"

struct media_part {
	uint64_t start, end; /* body offsets of the part's braces */
};

/*
 * The objects with a media "type" in the JSON value at [start, end), in order; at most max of them.
 * The value is valid JSON. Returns how many there are, which may be more than max.
 */
uint32_t media_find(const struct block *chain, uint64_t start, uint64_t end,
		    struct media_part *parts, uint32_t max);

#endif
