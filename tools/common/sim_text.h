/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a simulated engine answers: word i of the answer to a prompt follows from both, so that
 * whoever sent the prompt can check every byte of the answer.
 */
#ifndef SLUICE_TOOLS_SIM_TEXT_H
#define SLUICE_TOOLS_SIM_TEXT_H

#include <stdint.h>
#include <stdio.h>
#include <xxhash.h>

#define SIM_WORD_BYTES	6 /* " wXXXX" */
#define SIM_TOKEN_BYTES 4 /* prompt bytes that count as one token */

static inline uint64_t sim_prompt_hash(const char *prompt, size_t len)
{
	return XXH64(prompt, len, 0);
}

/* Writes the SIM_WORD_BYTES of word i and a NUL. */
static inline void sim_word(uint64_t prompt_hash, uint32_t i, char to[SIM_WORD_BYTES + 1])
{
	snprintf(to, SIM_WORD_BYTES + 1, " w%04x",
		 (unsigned int)(XXH64(&i, sizeof(i), prompt_hash) & 0xffff));
}

#endif
