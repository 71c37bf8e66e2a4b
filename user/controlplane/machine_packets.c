/* SPDX-License-Identifier: Apache-2.0 */
/* Programs at interfaces: do they attach, and does TCP come through them whole? */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "controlplane/machine_probes.h"
#include "sluice/probe.h"

#include "probe.skel.h"

#define TCX_INGRESS    46 /* BPF_TCX_INGRESS, Linux 6.6; absent from older headers */
#define ASKED_PORT     4000
#define ANSWERING_PORT 5000

/* One end of the wire with its program; how: by link_fd, or by clsact. */
struct wire_end {
	int link_fd;
	struct bpf_tc_hook hook;
	struct bpf_tc_opts opts;
	bool attached;
};

static bool untestable(const struct probe_context *ctx, char *found)
{
	if (ctx->skel && ctx->ns_wire >= 0)
		return false;
	probe_says(MACHINE_UNKNOWN, found, "%s",
		   ctx->skel ? "no namespaces" : "programs do not load");
	return true;
}

static int wire_attach(struct probe_context *ctx, struct wire_end *end, int ifindex, bool tcx)
{
	int prog_fd = bpf_program__fd(ctx->skel->progs.on_wire), err;

	*end = (struct wire_end){.link_fd = -1};
	if (tcx) {
		end->link_fd =
			bpf_link_create(prog_fd, ifindex, (enum bpf_attach_type)TCX_INGRESS, NULL);
		return end->link_fd < 0 ? -errno : 0;
	}
	end->hook = (struct bpf_tc_hook){
		.sz = sizeof(end->hook), .ifindex = ifindex, .attach_point = BPF_TC_INGRESS};
	end->opts = (struct bpf_tc_opts){
		.sz = sizeof(end->opts), .prog_fd = prog_fd, .handle = 1, .priority = 1};
	err = bpf_tc_hook_create(&end->hook);
	if (!err)
		err = bpf_tc_attach(&end->hook, &end->opts);
	end->attached = err == 0;
	return err;
}

static void wire_detach(struct wire_end *end)
{
	if (end->link_fd >= 0)
		close(end->link_fd);
	if (end->attached) {
		end->opts.prog_fd = end->opts.prog_id = end->opts.flags = 0;
		bpf_tc_detach(&end->hook, &end->opts);
	}
	if (end->hook.sz) {
		end->hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS; /* the qdisc too */
		bpf_tc_hook_destroy(&end->hook);
	}
}

static enum machine_state attaches(struct probe_context *ctx, bool tcx, char *found)
{
	struct wire_end end;
	int err;

	if (untestable(ctx, found))
		return MACHINE_UNKNOWN;
	err = wire_attach(ctx, &end, ctx->near_ifindex, tcx);
	wire_detach(&end);
	return err ? probe_says(MACHINE_NO, found, "%s", strerror(-err)) : MACHINE_YES;
}

enum machine_state probe_clsact(struct probe_context *ctx, char *found)
{
	return attaches(ctx, false, found);
}

enum machine_state probe_tcx(struct probe_context *ctx, char *found)
{
	return attaches(ctx, true, found);
}

/* Client and server are joined by the two programs alone; ports are translated on the way. */
enum machine_state probe_tc_redirect(struct probe_context *ctx, char *found)
{
	struct sluice_probe state = {.near_ifindex = (__u32)ctx->near_ifindex,
				     .far_ifindex = (__u32)ctx->far_ifindex,
				     .asked_port = ASKED_PORT,
				     .answering_port = ANSWERING_PORT};
	bool tcx = ctx->states[MACHINE_TCX] == MACHINE_YES;
	struct wire_end near, far;
	__u32 zero = 0;
	int err;

	if (untestable(ctx, found))
		return MACHINE_UNKNOWN;
	if (!tcx && ctx->states[MACHINE_CLSACT] != MACHINE_YES)
		return probe_says(MACHINE_NO, found, "tc programs do not attach");
	err = bpf_map_update_elem(bpf_map__fd(ctx->skel->maps.probe_state), &zero, &state, 0);
	if (err)
		return probe_says(MACHINE_UNKNOWN, found, "no map: %s", strerror(errno));
	err = wire_attach(ctx, &near, ctx->near_ifindex, tcx);
	if (!err) {
		err = wire_attach(ctx, &far, ctx->far_ifindex, tcx);
		if (!err)
			err = ns_tcp_carries(ctx, ASKED_PORT, ANSWERING_PORT);
		wire_detach(&far);
	}
	wire_detach(&near);
	if (err)
		return probe_says(MACHINE_NO, found, "%s", strerror(-err));
	return probe_says(MACHINE_YES, found, "256 KB each way by %s", tcx ? "tcx" : "clsact");
}

/* The same wire, and an XDP program that passes everything at one end of it. */
static enum machine_state xdp_carries(struct probe_context *ctx, unsigned int flags, char *found)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = flags);
	int fd __cleanup(fd_close) = -1;
	enum machine_state state;

	if (untestable(ctx, found))
		return MACHINE_UNKNOWN;
	if (ctx->states[MACHINE_TC_REDIRECT] != MACHINE_YES)
		return probe_says(MACHINE_UNKNOWN, found, "needs tc-redirect");
	fd = bpf_link_create(bpf_program__fd(ctx->skel->progs.on_frame), ctx->near_ifindex, BPF_XDP,
			     &opts);
	if (fd < 0)
		return probe_says(MACHINE_NO, found, "does not attach: %s", strerror(errno));
	state = probe_tc_redirect(ctx, found);
	return state;
}

enum machine_state probe_xdp_generic(struct probe_context *ctx, char *found)
{
	return xdp_carries(ctx, XDP_FLAGS_SKB_MODE, found);
}

enum machine_state probe_xdp_native_veth(struct probe_context *ctx, char *found)
{
	return xdp_carries(ctx, XDP_FLAGS_DRV_MODE, found);
}
