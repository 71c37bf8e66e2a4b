/* SPDX-License-Identifier: Apache-2.0 */
/* A short list; order of one address is order of arrival. */
#include "base/inherited.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int inherited_add(struct inherited *set, const char *address, int fd)
{
	struct inherited_socket *s = &set->sockets[set->count];

	if (set->count == INHERITED_MAX || strlen(address) >= sizeof(s->address)) {
		close(fd);
		return -E2BIG;
	}
	snprintf(s->address, sizeof(s->address), "%s", address);
	s->fd = fd;
	s->taken = false;
	set->count++;
	return 0;
}

unsigned int inherited_count(const struct inherited *set, const char *address)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < set->count; i++)
		n += strcmp(set->sockets[i].address, address) == 0;
	return n;
}

struct inherited_socket *inherited_at(struct inherited *set, const char *address, unsigned int n)
{
	for (unsigned int i = 0; i < set->count; i++)
		if (strcmp(set->sockets[i].address, address) == 0 && n-- == 0)
			return &set->sockets[i];
	return NULL;
}

void inherited_close_rest(struct inherited *set)
{
	for (unsigned int i = 0; i < set->count; i++)
		if (!set->sockets[i].taken)
			close(set->sockets[i].fd);
	set->count = 0;
}
