/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which network interfaces the gateway's traffic takes, followed as they come and go. Programs
 * that attach to interfaces (bpf/) are told by callbacks; nothing here knows what they attach.
 *
 * --interface names them; else they are found: the interface of each listen address (of a wildcard
 * all that are up and have an address), and the one that the route to each endpoint leaves by.
 * Loopback is never found, only named.
 */
#ifndef SLUICE_CONTROLPLANE_INTERFACES_H
#define SLUICE_CONTROLPLANE_INTERFACES_H

#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/config.h"
#include "base/endpoint.h"
#include "sluice/limits.h"

struct interfaces;

/* One interface as the kernel describes it now. */
struct interface {
	int ifindex;
	char name[IF_NAMESIZE];
	bool up, loopback;
	bool has_address; /* any but link-local */
	bool listens;	  /* holds a listen address */
	bool routes;	  /* the way to an endpoint */
};

/* All are called on the thread of interfaces.c, each may be NULL. */
struct interfaces_ops {
	void *arg;
	/* The newest snapshot with a reference for the caller, or NULL. */
	struct endpoint_snapshot *(*snapshot)(void *arg);
	/* The interface is wanted from now on. 0, or -errno: logged, shown, and not tried again
	   until it comes anew. */
	int (*attach)(void *arg, int ifindex, const char *name);
	/* No longer wanted, or gone already (the kernel took its programs along then). Called only
	   for what was attached with 0, and for all of it at interfaces_free(). */
	void (*detach)(void *arg, int ifindex, const char *name, bool gone);
};

/*
 * Reads cfg->interfaces and cfg->listen. The first attach callbacks have run when it returns, so
 * that no connection is older than its hooks. -errno: no netlink.
 */
int interfaces_new(const struct config *cfg, const struct interfaces_ops *ops,
		   struct interfaces **ret);
/* Ends the thread. keep: no detach callbacks (what is pinned goes on). NULL is fine. */
void interfaces_free(struct interfaces *ifs, bool keep);

/* A JSON array of {name, ifindex, attached, error}. Any thread; NULL gives []. */
void interfaces_write_json(struct interfaces *ifs, FILE *f);
/* sluice_interface{interface,state}. Any thread; NULL writes nothing. */
void interfaces_write_metrics(struct interfaces *ifs, FILE *f);

/* Is this one wanted? named: --interface, any_address: a listen address is a wildcard. */
bool interface_is_wanted(const struct string_list *named, bool any_address,
			 const struct interface *i);

#endif
