/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links, addresses and routes by libnl. One socket asks and waits for its answers, another only
 * hears; so answers and notifications never stand in each other's way.
 */
#include "controlplane/interfaces_scan.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <netlink/cache.h>
#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
#include <string.h>

static int errno_of(int nl_err)
{
	switch (-nl_err) {
	case 0:
		return 0;
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_PERM:
		return -EPERM;
	default:
		return -EIO;
	}
}

/* The address of "host:port" or "[v6]:port"; a host name or unix: has none. */
static bool listen_parse(const char *text, int *ret_family, unsigned char *ret_bytes)
{
	const char *colon = strrchr(text, ':');
	char host[128];
	size_t n;

	if (strncmp(text, "unix:", 5) == 0 || !colon)
		return false;
	n = (size_t)(colon - text);
	if (n >= 2 && text[0] == '[' && text[n - 1] == ']')
		text++, n -= 2;
	if (n >= sizeof(host))
		return false;
	memcpy(host, text, n);
	host[n] = '\0';
	if (!n) { /* ":8080" */
		*ret_family = AF_INET6;
		memset(ret_bytes, 0, 16);
		return true;
	}
	*ret_family = strchr(host, ':') ? AF_INET6 : AF_INET;
	return inet_pton(*ret_family, host, ret_bytes) == 1;
}

static bool is_zero(const unsigned char *bytes, size_t n)
{
	while (n)
		if (bytes[--n])
			return false;
	return true;
}

static size_t family_bytes(int family)
{
	return family == AF_INET6 ? 16 : 4;
}

static bool is_listen_address(const struct config *cfg, struct nl_addr *addr)
{
	for (size_t i = 0; i < cfg->listen.count; i++) {
		unsigned char bytes[16];
		int family;

		if (listen_parse(cfg->listen.items[i], &family, bytes) &&
		    family == nl_addr_get_family(addr) &&
		    nl_addr_get_len(addr) == family_bytes(family) &&
		    memcmp(bytes, nl_addr_get_binary_addr(addr), family_bytes(family)) == 0)
			return true;
	}
	return false;
}

int interfaces_scan_init(struct interfaces_scan *scan, const struct config *cfg)
{
	int err;

	scan->cfg = cfg;
	for (size_t i = 0; i < cfg->listen.count; i++) {
		unsigned char bytes[16];
		int family;

		if (listen_parse(cfg->listen.items[i], &family, bytes))
			scan->any_address |= is_zero(bytes, family_bytes(family));
	}
	scan->ask = nl_socket_alloc();
	scan->hear = nl_socket_alloc();
	if (!scan->ask || !scan->hear)
		return -ENOMEM;
	nl_socket_disable_seq_check(scan->hear);
	err = nl_connect(scan->ask, NETLINK_ROUTE);
	if (!err)
		err = nl_connect(scan->hear, NETLINK_ROUTE);
	if (!err)
		err = nl_socket_set_nonblocking(scan->hear);
	if (!err)
		err = nl_socket_add_memberships(scan->hear, RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR,
						RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE,
						RTNLGRP_IPV6_ROUTE, 0);
	return errno_of(err);
}

void interfaces_scan_fini(struct interfaces_scan *scan)
{
	nl_socket_free(scan->ask);
	nl_socket_free(scan->hear);
	scan->ask = scan->hear = NULL;
}

int interfaces_scan_fd(const struct interfaces_scan *scan)
{
	return nl_socket_get_fd(scan->hear);
}

void interfaces_scan_drain(struct interfaces_scan *scan)
{
	char buf[8192];

	for (;;) {
		ssize_t n = recv(interfaces_scan_fd(scan), buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && errno != ENOBUFS && errno != EINTR)
			return;
	}
}

static struct interface *found(struct interfaces_scan *scan, int ifindex)
{
	for (unsigned int i = 0; i < scan->count; i++)
		if (scan->found[i].ifindex == ifindex)
			return &scan->found[i];
	return NULL;
}

static void link_add(struct nl_object *object, void *arg)
{
	struct rtnl_link *link = (struct rtnl_link *)object;
	struct interfaces_scan *scan = arg;
	struct interface *i = &scan->found[scan->count];
	unsigned int flags = rtnl_link_get_flags(link);
	const char *name = rtnl_link_get_name(link);

	if (scan->count == sizeof(scan->found) / sizeof(scan->found[0]) || !name)
		return;
	*i = (struct interface){.ifindex = rtnl_link_get_ifindex(link),
				.up = flags & IFF_UP,
				.loopback = flags & IFF_LOOPBACK};
	snprintf(i->name, sizeof(i->name), "%s", name);
	scan->count++;
}

static void address_add(struct nl_object *object, void *arg)
{
	struct rtnl_addr *address = (struct rtnl_addr *)object;
	struct nl_addr *local = rtnl_addr_get_local(address);
	struct interfaces_scan *scan = arg;
	struct interface *i = found(scan, rtnl_addr_get_ifindex(address));

	if (!i || !local)
		return;
	i->has_address |= rtnl_addr_get_scope(address) != RT_SCOPE_LINK;
	i->listens |= is_listen_address(scan->cfg, local);
}

/* Marks the interface that packets to the endpoint leave by. */
static void route_follow(struct interfaces_scan *scan, const struct endpoint *ep)
{
	const struct sockaddr_in6 *v6 = (const void *)&ep->addr;
	const struct sockaddr_in *v4 = (const void *)&ep->addr;
	int family = ep->addr.ss_family;
	struct rtnl_route *route = NULL;
	struct interface *i = NULL;
	struct nl_addr *to;

	if (family != AF_INET && family != AF_INET6)
		return;
	to = nl_addr_build(family,
			   family == AF_INET ? (const void *)&v4->sin_addr
					     : (const void *)&v6->sin6_addr,
			   family_bytes(family));
	if (!to)
		return;
	if (rtnl_route_lookup(scan->ask, to, &route) == 0) {
		if (rtnl_route_get_nnexthops(route) > 0)
			i = found(scan, rtnl_route_nh_get_ifindex(rtnl_route_nexthop_n(route, 0)));
		rtnl_route_put(route);
	}
	nl_addr_put(to);
	if (i)
		i->routes = true;
}

int interfaces_scan_read(struct interfaces_scan *scan, const struct endpoint_snapshot *snap)
{
	struct nl_cache *links = NULL, *addresses = NULL;
	int err = rtnl_link_alloc_cache(scan->ask, AF_UNSPEC, &links);

	if (!err)
		err = rtnl_addr_alloc_cache(scan->ask, &addresses);
	if (!err) {
		scan->count = 0;
		nl_cache_foreach(links, link_add, scan);
		nl_cache_foreach(addresses, address_add, scan);
		for (uint32_t v = 0; snap && v < snap->view_count; v++)
			route_follow(scan, snap->views[v]);
	}
	nl_cache_free(addresses);
	nl_cache_free(links);
	return errno_of(err);
}
