/* SPDX-License-Identifier: Apache-2.0 */
/* Append-only lists: a reader sees the count first, then only what lies below it. */
#include "kv/kv_models.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"

static int model_load(struct kv_models *m, const char *text, char *ret_error, size_t error_bytes)
{
	const char *equals = strrchr(text, '=');
	struct kv_model *model = &m->items[m->count];
	char why[256];
	int err;

	if (!equals || equals == text || (size_t)(equals - text) >= sizeof(model->name) ||
	    m->count == KV_MODELS_MAX) {
		snprintf(ret_error, error_bytes,
			 "tokenizer \"%.200s\": not MODEL=FILE, or more than %d of them", text,
			 KV_MODELS_MAX);
		return -EINVAL;
	}
	if (strcmp(equals + 1, "learn") == 0) {
		model->vocab = vocab_learned_new();
		err = model->vocab ? 0 : -ENOMEM;
		snprintf(why, sizeof(why), "%s", strerror(-err));
	} else {
		err = vocab_load(equals + 1, &model->vocab, why, sizeof(why));
	}
	if (err) {
		snprintf(ret_error, error_bytes, "tokenizer %.200s: %.200s", equals + 1, why);
		return err;
	}
	model->pieces = kv_pieces_new();
	if (!model->pieces) {
		vocab_free(model->vocab);
		snprintf(ret_error, error_bytes, "tokenizer: no memory");
		return -ENOMEM;
	}
	memcpy(model->name, text, (size_t)(equals - text));
	m->count++;
	return 0;
}

int kv_models_new(const struct string_list *list, struct kv_models **ret, char *ret_error,
		  size_t error_bytes)
{
	struct kv_models *m = calloc(1, sizeof(*m));
	int err = m ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < list->count; i++)
		err = model_load(m, list->items[i], ret_error, error_bytes);
	if (err)
		kv_models_free(m);
	else
		*ret = m;
	return err;
}

void kv_models_free(struct kv_models *m)
{
	for (unsigned int i = 0; m && i < m->count; i++) {
		for (uint32_t g = 0; g < m->items[i].glue_count; g++)
			kv_glue_free(m->items[i].glues[g]);
		vocab_free(m->items[i].vocab);
		kv_pieces_free(m->items[i].pieces);
	}
	free(m);
}

struct kv_model *kv_models_find(struct kv_models *m, struct span name)
{
	for (unsigned int i = 0; i < m->count; i++)
		if (span_eq(span_of_str(m->items[i].name), name))
			return &m->items[i];
	return NULL;
}

static void wish(struct kv_model *m, struct span tools)
{
	uint32_t none = KV_WISH_NONE;

	if (tools.len > sizeof(m->wish_tools) ||
	    !atomic_compare_exchange_strong(&m->wish, &none, KV_WISH_WRITING))
		return;
	memcpy(m->wish_tools, tools.ptr, tools.len);
	m->wish_len = (uint32_t)tools.len;
	atomic_store_explicit(&m->wish, KV_WISH_THERE, memory_order_release);
}

const struct kv_glue *kv_model_glue(struct kv_model *m, struct span tools)
{
	uint32_t count = atomic_load_explicit(&m->glue_count, memory_order_acquire);
	uint32_t state = atomic_load_explicit(&m->state, memory_order_acquire);
	uint64_t hash = kv_tools_hash(tools);

	if (state == KV_MODEL_COMPLETIONS)
		return tools.len ? NULL : m->glues[0];
	if (state != KV_MODEL_PRECISE)
		return NULL;
	for (uint32_t i = 0; i < count; i++)
		if (m->glues[i]->tools_hash == hash)
			return m->glues[i];
	if (tools.len && count < KV_GLUES_MAX)
		wish(m, tools);
	else if (tools.len)
		metric_inc(M_KV_GLUES_REFUSED);
	return NULL;
}

int kv_model_learned(struct kv_model *m, struct kv_glue *g)
{
	uint32_t count = atomic_load_explicit(&m->glue_count, memory_order_relaxed);

	if (count == KV_GLUES_MAX) {
		kv_glue_free(g);
		metric_inc(M_KV_GLUES_REFUSED);
		return -ENOSPC;
	}
	m->glues[count] = g;
	atomic_store_explicit(&m->glue_count, count + 1, memory_order_release);
	metric_inc(M_KV_GLUES_LEARNED);
	return 0;
}

const char *kv_model_state_name(const struct kv_model *m)
{
	static const char *const names[] = {"learning", "precise", "completions", "approximate"};

	return names[atomic_load_explicit(&m->state, memory_order_relaxed)];
}
