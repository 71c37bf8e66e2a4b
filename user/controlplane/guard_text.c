/* SPDX-License-Identifier: Apache-2.0 */
/* The guard in words: prefixes, verdicts, rates. Linked by the agent and by sluicectl. */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "controlplane/guard.h"

#define V4_MAPPED_BITS 96

/* No bit may be set behind the prefix's end: "10.1.2.3/8" is more likely a slip than a wish. */
static bool tail_is_zero(const struct sluice_guard_prefix *p)
{
	for (unsigned int bit = p->bits; bit < 128; bit++)
		if (p->addr[bit / 8] >> (7 - bit % 8) & 1)
			return false;
	return true;
}

int guard_prefix_parse(const char *text, struct sluice_guard_prefix *ret)
{
	static const unsigned char v4_mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct sluice_guard_prefix p = {.bits = 128};
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	char addr[INET6_ADDRSTRLEN], *end = NULL;
	unsigned long bits;
	bool is_v4;

	if (len >= sizeof(addr))
		return -EINVAL;
	memcpy(addr, text, len);
	addr[len] = '\0';
	is_v4 = inet_pton(AF_INET, addr, p.addr + 12) == 1;
	if (is_v4)
		memcpy(p.addr, v4_mapped, sizeof(v4_mapped));
	else if (inet_pton(AF_INET6, addr, p.addr) != 1)
		return -EINVAL;
	if (slash) {
		bits = strtoul(slash + 1, &end, 10);
		if (slash[1] < '0' || slash[1] > '9' || *end || bits > (is_v4 ? 32u : 128u))
			return -EINVAL;
		p.bits = (unsigned int)bits + (is_v4 ? V4_MAPPED_BITS : 0);
	}
	if (!tail_is_zero(&p))
		return -EINVAL;
	*ret = p;
	return 0;
}

void guard_prefix_format(const struct sluice_guard_prefix *p, char *buf, size_t size)
{
	char addr[INET6_ADDRSTRLEN];

	if (p->bits >= V4_MAPPED_BITS && p->addr[10] == 0xff && p->addr[11] == 0xff) {
		inet_ntop(AF_INET, p->addr + 12, addr, sizeof(addr));
		snprintf(buf, size, "%s/%u", addr, p->bits - V4_MAPPED_BITS);
	} else {
		inet_ntop(AF_INET6, p->addr, addr, sizeof(addr));
		snprintf(buf, size, "%s/%u", addr, p->bits);
	}
}

const char *guard_verdict_name(unsigned int verdict)
{
	static const char *const names[SLUICE_GUARD_VERDICTS] = {
		[SLUICE_GUARD_OTHER] = "other",
		[SLUICE_GUARD_PASSED] = "passed",
		[SLUICE_GUARD_EXEMPT] = "exempt",
		[SLUICE_GUARD_DENIED] = "denied",
		[SLUICE_GUARD_SYN_BUDGET] = "syn-budget",
		[SLUICE_GUARD_PACKET_BUDGET] = "packet-budget",
		[SLUICE_GUARD_MALFORMED] = "malformed",
	};

	return verdict < SLUICE_GUARD_VERDICTS ? names[verdict] : "unknown";
}

int guard_counts_read(int map_fd, struct sluice_guard_count *ret_counts)
{
	int cpus = libbpf_num_possible_cpus();
	struct sluice_guard_count *each;
	int err = 0;

	if (cpus < 0)
		return cpus;
	each = calloc((size_t)cpus, sizeof(*each));
	if (!each)
		return -ENOMEM;
	memset(ret_counts, 0, SLUICE_GUARD_VERDICTS * sizeof(*ret_counts));
	for (__u32 v = 0; v < SLUICE_GUARD_VERDICTS && !err; v++) {
		if (bpf_map_lookup_elem(map_fd, &v, each))
			err = -errno;
		for (int i = 0; i < cpus && !err; i++) {
			ret_counts[v].packets += each[i].packets;
			ret_counts[v].bytes += each[i].bytes;
			ret_counts[v].dry_run_packets += each[i].dry_run_packets;
		}
	}
	free(each);
	return err;
}

static void rate(uint64_t per_second, uint64_t burst, __u64 *ret_interval, __u64 *ret_burst)
{
	*ret_interval = per_second ? NS_PER_S / per_second : 0;
	*ret_burst = *ret_interval * (burst ? burst : 1);
}

void guard_settings_rates(struct sluice_guard_settings *s, uint64_t syns, uint64_t syn_burst,
			  uint64_t packets, uint64_t packet_burst)
{
	rate(syns, syn_burst, &s->syn_interval_ns, &s->syn_burst_ns);
	rate(packets, packet_burst, &s->packet_interval_ns, &s->packet_burst_ns);
}
