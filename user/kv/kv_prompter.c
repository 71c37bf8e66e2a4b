/* SPDX-License-Identifier: Apache-2.0 */
/* Glue, render, fingerprint. */
#include "kv/kv_prompter.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define PREFIX_BYTES ((KV_PROMPT_BYTES_MAX / KV_CELL_BYTES + 1) * sizeof(uint64_t))

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int kv_prompter_init(struct kv_prompter *p, const struct kv_index *index, struct kv_models *models)
{
	*p = (struct kv_prompter){.index = index, .models = models};
	if (!index || !models)
		return 0;
	p->raw = reserve(KV_RAW_BYTES_MAX);
	p->bytes = reserve(KV_PROMPT_BYTES_MAX);
	p->prefix = reserve(PREFIX_BYTES);
	p->hints = reserve(sizeof(*p->hints));
	return p->raw && p->bytes && p->prefix && p->hints ? 0 : -ENOMEM;
}

void kv_prompter_fini(struct kv_prompter *p)
{
	if (p->raw)
		munmap(p->raw, KV_RAW_BYTES_MAX);
	if (p->bytes)
		munmap(p->bytes, KV_PROMPT_BYTES_MAX);
	if (p->prefix)
		munmap(p->prefix, PREFIX_BYTES);
	if (p->hints)
		munmap(p->hints, sizeof(*p->hints));
	*p = (struct kv_prompter){0};
}

uint64_t kv_salt_extra(struct span salt)
{
	return salt.len ? kv_extra_fold(0, salt) : 0;
}

bool kv_prompter_read(struct kv_prompter *p, const struct kv_wanted *w, struct kv_prompt *ret)
{
	struct kv_model *model = p->models ? kv_models_find(p->models, w->model) : NULL;
	const struct kv_glue *glue = model ? kv_model_glue(model, w->tools) : NULL;
	struct kv_out out = {.bytes = p->bytes, .size = KV_PROMPT_BYTES_MAX};
	struct kv_request request = w->request;

	request.tools = w->tools;
	request.pieces = model ? model->pieces : NULL;
	if (!glue || kv_render(glue, model->vocab, &request, &out))
		return false;
	*ret = (struct kv_prompt){
		.bytes = p->bytes,
		.len = out.len,
		.root = kv_hash_root(kv_index_hash(p->index), w->adapter,
				     kv_salt_extra(w->cache_salt)),
		.prefix = p->prefix,
		.hints = p->hints,
		.rest = out.rest,
		.cut = out.full,
	};
	kv_prompt_read(kv_index_hash(p->index), ret);
	p->losses = &model->losses;
	return true;
}
