/* SPDX-License-Identifier: Apache-2.0 */
/* Which interfaces are followed: as a table, and in a namespace where they come and go. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "base/log.h"
#include "controlplane/interfaces.h"

#define PATIENCE 2000 /* times 5 ms */

static void what_is_wanted_as_a_table(void **state)
{
	static char *name = "eth1";
	const struct string_list none = {0}, eth1 = {.items = &name, .count = 1};
	const struct {
		const char *why;
		const struct string_list *named;
		bool any_address;
		struct interface i;
		bool wanted;
	} rows[] = {
		{"holds the listen address",
		 &none,
		 false,
		 {.name = "eth0", .up = true, .listens = true},
		 true},
		{"the way to an engine",
		 &none,
		 false,
		 {.name = "eth0", .up = true, .routes = true},
		 true},
		{"neither", &none, false, {.name = "eth0", .up = true, .has_address = true}, false},
		{"anywhere", &none, true, {.name = "eth0", .up = true, .has_address = true}, true},
		{"anywhere, but nobody reaches it",
		 &none,
		 true,
		 {.name = "eth0", .up = true},
		 false},
		{"is down", &none, true, {.name = "eth0", .listens = true, .routes = true}, false},
		{"loopback is not found",
		 &none,
		 true,
		 {.name = "lo", .up = true, .loopback = true, .has_address = true, .listens = true},
		 false},
		{"named, though it is down", &eth1, false, {.name = "eth1"}, true},
		{"another one is named",
		 &eth1,
		 true,
		 {.name = "eth0", .up = true, .listens = true, .routes = true},
		 false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (interface_is_wanted(rows[i].named, rows[i].any_address, &rows[i].i) !=
		    rows[i].wanted)
			fail_msg("%s", rows[i].why);
}

/* ---- a namespace ------------------------------------------------------------------------------
 */

static struct {
	pthread_mutex_t lock;
	char log[1024]; /* "+name", "-name", "!name" (gone by itself) */
	int refuse;
} heard = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int on_attach(void *arg, int ifindex, const char *name)
{
	int err;

	(void)arg;
	assert_true(ifindex > 0);
	pthread_mutex_lock(&heard.lock);
	snprintf(heard.log + strlen(heard.log), 32, "+%s ", name);
	err = heard.refuse;
	pthread_mutex_unlock(&heard.lock);
	return err;
}

static void on_detach(void *arg, int ifindex, const char *name, bool gone)
{
	(void)arg;
	(void)ifindex;
	pthread_mutex_lock(&heard.lock);
	snprintf(heard.log + strlen(heard.log), 32, "%s%s ", gone ? "!" : "-", name);
	pthread_mutex_unlock(&heard.lock);
}

static void expect(const char *log)
{
	char last[1024];

	for (int i = 0; i < PATIENCE; i++) {
		pthread_mutex_lock(&heard.lock);
		memcpy(last, heard.log, sizeof(last));
		pthread_mutex_unlock(&heard.lock);
		if (strcmp(last, log) == 0) {
			pthread_mutex_lock(&heard.lock);
			heard.log[0] = '\0';
			pthread_mutex_unlock(&heard.lock);
			return;
		}
		usleep(5000);
	}
	fail_msg("expected \"%s\", heard \"%s\"", log, last);
}

static struct nl_sock *nl;

static int setup(void **state)
{
	(void)state;
	nl = NULL;
	if (unshare(CLONE_NEWNET))
		return 0;
	nl = nl_socket_alloc();
	heard.log[0] = '\0';
	heard.refuse = 0;
	log_set_level(LOG_ERROR);
	return nl_connect(nl, NETLINK_ROUTE);
}

static int teardown(void **state)
{
	(void)state;
	nl_socket_free(nl);
	return 0;
}

static void need_namespace(void)
{
	if (nl)
		return;
	print_message("no network namespace can be made here\n");
	skip();
}

static void link_up(const char *name, bool up)
{
	struct rtnl_link *old, *change = rtnl_link_alloc();

	assert_int_equal(rtnl_link_get_kernel(nl, 0, name, &old), 0);
	up ? rtnl_link_set_flags(change, IFF_UP) : rtnl_link_unset_flags(change, IFF_UP);
	assert_int_equal(rtnl_link_change(nl, old, change, 0), 0);
	rtnl_link_put(old);
	rtnl_link_put(change);
}

static void veth_make(const char *name, const char *address)
{
	struct rtnl_addr *a = rtnl_addr_alloc();
	struct nl_addr *local;
	char peer[16];

	snprintf(peer, sizeof(peer), "p%s", name);
	assert_int_equal(rtnl_link_veth_add(nl, name, peer, getpid()), 0);
	assert_int_equal(nl_addr_parse(address, AF_INET, &local), 0);
	rtnl_addr_set_local(a, local);
	rtnl_addr_set_ifindex(a, (int)if_nametoindex(name));
	assert_int_equal(rtnl_addr_add(nl, a, 0), 0);
	nl_addr_put(local);
	rtnl_addr_put(a);
	link_up(name, true);
	link_up(peer, true);
}

static void veth_delete(const char *name)
{
	struct rtnl_link *l = rtnl_link_alloc();

	rtnl_link_set_name(l, name);
	assert_int_equal(rtnl_link_delete(nl, l), 0);
	rtnl_link_put(l);
}

static struct interfaces *start(struct config *cfg)
{
	const struct interfaces_ops ops = {.attach = on_attach, .detach = on_detach};
	struct interfaces *ifs = NULL;

	assert_int_equal(interfaces_new(cfg, &ops, &ifs), 0);
	return ifs;
}

static void a_wildcard_follows_what_comes_and_goes(void **state)
{
	static char *any = "0.0.0.0:8080";
	struct config cfg = {.listen = {.items = &any, .count = 1}};
	struct interfaces *ifs;

	(void)state;
	need_namespace();
	veth_make("one", "10.99.1.1/24");
	ifs = start(&cfg);
	expect("+one "); /* before interfaces_new() returned */
	veth_make("two", "10.99.2.1/24");
	expect("+two ");
	link_up("two", false);
	expect("-two ");
	link_up("two", true);
	expect("+two ");
	veth_delete("two");
	expect("!two ");
	veth_make("two", "10.99.2.1/24"); /* the same name, another interface */
	expect("+two ");
	interfaces_free(ifs, true);
	expect("");
}

static void a_listen_address_is_followed_to_its_interface(void **state)
{
	static char *at[] = {"unix:/run/x", "10.99.2.1:8080"};
	struct config cfg = {.listen = {.items = at, .count = 2}};
	struct interfaces *ifs;

	(void)state;
	need_namespace();
	veth_make("one", "10.99.1.1/24");
	ifs = start(&cfg);
	expect("");
	veth_make("two", "10.99.2.1/24");
	expect("+two ");
	interfaces_free(ifs, false);
	expect("-two ");
}

static struct endpoint_snapshot *one_endpoint(void *arg)
{
	static struct endpoint ep;
	static struct endpoint *views[] = {&ep};
	static struct endpoint_snapshot snap;
	struct sockaddr_in *to = (void *)&ep.addr;

	(void)arg;
	*to = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a630109)};
	snap = (struct endpoint_snapshot){
		.refs = 1000, .version = 1, .view_count = 1, .views = views};
	return &snap;
}

static void the_route_to_an_engine_is_followed(void **state)
{
	static char *loopback = "127.0.0.1:8080";
	struct config cfg = {.listen = {.items = &loopback, .count = 1}};
	const struct interfaces_ops ops = {
		.attach = on_attach, .detach = on_detach, .snapshot = one_endpoint};
	struct interfaces *ifs = NULL;

	(void)state;
	need_namespace();
	veth_make("two", "10.99.2.1/24");
	assert_int_equal(interfaces_new(&cfg, &ops, &ifs), 0);
	expect("");
	veth_make("one", "10.99.1.1/24");
	expect("+one ");
	interfaces_free(ifs, true);
}

static void what_takes_no_program_is_shown_and_not_detached(void **state)
{
	static char *name = "one";
	struct config cfg = {.interfaces = {.items = &name, .count = 1}};
	struct interfaces *ifs;
	char *text = NULL;
	size_t len;
	FILE *f;

	(void)state;
	need_namespace();
	heard.refuse = -EOPNOTSUPP;
	veth_make("one", "10.99.1.1/24");
	ifs = start(&cfg);
	expect("+one ");
	f = open_memstream(&text, &len);
	interfaces_write_json(ifs, f);
	interfaces_write_metrics(ifs, f);
	fclose(f);
	assert_non_null(strstr(text, "\"name\":\"one\""));
	assert_non_null(strstr(text, "\"attached\":false,\"error\":\"Operation not supported\""));
	assert_non_null(strstr(text, "sluice_interface{interface=\"one\"} 0\n"));
	free(text);
	interfaces_free(ifs, false);
	expect("");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_wanted_as_a_table),
		cmocka_unit_test_setup_teardown(a_wildcard_follows_what_comes_and_goes, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_listen_address_is_followed_to_its_interface,
						setup, teardown),
		cmocka_unit_test_setup_teardown(the_route_to_an_engine_is_followed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(what_takes_no_program_is_shown_and_not_detached,
						setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
