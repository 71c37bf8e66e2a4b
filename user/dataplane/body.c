/* SPDX-License-Identifier: Apache-2.0 */
/* Edits into parts, parts into iov entries. Nothing of the prompt is copied or moved. */
#include "dataplane/body.h"

#include <errno.h>
#include <string.h>

size_t body_copy(const struct block *chain, uint64_t from, uint64_t to, char *buf, size_t size)
{
	uint64_t at = 0;
	size_t n = 0;

	for (const struct block *b = chain; b && from < to && n < size; b = b->next) {
		uint64_t used = block_used(b), take;

		if (from < at + used) {
			take = (to < at + used ? to : at + used) - from;
			if (take > size - n)
				take = size - n;
			memcpy(buf + n, b->data + b->start + (from - at), take);
			n += take;
			from += take;
		}
		at += used;
	}
	return n;
}

static int part_add(struct body_view *v, const char *text, uint64_t start, uint64_t end)
{
	if (end <= start)
		return 0;
	if (v->count == BODY_PARTS_MAX)
		return -ENOSPC;
	v->parts[v->count++] = (struct body_part){text, start, end, NULL};
	v->bytes += end - start;
	return 0;
}

static int part_str(struct body_view *v, const char *text)
{
	return part_add(v, text, 0, strlen(text));
}

static int value_add(struct body_view *v, const struct body_text *t)
{
	int err = part_add(v, t->span.ptr, 0, t->span.len);

	if (err || !t->chain || t->to <= t->from)
		return err;
	err = part_add(v, NULL, t->from, t->to);
	if (!err)
		v->parts[v->count - 1].chain = t->chain;
	return err;
}

static int edit_value(struct body_view *v, const struct body_edit *e)
{
	uint32_t first = v->count;
	int err = value_add(v, &e->value);

	if (e->marked) {
		v->mark_first = first;
		v->mark_count = v->count - first;
	}
	return err;
}

/* The first byte at or after `at` that is no white space, and where it is. */
static char byte_after(const struct block *chain, uint64_t *at)
{
	uint64_t base = 0;

	for (const struct block *b = chain; b; base += block_used(b), b = b->next)
		while (*at < base + block_used(b)) {
			char c = b->data[b->start + (*at - base)];

			if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
				return c;
			(*at)++;
		}
	return '\0';
}

/* Edits of members that are there, by place. */
static uint32_t edits_sort(const struct openai_request *says, const struct body_edit *edits,
			   uint32_t count, const struct body_edit **sorted)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < count && n < BODY_EDITS_MAX; i++) {
		const struct body_edit *e = &edits[i];
		uint32_t at = n;

		if (e->kind == BODY_ADD || !says->members[e->member].end)
			continue;
		while (at &&
		       says->members[sorted[at - 1]->member].key > says->members[e->member].key) {
			sorted[at] = sorted[at - 1];
			at--;
		}
		sorted[at] = e;
		n++;
	}
	return n;
}

struct builder {
	struct body_view *view;
	const struct openai_request *says;
	uint64_t from;	     /* the body is taken up to here */
	uint64_t next_comma; /* after the last member of an unbroken run of cut ones from the start
			      */
	bool run;	     /* such a run stands before the next edit */
	bool empty;	     /* nothing is left of the object */
};

/* One before which nothing is kept takes the comma after it along, any other the one before it. */
static int cut(struct builder *b, const struct openai_place *p)
{
	bool first = p->comma == 0 || (b->run && b->next_comma == p->comma);
	uint64_t at = p->end;
	int err;

	if (!first) {
		err = part_add(b->view, NULL, b->from, p->comma);
		b->from = p->end;
		return err;
	}
	err = b->run ? 0 : part_add(b->view, NULL, b->from, p->key);
	b->from = p->end;
	b->run = byte_after(b->view->chain, &at) == ',';
	b->next_comma = at;
	b->empty = !b->run;
	if (b->run) {
		b->from = at + 1;
		byte_after(b->view->chain, &b->from);
	}
	return err;
}

static int edit_present(struct builder *b, const struct body_edit *e)
{
	const struct openai_place *p = &b->says->members[e->member];
	int err;

	if (e->kind == BODY_CUT)
		return cut(b, p);
	err = part_add(b->view, NULL, b->from, p->value);
	b->from = p->end;
	return err ? err : edit_value(b->view, e);
}

static int edit_absent(struct builder *b, const struct body_edit *e)
{
	struct body_view *v = b->view;
	int err = part_str(v, b->empty ? "\"" : ",\"");

	b->empty = false;
	if (!err)
		err = part_str(v, e->name);
	if (!err)
		err = part_str(v, "\":");
	return err ? err : edit_value(v, e);
}

int body_build(struct body_view *view, const struct block *chain, uint64_t body_bytes,
	       const struct openai_request *says, const struct body_edit *edits, uint32_t count)
{
	const struct body_edit *sorted[BODY_EDITS_MAX];
	struct builder b = {.view = view, .says = says};
	uint32_t present = edits_sort(says, edits, count, sorted);
	uint64_t inside = says->open + 1;
	int err = 0;

	view->chain = chain;
	view->count = view->mark_first = view->mark_count = 0;
	view->bytes = 0;
	b.empty = byte_after(chain, &inside) == '}';
	for (uint32_t i = 0; !err && i < present; i++)
		err = edit_present(&b, sorted[i]);
	if (!err)
		err = part_add(view, NULL, b.from, says->close);
	for (uint32_t i = 0; !err && i < count; i++)
		if (edits[i].kind == BODY_ADD ||
		    (edits[i].kind == BODY_SET && !says->members[edits[i].member].end))
			err = edit_absent(&b, &edits[i]);
	return err ? err : part_add(view, NULL, says->close, body_bytes);
}

static void part_copy(struct body_view *v, const struct body_part *p)
{
	v->parts[v->count++] = *p;
	v->bytes += p->end - p->start;
}

int body_remark(struct body_view *view, const struct body_view *from, struct body_text value)
{
	uint32_t end = from->mark_first + from->mark_count;
	int err = 0;

	view->chain = from->chain;
	view->count = 0;
	view->bytes = 0;
	for (uint32_t i = 0; i < from->mark_first; i++)
		part_copy(view, &from->parts[i]);
	err = value_add(view, &value);
	if (!err && view->count + from->count - end > BODY_PARTS_MAX)
		err = -ENOSPC;
	for (uint32_t i = end; !err && i < from->count; i++)
		part_copy(view, &from->parts[i]);
	return err;
}

/* The chain's bytes [start, end) as iov entries. */
static unsigned int fill_chain(const struct block *chain, uint64_t start, uint64_t end,
			       struct iovec *iov, unsigned int max)
{
	unsigned int n = 0;
	uint64_t at = 0;

	for (const struct block *b = chain; b && n < max && start < end; b = b->next) {
		uint64_t used = block_used(b), take;

		if (start < at + used) {
			take = (end < at + used ? end : at + used) - start;
			iov[n++] = (struct iovec){b->data + b->start + (start - at), take};
			start += take;
		}
		at += used;
	}
	return n;
}

unsigned int body_fill(const struct body_view *view, uint64_t from, struct iovec *iov,
		       unsigned int max)
{
	unsigned int n = 0;
	uint64_t out = 0; /* position of the part */

	for (uint32_t i = 0; i < view->count && n < max; i++) {
		const struct body_part *p = &view->parts[i];
		uint64_t len = p->end - p->start, skip = from > out ? from - out : 0;

		out += len;
		if (skip >= len)
			continue;
		if (p->text)
			iov[n++] = (struct iovec){(char *)p->text + skip, len - skip};
		else
			n += fill_chain(p->chain ? p->chain : view->chain, p->start + skip, p->end,
					iov + n, max - n);
	}
	return n;
}
