/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open skeleton -> reuse pinned maps -> load -> attach -> pin the links. Invariant: while any flow
 * is in the pinned map, that map is never replaced.
 */
#include "dataplane/splice_maps.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#include "splice.skel.h"

#define TCX_INGRESS 46 /* BPF_TCX_INGRESS and _EGRESS, Linux 6.6; absent from older headers */
#define TCX_EGRESS  47
#define CPUS_MAX    1024

static struct splice_bpf *skel;
static int control_fd = -1, flows_fd = -1, legs_fd = -1, notes_fd = -1, owners_fd = -1;
static char pin_dir[240];
static _Atomic unsigned int attached;

static const char *const pinned_maps[] = {"flows",  "legs",    "notes",
					  "owners", "latency", "splice_counts"};

static int maps_prepare(const struct config *cfg)
{
	char path[300];
	int err;

	err = bpf_map__set_max_entries(skel->maps.flows, 2 * (__u32)cfg->flows_max);
	if (!err)
		err = bpf_map__set_max_entries(skel->maps.notes, (__u32)cfg->flows_max);
	for (size_t i = 0; i < sizeof(pinned_maps) / sizeof(pinned_maps[0]) && !err; i++) {
		snprintf(path, sizeof(path), "%s/%s", pin_dir, pinned_maps[i]);
		err = bpf_map__set_pin_path(bpf_object__find_map_by_name(skel->obj, pinned_maps[i]),
					    path);
	}
	return err;
}

static void ports_set(const struct config *cfg)
{
	unsigned int n = 0;

	for (size_t i = 0; i < cfg->listen.count; i++) {
		const char *colon = strrchr(cfg->listen.items[i], ':');

		if (strncmp(cfg->listen.items[i], "unix:", 5) == 0 || !colon)
			continue;
		if (n < SLUICE_SPLICE_PORTS_MAX)
			skel->rodata->listen_ports[n++] = htons((uint16_t)atoi(colon + 1));
		else
			log_warn("splice: more than %d ports, clients of %s are relayed",
				 SLUICE_SPLICE_PORTS_MAX, cfg->listen.items[i]);
	}
}

static int load(const struct config *cfg)
{
	int err;

	skel = splice_bpf__open();
	if (!skel)
		return -errno;
	ports_set(cfg);
	err = maps_prepare(cfg);
	return err ? err : splice_bpf__load(skel);
}

/* Is there a flow in the map that is pinned now? */
static bool flows_are_running(void)
{
	unsigned char key[256];
	char path[300];
	int fd __cleanup(fd_close) = -1;

	snprintf(path, sizeof(path), "%s/flows", pin_dir);
	fd = bpf_obj_get(path);
	return fd >= 0 && bpf_map_get_next_key(fd, NULL, key) == 0;
}

static void pins_remove(void)
{
	char path[300];

	for (size_t i = 0; i < sizeof(pinned_maps) / sizeof(pinned_maps[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", pin_dir, pinned_maps[i]);
		unlink(path);
	}
}

/* The text view. Without iterators there is none, and nothing else is missing. */
static void view_pin(const char *bpffs_dir)
{
	union bpf_iter_link_info info = {.map.map_fd = (__u32)flows_fd};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));
	struct bpf_link *link = bpf_program__attach_iter(skel->progs.show_flows, &opts);
	char path[300];

	if (!link)
		return;
	snprintf(path, sizeof(path), "%.240s/show", bpffs_dir);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%.240s/show/flows", bpffs_dir);
	unlink(path);
	bpf_link__pin(link, path);
	bpf_link__destroy(link); /* the pin keeps it */
}

int splice_maps_open(const struct config *cfg)
{
	int err;

	if (snprintf(pin_dir, sizeof(pin_dir), "%s/splice", cfg->bpffs_dir) >= (int)sizeof(pin_dir))
		return -ENAMETOOLONG;
	mkdir(cfg->bpffs_dir, 0700);
	if (mkdir(pin_dir, 0700) && errno != EEXIST)
		return -errno;
	err = load(cfg);
	if (err && err != -EPERM && !flows_are_running()) {
		splice_bpf__destroy(skel);
		pins_remove();
		err = load(cfg);
	} else if (err && err != -EPERM) {
		log_warn("splice: the pinned maps do not fit, and flows still run in them");
	}
	if (err) {
		splice_bpf__destroy(skel);
		skel = NULL;
		return err;
	}
	control_fd = bpf_program__fd(skel->progs.on_control);
	flows_fd = bpf_map__fd(skel->maps.flows);
	legs_fd = bpf_map__fd(skel->maps.legs);
	notes_fd = bpf_map__fd(skel->maps.notes);
	owners_fd = bpf_map__fd(skel->maps.owners);
	view_pin(cfg->bpffs_dir);
	return 0;
}

void splice_maps_close(void)
{
	splice_bpf__destroy(skel);
	skel = NULL;
	attached = 0;
}

/* ---- interfaces --------------------------------------------------------------------------------
 */

static void link_path(char *to, size_t size, const char *name, bool egress)
{
	snprintf(to, size, "%s/link_%s_%s", pin_dir, name, egress ? "out" : "in");
}

/* True if the pinned link of this very interface could be given the new program. */
static bool link_update(int ifindex, int prog_fd, const char *path)
{
	int fd __cleanup(fd_close) = bpf_obj_get(path);
	struct bpf_link_info info = {0};
	__u32 len = sizeof(info);

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len))
		return false;
	if ((int)info.xdp.ifindex != ifindex) /* where tcx links have it too */
		return false;
	return bpf_link_update(fd, prog_fd, NULL) == 0;
}

static int hook(int ifindex, const char *name, bool egress)
{
	int prog_fd = bpf_program__fd(egress ? skel->progs.on_egress : skel->progs.on_ingress);
	int fd __cleanup(fd_close) = -1;
	char path[300];

	link_path(path, sizeof(path), name, egress);
	if (link_update(ifindex, prog_fd, path))
		return 0;
	unlink(path);
	fd = bpf_link_create(prog_fd, ifindex,
			     (enum bpf_attach_type)(egress ? TCX_EGRESS : TCX_INGRESS), NULL);
	if (fd < 0)
		return -errno;
	return bpf_obj_pin(fd, path) ? -errno : 0;
}

/* Egress first: what ingress notes is of no use without it. */
int splice_maps_attach(int ifindex, const char *name)
{
	int err;

	if (!skel)
		return -ENODEV;
	if (strlen(name) >= IF_NAMESIZE)
		return -EINVAL;
	err = hook(ifindex, name, true);
	if (!err)
		err = hook(ifindex, name, false);
	if (!err)
		attached++;
	return err;
}

void splice_maps_detach(const char *name, bool gone)
{
	char path[300];

	(void)gone; /* the pin of a link without its interface is of no use either */
	for (int egress = 0; egress < 2; egress++) {
		link_path(path, sizeof(path), name, egress);
		unlink(path);
	}
	if (attached)
		attached--;
}

unsigned int splice_maps_attached(void)
{
	return attached;
}

/* ---- elements ----------------------------------------------------------------------------------
 */

int splice_control(struct sluice_control *c)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = c, .ctx_size_in = sizeof(*c));

	return bpf_prog_test_run_opts(control_fd, &opts) ? -errno : 0;
}

static int element_read(int fd, const void *key, void *ret)
{
	return bpf_map_lookup_elem(fd, key, ret) ? -errno : 0;
}

int splice_leg_read(const struct sluice_flow_key *key, struct sluice_leg *ret)
{
	return element_read(legs_fd, key, ret);
}

int splice_flow_read(const struct sluice_flow_key *key, struct sluice_flow *ret)
{
	return element_read(flows_fd, key, ret);
}

bool splice_flow_exists(const struct sluice_flow_key *key)
{
	struct sluice_flow f;

	return element_read(flows_fd, key, &f) == 0;
}

int splice_note_write(const struct sluice_flow_key *client, const struct sluice_flow_note *note)
{
	return bpf_map_update_elem(notes_fd, client, note, BPF_ANY) ? -errno : 0;
}

int splice_note_read(const struct sluice_flow_key *client, struct sluice_flow_note *ret)
{
	return element_read(notes_fd, client, ret);
}

unsigned int splice_flows_walk(bool first, struct sluice_flow *ret, bool *ret_more)
{
	static struct sluice_flow_key keys[SPLICE_WALK];
	static __u32 batch; /* a bucket's number, whatever the key's size */
	__u32 next, n = SPLICE_WALK;
	int err = bpf_map_lookup_batch(flows_fd, first ? NULL : &batch, &next, keys, ret, &n, NULL);

	batch = next;
	*ret_more = err == 0;
	return err && errno != ENOENT ? 0 : n;
}

void splice_note_delete(const struct sluice_flow_key *client)
{
	bpf_map_delete_elem(notes_fd, client);
}

uint64_t splice_owner_seen(uint32_t owner)
{
	uint64_t seen_ns = 0;

	return element_read(owners_fd, &owner, &seen_ns) ? 0 : seen_ns;
}

void splice_owner_alive(uint32_t owner, uint64_t now_ns)
{
	uint32_t old, next, *from = NULL;

	/* the numbers of agents that are long gone make room */
	while (bpf_map_get_next_key(owners_fd, from, &next) == 0) {
		uint64_t seen_ns = splice_owner_seen(next);

		old = next;
		from = &old;
		if (seen_ns + 3600 * 1000000000ULL < now_ns) {
			bpf_map_delete_elem(owners_fd, &next);
			from = NULL;
		}
	}
	bpf_map_update_elem(owners_fd, &owner, &now_ns, BPF_ANY);
}

void splice_owner_forget(uint32_t owner)
{
	bpf_map_delete_elem(owners_fd, &owner);
}

int splice_events_fd(void)
{
	return bpf_map__fd(skel->maps.events);
}

void splice_maps_write_metrics(FILE *f)
{
	static const char *const names[SLUICE_SPLICE_COUNT] = {
#define X(id, name) name,
		SLUICE_SPLICE_COUNTS(X)
#undef X
	};
	int cpus = libbpf_num_possible_cpus();
	__u64 values[CPUS_MAX];

	if (!skel || cpus <= 0 || cpus > CPUS_MAX)
		return;
	fputs("# HELP sluice_splice_packets_total Packets that the splice carried, dropped or "
	      "changed, by what became of them\n# TYPE sluice_splice_packets_total counter\n",
	      f);
	for (__u32 i = 0; i < SLUICE_SPLICE_COUNT; i++) {
		unsigned long long sum = 0;

		if (bpf_map_lookup_elem(bpf_map__fd(skel->maps.splice_counts), &i, values))
			continue;
		for (int cpu = 0; cpu < cpus; cpu++)
			sum += values[cpu];
		fprintf(f, "sluice_splice_packets_total{kind=\"%s\"} %llu\n", names[i], sum);
	}
}
