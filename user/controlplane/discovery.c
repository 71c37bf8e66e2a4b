/* SPDX-License-Identifier: Apache-2.0 */
/* The --endpoint flag, roles, labels, and the list of origins. */
#include "controlplane/discovery.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR(...)                                                                                 \
	do {                                                                                       \
		snprintf(ret_error, error_bytes, __VA_ARGS__);                                     \
		return -EINVAL;                                                                    \
	} while (0)

int role_parse(const char *text, uint8_t *ret_role)
{
	static const struct {
		const char *word;
		uint8_t role;
	} words[] = {
		{"prefill", SLUICE_ROLE_PREFILL},
		{"decode", SLUICE_ROLE_DECODE},
		{"encode", SLUICE_ROLE_ENCODE},
		{"both", SLUICE_ROLE_PREFILL | SLUICE_ROLE_DECODE},
		{"prefill-decode", SLUICE_ROLE_PREFILL | SLUICE_ROLE_DECODE},
		{"encode-prefill", SLUICE_ROLE_ENCODE | SLUICE_ROLE_PREFILL},
		{"encode-decode", SLUICE_ROLE_ENCODE | SLUICE_ROLE_DECODE},
		{"encode-prefill-decode",
		 SLUICE_ROLE_ENCODE | SLUICE_ROLE_PREFILL | SLUICE_ROLE_DECODE},
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(words[i].word, text) == 0) {
			*ret_role = words[i].role;
			return 0;
		}
	return -EINVAL;
}

void origin_fini(struct origin *o)
{
	for (unsigned int i = 0; i < o->label_count; i++) {
		free(o->labels[i].key);
		free(o->labels[i].value);
	}
	o->label_count = o->addr_count = 0;
	free(o->addrs);
	o->addrs = NULL;
}

struct origin *origin_list_add(struct origin_list *list)
{
	struct origin *grown;

	if (list->count == list->size) {
		unsigned int size = list->size ? list->size * 2 : 16;

		grown = realloc(list->items, size * sizeof(*grown));
		if (!grown)
			return NULL;
		list->items = grown;
		list->size = size;
	}
	memset(&list->items[list->count], 0, sizeof(list->items[0]));
	return &list->items[list->count++];
}

void origin_list_fini(struct origin_list *list)
{
	for (unsigned int i = 0; i < list->count; i++)
		origin_fini(&list->items[i]);
	free(list->items);
	*list = (struct origin_list){0};
}

int origin_set_address(struct origin *o, const char *text)
{
	struct sockaddr_storage addr = {0};
	struct sockaddr_in6 *in6 = (void *)&addr;
	struct sockaddr_in *in = (void *)&addr;

	if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(o->port);
	} else if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(o->port);
	} else {
		return -EINVAL;
	}
	free(o->addrs);
	o->addrs = malloc(sizeof(addr));
	if (!o->addrs)
		return -ENOMEM;
	o->addrs[0] = addr;
	o->addr_count = 1;
	return 0;
}

int origin_add_label(struct origin *o, const char *key, const char *value, char *ret_error,
		     size_t error_bytes)
{
	struct label *l = &o->labels[o->label_count];

	if (!*key)
		ERROR("a label has no name");
	if (o->label_count == LABELS_MAX)
		ERROR("more than %d labels", LABELS_MAX);
	for (unsigned int i = 0; i < o->label_count; i++)
		if (strcmp(o->labels[i].key, key) == 0)
			ERROR("label %.64s is given twice", key);
	if (strcmp(key, ROLE_LABEL) == 0 && role_parse(value, &o->role))
		ERROR("unknown role \"%.64s\": use prefill, decode, encode, or them joined as in "
		      "prefill-decode",
		      value);
	l->key = strdup(key);
	l->value = strdup(value);
	o->label_count++;
	if (!l->key || !l->value)
		ERROR("no memory");
	return 0;
}

static int port_parse(const char *text, uint16_t *ret_port)
{
	char *end;
	unsigned long port;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	port = strtoul(text, &end, 10);
	if (*end || port < 1 || port > 65535)
		return -EINVAL;
	*ret_port = (uint16_t)port;
	return 0;
}

/* A host name by its bytes: letters, digits, dot, hyphen, underscore; not all digits and dots. */
static bool host_is_name(const char *host)
{
	bool letter = false;

	if (!*host || *host == '-' || *host == '.')
		return false;
	for (const char *p = host; *p; p++) {
		char lower = (char)(*p | 0x20);

		if (lower >= 'a' && lower <= 'z')
			letter = true;
		else if (!(*p >= '0' && *p <= '9') && !strchr("-._", *p))
			return false;
	}
	return letter;
}

/* "10.0.0.1:8000", "[::1]:8000", "name:8000". Cuts text up. */
static int address_parse(char *text, struct origin *o, char *ret_error, size_t error_bytes)
{
	char *host = text, *colon = strrchr(text, ':');
	size_t len;

	if (!colon || colon == text || port_parse(colon + 1, &o->port))
		ERROR("\"%.128s\" is not ip:port, [ipv6]:port or name:port", text);
	*colon = 0;
	len = strlen(host);
	if (*host == '[') {
		if (host[len - 1] != ']')
			ERROR("\"%.128s\" lacks its closing bracket", host);
		host[len - 1] = 0;
		host++;
		if (!strchr(host, ':') || origin_set_address(o, host))
			ERROR("\"%.128s\" is not an IPv6 address", host);
		return 0;
	}
	if (strchr(host, ':'))
		ERROR("an IPv6 address is written in brackets: [%.128s]:%u", host, o->port);
	if (origin_set_address(o, host) == 0)
		return 0;
	if (!host_is_name(host) || len >= sizeof(o->host))
		ERROR("\"%.128s\" is neither an address nor a host name", host);
	memcpy(o->host, host, len + 1);
	return 0;
}

static int option_parse(char *text, struct origin *o, char *ret_error, size_t error_bytes)
{
	char *value = strchr(text, '=');

	if (!value)
		ERROR("\"%.128s\" is not name=…, role=… or label.KEY=VALUE", text);
	*value++ = 0;
	if (strcmp(text, "name") == 0) {
		if (!*value || strlen(value) >= ENDPOINT_NAME_MAX)
			ERROR("a name has 1 to %d bytes", ENDPOINT_NAME_MAX - 1);
		strcpy(o->name, value);
		return 0;
	}
	if (strcmp(text, "role") == 0)
		return origin_add_label(o, ROLE_LABEL, value, ret_error, error_bytes);
	if (strncmp(text, "label.", 6) == 0)
		return origin_add_label(o, text + 6, value, ret_error, error_bytes);
	ERROR("unknown option \"%.64s\": known are name, role and label.KEY", text);
}

int origin_parse_flag(const char *text, struct origin *ret_origin, char *ret_error,
		      size_t error_bytes)
{
	char *copy = strdup(text), *rest = copy, *part;
	struct origin o = {0};
	int err;

	if (!copy)
		ERROR("no memory");
	err = address_parse(strsep(&rest, ","), &o, ret_error, error_bytes);
	while (!err && (part = strsep(&rest, ",")))
		err = option_parse(part, &o, ret_error, error_bytes);
	free(copy);
	if (err) {
		origin_fini(&o);
		return err;
	}
	*ret_origin = o;
	return 0;
}
