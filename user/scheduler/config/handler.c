/* SPDX-License-Identifier: Apache-2.0 */
/* Which profile serves which leg: the profile handlers and the deciders they name. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/config/setup.h"

/* disagg-profile-handler's parameters, in the order of its row. */
enum disagg_param {
	STAGE_ORDER,
	DECODE,
	PREFILL,
	ENCODE,
	PREFILL_DECIDER,
	ENCODE_DECIDER,
	OLD_DECODE,
	OLD_PREFILL,
	OLD_ENCODE,
	OLD_PREFILL_DECIDER,
	OLD_DECIDER,
	OLD_ENCODE_DECIDER
};

enum pd_param {
	PD_DECODE_PROFILE,
	PD_PREFILL_PROFILE,
	PD_DECIDER
};

static int find_decider(const struct setup *s, const struct plugin *handler, const char *name,
			const struct node *at, struct complaint *c, struct pd_decider *ret)
{
	uint32_t i = setup_plugin_find(s, name);
	const struct pd_decider_type *type;

	if (i == SETUP_NONE || !(s->plugins[i]->type->kinds & PLUGIN_DECIDER))
		return complain(c, at, "%s: no decider is named \"%.64s\"; list one",
				plugin_name(handler), name);
	type = pd_decider_find(s->plugins[i]->type->name);
	pd_decider_init(ret, type);
	memcpy(ret->params, s->plugins[i]->params, sizeof(ret->params));
	return 0;
}

static int both_forms(const struct plugin *h, const struct node *at, struct complaint *c)
{
	bool nested = false, flat = false;

	for (int i = DECODE; i <= ENCODE_DECIDER; i++)
		nested |= h->texts[i] != NULL;
	for (int i = OLD_DECODE; i <= OLD_ENCODE_DECIDER; i++)
		flat |= h->texts[i] != NULL;
	if (nested && flat)
		return complain(c, at, "%s: profiles and deciders, or the old flat names; not both",
				plugin_name(h));
	return 0;
}

static const char *either(const struct plugin *h, int nested, int flat)
{
	return h->texts[flat] ? h->texts[flat] : plugin_text(h, (unsigned int)nested);
}

static int handle_disagg(struct setup *s, const struct plugin *h, const struct node *at,
			 struct complaint *c)
{
	const char *prefill = either(h, PREFILL_DECIDER, OLD_PREFILL_DECIDER);
	const char *encode = either(h, ENCODE_DECIDER, OLD_ENCODE_DECIDER);
	int err = both_forms(h, at, c);

	if (err)
		return err;
	if (h->texts[OLD_DECIDER])
		prefill = h->texts[OLD_DECIDER];
	s->prefill_first = h->params[STAGE_ORDER] != 0;
	s->decode = setup_profile_find(s, either(h, DECODE, OLD_DECODE));
	s->prefill = setup_profile_find(s, either(h, PREFILL, OLD_PREFILL));
	s->encode = setup_profile_find(s, either(h, ENCODE, OLD_ENCODE));
	if (s->decode == SETUP_NONE)
		return complain(c, at, "%s: no profile is named \"%.64s\"", plugin_name(h),
				either(h, DECODE, OLD_DECODE));
	if (s->prefill_first && *prefill)
		return complain(c, at, "%s: prefill-first asks no prefill decider", plugin_name(h));
	if (*prefill) {
		err = find_decider(s, h, prefill, at, c, &s->prefill_decider);
		s->has_prefill_decider = !err;
	}
	if (!err && *encode) {
		err = find_decider(s, h, encode, at, c, &s->encode_decider);
		s->has_encode_decider = !err;
	}
	return err;
}

static int handle_pd(struct setup *s, const struct plugin *h, const struct node *at,
		     struct complaint *c)
{
	int err;

	s->decode = setup_profile_find(s, plugin_text(h, PD_DECODE_PROFILE));
	s->prefill = setup_profile_find(s, plugin_text(h, PD_PREFILL_PROFILE));
	if (s->decode == SETUP_NONE)
		return complain(c, at, "%s: no profile is named \"%.64s\"", plugin_name(h),
				plugin_text(h, PD_DECODE_PROFILE));
	err = find_decider(s, h, plugin_text(h, PD_DECIDER), at, c, &s->prefill_decider);
	s->has_prefill_decider = !err;
	return err;
}

static int handle(struct setup *s, struct complaint *c)
{
	const struct plugin *h = s->plugins[s->handler_plugin];
	const struct node at = {.line = s->plugin_lines[s->handler_plugin], .column = 1};
	const char *type = h->type->name;

	if (strcmp(type, "disagg-profile-handler") == 0) {
		s->handler = HANDLER_DISAGG;
		return handle_disagg(s, h, &at, c);
	}
	if (strcmp(type, "pd-profile-handler") == 0) {
		s->handler = HANDLER_DISAGG;
		return handle_pd(s, h, &at, c);
	}
	if (strcmp(type, "header-profile-handler") == 0) {
		s->handler = HANDLER_HEADER;
		return 0;
	}
	if (strcmp(type, "data-parallel-profile-handler") == 0)
		s->handler = HANDLER_DATA_PARALLEL;
	if (s->profile_count > 1)
		return complain(c, &at, "%s serves one profile, not %u", type, s->profile_count);
	return 0;
}

int read_handler(struct setup *s, struct complaint *c)
{
	s->decode = 0;
	for (unsigned int i = 0; i < s->plugin_count; i++) {
		struct node at = {.line = s->plugin_lines[i], .column = 1};

		if (!(s->plugins[i]->type->kinds & PLUGIN_HANDLER))
			continue;
		if (s->handler_plugin != SETUP_NONE)
			return complain(c, &at, "a second profile handler");
		s->handler_plugin = i;
	}
	if (s->handler_plugin == SETUP_NONE && s->profile_count > 1)
		return complain(c, NULL,
				"several profiles and no profile handler: list single-, header-, "
				"data-parallel- or disagg-profile-handler");
	return s->handler_plugin == SETUP_NONE ? 0 : handle(s, c);
}
