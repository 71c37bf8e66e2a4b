/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the needed series in an engine's metrics page.
 * Most lines are histogram buckets: they cost one look at the name's first bytes and one memchr.
 * Invariant: a malformed line changes nothing; no line is read past its end.
 */
#include "controlplane/metrics_parse.h"

#include <string.h>
#include <xxhash.h>

#include "base/endpoint.h"
#include "base/span.h"

enum labels_kind {
	LABELS_NONE,
	LABELS_CACHE_VLLM,
	LABELS_CACHE_SGLANG,
	LABELS_LORA
};

/* What a name means. Sorted by nothing: at most six names share a prefix. */
static const struct series {
	struct span name;
	uint16_t series;
	uint8_t labels; /* enum labels_kind */
} table[] = {
	{SPAN("vllm:num_requests_waiting"), SERIES_WAITING, 0},
	{SPAN("vllm:num_requests_running"), SERIES_RUNNING, 0},
	{SPAN("vllm:kv_cache_usage_perc"), SERIES_KV_USAGE, 0},
	{SPAN("vllm:gpu_cache_usage_perc"), SERIES_KV_USAGE, 0},
	{SPAN("vllm:cache_config_info"), SERIES_BLOCKS, LABELS_CACHE_VLLM},
	{SPAN("vllm:lora_requests_info"), SERIES_LORA, LABELS_LORA},
	{SPAN("vllm:prefix_cache_queries_total"), SERIES_QUERIES, 0},
	{SPAN("vllm:prefix_cache_hits_total"), SERIES_HITS, 0},
	{SPAN("sglang:num_queue_reqs"), SERIES_WAITING, 0},
	{SPAN("sglang:num_running_reqs"), SERIES_RUNNING, 0},
	{SPAN("sglang:token_usage"), SERIES_KV_USAGE, 0},
	{SPAN("sglang:cache_config_info"), SERIES_BLOCKS, LABELS_CACHE_SGLANG},
	{SPAN("trtllm_num_requests_waiting"), SERIES_WAITING, 0},
	{SPAN("trtllm_num_requests_running"), SERIES_RUNNING, 0},
	{SPAN("trtllm_kv_cache_utilization"), SERIES_KV_USAGE, 0},
	{SPAN("trtllm_kv_cache_tokens_per_block"), SERIES_BLOCK_TOKENS, 0},
	{SPAN("trtllm_kv_cache_max_blocks"), SERIES_BLOCKS, 0},
	{SPAN("process_start_time_seconds"), SERIES_START_TIME, 0},
};

void metrics_parser_reset(struct metrics_parser *p)
{
	memset(&p->found, 0, sizeof(p->found));
	p->skipping = false;
	p->kept = 0;
}

/* A cheap no for nearly every line; a yes is looked up in the table. Needs 6 readable bytes. */
static inline bool may_matter(const char *line)
{
	switch (line[0]) {
	case 'v': /* vllm:n… k… g… c… l… pre… */
		return line[5] == 'n' || line[5] == 'k' || line[5] == 'g' || line[5] == 'c' ||
		       line[5] == 'l' || line[5] == 'p';
	case 's':
		return line[1] == 'g';
	case 't':
		return line[1] == 'r';
	case 'p':
		return line[1] == 'r';
	default:
		return false;
	}
}

/* Digits, fraction, exponent, as Prometheus prints them. False: NaN, Inf, negative or malformed. */
static bool number_parse(struct span s, double *ret_value)
{
	double value = 0, scale = 1;
	int exponent = 0, sign = 1;
	size_t i = 0, digits;

	if (i < s.len && s.ptr[i] == '+')
		i++;
	for (digits = i; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++)
		value = value * 10 + (s.ptr[i] - '0');
	digits = i - digits;
	if (i < s.len && s.ptr[i] == '.')
		for (i++; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++, digits++) {
			scale *= 10;
			value = value * 10 + (s.ptr[i] - '0');
		}
	if (!digits || digits > 200)
		return false;
	value /= scale;
	if (i < s.len && (s.ptr[i] == 'e' || s.ptr[i] == 'E')) {
		i++;
		if (i < s.len && (s.ptr[i] == '+' || s.ptr[i] == '-'))
			sign = s.ptr[i++] == '-' ? -1 : 1;
		if (i == s.len)
			return false;
		for (; i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++)
			if (exponent < 1000)
				exponent = exponent * 10 + (s.ptr[i] - '0');
		for (; exponent > 0 && value != 0 && value < 1e300 && value > 1e-300; exponent--)
			value = sign > 0 ? value * 10 : value / 10;
	}
	if (i != s.len || !(value < 1e300))
		return false;
	*ret_value = value;
	return true;
}

/*
 * The next `key="value"` of the labels at *at, which is past '{'. Escapes stay as they are.
 * False at '}' or where it is malformed; *at then stands there.
 */
static bool label_next(struct span *at, struct span *ret_key, struct span *ret_value)
{
	const char *p = at->ptr, *end = p + at->len, *key, *value;

	while (p < end && (*p == ',' || *p == ' '))
		p++;
	key = p;
	while (p < end && *p != '=' && *p != '}')
		p++;
	*at = span_of(p, (size_t)(end - p));
	if (end - p < 2 || *p != '=' || p[1] != '"')
		return false;
	*ret_key = span_of(key, (size_t)(p - key));
	value = p += 2;
	while (p < end && *p != '"')
		p += *p == '\\' && end - p > 1 ? 2 : 1;
	*at = span_of(p, (size_t)(end - p));
	if (p >= end)
		return false;
	*ret_value = span_of(value, (size_t)(p - value));
	*at = span_of(p + 1, (size_t)(end - p - 1));
	return true;
}

static void adapters_add(struct engine_metrics *m, struct span list, unsigned int flag)
{
	while (list.len) {
		const char *comma = memchr(list.ptr, ',', list.len);
		size_t len = comma ? (size_t)(comma - list.ptr) : list.len, skip = len + !!comma;
		struct span name = span_of(list.ptr, len);
		uint32_t hash, i;

		while (name.len && *name.ptr == ' ')
			name.ptr++, name.len--;
		hash = XXH32(name.ptr, name.len, 0);
		for (i = 0; i < m->adapter_count && m->adapters[i] >> 2 != hash; i++)
			;
		if (name.len && i < ADAPTERS_MAX) {
			m->adapters[i] |= (uint64_t)hash << 2 | flag;
			if (i == m->adapter_count)
				m->adapter_count++;
		}
		list = span_of(list.ptr + skip, list.len - skip);
	}
}

/* What the labels of one line said. */
struct labels_found {
	double block_tokens, blocks, max_lora;
	struct span running, waiting;
	bool has_block_tokens, has_blocks;
};

static void label_take(struct labels_found *f, uint8_t kind, struct span key, struct span value)
{
	if (kind == LABELS_CACHE_VLLM) {
		if (span_eq(key, SPAN("block_size")))
			f->has_block_tokens = number_parse(value, &f->block_tokens);
		else if (span_eq(key, SPAN("num_gpu_blocks")))
			f->has_blocks = number_parse(value, &f->blocks);
	} else if (kind == LABELS_CACHE_SGLANG) {
		if (span_eq(key, SPAN("page_size")))
			f->has_block_tokens = number_parse(value, &f->block_tokens);
		else if (span_eq(key, SPAN("num_pages")))
			f->has_blocks = number_parse(value, &f->blocks);
	} else if (kind == LABELS_LORA) {
		if (span_eq(key, SPAN("max_lora")))
			number_parse(value, &f->max_lora);
		else if (span_eq(key, SPAN("running_lora_adapters")))
			f->running = value;
		else if (span_eq(key, SPAN("waiting_lora_adapters")))
			f->waiting = value;
	}
}

static uint64_t count_of(double value)
{
	return value >= 0 && value < 1e15 ? (uint64_t)value : 0;
}

static void labels_apply(struct engine_metrics *m, uint8_t kind, const struct labels_found *f,
			 double value)
{
	if (kind == LABELS_LORA) {
		/* One series for each set of adapters there ever was; the value is its time. */
		if (m->seen & SERIES_LORA && value <= m->lora_time)
			return;
		m->seen |= SERIES_LORA;
		m->lora_time = value;
		m->max_lora = (uint32_t)(f->max_lora < 1e6 ? f->max_lora : 0);
		m->adapter_count = 0;
		memset(m->adapters, 0, sizeof(m->adapters));
		adapters_add(m, f->running, ADAPTER_RUNNING);
		adapters_add(m, f->waiting, ADAPTER_WAITING);
		return;
	}
	if (f->has_block_tokens) {
		m->seen |= SERIES_BLOCK_TOKENS;
		m->block_tokens = count_of(f->block_tokens);
	}
	if (f->has_blocks) {
		m->seen |= SERIES_BLOCKS;
		m->blocks += count_of(f->blocks);
	}
}

static void value_apply(struct engine_metrics *m, uint16_t series, double value)
{
	m->seen |= series;
	switch (series) {
	case SERIES_WAITING:
		m->waiting += value;
		break;
	case SERIES_RUNNING:
		m->running += value;
		break;
	case SERIES_KV_USAGE:
		m->kv_usage = value > m->kv_usage ? value : m->kv_usage;
		break;
	case SERIES_BLOCK_TOKENS:
		m->block_tokens = count_of(value);
		break;
	case SERIES_BLOCKS:
		m->blocks += count_of(value);
		break;
	case SERIES_START_TIME:
		m->start_time = value;
		break;
	case SERIES_QUERIES:
		m->queries += value;
		break;
	case SERIES_HITS:
		m->hits += value;
		break;
	}
}

static const struct series *series_find(struct span name)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].name.len == name.len &&
		    memcmp(table[i].name.ptr, name.ptr, name.len) == 0)
			return &table[i];
	return NULL;
}

/* A whole line, without its newline, that may_matter() let through. */
static void line_take(struct engine_metrics *m, struct span line)
{
	struct labels_found labels = {0};
	struct span key, text, rest;
	const struct series *s;
	double value;
	size_t i = 0;

	while (i < line.len && line.ptr[i] != '{' && line.ptr[i] != ' ' && line.ptr[i] != '\t')
		i++;
	s = series_find(span_of(line.ptr, i));
	if (!s)
		return;
	rest = span_of(line.ptr + i, line.len - i);
	if (rest.len && *rest.ptr == '{') {
		rest = span_of(rest.ptr + 1, rest.len - 1);
		while (label_next(&rest, &key, &text))
			label_take(&labels, s->labels, key, text);
		if (!rest.len || *rest.ptr != '}')
			return;
		rest = span_of(rest.ptr + 1, rest.len - 1);
	}
	while (rest.len && (*rest.ptr == ' ' || *rest.ptr == '\t'))
		rest.ptr++, rest.len--;
	for (i = 0;
	     i < rest.len && rest.ptr[i] != ' ' && rest.ptr[i] != '\t' && rest.ptr[i] != '\r'; i++)
		;
	/* What follows the value is a timestamp, which nobody needs. */
	if (!number_parse(span_of(rest.ptr, i), &value))
		return;
	if (s->labels)
		labels_apply(m, s->labels, &labels, value);
	else
		value_apply(m, s->series, value);
}

/* The piece ends in mid-line: keeps what may matter. */
static void tail_keep(struct metrics_parser *p, const char *bytes, size_t len)
{
	if (p->kept + len > sizeof(p->line)) {
		p->found.lines_too_long++;
		p->skipping = true;
		p->kept = 0;
		return;
	}
	memcpy(p->line + p->kept, bytes, len);
	p->kept += len;
	if (p->kept >= 6 && !may_matter(p->line)) {
		p->skipping = true;
		p->kept = 0;
	}
}

static void kept_take(struct metrics_parser *p)
{
	if (p->kept >= 6 && may_matter(p->line))
		line_take(&p->found, span_of(p->line, p->kept));
	p->kept = 0;
}

/* Ends the line that an earlier piece began. Returns the bytes used; len if it goes on still. */
static size_t line_resume(struct metrics_parser *p, const char *bytes, size_t len)
{
	const char *newline = memchr(bytes, '\n', len);
	size_t head = newline ? (size_t)(newline - bytes) : len;

	if (!p->skipping)
		tail_keep(p, bytes, head);
	if (!newline)
		return len;
	kept_take(p);
	p->skipping = false;
	return head + 1;
}

void metrics_parser_feed(struct metrics_parser *p, const char *bytes, size_t len)
{
	const char *at = bytes, *end = bytes + len, *newline;

	if (p->skipping || p->kept)
		at += line_resume(p, at, len);
	while (at < end) {
		bool matters = end - at >= 6 && may_matter(at);

		newline = memchr(at, '\n', (size_t)(end - at));
		if (!newline) {
			tail_keep(p, at, (size_t)(end - at));
			return;
		}
		if (matters && newline - at >= 6)
			line_take(&p->found, span_of(at, (size_t)(newline - at)));
		at = newline + 1;
	}
}

void metrics_parser_finish(struct metrics_parser *p)
{
	if (!p->skipping)
		kept_take(p);
	p->skipping = false;
	p->kept = 0;
}
