/* SPDX-License-Identifier: Apache-2.0 */
/* The names of the ways an answer's bytes can travel, and of the reasons against one. */
#ifndef SLUICE_BASE_PATH_H
#define SLUICE_BASE_PATH_H

#include <stdint.h>

enum path {
	PATH_RELAY, /* copied by user space */
	PATH_STEER, /* sk_msg: the endpoint's own sends go to the client's socket */
	PATH_SPLICE /* tc: packets are translated from one connection to the other */
};
#define PATHS 3

enum path_refusal {
	PATH_FITS, /* no reason against it */
#define REFUSAL(id, name, text) PATH_NO_##id,
#include "base/path_refusals.h"
#undef REFUSAL
	PATH_REFUSALS,
	PATH_LATER = PATH_REFUSALS, /* not now: asked again at the next quiet moment */
};

/* How a request's answer travelled, and what spoke against the other ways: one word of a record. */
struct path_choice {
	uint8_t taken;		/* enum path */
	uint8_t refused[PATHS]; /* enum path_refusal by path; PATH_FITS: was not asked, or fits */
};

/* "relay", "steer", "splice"; "no-tuple", …; "a leg's handshake was not seen …". Never NULL. */
const char *path_name(unsigned int path);
const char *path_refusal_name(unsigned int refusal);
const char *path_refusal_text(unsigned int refusal);

#endif
