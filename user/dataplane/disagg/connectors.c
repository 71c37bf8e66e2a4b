/* SPDX-License-Identifier: Apache-2.0 */
/* The table of connectors, and the edits that they have in common. */
#include "dataplane/disagg/connector.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/disagg/disagg.h"

static const struct pd_connector *const connectors[] = {
	&pd_nixlv2, &pd_sglang,		&pd_mooncake, &pd_offloading,
	&pd_moriio, &pd_shared_storage, &pd_sidecar,
};

const struct pd_connector *pd_connector_find(const char *name)
{
	for (size_t i = 0; i < sizeof(connectors) / sizeof(*connectors); i++)
		if (strcmp(connectors[i]->name, name) == 0)
			return connectors[i];
	return NULL;
}

/* Behind llm-d's sidecars: one leg, with x-prefiller-host-port. */
const struct pd_connector pd_sidecar = {.name = "sidecar", .order = PD_HEADER_ONLY};

static struct body_edit *edit_new(struct edits *e, enum body_edit_kind kind,
				  enum openai_member member, const char *name)
{
	static struct body_edit nowhere;
	struct body_edit *edit = &nowhere;

	if (e->count == BODY_EDITS_MAX)
		e->err = -ENOSPC;
	else
		edit = &e->list[e->count++];
	*edit = (struct body_edit){.kind = kind, .member = member, .name = name};
	return edit;
}

void edit_cut(struct edits *e, enum openai_member member)
{
	edit_new(e, BODY_CUT, member, NULL);
}

void edit_replace(struct edits *e, enum openai_member member, const char *value)
{
	edit_new(e, BODY_REPLACE, member, NULL)->value.span = span_of_str(value);
}

void edit_value(struct edits *e, enum openai_member member, struct span value)
{
	edit_new(e, BODY_REPLACE, member, NULL)->value.span = value;
}

void edit_set(struct edits *e, enum openai_member member, const char *value)
{
	edit_new(e, BODY_SET, member, openai_member_name(member))->value.span = span_of_str(value);
}

/* Made text goes to the request's room, where it stays until its end. */
static struct span made(struct edits *e, const char *fmt, va_list ap)
{
	int n = vsnprintf(e->text, e->room, fmt, ap);
	struct span s = span_of(e->text, (size_t)n);

	if (n < 0 || (size_t)n >= e->room) {
		e->err = -ENOSPC;
		return span_of("", 0);
	}
	e->text += n;
	e->room -= (size_t)n;
	return s;
}

void edit_add(struct edits *e, const char *name, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	edit_new(e, BODY_ADD, OPENAI_NO_MEMBER, name)->value.span = made(e, fmt, ap);
	va_end(ap);
}

void edit_params(struct edits *e, const char *fmt, ...)
{
	struct body_edit *edit = edit_new(e, BODY_ADD, OPENAI_NO_MEMBER, "kv_transfer_params");
	va_list ap;

	va_start(ap, fmt);
	edit->value.span = made(e, fmt, ap);
	va_end(ap);
	edit->marked = true;
}

static struct span made_of(struct edits *e, const char *fmt, ...)
{
	struct span s;
	va_list ap;

	va_start(ap, fmt);
	s = made(e, fmt, ap);
	va_end(ap);
	return s;
}

void edit_encoded(const struct disagg *pd, struct edits *e)
{
	struct body_edit *edit = edit_new(e, BODY_ADD, OPENAI_NO_MEMBER, "ec_transfer_params");

	edit->value.chain = pd->ec;
	edit->value.to = pd->ec_bytes;
}

void edit_params_answered(const struct disagg *pd, struct edits *e, const char *more)
{
	struct body_edit *edit = edit_new(e, BODY_ADD, OPENAI_NO_MEMBER, "kv_transfer_params");

	if (*more)
		edit->value.span = made_of(e, "{%s", more);
	edit->value.chain = pd->answer;
	edit->value.from = pd->params.start + (*more != '\0');
	edit->value.to = pd->params.end;
	edit->marked = true;
}

void edit_strip(struct edits *e)
{
	for (int m = OPENAI_KV_TRANSFER_PARAMS; m <= OPENAI_BOOTSTRAP_ROOM; m++)
		edit_cut(e, (enum openai_member)m);
}

/* sampling_params of /inference/v1/generate, rewritten with one token. */
static void sampling_one_token(const struct disagg *pd, struct edits *e)
{
	const struct openai_place *p = &pd->req->says.members[OPENAI_SAMPLING_PARAMS];
	struct body_edit *edit;
	ssize_t n;

	if (!p->end || p->null) {
		edit_set(e, OPENAI_SAMPLING_PARAMS, "{\"max_tokens\":1}");
		return;
	}
	n = sampling_rewrite(pd->req->body, p->value, p->end, e->text, e->room);
	if (n < 0) {
		e->err = (int)n;
		return;
	}
	edit = edit_new(e, BODY_REPLACE, OPENAI_SAMPLING_PARAMS, NULL);
	edit->value.span = span_of(e->text, (size_t)n);
	e->text += n;
	e->room -= (size_t)n;
}

void edit_one_token(const struct disagg *pd, struct edits *e)
{
	struct span path = pd->req->head.path;

	edit_set(e, OPENAI_STREAM, "false");
	edit_cut(e, OPENAI_STREAM_OPTIONS);
	if (span_eq(path, SPAN("/inference/v1/generate"))) {
		sampling_one_token(pd, e);
		return;
	}
	edit_set(e,
		 span_eq(path, SPAN("/v1/responses")) ? OPENAI_MAX_OUTPUT_TOKENS
						      : OPENAI_MAX_TOKENS,
		 "1");
	edit_replace(e, OPENAI_MAX_COMPLETION_TOKENS, "1");
	edit_replace(e, OPENAI_MIN_TOKENS, "1");
}
