/* SPDX-License-Identifier: Apache-2.0 */
/* Each endpoint once per generation; what fails is tried again after AGAIN_MS. */
#include "controlplane/kv_learner.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "controlplane/kv_ask.h"
#include "kv/kv_glue.h"

#define LOOK_MS	 100
#define AGAIN_MS 2000

struct asked {
	uint32_t generation;
	bool sources, glue; /* done for that generation */
	uint64_t again_ns;
};

struct kv_learner {
	struct kv_shared *shared;
	struct asked asked[ENDPOINTS_MAX];
	pthread_t thread;
	_Atomic bool stop;
};

/* ---- where events come from ---- */

static void sources_tell(struct kv_learner *l, const struct endpoint *ep,
			 const struct kv_source *sources, int count)
{
	struct kv_known *k = &l->shared->known[ep->slot];

	pthread_mutex_lock(&l->shared->lock);
	k->generation = ep->generation;
	k->told = true;
	k->count = (unsigned int)count;
	memcpy(k->sources, sources, (size_t)count * sizeof(*sources));
	l->shared->version++;
	pthread_mutex_unlock(&l->shared->lock);
}

/* 0: known now (perhaps: none); -errno: ask again. */
static int sources_learn(struct kv_learner *l, const struct endpoint *ep)
{
	struct kv_source sources[KV_RANKS_MAX];
	const char *mode = l->shared->config->kv_events;
	unsigned int port =
		mode && *mode >= '0' && *mode <= '9' ? (unsigned int)strtoul(mode, NULL, 10) : 0;
	struct kv_answer answer = {0};
	int n = kv_sources_of_labels(ep, port, sources), err;

	if (n == -ENOENT) {
		err = kv_ask_http(ep, "/kv_event_sources", NULL, &answer);
		if (err)
			return err;
		n = answer.status == 200 ? kv_sources_parse(ep, answer.body, answer.len, sources)
					 : 0;
		if (n < 0) {
			log_warn("%s: /kv_event_sources is not understood", ep->name);
			n = 0;
		}
		free(answer.body);
	}
	sources_tell(l, ep, sources, n);
	return 0;
}

/* ---- templates ---- */

struct asker {
	const struct endpoint *ep;
	const char *model;
	struct vocab *vocab;
};

static int tokens_read(const struct kv_answer *answer, uint32_t *tokens, uint32_t max)
{
	json_t *root = json_loadb(answer->body, answer->len, 0, NULL), *id;
	json_t *list = json_object_get(root, "tokens");
	size_t i;
	int n = json_is_array(list) && json_array_size(list) <= max ? 0 : -EBADMSG;

	json_array_foreach(list, i, id)
	{
		if (n < 0)
			break;
		if (!json_is_integer(id) || json_integer_value(id) < 0) {
			n = -EBADMSG;
			break;
		}
		tokens[n++] = (uint32_t)json_integer_value(id);
	}
	json_decref(root);
	return n;
}

/* What these ids are together, or NULL. free() it. */
static char *detokenize(const struct asker *a, const uint32_t *ids, unsigned int count)
{
	struct kv_answer answer = {0};
	json_t *tokens = json_array(), *body, *root;
	const char *text;
	char *ask, *copy = NULL;

	for (unsigned int i = 0; i < count; i++)
		json_array_append_new(tokens, json_integer(ids[i]));
	body = json_pack("{s:s,s:o,s:b}", "model", a->model, "tokens", tokens,
			 "skip_special_tokens", 0); /* as vLLM does unasked, SGLang not */
	ask = json_dumps(body, JSON_COMPACT);
	json_decref(body);
	if (ask && kv_ask_http(a->ep, "/detokenize", ask, &answer) == 0) {
		root = json_loadb(answer.body, answer.len, 0, NULL);
		text = json_string_value(json_object_get(root, "prompt"));
		if (!text) /* SGLang */
			text = json_string_value(json_object_get(root, "text"));
		if (answer.status == 200 && text)
			copy = strdup(text);
		json_decref(root);
	}
	free(answer.body);
	free(ask);
	return copy;
}

/*
 * Asks what an id stands for, behind another one: at a text's beginning a decoder may drop a
 * space. A replacement character means part of a character: it stays unknown. 0, or ask again.
 */
static int id_learn(const struct asker *a, uint32_t id)
{
	uint32_t pair[2] = {id, id};
	char *one = detokenize(a, pair, 1), *two = detokenize(a, pair, 2);
	struct span bytes = {0};
	int err = -EAGAIN;

	if (one && two) {
		size_t first = strlen(one), both = strlen(two);

		if (both >= first && !strstr(two, "\xef\xbf\xbd") && memcmp(one, two, first) == 0)
			bytes = span_of(two + first, both - first);
		err = vocab_learn(a->vocab, id, bytes);
	}
	free(one);
	free(two);
	return err;
}

/* All of these ids, as far as they are not known. */
static int ids_learn(const struct asker *a, const uint32_t *ids, int count)
{
	for (int i = 0; i < count; i++)
		if (vocab_is_unlearned(a->vocab, ids[i])) {
			int err = id_learn(a, ids[i]);

			if (err)
				return err;
		}
	return count;
}

/* A kv_ask over HTTP: 4xx and 500 are a template's refusal, silence and 503 are not. */
static int tokenize(void *arg, const char *body, uint32_t *tokens, uint32_t max)
{
	const struct asker *a = arg;
	struct kv_answer answer = {0};
	json_t *json = json_loads(body, 0, NULL);
	char *text;
	int err;

	if (json_object_set_new(json, "model", json_string(a->model))) {
		json_decref(json);
		return -EINVAL;
	}
	text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	if (!text)
		return -ENOMEM;
	err = kv_ask_http(a->ep, "/tokenize", text, &answer);
	free(text);
	if (err)
		return err;
	if (answer.status == 200) {
		err = tokens_read(&answer, tokens, max);
		if (err > 0)
			err = ids_learn(a, tokens, err);
	} else {
		err = answer.status == 400 || answer.status == 422 || answer.status == 500
			      ? -ENOTSUP
			      : -EAGAIN;
	}
	free(answer.body);
	return err;
}

static void give_up(struct kv_model *model, const struct endpoint *ep, const char *why)
{
	if (atomic_exchange(&model->state, KV_MODEL_APPROXIMATE) == KV_MODEL_APPROXIMATE)
		return;
	metric_inc(M_KV_CONTRADICTED);
	log_warn("model %s: %s (asked %s): its prompts are matched approximately", model->name, why,
		 ep->name);
}

/* The engine renders no chats, or not as a row of texts: what completions need can still be had. */
static int plain_learn(struct kv_model *model, const struct asker *asker)
{
	struct kv_glue *glue = NULL;
	int err = kv_glue_learn_plain(model->vocab, tokenize, (void *)asker, &glue);

	if (err == -ENOTSUP || err == -ENOENT) {
		give_up(model, asker->ep,
			err == -ENOENT ? "its tokenizer is another one"
				       : "neither chats nor prompts come back as texts");
		return 0;
	}
	if (err)
		return err;
	kv_model_learned(model, glue);
	atomic_store(&model->state, KV_MODEL_COMPLETIONS);
	log_warn("model %s: %s renders no chats that can be learned: only completions are "
		 "matched precisely",
		 model->name, asker->ep->name);
	return 0;
}

/* 0: done for this endpoint; -errno: ask again. */
static int glue_learn(struct kv_model *model, const struct endpoint *ep)
{
	struct asker asker = {ep, model->name, model->vocab};
	struct kv_glue *glue = NULL;
	int err;

	if (model->state == KV_MODEL_APPROXIMATE)
		return 0;
	if (model->glue_count) {
		err = model->state == KV_MODEL_COMPLETIONS
			      ? kv_glue_verify_plain(model->glues[0], model->vocab, tokenize,
						     &asker)
			      : kv_glue_verify(model->glues[0], model->vocab, tokenize, &asker,
					       span_of(NULL, 0));
		if (err == -ENOTSUP || err == -ENOENT)
			give_up(model, ep, "an engine's template is another than was learned");
		return err == -ENOTSUP || err == -ENOENT ? 0 : err;
	}
	err = kv_glue_learn(model->vocab, tokenize, &asker, span_of(NULL, 0), &glue);
	if (err == -ENOTSUP || err == -ENOENT)
		return plain_learn(model, &asker);
	if (err)
		return err;
	kv_model_learned(model, glue);
	model->state = KV_MODEL_PRECISE;
	log_info("model %s: its chat template is learned from %s", model->name, ep->name);
	return 0;
}

/* Tools that a request came with: their own glue; one that cannot be is kept as such. */
static void wish_grant(struct kv_model *model, const struct endpoint *ep)
{
	struct asker asker = {ep, model->name, model->vocab};
	struct span tools = span_of(model->wish_tools, model->wish_len);
	struct kv_glue *glue = NULL;
	int err = kv_glue_learn(model->vocab, tokenize, &asker, tools, &glue);

	if (err == -ENOTSUP || err == -ENOENT) {
		glue = calloc(1, sizeof(*glue)); /* renders nothing: nobody asks again */
		if (glue)
			glue->tools_hash = kv_tools_hash(tools);
	}
	if (glue)
		kv_model_learned(model, glue);
	atomic_store(&model->wish, KV_WISH_NONE);
}

/* Messages that no glue covers. What gets no answer is wished for again. */
static void pieces_learn(struct kv_learner *l, struct kv_model *model, const struct endpoint *ep)
{
	struct asker asker = {ep, model->name, model->vocab};
	struct kv_wish w;

	while (!l->stop && kv_pieces_wanted(model->pieces, &w)) {
		struct kv_text text = {0};
		int err = kv_piece_learn(model->vocab, tokenize, &asker, &w, &text);

		if (!err || err == -ENOTSUP || err == -ENOENT)
			kv_pieces_grant(model->pieces, text.ptr, text.len);
		else
			kv_pieces_put_back(model->pieces);
		free(text.ptr);
		if (err && err != -ENOTSUP && err != -ENOENT)
			return;
	}
}

/* Ids that events came with. One that gets no answer is wanted again when it comes again. */
static void wanted_learn(struct kv_learner *l, struct kv_model *model, const struct endpoint *ep)
{
	struct asker asker = {ep, model->name, model->vocab};
	uint32_t id;

	while (!l->stop && vocab_wanted(model->vocab, &id))
		if (vocab_is_unlearned(model->vocab, id) && id_learn(&asker, id))
			return;
}

static void endpoint_ask(struct kv_learner *l, struct endpoint *ep, struct kv_model *model)
{
	struct asked *a = &l->asked[ep->slot];
	uint64_t now = clock_mono_ns();

	if (a->generation != ep->generation)
		*a = (struct asked){.generation = ep->generation};
	if (now >= a->again_ns && (!a->sources || !a->glue)) {
		a->again_ns = now + AGAIN_MS * NS_PER_MS;
		if (!a->sources)
			a->sources = sources_learn(l, ep) == 0;
		if (!a->glue && !l->stop)
			a->glue = glue_learn(model, ep) == 0;
	}
	if (a->glue && atomic_load(&model->wish) == KV_WISH_THERE)
		wish_grant(model, ep);
	if (a->glue)
		pieces_learn(l, model, ep);
	if (model->vocab->learned)
		wanted_learn(l, model, ep);
}

static void *run(void *arg)
{
	struct kv_learner *l = arg;

	pthread_setname_np(pthread_self(), "kv-learner");
	while (!l->stop) {
		struct endpoint_snapshot *snap = store_snapshot(l->shared->store);

		for (uint32_t v = 0; v < snap->view_count && !l->stop; v++) {
			struct kv_model *model = kv_endpoint_model(l->shared->models, snap, v);

			if (model)
				endpoint_ask(l, snap->views[v], model);
		}
		snapshot_put(snap);
		usleep(LOOK_MS * 1000);
	}
	return NULL;
}

int kv_learner_start(struct kv_shared *shared, struct kv_learner **ret)
{
	struct kv_learner *l = calloc(1, sizeof(*l));
	int err = l ? 0 : -ENOMEM;

	if (!err) {
		l->shared = shared;
		for (unsigned int i = 0; i < ENDPOINTS_MAX; i++)
			l->asked[i].generation = ~0u;
		err = -pthread_create(&l->thread, NULL, run, l);
	}
	if (err)
		free(l);
	else
		*ret = l;
	return err;
}

void kv_learner_stop(struct kv_learner *l)
{
	if (!l)
		return;
	l->stop = true;
	pthread_join(l->thread, NULL);
	free(l);
}
