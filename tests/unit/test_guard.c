/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: frames in, verdicts out. The decisions run natively, each cut at every length against
 * the end of a page; then the loaded program runs the same rows through BPF_PROG_TEST_RUN.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../bpf/guard.h"
#include "controlplane/guard.h"

#include "guard.skel.h"

#define PORT	     8080
#define FRAME_BYTES  160
#define LINK_DROPPED 1 /* XDP_DROP */
#define LINK_PASSED  2 /* XDP_PASS */
#define TC_DROPPED   2
#define TC_NEXT	     -1

struct frame {
	const char *sentence;
	bool v6;
	unsigned int vlan_tags, v6_options, ip_options; /* options in words of 4 (v4) or 8 bytes */
	uint16_t fragment;				/* offset field as sent */
	uint8_t protocol, flags, tcp_words;		/* 0: TCP, 5 */
	unsigned int cut;				/* bytes missing at the end */
	uint16_t port;
	const char *source;
	enum sluice_guard_verdict verdict;
};

#define A 0x10
#define S 0x02

static const struct frame frames[] = {
	{.sentence = "a segment to our port passes", .flags = A, .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "a SYN passes", .flags = S, .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "a reset passes", .flags = 0x04, .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "a FIN with ACK passes", .flags = 0x11, .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "IPv6 passes", .v6 = true, .flags = A, .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "IPv4 options are skipped",
	 .flags = A,
	 .ip_options = 10,
	 .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "IPv6 options are skipped",
	 .v6 = true,
	 .flags = A,
	 .v6_options = 3,
	 .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "TCP options are skipped",
	 .flags = A,
	 .tcp_words = 15,
	 .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "one VLAN tag is skipped",
	 .vlan_tags = 1,
	 .flags = A,
	 .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "two VLAN tags are skipped",
	 .vlan_tags = 2,
	 .flags = A,
	 .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "a third VLAN tag is not ours",
	 .vlan_tags = 3,
	 .flags = A,
	 .verdict = SLUICE_GUARD_OTHER},
	{.sentence = "another port is not touched",
	 .flags = 0,
	 .port = 22,
	 .verdict = SLUICE_GUARD_OTHER},
	{.sentence = "UDP is not touched",
	 .protocol = 17,
	 .flags = A,
	 .verdict = SLUICE_GUARD_OTHER},
	{.sentence = "a later fragment has no ports",
	 .flags = A,
	 .fragment = 185,
	 .verdict = SLUICE_GUARD_OTHER},
	{.sentence = "a first fragment has",
	 .flags = A,
	 .fragment = 0x2000,
	 .verdict = SLUICE_GUARD_PASSED},
	{.sentence = "no flags at all is malformed", .flags = 0, .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "SYN with FIN is malformed", .flags = 0x03, .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "SYN with RST is malformed", .flags = 0x06, .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "all flags are malformed", .flags = 0x3f, .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "FIN alone is malformed", .flags = 0x01, .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "a TCP header of 16 bytes is malformed",
	 .flags = A,
	 .tcp_words = 4,
	 .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "a TCP header past the end is malformed",
	 .flags = A,
	 .tcp_words = 15,
	 .cut = 4,
	 .verdict = SLUICE_GUARD_MALFORMED},
	{.sentence = "a denied source is dropped",
	 .source = "10.66.1.2",
	 .flags = A,
	 .verdict = SLUICE_GUARD_DENIED},
	{.sentence = "a denied source may speak to others",
	 .source = "10.66.1.2",
	 .flags = A,
	 .port = 22,
	 .verdict = SLUICE_GUARD_OTHER},
	{.sentence = "an exception within a denied prefix passes",
	 .source = "10.66.7.9",
	 .flags = A,
	 .verdict = SLUICE_GUARD_EXEMPT},
	{.sentence = "a denied IPv6 prefix is dropped",
	 .v6 = true,
	 .source = "2001:db8:66::1",
	 .flags = A,
	 .verdict = SLUICE_GUARD_DENIED},
	{.sentence = "its neighbour passes",
	 .v6 = true,
	 .source = "2001:db8:67::1",
	 .flags = A,
	 .verdict = SLUICE_GUARD_PASSED},
};

static void put16(uint8_t **p, unsigned int v)
{
	*(*p)++ = (uint8_t)(v >> 8);
	*(*p)++ = (uint8_t)v;
}

static void put_address(uint8_t **p, const struct frame *f)
{
	struct sluice_guard_prefix a;

	assert_int_equal(guard_prefix_parse(f->source ? f->source
					    : f->v6   ? "fd00::1"
						      : "192.0.2.7",
					    &a),
			 0);
	memcpy(*p, a.addr + (f->v6 ? 0 : 12), f->v6 ? 16 : 4);
	*p += f->v6 ? 16 : 4;
}

static void put_v4(uint8_t **p, const struct frame *f)
{
	unsigned int words = 5 + f->ip_options;

	put16(p, (0x40 | words) << 8);
	put16(p, words * 4 + 20);
	put16(p, 1);
	put16(p, f->fragment);
	put16(p, 64 << 8 | (f->protocol ? f->protocol : 6));
	put16(p, 0);
	put_address(p, f);
	memset(*p, 1, 4 + f->ip_options * 4);
	*p += 4 + f->ip_options * 4;
}

static void put_v6(uint8_t **p, const struct frame *f)
{
	put16(p, 6 << 12);
	put16(p, 0);
	put16(p, 20);
	*(*p)++ = f->v6_options ? 60 : f->protocol ? f->protocol : 6;
	*(*p)++ = 64;
	put_address(p, f);
	memset(*p, 0xfd, 16);
	*p += 16;
	for (unsigned int i = 0; i < f->v6_options; i++) {
		*(*p)++ = i + 1 < f->v6_options ? 60 : 6;
		*(*p)++ = (uint8_t)i; /* i + 1 words of 8 */
		memset(*p, 0, 6 + i * 8);
		*p += 6 + i * 8;
	}
}

/* Returns the frame's length. */
static size_t frame_write(const struct frame *f, uint8_t *to)
{
	unsigned int words = f->tcp_words ? f->tcp_words : 5;
	uint8_t *p = to;

	memset(p, 2, 12);
	p += 12;
	for (unsigned int i = 0; i < f->vlan_tags; i++) {
		put16(&p, 0x8100);
		put16(&p, 100);
	}
	put16(&p, f->v6 ? 0x86dd : 0x0800);
	if (f->v6)
		put_v6(&p, f);
	else
		put_v4(&p, f);
	put16(&p, 40000);
	put16(&p, f->port ? f->port : PORT);
	memset(p, 0, 8);
	p += 8;
	*p++ = (uint8_t)(words << 4);
	*p++ = f->flags;
	memset(p, 0, 6);
	p += 6;
	if (words > 5) {
		memset(p, 1, (words - 5) * 4);
		p += (words - 5) * 4;
	}
	assert_true(p - to <= FRAME_BYTES);
	return (size_t)(p - to) - f->cut;
}

/* ---- decisions, natively ----------------------------------------------------------------------
 */

static void each_frame_is_read_as_its_sentence_says(void **state)
{
	uint8_t buf[FRAME_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		const struct frame *f = &frames[i];
		size_t len = frame_write(f, buf);
		struct guard_packet packet;
		enum guard_kind kind = guard_parse(buf, buf + len, &packet);
		bool ours = kind != GUARD_KIND_OTHER && packet.port == PORT;

		if (ours != (f->verdict != SLUICE_GUARD_OTHER) ||
		    (kind == GUARD_KIND_MALFORMED && ours) !=
			    (f->verdict == SLUICE_GUARD_MALFORMED))
			fail_msg("%s: kind %d, port %u", f->sentence, kind, packet.port);
		if (kind == GUARD_KIND_TCP)
			assert_int_equal(packet.opens, f->flags == S);
	}
}

/* The frame ends where an unreadable page begins. */
static void no_frame_is_read_past_its_end(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *mem =
		mmap(NULL, page * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t buf[FRAME_BYTES];

	(void)state;
	assert_ptr_not_equal(mem, MAP_FAILED);
	assert_int_equal(mprotect(mem + page, page, PROT_NONE), 0);
	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		size_t len = frame_write(&frames[i], buf);

		for (size_t cut = 0; cut <= len; cut++) {
			uint8_t *at = mem + page - cut;
			struct guard_packet packet;

			memcpy(at, buf, cut);
			if (guard_parse(at, mem + page, &packet) == GUARD_KIND_TCP)
				assert_true(cut >= 14 + 20 + 20);
		}
	}
	munmap(mem, page * 2);
}

static void a_budget_gives_its_burst_and_then_its_rate(void **state)
{
	uint64_t interval = 1000, burst = 5 * interval, now = 1000000;
	__u64 until = 0;

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_true(guard_take(&until, now, interval, burst));
	assert_false(guard_take(&until, now, interval, burst));
	assert_false(guard_take(&until, now + interval - 1, interval, burst));
	assert_true(guard_take(&until, now + interval, interval, burst));
	assert_false(guard_take(&until, now + interval, interval, burst));
	now += 1000 * interval; /* a long rest gives one burst, not a thousand */
	for (int i = 0; i < 5; i++)
		assert_true(guard_take(&until, now, interval, burst));
	assert_false(guard_take(&until, now, interval, burst));
	until = 0;
	for (int i = 0; i < 1000; i++)
		assert_true(guard_take(&until, now, 0, 0));
}

static void a_flood_of_syns_leaves_the_running_connections_alone(void **state)
{
	struct sluice_guard_settings s = {.syn_interval_ns = 1000, .syn_burst_ns = 2000};
	struct sluice_guard_debt debt = {0};

	(void)state;
	assert_int_equal(guard_spend(&debt, true, 1, &s), SLUICE_GUARD_PASSED);
	assert_int_equal(guard_spend(&debt, true, 1, &s), SLUICE_GUARD_PASSED);
	assert_int_equal(guard_spend(&debt, true, 1, &s), SLUICE_GUARD_SYN_BUDGET);
	assert_int_equal(guard_spend(&debt, false, 1, &s), SLUICE_GUARD_PASSED);
	s.packet_interval_ns = 1000;
	s.packet_burst_ns = 1000;
	assert_int_equal(guard_spend(&debt, false, 1, &s), SLUICE_GUARD_PASSED);
	assert_int_equal(guard_spend(&debt, false, 1, &s), SLUICE_GUARD_PACKET_BUDGET);
}

static void prefixes_are_read_and_written_back(void **state)
{
	static const char *const good[] = {"10.0.0.0/8",    "0.0.0.0/0", "192.0.2.1/32",
					   "2001:db8::/32", "::/0",	 "fe80::1/128"};
	static const char *const bad[] = {"",	       "10.0.0.0/33", "10.0.0.1/8",
					  "10.0.0.0/", "10.0/8",      "::/129",
					  "x",	       "10.0.0.0/8 ", "1.2.3.4/-1"};
	struct sluice_guard_prefix p;
	char buf[64];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(guard_prefix_parse(good[i], &p), 0);
		guard_prefix_format(&p, buf, sizeof(buf));
		assert_string_equal(buf, good[i]);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (guard_prefix_parse(bad[i], &p) != -EINVAL)
			fail_msg("taken: '%s'", bad[i]);
	assert_int_equal(guard_prefix_parse("10.1.2.3", &p), 0);
	assert_int_equal(p.bits, 128);
}

/* ---- the loaded program -----------------------------------------------------------------------
 */

static struct guard_bpf *skel;

static int load(void **state)
{
	struct sluice_guard_settings s = {.ports = {443, PORT}, .port_count = 2};
	static const struct {
		const char *prefix;
		__u32 action;
	} rows[] = {{"10.66.0.0/16", SLUICE_GUARD_DENY},
		    {"10.66.7.0/24", SLUICE_GUARD_ALLOW},
		    {"2001:db8:66::/48", SLUICE_GUARD_DENY}};
	__u32 zero = 0;

	(void)state;
	skel = guard_bpf__open_and_load();
	if (!skel) {
		if (geteuid() == 0 && access("/sys/kernel/btf/vmlinux", R_OK) == 0)
			fail_msg("privileged, with BTF, and yet not loaded: %d", errno);
		return 0; /* each test says that it skips */
	}
	assert_int_equal(bpf_map_update_elem(bpf_map__fd(skel->maps.guard_settings), &zero, &s, 0),
			 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sluice_guard_prefix p;

		assert_int_equal(guard_prefix_parse(rows[i].prefix, &p), 0);
		assert_int_equal(bpf_map_update_elem(bpf_map__fd(skel->maps.guard_deny), &p,
						     &rows[i].action, 0),
				 0);
	}
	return 0;
}

static int unload(void **state)
{
	(void)state;
	guard_bpf__destroy(skel);
	return 0;
}

static void loaded_or_skip(void)
{
	if (skel)
		return;
	print_message("skipped: no privileges or no BTF to load BPF programs\n");
	skip();
}

static int run(const struct bpf_program *prog, const void *frame, size_t len)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = (__u32)len,
		    .repeat = 1);

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(prog), &opts), 0);
	return (int)opts.retval;
}

static struct sluice_guard_count counted(unsigned int verdict)
{
	struct sluice_guard_count all[SLUICE_GUARD_VERDICTS];

	assert_int_equal(guard_counts_read(bpf_map__fd(skel->maps.guard_counts), all), 0);
	return all[verdict];
}

static void the_program_gives_each_frame_its_verdict(void **state)
{
	uint8_t buf[FRAME_BYTES];

	(void)state;
	loaded_or_skip();
	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		const struct frame *f = &frames[i];
		size_t len = frame_write(f, buf);
		uint64_t before = counted(f->verdict).packets;
		bool drop = guard_drops(f->verdict);

		if (run(skel->progs.on_packet, buf, len) != (drop ? LINK_DROPPED : LINK_PASSED))
			fail_msg("xdp: %s", f->sentence);
		if (run(skel->progs.on_ingress, buf, len) != (drop ? TC_DROPPED : TC_NEXT))
			fail_msg("tc: %s", f->sentence);
		if (counted(f->verdict).packets != before + 2)
			fail_msg("not counted as such: %s", f->sentence);
	}
}

static void settings_set(struct sluice_guard_settings s)
{
	__u32 zero = 0;

	s.ports[0] = PORT;
	s.port_count = 1;
	assert_int_equal(bpf_map_update_elem(bpf_map__fd(skel->maps.guard_settings), &zero, &s, 0),
			 0);
}

static void one_sources_flood_is_not_anothers(void **state)
{
	struct frame flood = {.flags = S, .source = "198.51.100.1"};
	struct frame other = {.flags = S, .source = "198.51.100.2"};
	struct sluice_guard_settings s = {0};
	uint8_t buf[FRAME_BYTES];
	size_t len;

	(void)state;
	loaded_or_skip();
	guard_settings_rates(&s, 1, 3, 0, 0);
	settings_set(s);
	len = frame_write(&flood, buf);
	for (int i = 0; i < 20; i++)
		assert_int_equal(run(skel->progs.on_packet, buf, len),
				 i < 3 ? LINK_PASSED : LINK_DROPPED);
	assert_int_equal(counted(SLUICE_GUARD_SYN_BUDGET).packets, 17);
	len = frame_write(&other, buf);
	assert_int_equal(run(skel->progs.on_packet, buf, len), LINK_PASSED);
}

static void a_dry_run_counts_and_passes(void **state)
{
	struct frame denied = {.flags = A, .source = "10.66.1.2"};
	struct sluice_guard_settings s = {.dry_run = 1};
	uint64_t before;
	uint8_t buf[FRAME_BYTES];
	size_t len;

	(void)state;
	loaded_or_skip();
	settings_set(s);
	before = counted(SLUICE_GUARD_DENIED).dry_run_packets;
	len = frame_write(&denied, buf);
	assert_int_equal(run(skel->progs.on_packet, buf, len), LINK_PASSED);
	assert_int_equal(counted(SLUICE_GUARD_DENIED).dry_run_packets, before + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_frame_is_read_as_its_sentence_says),
		cmocka_unit_test(no_frame_is_read_past_its_end),
		cmocka_unit_test(a_budget_gives_its_burst_and_then_its_rate),
		cmocka_unit_test(a_flood_of_syns_leaves_the_running_connections_alone),
		cmocka_unit_test(prefixes_are_read_and_written_back),
		cmocka_unit_test(the_program_gives_each_frame_its_verdict),
		cmocka_unit_test(one_sources_flood_is_not_anothers),
		cmocka_unit_test(a_dry_run_counts_and_passes),
	};

	return cmocka_run_group_tests(tests, load, unload);
}
