/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each worker walks through its own share of the range, so that two never meet; a port is taken
 * when no flow holds it towards this endpoint and the kernel lets us bind it.
 */
#include "dataplane/splice_ports.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "dataplane/splice_maps.h"
#include "dataplane/upstream.h"

#define PORT_LOW       10240
#define PORTS_FEW      4096
#define TRIES	       64
#define SOURCE_KEPT_MS 5000 /* routes change seldom */

static uint32_t port_low = PORT_LOW, port_count, share;

/* The address by which an endpoint is reached, for a while. */
struct source {
	uint32_t generation, address;
	uint64_t until_ms;
};

static struct {
	uint32_t next;
	struct source sources[ENDPOINTS_MAX];
} workers[WORKERS_MAX];

void splice_ports_init(const struct config *cfg)
{
	FILE *f __cleanup(file_close) = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
	unsigned int low = 32768, high = 60999;

	if (f && fscanf(f, "%u %u", &low, &high) != 2)
		low = 32768;
	if (low < PORT_LOW + PORTS_FEW) {
		log_warn("splice: the kernel's own ports begin at %u; ours are among them", low);
		low = 65536;
	}
	port_count = low - PORT_LOW;
	share = cfg->workers ? (uint32_t)cfg->workers : WORKERS_MAX;
	for (unsigned int i = 0; i < WORKERS_MAX; i++)
		if (getrandom(&workers[i].next, sizeof(workers[i].next), 0) < 0)
			workers[i].next = (uint32_t)clock_mono_ns();
}

/* The address that the route to the endpoint gives us. */
static int source_find(const struct endpoint *ep, uint32_t *ret)
{
	int fd __cleanup(fd_close) = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in here;
	socklen_t len = sizeof(here);

	if (fd < 0 || connect(fd, (const struct sockaddr *)&ep->addr, ep->addr_len) ||
	    getsockname(fd, (struct sockaddr *)&here, &len))
		return -errno;
	*ret = here.sin_addr.s_addr;
	return 0;
}

static int source_get(unsigned int worker, const struct endpoint *ep, uint32_t *ret)
{
	struct source *s = &workers[worker].sources[ep->slot];
	uint64_t now_ms = clock_mono_ns() / NS_PER_MS;
	int err = 0;

	if (s->until_ms < now_ms || s->generation != ep->generation) {
		err = source_find(ep, &s->address);
		s->generation = ep->generation;
		s->until_ms = err ? 0 : now_ms + SOURCE_KEPT_MS;
	}
	*ret = s->address;
	return err;
}

int splice_ports_bind(struct upstream *up, uint32_t *ret_here, uint16_t *ret_port)
{
	unsigned int worker = up->worker->index;
	const struct sockaddr_in *to = (const void *)&up->endpoint->addr;
	struct sluice_flow_key k = {.peer = {0, 0, htonl(0xffff), to->sin_addr.s_addr},
				    .here = {0, 0, htonl(0xffff), 0},
				    .peer_port = to->sin_port};
	struct sockaddr_in here = {.sin_family = AF_INET};
	uint32_t steps = port_count / share;
	int one = 1, err = source_get(worker, up->endpoint, ret_here);

	if (err)
		return err;
	setsockopt(up->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	k.here[3] = here.sin_addr.s_addr = *ret_here;
	for (unsigned int i = 0; i < TRIES; i++) {
		uint32_t step = workers[worker].next++ % steps;
		uint16_t port = (uint16_t)(port_low + step * share + worker % share);

		k.here_port = here.sin_port = htons(port);
		if (splice_flow_exists(&k))
			continue;
		if (bind(up->fd, (struct sockaddr *)&here, sizeof(here)) == 0) {
			*ret_port = port;
			return 0;
		}
	}
	return -EADDRNOTAVAIL;
}
