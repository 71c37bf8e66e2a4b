/* SPDX-License-Identifier: Apache-2.0 */
/* Any text is a vocabulary or refused with a sentence; every id of one can be decoded. */
#include <assert.h>
#include <stdlib.h>

#include "kv/vocab.h"
#include "sluice/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char error[256] = "", text[4096];
	struct vocab *v = NULL;

	if (vocab_parse((const char *)data, size, &v, error, sizeof(error))) {
		assert(!v && *error);
		return 0;
	}
	assert(v->count <= VOCAB_TOKENS_MAX && v->known <= v->count);
	for (uint32_t id = 0; id < v->count && id < 64; id++) {
		size_t len = 0;

		if (vocab_decode(v, &id, 1, text, sizeof(text), &len) == 0)
			assert(len == vocab_bytes(v, id).len && len);
	}
	vocab_free(v);
	return 0;
}
