/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The endpoints file, in the reference scheduler's file-discovery format (YAML, or JSON as YAML):
 *
 *   endpoints:
 *   - name: pod-a          # required
 *     namespace: default   # other ones are put before the name, "ns/pod-a"
 *     address: 10.0.0.1
 *     port: "8000"
 *     labels: {llm-d.ai/role: decode}
 *
 * Anything else in it is an error that names line and column; a file is taken whole or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "base/cleanup.h"
#include "controlplane/discovery.h"

struct reader {
	yaml_document_t doc;
	char *error;
	size_t error_bytes;
};

__attribute__((format(printf, 3, 4))) static int fail(struct reader *r, const yaml_node_t *at,
						      const char *fmt, ...)
{
	int n = snprintf(r->error, r->error_bytes, "%zu:%zu: ", at->start_mark.line + 1,
			 at->start_mark.column + 1);
	va_list ap;

	va_start(ap, fmt);
	if (n > 0 && (size_t)n < r->error_bytes)
		vsnprintf(r->error + n, r->error_bytes - (size_t)n, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static const char *scalar(const yaml_node_t *node)
{
	if (node->type != YAML_SCALAR_NODE ||
	    strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
		return NULL;
	return (const char *)node->data.scalar.value;
}

/* The fields of one entry as nodes. */
struct entry {
	const yaml_node_t *name, *namespace, *address, *port, *labels;
};

static int entry_fields(struct reader *r, const yaml_node_t *map, struct entry *e)
{
	const struct {
		const char *key;
		const yaml_node_t **field;
	} fields[] = {{"name", &e->name},
		      {"namespace", &e->namespace},
		      {"address", &e->address},
		      {"port", &e->port},
		      {"labels", &e->labels}};

	if (map->type != YAML_MAPPING_NODE)
		return fail(r, map, "an endpoint is a mapping");
	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
	     p++) {
		const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
		const char *text = scalar(key);
		size_t i = 0, n = sizeof(fields) / sizeof(fields[0]);

		while (i < n && (!text || strcmp(fields[i].key, text)))
			i++;
		if (i == n)
			return fail(r, key, "unknown key \"%.64s\"", text ? text : "?");
		if (*fields[i].field)
			return fail(r, key, "%s is given twice", text);
		*fields[i].field = yaml_document_get_node(&r->doc, p->value);
	}
	return 0;
}

static int entry_labels(struct reader *r, const yaml_node_t *map, struct origin *o)
{
	char error[192];

	if (map->type == YAML_SCALAR_NODE && map->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	    (map->data.scalar.length == 0 ||
	     strcmp((const char *)map->data.scalar.value, "null") == 0))
		return 0;
	if (map->type != YAML_MAPPING_NODE)
		return fail(r, map, "labels is a mapping");
	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
	     p++) {
		const yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
		const yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);

		if (!scalar(key) || !scalar(value))
			return fail(r, key, "a label is a word and a word");
		if (origin_add_label(o, scalar(key), scalar(value), error, sizeof(error)))
			return fail(r, value, "%s", error);
	}
	return 0;
}

static int entry_name(struct reader *r, const struct entry *e, struct origin *o)
{
	const char *name = scalar(e->name), *namespace = e->namespace ? scalar(e->namespace) : "";
	bool plain;
	int n;

	if (!name || !*name)
		return fail(r, e->name, "name is a word");
	if (!namespace)
		return fail(r, e->namespace, "namespace is a word");
	plain = !*namespace || strcmp(namespace, "default") == 0;
	n = snprintf(o->name, sizeof(o->name), "%s%s%s", plain ? "" : namespace, plain ? "" : "/",
		     name);
	if (n < 0 || n >= (int)sizeof(o->name))
		return fail(r, e->name, "a name has at most %d bytes", ENDPOINT_NAME_MAX - 1);
	return 0;
}

static int entry_take(struct reader *r, const yaml_node_t *node, struct origin *o)
{
	struct entry e = {0};
	const char *port, *address;
	unsigned long number;
	char *end = NULL;
	int err = entry_fields(r, node, &e);

	if (err)
		return err;
	if (!e.name || !e.address || !e.port)
		return fail(r, node, "an endpoint needs name, address and port");
	port = scalar(e.port);
	number = port && *port >= '0' && *port <= '9' ? strtoul(port, &end, 10) : 0;
	if (!number || *end || number > 65535)
		return fail(r, e.port, "port is a number from 1 to 65535");
	o->port = (uint16_t)number;
	address = scalar(e.address);
	if (!address || origin_set_address(o, address))
		return fail(r, e.address, "address is an IPv4 or IPv6 address");
	err = entry_name(r, &e, o);
	if (!err && e.labels)
		err = entry_labels(r, e.labels, o);
	return err;
}

static int same_address(struct reader *r, const yaml_node_t *node, const struct origin_list *list)
{
	const struct origin *last = &list->items[list->count - 1];

	for (unsigned int i = 0; i + 1 < list->count; i++)
		if (memcmp(list->items[i].addrs, last->addrs, sizeof(*last->addrs)) == 0)
			return fail(r, node, "the same address and port as endpoint %u, %s", i + 1,
				    list->items[i].name);
	return 0;
}

static int document_take(struct reader *r, struct origin_list *list)
{
	const yaml_node_t *root = yaml_document_get_root_node(&r->doc), *key, *seq = NULL;

	if (!root) {
		snprintf(r->error, r->error_bytes, "1:1: the file is empty");
		return -EINVAL;
	}
	if (root->type != YAML_MAPPING_NODE)
		return fail(r, root, "the file is a mapping with the key endpoints");
	for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top;
	     p++) {
		key = yaml_document_get_node(&r->doc, p->key);
		if (!scalar(key) || strcmp(scalar(key), "endpoints"))
			return fail(r, key, "unknown key \"%.64s\"",
				    scalar(key) ? scalar(key) : "?");
		if (seq)
			return fail(r, key, "endpoints is given twice");
		seq = yaml_document_get_node(&r->doc, p->value);
		if (seq->type != YAML_SEQUENCE_NODE)
			return fail(r, seq, "endpoints is a list");
	}
	if (!seq)
		return fail(r, root, "the key endpoints is missing");
	for (yaml_node_item_t *i = seq->data.sequence.items.start; i < seq->data.sequence.items.top;
	     i++) {
		const yaml_node_t *node = yaml_document_get_node(&r->doc, *i);
		struct origin *o = list->count < ENDPOINTS_MAX ? origin_list_add(list) : NULL;
		int err;

		if (!o)
			return fail(r, node, "more than %d endpoints", ENDPOINTS_MAX);
		err = entry_take(r, node, o);
		if (!err)
			err = same_address(r, node, list);
		if (err)
			return err;
	}
	return 0;
}

int endpoints_file_parse(const char *bytes, size_t len, struct origin_list *ret_list,
			 char *ret_error, size_t error_bytes)
{
	struct reader r = {.error = ret_error, .error_bytes = error_bytes};
	struct origin_list list = {0};
	yaml_parser_t parser;
	int err;

	if (!yaml_parser_initialize(&parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&parser, (const unsigned char *)bytes, len);
	if (!yaml_parser_load(&parser, &r.doc)) {
		const yaml_mark_t *at = parser.problem_mark.line || parser.problem_mark.column
						? &parser.problem_mark
						: &parser.mark;

		snprintf(ret_error, error_bytes, "%zu:%zu: %s", at->line + 1, at->column + 1,
			 parser.problem ? parser.problem : "not YAML");
		yaml_parser_delete(&parser);
		return -EINVAL;
	}
	err = document_take(&r, &list);
	yaml_document_delete(&r.doc);
	yaml_parser_delete(&parser);
	if (err) {
		origin_list_fini(&list);
		return err;
	}
	*ret_list = list;
	return 0;
}

int endpoints_file_read(const char *path, struct origin_list *ret_list, char *ret_error,
			size_t error_bytes)
{
	char *bytes __cleanup(mem_free) = malloc(ENDPOINTS_FILE_MAX + 1);
	int fd __cleanup(fd_close) = open(path, O_RDONLY | O_CLOEXEC);
	char error[256];
	size_t len = 0;
	ssize_t n;
	int err;

	if (fd < 0 || !bytes) {
		err = errno;
		snprintf(ret_error, error_bytes, "%s: %s", path, strerror(err));
		return -err;
	}
	while (len <= ENDPOINTS_FILE_MAX &&
	       (n = read(fd, bytes + len, ENDPOINTS_FILE_MAX + 1 - len)) != 0) {
		if (n < 0) {
			err = errno;
			snprintf(ret_error, error_bytes, "%s: %s", path, strerror(err));
			return -err;
		}
		len += (size_t)n;
	}
	if (len > ENDPOINTS_FILE_MAX) {
		snprintf(ret_error, error_bytes, "%s: larger than %d bytes", path,
			 ENDPOINTS_FILE_MAX);
		return -EFBIG;
	}
	err = endpoints_file_parse(bytes, len, ret_list, error, sizeof(error));
	if (err)
		snprintf(ret_error, error_bytes, "%s:%s", path, error);
	return err;
}
