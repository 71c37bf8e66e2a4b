/* SPDX-License-Identifier: Apache-2.0 */
/* The tests of --probe-machine and what they share; private to machine*.c. */
#ifndef SLUICE_CONTROLPLANE_MACHINE_PROBES_H
#define SLUICE_CONTROLPLANE_MACHINE_PROBES_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/config.h"
#include "base/machine.h"

#define PROBE_FOUND_BYTES 160
#define PROBE_WAIT_MS	  2000 /* for packets; a machine that loses one loses it for good */
#define PROBE_CGROUP	  "sluice-probe-" /* and the child's pid */

struct probe_bpf;

struct probe_context {
	const struct config *cfg;
	struct probe_bpf *skel; /* NULL until MACHINE_LOAD said yes */
	enum machine_state states[MACHINE_FEATURES];
	/* machine_ns.c: client -- near|far -- server, with the wire between near and far */
	int ns_client, ns_wire, ns_server; /* -1: there are none */
	int near_ifindex, far_ifindex;	   /* of the wire's namespace */
};

/*
 * A test: what was found, and in `found` a few words. Runs once, with what the tests before it
 * found in ctx->states. Leaves nothing attached.
 */
typedef enum machine_state (*probe_run)(struct probe_context *ctx, char *found);

__attribute__((format(printf, 3, 4))) enum machine_state
probe_says(enum machine_state state, char *found, const char *fmt, ...);

/* machine_kernel.c */
enum machine_state probe_kernel(struct probe_context *ctx, char *found);
enum machine_state probe_capabilities(struct probe_context *ctx, char *found);
enum machine_state probe_btf(struct probe_context *ctx, char *found);
enum machine_state probe_bpffs(struct probe_context *ctx, char *found);
enum machine_state probe_load(struct probe_context *ctx, char *found);
enum machine_state probe_ring_buffer(struct probe_context *ctx, char *found);
/* machine_packets.c */
enum machine_state probe_clsact(struct probe_context *ctx, char *found);
enum machine_state probe_tcx(struct probe_context *ctx, char *found);
enum machine_state probe_tc_redirect(struct probe_context *ctx, char *found);
enum machine_state probe_xdp_generic(struct probe_context *ctx, char *found);
enum machine_state probe_xdp_native_veth(struct probe_context *ctx, char *found);
/* machine_sockets.c */
enum machine_state probe_sk_msg(struct probe_context *ctx, char *found);
enum machine_state probe_sock_ops(struct probe_context *ctx, char *found);
/* Removes the cgroup of a child that was ended in the middle. */
void machine_sweep(pid_t child);

/* machine_ns.c */
enum machine_state probe_namespaces(struct probe_context *ctx, char *found);
/* This thread is in that namespace from now on. 0 or -errno. */
int ns_enter(int ns_fd);
/*
 * A TCP connection from the client's namespace to port of the server's address, accepted at
 * server_port there; a few hundred KB each way, every byte compared. 0, -ETIMEDOUT, -EBADMSG, ….
 */
int ns_tcp_carries(const struct probe_context *ctx, uint16_t port, uint16_t server_port);
/* A connected pair of TCP sockets over loopback of the present namespace. */
int tcp_pair(int *ret_client, int *ret_server);
void ns_close(struct probe_context *ctx);

#endif
