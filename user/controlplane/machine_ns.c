/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three namespaces without names, joined by two veth pairs:
 *
 *   client  c0 ------ near  wire  far ------ s0  server
 *   10.0.0.1                                     10.0.0.2
 *
 * Nothing forwards between near and far but what a test attaches. They end with this process,
 * however it ends. Without CAP_SYS_ADMIN they are made inside a user namespace.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "controlplane/machine_probes.h"

#define CARRY_BYTES (256 * 1024) /* each way: more than a segment, so that offloads take part */
#define CLIENT_ADDR "10.0.0.1"
#define SERVER_ADDR "10.0.0.2"

int ns_enter(int ns_fd)
{
	return setns(ns_fd, CLONE_NEWNET) ? -errno : 0;
}

static int link_up(const char *name)
{
	struct nl_sock *nl = nl_socket_alloc();
	struct rtnl_link *old = NULL, *up = rtnl_link_alloc();
	int err = nl_connect(nl, NETLINK_ROUTE);

	if (!err)
		err = rtnl_link_get_kernel(nl, 0, name, &old);
	rtnl_link_set_flags(up, IFF_UP);
	if (!err)
		err = rtnl_link_change(nl, old, up, 0);
	rtnl_link_put(old);
	rtnl_link_put(up);
	nl_socket_free(nl);
	return err ? -EIO : 0;
}

static int address_add(const char *name, const char *text)
{
	struct nl_sock *nl = nl_socket_alloc();
	struct rtnl_addr *a = rtnl_addr_alloc();
	struct nl_addr *local = NULL;
	int err = nl_addr_parse(text, AF_INET, &local);

	if (!err)
		err = rtnl_addr_set_local(a, local);
	rtnl_addr_set_ifindex(a, (int)if_nametoindex(name));
	rtnl_addr_set_prefixlen(a, 24);
	if (!err)
		err = nl_connect(nl, NETLINK_ROUTE);
	if (!err)
		err = rtnl_addr_add(nl, a, 0);
	nl_addr_put(local);
	rtnl_addr_put(a);
	nl_socket_free(nl);
	return err ? -EIO : 0;
}

/* name here, peer in the namespace ns_fd. */
static int veth_add(const char *name, const char *peer, int ns_fd)
{
	struct nl_sock *nl = nl_socket_alloc();
	struct rtnl_link *link = rtnl_link_veth_alloc(), *other = rtnl_link_veth_get_peer(link);
	int err = nl_connect(nl, NETLINK_ROUTE);

	rtnl_link_set_name(link, name);
	rtnl_link_set_name(other, peer);
	rtnl_link_set_ns_fd(other, ns_fd);
	if (!err)
		err = rtnl_link_add(nl, link, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_link_put(other);
	rtnl_link_put(link);
	nl_socket_free(nl);
	return err ? -EIO : 0;
}

/* A new namespace, entered. */
static int ns_new(int *ret_fd)
{
	if (unshare(CLONE_NEWNET) && (errno != EPERM || unshare(CLONE_NEWUSER | CLONE_NEWNET)))
		return -errno;
	*ret_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return *ret_fd < 0 ? -errno : link_up("lo");
}

static int end_make(int ns_fd, const char *name, const char *address)
{
	int err = ns_enter(ns_fd);

	if (!err)
		err = address_add(name, address);
	return err ? err : link_up(name);
}

enum machine_state probe_namespaces(struct probe_context *ctx, char *found)
{
	int err = ns_new(&ctx->ns_client);

	if (err)
		return probe_says(MACHINE_UNKNOWN, found,
				  "needs CAP_SYS_ADMIN or user namespaces: %s", strerror(-err));
	err = ns_new(&ctx->ns_server);
	if (!err)
		err = ns_new(&ctx->ns_wire);
	if (!err)
		err = veth_add("near", "c0", ctx->ns_client);
	if (!err)
		err = veth_add("far", "s0", ctx->ns_server);
	if (!err)
		err = link_up("near");
	if (!err)
		err = link_up("far");
	ctx->near_ifindex = (int)if_nametoindex("near");
	ctx->far_ifindex = (int)if_nametoindex("far");
	if (!err)
		err = end_make(ctx->ns_client, "c0", CLIENT_ADDR);
	if (!err)
		err = end_make(ctx->ns_server, "s0", SERVER_ADDR);
	if (!err)
		err = ns_enter(ctx->ns_wire);
	if (!err)
		return probe_says(MACHINE_YES, found, "three, joined by veth");
	ns_close(ctx);
	return probe_says(MACHINE_UNKNOWN, found, "no veth between them: %s", strerror(-err));
}

void ns_close(struct probe_context *ctx)
{
	int *all[] = {&ctx->ns_client, &ctx->ns_wire, &ctx->ns_server};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		if (*all[i] >= 0)
			close(*all[i]);
		*all[i] = -1;
	}
}

/* ---- connections ------------------------------------------------------------------------------
 */

static int wait_for(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, PROBE_WAIT_MS) == 1 ? 0 : -ETIMEDOUT;
}

static int tcp_listen(const char *address, uint16_t port, int *ret_fd, uint16_t *ret_port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
	socklen_t len = sizeof(at);

	int one = 1;

	inet_pton(AF_INET, address, &at.sin_addr);
	*ret_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(*ret_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* the test before */
	if (*ret_fd < 0 || bind(*ret_fd, (struct sockaddr *)&at, sizeof(at)) ||
	    listen(*ret_fd, 1) || getsockname(*ret_fd, (struct sockaddr *)&at, &len))
		return -errno;
	*ret_port = ntohs(at.sin_port);
	return 0;
}

/* Connects in the present namespace and accepts at listen_fd, wherever that is. */
static int tcp_join(const char *address, uint16_t port, int listen_fd, int *ret_client,
		    int *ret_server)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err = 0;

	inet_pton(AF_INET, address, &to.sin_addr);
	if (client < 0)
		return -errno;
	if (connect(client, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)
		err = -errno;
	if (!err)
		err = wait_for(listen_fd, POLLIN);
	if (!err) {
		*ret_server = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		err = *ret_server < 0 ? -errno : 0;
	}
	if (err)
		close(client);
	else
		*ret_client = client;
	return err;
}

int tcp_pair(int *ret_client, int *ret_server)
{
	int listen_fd __cleanup(fd_close) = -1;
	uint16_t port = 0;
	int err = tcp_listen("127.0.0.1", 0, &listen_fd, &port);

	return err ? err : tcp_join("127.0.0.1", port, listen_fd, ret_client, ret_server);
}

static unsigned char byte_at(size_t position)
{
	return (unsigned char)(position * 7 + (position >> 8));
}

/* Sends what fits and reads what came; progress starts the time anew. */
static int carry(int from, int to)
{
	unsigned char out[8192], in[8192];
	uint64_t until = clock_mono_ns() + PROBE_WAIT_MS * NS_PER_MS;
	size_t sent = 0, got = 0;

	while (got < CARRY_BYTES) {
		size_t n = CARRY_BYTES - sent < sizeof(out) ? CARRY_BYTES - sent : sizeof(out);
		struct pollfd p = {.fd = to, .events = POLLIN};
		ssize_t moved;

		for (size_t i = 0; i < n; i++)
			out[i] = byte_at(sent + i);
		moved = n ? send(from, out, n, MSG_NOSIGNAL) : 0;
		sent += moved > 0 ? (size_t)moved : 0;
		poll(&p, 1, sent < CARRY_BYTES ? 1 : 100);
		moved = recv(to, in, sizeof(in), 0);
		for (ssize_t i = 0; i < moved; i++)
			if (in[i] != byte_at(got + (size_t)i))
				return -EBADMSG;
		if (moved == 0)
			return -ECONNRESET;
		if (moved > 0) {
			got += (size_t)moved;
			until = clock_mono_ns() + PROBE_WAIT_MS * NS_PER_MS;
		} else if (clock_mono_ns() > until) {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

int ns_tcp_carries(const struct probe_context *ctx, uint16_t port, uint16_t server_port)
{
	int listen_fd __cleanup(fd_close) = -1, client __cleanup(fd_close) = -1;
	int server __cleanup(fd_close) = -1;
	int err = ns_enter(ctx->ns_server), back;

	if (!err)
		err = tcp_listen(SERVER_ADDR, server_port, &listen_fd, &server_port);
	if (!err)
		err = ns_enter(ctx->ns_client);
	if (!err)
		err = tcp_join(SERVER_ADDR, port, listen_fd, &client, &server);
	if (!err)
		err = carry(client, server);
	if (!err)
		err = carry(server, client);
	back = ns_enter(ctx->ns_wire);
	return err ? err : back;
}
