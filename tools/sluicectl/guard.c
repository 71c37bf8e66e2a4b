/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard's commands work on the maps themselves, not over the admin port: the deny list must be
 * reachable in the very minute in which a flood keeps the agent busy, or after the agent is gone.
 */
#include "sluicectl/guard.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "controlplane/guard.h"

struct form {
	const char *name, *arguments, *help;
	int count; /* of arguments; -1: any */
	int (*run)(const char *dir, bool json, int count, const char *const *arguments);
};

static int map_open(const char *dir, const char *name)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/guard/%s", dir, name);
	fd = bpf_obj_get(path);
	if (fd < 0)
		fprintf(stderr, "sluicectl: no guard at %s: %s (is sluiced --guard in force?)\n",
			path, strerror(errno));
	return fd;
}

static int failed(const char *what)
{
	fprintf(stderr, "sluicectl: %s: %s\n", what, strerror(errno));
	return 1;
}

static bool prefix_of(const char *text, struct sluice_guard_prefix *ret)
{
	if (guard_prefix_parse(text, ret) == 0)
		return true;
	fprintf(stderr, "sluicectl: %s is no prefix such as 10.0.0.0/8 or 2001:db8::/32\n", text);
	return false;
}

static int row_set(const char *dir, const char *text, __u32 action)
{
	int fd __cleanup(fd_close) = -1;
	struct sluice_guard_prefix prefix;

	if (!prefix_of(text, &prefix))
		return 2;
	fd = map_open(dir, "guard_deny");
	if (fd < 0)
		return 1;
	if (bpf_map_update_elem(fd, &prefix, &action, BPF_ANY))
		return failed(errno == ENOSPC ? "the deny list is full" : text);
	return 0;
}

static int run_deny(const char *dir, bool json, int count, const char *const *arguments)
{
	(void)json;
	(void)count;
	return row_set(dir, arguments[0], SLUICE_GUARD_DENY);
}

static int run_allow(const char *dir, bool json, int count, const char *const *arguments)
{
	(void)json;
	(void)count;
	return row_set(dir, arguments[0], SLUICE_GUARD_ALLOW);
}

static int run_remove(const char *dir, bool json, int count, const char *const *arguments)
{
	int fd __cleanup(fd_close) = -1;
	struct sluice_guard_prefix prefix;

	(void)json;
	(void)count;
	if (!prefix_of(arguments[0], &prefix))
		return 2;
	fd = map_open(dir, "guard_deny");
	if (fd < 0)
		return 1;
	return bpf_map_delete_elem(fd, &prefix) ? failed(arguments[0]) : 0;
}

static int run_budget(const char *dir, bool json, int count, const char *const *arguments)
{
	int fd __cleanup(fd_close) = -1;
	struct sluice_guard_settings s;
	unsigned long long n[4] = {0, 256, 0, 4096};
	__u32 zero = 0;

	(void)json;
	if (count < 2 || count > 4) {
		fprintf(stderr, "sluicectl: guard budget SYNS PACKETS [SYN-BURST PACKET-BURST]\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		static const int to[] = {0, 2, 1, 3};
		char *end;

		n[to[i]] = strtoull(arguments[i], &end, 10);
		if (arguments[i][0] < '0' || arguments[i][0] > '9' || *end || n[to[i]] > NS_PER_S) {
			fprintf(stderr, "sluicectl: %s is no number per second\n", arguments[i]);
			return 2;
		}
	}
	fd = map_open(dir, "guard_settings");
	if (fd < 0)
		return 1;
	if (bpf_map_lookup_elem(fd, &zero, &s))
		return failed("settings");
	guard_settings_rates(&s, n[0], n[1], n[2], n[3]);
	return bpf_map_update_elem(fd, &zero, &s, BPF_ANY) ? failed("settings") : 0;
}

static int run_dry_run(const char *dir, bool json, int count, const char *const *arguments)
{
	int fd __cleanup(fd_close) = -1;
	struct sluice_guard_settings s;
	__u32 zero = 0;

	(void)json;
	(void)count;
	if (strcmp(arguments[0], "on") != 0 && strcmp(arguments[0], "off") != 0) {
		fprintf(stderr, "sluicectl: guard dry-run on|off\n");
		return 2;
	}
	fd = map_open(dir, "guard_settings");
	if (fd < 0)
		return 1;
	if (bpf_map_lookup_elem(fd, &zero, &s))
		return failed("settings");
	s.dry_run = arguments[0][1] == 'n';
	return bpf_map_update_elem(fd, &zero, &s, BPF_ANY) ? failed("settings") : 0;
}

/* ---- list -------------------------------------------------------------------------------------
 */

static int rows_read(const char *dir, json_t *to)
{
	int fd __cleanup(fd_close) = map_open(dir, "guard_deny");
	struct sluice_guard_prefix key, next;
	bool first = true;
	__u32 action;
	char text[64];

	if (fd < 0)
		return 1;
	while (bpf_map_get_next_key(fd, first ? NULL : &key, &next) == 0) {
		key = next;
		first = false;
		if (bpf_map_lookup_elem(fd, &key, &action))
			continue;
		guard_prefix_format(&key, text, sizeof(text));
		json_array_append_new(to,
				      json_pack("{ssss}", "prefix", text, "action",
						action == SLUICE_GUARD_DENY ? "deny" : "allow"));
	}
	return 0;
}

static int counts_read(const char *dir, json_t *to)
{
	int fd __cleanup(fd_close) = map_open(dir, "guard_counts");
	struct sluice_guard_count counts[SLUICE_GUARD_VERDICTS];

	if (fd < 0)
		return 1;
	if (guard_counts_read(fd, counts))
		return failed("counts");
	for (unsigned int v = 0; v < SLUICE_GUARD_VERDICTS; v++)
		json_object_set_new(to, guard_verdict_name(v),
				    json_pack("{sIsIsI}", "packets", (json_int_t)counts[v].packets,
					      "bytes", (json_int_t)counts[v].bytes, "dry_run",
					      (json_int_t)counts[v].dry_run_packets));
	return 0;
}

static json_int_t per_second(__u64 interval_ns)
{
	return interval_ns ? (json_int_t)(NS_PER_S / interval_ns) : 0;
}

static int settings_read(const char *dir, json_t *to)
{
	int fd __cleanup(fd_close) = map_open(dir, "guard_settings");
	struct sluice_guard_settings s;
	json_t *ports = json_array();
	__u32 zero = 0;

	json_object_set_new(to, "ports", ports);
	if (fd < 0)
		return 1;
	if (bpf_map_lookup_elem(fd, &zero, &s))
		return failed("settings");
	for (__u32 i = 0; i < s.port_count && i < SLUICE_GUARD_PORTS_MAX; i++)
		json_array_append_new(ports, json_integer(s.ports[i]));
	json_object_set_new(to, "syns_per_second", json_integer(per_second(s.syn_interval_ns)));
	json_object_set_new(to, "packets_per_second",
			    json_integer(per_second(s.packet_interval_ns)));
	json_object_set_new(to, "dry_run", json_boolean(s.dry_run));
	return 0;
}

static void print_budget(const char *name, json_t *rate)
{
	if (json_integer_value(rate))
		printf(", %s per source and second %lld", name,
		       (long long)json_integer_value(rate));
	else
		printf(", %s not limited", name);
}

static void list_print(json_t *settings, json_t *counts, json_t *rows)
{
	const char *name;
	json_t *one;
	size_t i;

	printf("ports");
	json_array_foreach(json_object_get(settings, "ports"), i, one)
		printf(" %lld", (long long)json_integer_value(one));
	print_budget("connections", json_object_get(settings, "syns_per_second"));
	print_budget("packets", json_object_get(settings, "packets_per_second"));
	printf("%s\n\n", json_is_true(json_object_get(settings, "dry_run"))
				 ? "; DRY RUN: nothing is dropped"
				 : "");
	printf("%-14s %14s %16s %14s\n", "verdict", "packets", "bytes", "only counted");
	json_object_foreach(counts, name, one)
		printf("%-14s %14lld %16lld %14lld\n", name,
		       (long long)json_integer_value(json_object_get(one, "packets")),
		       (long long)json_integer_value(json_object_get(one, "bytes")),
		       (long long)json_integer_value(json_object_get(one, "dry_run")));
	if (json_array_size(rows))
		printf("\n%-8s %s\n", "action", "prefix");
	json_array_foreach(rows, i, one)
		printf("%-8s %s\n", json_string_value(json_object_get(one, "action")),
		       json_string_value(json_object_get(one, "prefix")));
}

static int run_list(const char *dir, bool json, int count, const char *const *arguments)
{
	json_t *settings = json_object(), *counts = json_object(), *rows = json_array();
	int status = settings_read(dir, settings);

	(void)count;
	(void)arguments;
	if (!status)
		status = counts_read(dir, counts);
	if (!status)
		status = rows_read(dir, rows);
	if (!status && json) {
		json_t *all = json_pack("{sOsOsO}", "settings", settings, "verdicts", counts,
					"prefixes", rows);

		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(all);
	} else if (!status) {
		list_print(settings, counts, rows);
	}
	json_decref(settings);
	json_decref(counts);
	json_decref(rows);
	return status;
}

static const struct form forms[] = {
	{"list", "", "settings, counters by verdict, deny list", 0, run_list},
	{"deny", "PREFIX", "drop everything from it to our ports", 1, run_deny},
	{"allow", "PREFIX", "an exception, and no budget", 1, run_allow},
	{"remove", "PREFIX", "forget either", 1, run_remove},
	{"budget", "SYNS PACKETS", "per source and second; 0: no limit", -1, run_budget},
	{"dry-run", "on|off", "count, and drop nothing", 1, run_dry_run},
};

void guard_help(void)
{
	char text[64];

	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		snprintf(text, sizeof(text), "guard %s%s%s", forms[i].name,
			 *forms[i].arguments ? " " : "", forms[i].arguments);
		printf("  %-34s  %s\n", text, forms[i].help);
	}
}

int guard_command(const char *bpffs_dir, bool json, int count, const char *const *words)
{
	for (size_t i = 0; count && i < sizeof(forms) / sizeof(*forms); i++) {
		if (strcmp(forms[i].name, words[0]) != 0)
			continue;
		if (forms[i].count >= 0 && forms[i].count != count - 1) {
			fprintf(stderr, "sluicectl: guard %s %s\n", forms[i].name,
				forms[i].arguments);
			return 2;
		}
		return forms[i].run(bpffs_dir, json, count - 1, words + 1);
	}
	fprintf(stderr, "sluicectl: guard list|deny|allow|remove|budget|dry-run (see --help)\n");
	return 2;
}
