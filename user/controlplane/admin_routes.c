/* SPDX-License-Identifier: Apache-2.0 */
/* The routes of the admin port: from a parsed head to a status and a body. No sockets here. */
#include "controlplane/admin_routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json_write.h"
#include "base/load.h"
#include "controlplane/exporter.h"
#include "controlplane/options.h"

#define TYPE_JSON    "application/json"
#define TYPE_TEXT    "text/plain; charset=utf-8"
#define TYPE_METRICS "text/plain; version=0.0.4; charset=utf-8"

static void put_field(FILE *f, const char *name, const char *text)
{
	fprintf(f, "\"%s\":", name);
	json_string_write(f, span_of_str(text));
}

static void refuse(FILE *f, struct admin_answer *ret, int status, const char *text)
{
	fputs("{\"error\":", f);
	json_string_write(f, span_of_str(text));
	fputs("}\n", f);
	ret->status = status;
}

static struct endpoint_snapshot *snapshot_of(const struct admin_ops *ops)
{
	return ops->snapshot ? ops->snapshot(ops->arg) : NULL;
}

static void metrics_answer(const struct config *cfg, const struct admin_ops *ops, FILE *f)
{
	struct endpoint_snapshot *snap = snapshot_of(ops);

	exporter_write(f, cfg, snap);
	if (ops->write_metrics)
		ops->write_metrics(ops->arg, f);
	if (snap)
		snapshot_put(snap);
}

static void roles_write(FILE *f, uint8_t role)
{
	static const char *const names[] = {"prefill", "decode", "encode"};
	const char *comma = "";

	fputs("\"role\":[", f);
	for (int i = 0; i < 3; i++)
		if (role & 1 << i) {
			fprintf(f, "%s\"%s\"", comma, names[i]);
			comma = ",";
		}
	fputc(']', f);
}

static void models_write(FILE *f, const struct endpoint_snapshot *snap, uint32_t view)
{
	const char *comma = "";

	fputs(",\"models\":[", f);
	for (uint32_t i = 0; i < snap->model_count; i++) {
		if (!(snap->models[i].views[view / 64] >> view % 64 & 1))
			continue;
		fputs(comma, f);
		json_string_write(f, span_of_str(snap->models[i].name));
		comma = ",";
	}
	fputc(']', f);
}

static void load_write_json(FILE *f, const struct config *cfg, const struct endpoint *ep,
			    uint64_t now_ns)
{
	const struct sluice_endpoint_load *l = ep->load;
	uint64_t at = load_read(l->scraped_at_ns);

	fprintf(f, ",\"inflight_requests\":%u,\"inflight_tokens\":%llu,\"requests_total\":%llu",
		load_read(l->inflight_requests), (unsigned long long)load_read(l->inflight_tokens),
		(unsigned long long)load_read(l->requests_total));
	fprintf(f, ",\"prompt_tokens_total\":%llu,\"cached_tokens_total\":%llu",
		(unsigned long long)load_read(l->prompt_tokens_total),
		(unsigned long long)load_read(l->cached_tokens_total));
	fprintf(f, ",\"ttft_us\":%u,\"itl_us\":%u", load_read(l->ttft_us), load_read(l->itl_us));
	fprintf(f,
		",\"ttft_error_mean\":%.4f,\"ttft_error_p90\":%.4f,\"itl_error_mean\":%.4f,"
		"\"itl_error_p90\":%.4f",
		load_read(l->ttft_error_mean_ppm) / 1e6, load_read(l->ttft_error_p90_ppm) / 1e6,
		load_read(l->itl_error_mean_ppm) / 1e6, load_read(l->itl_error_p90_ppm) / 1e6);
	if (at && at <= now_ns)
		fprintf(f, ",\"load_age_ms\":%llu",
			(unsigned long long)((now_ns - at) / NS_PER_MS));
	else
		fputs(",\"load_age_ms\":null", f);
	if (endpoint_load_is_fresh(cfg, ep, now_ns))
		fprintf(f, ",\"waiting\":%u,\"running\":%u,\"kv_used\":%.6g", load_read(l->waiting),
			load_read(l->running), load_read(l->kv_used_ppm) / 1e6);
	else
		fputs(",\"waiting\":null,\"running\":null,\"kv_used\":null", f);
}

static void endpoints_answer(const struct config *cfg, const struct admin_ops *ops, FILE *f)
{
	struct endpoint_snapshot *snap = snapshot_of(ops);
	uint64_t now_ns = clock_mono_ns();

	fprintf(f, "{\"version\":%llu,\"endpoints\":[",
		(unsigned long long)(snap ? snap->version : 0));
	for (uint32_t i = 0; snap && i < snap->view_count; i++) {
		const struct endpoint *ep = snap->views[i];

		fprintf(f, "%s\n{\"slot\":%u,\"generation\":%u,", i ? "," : "", ep->slot,
			ep->generation);
		put_field(f, "name", ep->name);
		fputc(',', f);
		put_field(f, "address", ep->address);
		fputc(',', f);
		put_field(f, "state", endpoint_state_name(ep));
		fputc(',', f);
		roles_write(f, ep->role);
		load_write_json(f, cfg, ep, now_ns);
		models_write(f, snap, i);
		fputs(",\"labels\":{", f);
		for (unsigned int k = 0; k < ep->label_count; k++) {
			fputs(k ? "," : "", f);
			json_string_write(f, span_of_str(ep->labels[k].key));
			fputc(':', f);
			json_string_write(f, span_of_str(ep->labels[k].value));
		}
		fputs("}}", f);
	}
	fputs("]}\n", f);
	if (snap)
		snapshot_put(snap);
}

/* %XX decoded into buf; a bad escape, a NUL or too long a text is -EINVAL. */
static int percent_decode(struct span in, char *buf, size_t size, struct span *ret)
{
	size_t n = 0;

	for (size_t i = 0; i < in.len; i++) {
		char c = in.ptr[i];

		if (c == '%') {
			char hex[3] = {0}, *end;

			if (i + 2 >= in.len)
				return -EINVAL;
			memcpy(hex, in.ptr + i + 1, 2);
			c = (char)strtoul(hex, &end, 16);
			if (end != hex + 2 || hex[0] == '+' || hex[0] == '-' || hex[0] == ' ')
				return -EINVAL;
			i += 2;
		}
		if (c == '\0' || n + 1 >= size)
			return -EINVAL;
		buf[n++] = c;
	}
	buf[n] = '\0';
	*ret = span_of(buf, n);
	return 0;
}

static void decision_answer(const struct admin_ops *ops, struct span raw, FILE *f,
			    struct admin_answer *ret)
{
	char buf[REQUEST_ID_BYTES_MAX + 1];
	struct span id;

	if (percent_decode(raw, buf, sizeof(buf), &id) || id.len == 0)
		refuse(f, ret, 400, "malformed request id");
	else if (!ops->write_decision || !ops->write_decision(ops->arg, id, f))
		refuse(f, ret, 404, "no decision is kept for that request id");
	else
		fputc('\n', f);
}

static void drain_answer(const struct admin_ops *ops, struct span raw, bool draining, FILE *f,
			 struct admin_answer *ret)
{
	char buf[ENDPOINT_NAME_MAX + 64];
	struct span name;
	int err;

	if (percent_decode(raw, buf, sizeof(buf), &name) || name.len == 0) {
		refuse(f, ret, 400, "malformed endpoint name");
		return;
	}
	err = ops->set_draining ? ops->set_draining(ops->arg, buf, draining) : -ENOENT;
	if (err) {
		refuse(f, ret, err == -ENOENT ? 404 : 500,
		       err == -ENOENT ? "no endpoint of that name" : strerror(-err));
		return;
	}
	fputs("{\"endpoint\":", f);
	json_string_write(f, name);
	fprintf(f, ",\"draining\":%s}\n", draining ? "true" : "false");
}

static void upgrade_answer(const struct admin_ops *ops, FILE *f, struct admin_answer *ret)
{
	int err = ops->upgrade(ops->arg, f);

	if (err)
		refuse(f, ret, 409,
		       err == -EALREADY ? "an upgrade is under way"
		       : err == -EPERM	? "process 1 of a container cannot have a successor"
					: strerror(-err));
}

static void ready_answer(const struct admin_ops *ops, FILE *f, struct admin_answer *ret)
{
	bool ready = !ops->ready || ops->ready(ops->arg);

	ret->type = TYPE_TEXT;
	ret->status = ready ? 200 : 503;
	fputs(ready ? "ready\n" : "not ready\n", f);
}

static void requests_answer(const struct admin_ops *ops, FILE *f)
{
	fputs("{\"requests\":", f);
	if (ops->write_requests)
		ops->write_requests(ops->arg, f);
	else
		fputs("[]", f);
	fputs("}\n", f);
}

/* True if path is prefix + something + suffix; the something is *ret. */
static bool path_between(struct span path, struct span prefix, struct span suffix, struct span *ret)
{
	if (path.len < prefix.len + suffix.len || !span_starts_with(path, prefix) ||
	    memcmp(path.ptr + path.len - suffix.len, suffix.ptr, suffix.len) != 0)
		return false;
	*ret = span_of(path.ptr + prefix.len, path.len - prefix.len - suffix.len);
	return !ret->len || !memchr(ret->ptr, '/', ret->len);
}

static bool wants_method(const struct http1_head *head, bool post, FILE *f,
			 struct admin_answer *ret)
{
	bool fine = post ? head->method == HTTP1_POST
			 : head->method == HTTP1_GET || head->method == HTTP1_HEAD;

	if (fine)
		return true;
	refuse(f, ret, 405, "that method has no meaning here");
	ret->allow = post ? "POST" : "GET, HEAD";
	return false;
}

static bool plain_route(const struct config *cfg, const struct admin_ops *ops, struct span path,
			FILE *f, struct admin_answer *ret)
{
	if (span_eq(path, SPAN("/metrics"))) {
		ret->type = TYPE_METRICS;
		metrics_answer(cfg, ops, f);
	} else if (span_eq(path, SPAN("/healthz"))) {
		ret->type = TYPE_TEXT;
		fputs("ok\n", f);
	} else if (span_eq(path, SPAN("/readyz"))) {
		ready_answer(ops, f, ret);
	} else if (span_eq(path, SPAN("/version"))) {
		fprintf(f, "{\"version\":\"%s\",\"abi\":%d}\n", SLUICE_VERSION, SLUICE_ABI_VERSION);
	} else if (span_eq(path, SPAN("/state/endpoints"))) {
		endpoints_answer(cfg, ops, f);
	} else if (span_eq(path, SPAN("/state/requests"))) {
		requests_answer(ops, f);
	} else if (span_eq(path, SPAN("/state/path")) && ops->write_path) {
		ops->write_path(ops->arg, f);
	} else if (span_eq(path, SPAN("/state/upgrade")) && ops->write_upgrade) {
		ops->write_upgrade(ops->arg, f);
	} else if (span_eq(path, SPAN("/state/affinity")) && ops->write_affinity) {
		ops->write_affinity(ops->arg, f);
		fputc('\n', f);
	} else {
		return false;
	}
	return true;
}

static bool is_plain(struct span path)
{
	static const char *const paths[] = {
		"/metrics",	   "/healthz",	       "/readyz",
		"/version",	   "/state/endpoints", "/state/requests",
		"/state/affinity", "/state/upgrade",   "/state/path"};

	for (unsigned int i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		if (span_eq(path, span_of_str(paths[i])))
			return true;
	return false;
}

bool admin_takes_body(struct span path)
{
	return span_eq(path, SPAN("/state/affinity/prompt"));
}

void admin_route(const struct config *cfg, const struct admin_ops *ops,
		 const struct http1_head *head, struct span body, FILE *f, struct admin_answer *ret)
{
	struct span path = head->path, part;

	*ret = (struct admin_answer){.status = 200, .type = TYPE_JSON};
	if (is_plain(path)) {
		if (wants_method(head, false, f, ret))
			plain_route(cfg, ops, path, f, ret);
	} else if (path_between(path, SPAN("/state/decisions/"), SPAN(""), &part)) {
		if (wants_method(head, false, f, ret))
			decision_answer(ops, part, f, ret);
	} else if (path_between(path, SPAN("/endpoints/"), SPAN("/drain"), &part)) {
		if (wants_method(head, true, f, ret))
			drain_answer(ops, part, true, f, ret);
	} else if (path_between(path, SPAN("/endpoints/"), SPAN("/undrain"), &part)) {
		if (wants_method(head, true, f, ret))
			drain_answer(ops, part, false, f, ret);
	} else if (span_eq(path, SPAN("/upgrade")) && ops->upgrade) {
		if (wants_method(head, true, f, ret))
			upgrade_answer(ops, f, ret);
	} else if (admin_takes_body(path) && ops->explain_prompt) {
		if (wants_method(head, true, f, ret) && ops->explain_prompt(ops->arg, body, f))
			refuse(f, ret, 400, "the body is no JSON object");
	} else {
		refuse(f, ret, 404, "no such page");
	}
}
