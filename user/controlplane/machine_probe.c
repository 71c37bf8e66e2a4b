/* SPDX-License-Identifier: Apache-2.0 */
/* sluiced --probe-machine: the tests in a row, each a function of a page. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <bpf/libbpf.h>

#include "controlplane/machine.h"
#include "controlplane/machine_probes.h"

#include "probe.skel.h"

static const struct {
	enum machine_feature feature;
	probe_run run;
} probes[] = {
	{MACHINE_KERNEL, probe_kernel},
	{MACHINE_CAPABILITIES, probe_capabilities},
	{MACHINE_BTF, probe_btf},
	{MACHINE_BPFFS, probe_bpffs},
	{MACHINE_LOAD, probe_load}, /* before NAMESPACES: that may cost the right to load */
	{MACHINE_RING_BUFFER, probe_ring_buffer},
	{MACHINE_NAMESPACES, probe_namespaces},
	{MACHINE_CLSACT, probe_clsact},
	{MACHINE_TCX, probe_tcx},
	{MACHINE_TC_REDIRECT, probe_tc_redirect},
	{MACHINE_XDP_GENERIC, probe_xdp_generic},
	{MACHINE_XDP_NATIVE_VETH, probe_xdp_native_veth},
	{MACHINE_SK_MSG, probe_sk_msg},
	{MACHINE_SOCK_OPS, probe_sock_ops},
};

_Static_assert(sizeof(probes) / sizeof(probes[0]) == MACHINE_FEATURES, "a test for each feature");

enum machine_state probe_says(enum machine_state state, char *found, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(found, PROBE_FOUND_BYTES, fmt, ap);
	va_end(ap);
	return state;
}

static int print_nothing(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

int machine_probe(const struct config *cfg, FILE *f)
{
	static const char *const names[] = {"unknown", "yes", "no"};
	struct probe_context ctx = {.cfg = cfg, .ns_client = -1, .ns_wire = -1, .ns_server = -1};

	libbpf_set_print(print_nothing);
	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
		enum machine_feature feature = probes[i].feature;
		char found[PROBE_FOUND_BYTES] = "";

		ctx.states[feature] = probes[i].run(&ctx, found);
		fprintf(f, "%s\t%s\t%s\n", machine_feature_name(feature),
			names[ctx.states[feature]], found);
		fflush(f); /* what is known counts even if a later test hangs */
	}
	ns_close(&ctx);
	probe_bpf__destroy(ctx.skel);
	return 0;
}
