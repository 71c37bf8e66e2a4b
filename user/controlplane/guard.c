/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open skeleton -> reuse pinned maps -> load -> settings and deny list -> attach -> pin. The maps
 * outlive the agent, so the deny list of a running node is never lost by a restart.
 */
#include "controlplane/guard.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "controlplane/guard_attach.h"

#include "guard.skel.h"

#define GUARD_INTERFACES_MAX 64
#define LINK_PREFIX	     "link_"

struct guard {
	struct guard_bpf *skel;
	unsigned int count;
	struct guarded {
		char name[IF_NAMESIZE];
		enum guard_mode mode;
	} interfaces[GUARD_INTERFACES_MAX];
	char dir[256];
};

static int maps_pin(struct guard *g)
{
	struct bpf_map *maps[] = {g->skel->maps.guard_deny, g->skel->maps.guard_budget,
				  g->skel->maps.guard_settings, g->skel->maps.guard_counts};
	char path[320];
	int err = 0;

	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]) && !err; i++) {
		snprintf(path, sizeof(path), "%s/%s", g->dir, bpf_map__name(maps[i]));
		err = bpf_map__set_pin_path(maps[i], path);
	}
	return err;
}

static void pins_remove(const char *dir, const char *prefix)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[600];

	while (d && (e = readdir(d)) != NULL) {
		if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 || e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		unlink(path);
	}
	if (d)
		closedir(d);
}

static int skeleton_load(struct guard *g)
{
	int err;

	g->skel = guard_bpf__open();
	if (!g->skel)
		return -errno;
	err = maps_pin(g);
	return err ? err : guard_bpf__load(g->skel);
}

/*
 * Pins of another layout (-EINVAL by libbpf) stand in the way once: they are replaced, and that is
 * said. Any other failure, such as a missing right, must not cost the node its deny list.
 */
static int program_load(struct guard *g)
{
	int err = skeleton_load(g);

	if (err != -EINVAL)
		return err;
	guard_bpf__destroy(g->skel);
	log_warn("guard: the pinned maps do not fit, new ones take their place");
	pins_remove(g->dir, "guard_");
	return skeleton_load(g);
}

static uint16_t listen_port(const char *address)
{
	const char *colon = strrchr(address, ':');

	return strncmp(address, "unix:", 5) == 0 || !colon ? 0 : (uint16_t)atoi(colon + 1);
}

static int settings_write(struct guard *g, const struct config *cfg)
{
	struct sluice_guard_settings s = {.dry_run = cfg->guard_dry_run};
	__u32 zero = 0;

	guard_settings_rates(&s, cfg->guard_syns, cfg->guard_syn_burst, cfg->guard_packets,
			     cfg->guard_packet_burst);
	for (size_t i = 0; i < cfg->listen.count; i++) {
		uint16_t port = listen_port(cfg->listen.items[i]);

		if (port && s.port_count < SLUICE_GUARD_PORTS_MAX)
			s.ports[s.port_count++] = port;
		else if (port)
			log_warn("guard: more than %d ports, %s is not guarded",
				 SLUICE_GUARD_PORTS_MAX, cfg->listen.items[i]);
	}
	return bpf_map_update_elem(bpf_map__fd(g->skel->maps.guard_settings), &zero, &s, BPF_ANY)
		       ? -errno
		       : 0;
}

static int denied_write(struct guard *g, const struct config *cfg)
{
	__u32 deny = SLUICE_GUARD_DENY;

	for (size_t i = 0; i < cfg->guard_deny.count; i++) {
		struct sluice_guard_prefix prefix;

		if (guard_prefix_parse(cfg->guard_deny.items[i], &prefix)) {
			log_error("guard: %s is no prefix such as 10.0.0.0/8",
				  cfg->guard_deny.items[i]);
			return -EINVAL;
		}
		if (bpf_map_update_elem(bpf_map__fd(g->skel->maps.guard_deny), &prefix, &deny,
					BPF_ANY))
			return -errno;
	}
	return 0;
}

static void interface_add(struct guard *g, const char *name, enum guard_mode wish)
{
	struct guard_progs progs = {bpf_program__fd(g->skel->progs.on_packet),
				    bpf_program__fd(g->skel->progs.on_ingress)};
	struct guarded *slot = &g->interfaces[g->count];
	char path[320];
	int err;

	for (unsigned int i = 0; i < g->count; i++)
		if (strcmp(g->interfaces[i].name, name) == 0)
			return;
	if (g->count == GUARD_INTERFACES_MAX || strlen(name) >= IF_NAMESIZE) {
		log_warn("guard: %s is not guarded: too many interfaces", name);
		return;
	}
	snprintf(path, sizeof(path), "%s/" LINK_PREFIX "%s", g->dir, name);
	err = guard_attach(&progs, name, wish, path, &slot->mode);
	if (err) {
		log_warn("guard: %s takes no program: %s", name, strerror(-err));
		return;
	}
	snprintf(slot->name, sizeof(slot->name), "%s", name);
	log_info("guard: %s is guarded (%s)", name, guard_mode_name(slot->mode));
	g->count++;
}

/* Hardware that is up; where there is none (a pod, a virtual machine's bridge), all but loopback.
 */
static void interfaces_find(struct guard *g, enum guard_mode wish)
{
	struct ifaddrs *list = NULL;

	if (getifaddrs(&list))
		return;
	for (int physical = 1; physical >= 0 && !g->count; physical--)
		for (struct ifaddrs *i = list; i; i = i->ifa_next)
			if ((i->ifa_flags & (IFF_UP | IFF_LOOPBACK)) == IFF_UP &&
			    guard_interface_is_physical(i->ifa_name) >= physical)
				interface_add(g, i->ifa_name, wish);
	freeifaddrs(list);
}

static int guard_start(struct guard *g, const struct config *cfg, enum guard_mode wish)
{
	int err;

	if (mkdir(g->dir, 0700) && errno != EEXIST)
		return -errno;
	err = program_load(g);
	if (!err)
		err = settings_write(g, cfg);
	if (!err)
		err = denied_write(g, cfg);
	if (err)
		return err;
	for (size_t i = 0; i < cfg->guard_interfaces.count; i++)
		interface_add(g, cfg->guard_interfaces.items[i], wish);
	if (!cfg->guard_interfaces.count)
		interfaces_find(g, wish);
	return g->count ? 0 : -ENODEV;
}

int guard_new(const struct config *cfg, struct guard **ret)
{
	enum guard_mode wish;
	struct guard *g;
	int err;

	*ret = NULL;
	if (!cfg->guard || strcmp(cfg->guard, "off") == 0)
		return 0;
	if (guard_mode_parse(cfg->guard, &wish)) {
		log_error("guard: %s is none of off, auto, native, generic, tc", cfg->guard);
		return -EINVAL;
	}
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	snprintf(g->dir, sizeof(g->dir), "%s/guard", cfg->bpffs_dir);
	err = guard_start(g, cfg, wish);
	if (err) {
		guard_free(g);
		log_error("guard: cannot start: %s", strerror(-err));
		return wish == GUARD_AUTO && err != -EINVAL ? 0 : err;
	}
	*ret = g;
	return 0;
}

void guard_free(struct guard *g)
{
	if (!g)
		return;
	guard_bpf__destroy(g->skel);
	free(g);
}

void guard_write_metrics(const struct guard *g, FILE *f)
{
	struct sluice_guard_count counts[SLUICE_GUARD_VERDICTS];

	if (!g || guard_counts_read(bpf_map__fd(g->skel->maps.guard_counts), counts))
		return;
	fputs("# HELP sluice_guard_packets_total Packets seen before TCP, by verdict\n"
	      "# TYPE sluice_guard_packets_total counter\n",
	      f);
	for (unsigned int v = 0; v < SLUICE_GUARD_VERDICTS; v++)
		fprintf(f, "sluice_guard_packets_total{verdict=\"%s\"} %llu\n",
			guard_verdict_name(v), (unsigned long long)counts[v].packets);
	fputs("# HELP sluice_guard_dry_run_packets_total Packets that would have been dropped\n"
	      "# TYPE sluice_guard_dry_run_packets_total counter\n",
	      f);
	for (unsigned int v = SLUICE_GUARD_DENIED; v < SLUICE_GUARD_VERDICTS; v++)
		fprintf(f, "sluice_guard_dry_run_packets_total{verdict=\"%s\"} %llu\n",
			guard_verdict_name(v), (unsigned long long)counts[v].dry_run_packets);
	fputs("# HELP sluice_guard_interface Interfaces that are guarded, and how\n"
	      "# TYPE sluice_guard_interface gauge\n",
	      f);
	for (unsigned int i = 0; i < g->count; i++)
		fprintf(f, "sluice_guard_interface{interface=\"%s\",mode=\"%s\"} 1\n",
			g->interfaces[i].name, guard_mode_name(g->interfaces[i].mode));
}
