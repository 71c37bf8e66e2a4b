/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flows that the kernel carries, from the maps themselves: a flow outlives the agent, so the
 * list must too. The note beside each tells whose request it is.
 */
#include "sluicectl/flows.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "sluice/splice.h"

static int map_open(const char *dir, const char *name)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/splice/%s", dir, name);
	fd = bpf_obj_get(path);
	if (fd < 0)
		fprintf(stderr, "sluicectl: no flows at %s: %s\n", path, strerror(errno));
	return fd;
}

static const char *address(char *to, size_t size, const __u32 *addr, __u16 port)
{
	char text[INET6_ADDRSTRLEN] = "";
	bool v4 = !addr[0] && !addr[1] && addr[2] == htonl(0xffff);

	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? &addr[3] : addr, text, sizeof(text));
	snprintf(to, size, v4 ? "%s:%u" : "[%s]:%u", text, ntohs(port));
	return to;
}

static const char *state_name(__u32 state)
{
	static const char *const names[] = {"new", "drain", "spliced", "closed"};

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "";
}

static json_t *flow_json(const struct sluice_flow *e, const struct sluice_flow *c,
			 struct sluice_flow_note *note)
{
	__u64 now_ns = clock_mono_ns(), moved_ns = e->last_ns ? e->last_ns : e->armed_ns;
	char client[64], endpoint[64];

	note->request_id[sizeof(note->request_id) - 1] = '\0';
	note->model[sizeof(note->model) - 1] = '\0';
	return json_pack(
		"{s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:b}", "request_id",
		note->request_id, "client",
		address(client, sizeof(client), e->peer.peer, e->peer.peer_port), "endpoint",
		address(endpoint, sizeof(endpoint), e->key.peer, e->key.peer_port), "model",
		note->model, "state", state_name(e->state), "age_ms",
		(json_int_t)((now_ns - e->armed_ns) / NS_PER_MS), "idle_ms",
		(json_int_t)((now_ns - moved_ns) / NS_PER_MS), "sent_bytes",
		(json_int_t)e->sent_bytes, "acked_bytes", (json_int_t)c->acked_bytes, "packets",
		(json_int_t)e->data_packets, "stalls", (json_int_t)e->stalls, "client_dropped",
		(json_int_t)c->dropped, "fin", (e->flags & SLUICE_FLOW_FIN) != 0, "rst",
		((e->flags | c->flags) & SLUICE_FLOW_RST) != 0);
}

static void row_print(json_t *f)
{
	const char *id, *client, *endpoint, *state;
	json_int_t age, idle, sent, acked, packets;

	if (json_unpack(f, "{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I}", "request_id", &id, "client",
			&client, "endpoint", &endpoint, "state", &state, "age_ms", &age, "idle_ms",
			&idle, "sent_bytes", &sent, "acked_bytes", &acked, "packets", &packets))
		return;
	printf("%-34s %-22s %-22s %-8s %8lld %8lld %10lld %10lld %8lld\n", id, client, endpoint,
	       state, (long long)age, (long long)idle, (long long)sent, (long long)acked,
	       (long long)packets);
}

int flows_command(const char *bpffs_dir, bool json)
{
	int flows_fd __cleanup(fd_close) = map_open(bpffs_dir, "flows");
	int notes_fd __cleanup(fd_close) = -1;
	struct sluice_flow_key key, next, *from = NULL;
	json_t *all;

	if (flows_fd < 0)
		return 1;
	notes_fd = map_open(bpffs_dir, "notes");
	all = json_array();
	if (!json)
		printf("%-34s %-22s %-22s %-8s %8s %8s %10s %10s %8s\n", "REQUEST-ID", "CLIENT",
		       "ENDPOINT", "STATE", "AGE ms", "IDLE ms", "SENT", "ACKED", "PACKETS");
	while (bpf_map_get_next_key(flows_fd, from, &next) == 0) {
		struct sluice_flow_note note = {.request_id = "-"};
		struct sluice_flow e, c = {0};
		json_t *row;

		key = next;
		from = &key;
		if (bpf_map_lookup_elem(flows_fd, &key, &e) || e.direction != SLUICE_FROM_ENDPOINT)
			continue;
		bpf_map_lookup_elem(flows_fd, &e.peer, &c);
		bpf_map_lookup_elem(notes_fd, &e.peer, &note);
		row = flow_json(&e, &c, &note);
		if (!json)
			row_print(row);
		json_array_append_new(all, row);
	}
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(all);
	return 0;
}
