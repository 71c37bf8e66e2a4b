/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where endpoints come from, as text: the --endpoint flag and the endpoints file. An origin is one
 * entry; it becomes one endpoint, or as many as its host name has addresses (the resolver's work).
 * Pure functions: no sockets, no files but the one named.
 */
#ifndef SLUICE_CONTROLPLANE_DISCOVERY_H
#define SLUICE_CONTROLPLANE_DISCOVERY_H

#include <netinet/in.h>

#include "base/endpoint.h"

#define ROLE_LABEL	     "llm-d.ai/role"
#define HOST_BYTES_MAX	     256
#define ORIGIN_ADDRESSES_MAX 64 /* of one host name; the rest is left out */

struct origin {
	char host[HOST_BYTES_MAX]; /* "" where the address was given as such */
	uint16_t port;
	char name[ENDPOINT_NAME_MAX]; /* "": the address */
	uint8_t role;
	unsigned int label_count, addr_count;
	struct label labels[LABELS_MAX];
	struct sockaddr_storage *addrs; /* owned; addr_count of them */
};

struct origin_list {
	struct origin *items;
	unsigned int count, size;
};

/* "ip:port[,name=…][,role=…][,label.K=V]…". 0, or -EINVAL with a sentence in ret_error. */
int origin_parse_flag(const char *text, struct origin *ret_origin, char *ret_error,
		      size_t error_bytes);

/* The file's bytes: 0, or -EINVAL with "line:column: what is wrong". An empty list is well formed.
 */
int endpoints_file_parse(const char *bytes, size_t len, struct origin_list *ret_list,
			 char *ret_error, size_t error_bytes);

/* Reads the file first. Also -errno of reading, -EFBIG; the path is part of the error text. */
int endpoints_file_read(const char *path, struct origin_list *ret_list, char *ret_error,
			size_t error_bytes);

/* Role mask of a value of llm-d.ai/role; -EINVAL for an unknown word. */
int role_parse(const char *text, uint8_t *ret_role);

/* Sets the one address of an origin from "10.0.0.1" or "::1". -EINVAL if text is neither. */
int origin_set_address(struct origin *o, const char *text);

/* Adds a copy of the label; the same key twice, too many or an unknown role is -EINVAL with text.
 */
int origin_add_label(struct origin *o, const char *key, const char *value, char *ret_error,
		     size_t error_bytes);

void origin_fini(struct origin *o);
/* Room for one more, zeroed; NULL without memory. */
struct origin *origin_list_add(struct origin_list *list);
void origin_list_fini(struct origin_list *list);

#endif
