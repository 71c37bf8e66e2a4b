/* SPDX-License-Identifier: Apache-2.0 */
/* The splice's arithmetic and decisions, natively: the same header that the tc programs include. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <arpa/inet.h>

#include "../../bpf/splice.h"

static const struct sluice_flow_key client_key = {
	{0, 0, 0xffff0000, 0x0201630a}, {0, 0, 0xffff0000, 0x0101630a}, 0x1234, 0x5678};
static const struct sluice_flow_key endpoint_key = {
	{0, 0, 0xffff0000, 0x0202630a}, {0, 0, 0xffff0000, 0x0102630a}, 0x4321, 0x8765};

static void sequence_numbers_compare_across_the_wrap(void **state)
{
	(void)state;
	assert_true(splice_after(1, 0));
	assert_true(splice_after(5, 0xfffffff0));
	assert_false(splice_after(0xfffffff0, 5));
	assert_false(splice_after(7, 7));
	assert_int_equal(splice_later(0xfffffff0, 5), 5);
}

static void windows_keep_their_bytes_in_the_other_scale(void **state)
{
	static const struct {
		uint16_t field;
		uint8_t in, out;
		uint16_t want;
	} cases[] = {
		{1000, 7, 7, 1000},	{1000, 7, 0, 65535},   {1000, 0, 3, 125}, {7, 0, 3, 0},
		{65535, 14, 14, 65535}, {65535, 14, 7, 65535}, {100, 10, 12, 25}, {0, 9, 2, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint16_t got = splice_window(cases[i].field, cases[i].in, cases[i].out);

		assert_int_equal(got, cases[i].want);
		assert_true((uint64_t)got << cases[i].out <= (uint64_t)cases[i].field
								     << cases[i].in);
	}
}

static void the_cap_narrows_but_never_shuts_a_window(void **state)
{
	(void)state;
	assert_int_equal(splice_window_cap(65535, 0, 16384), 16384);
	assert_int_equal(splice_window_cap(64, 10, 16384), 16);
	assert_int_equal(splice_window_cap(4, 10, 16384), 4);
	assert_int_equal(splice_window_cap(9, 14, 16383), 1);
	assert_int_equal(splice_window_cap(65535, 14, 0), 65535);
	assert_int_equal(splice_window_cap(0, 3, 16384), 0);
}

static void gaps_fall_into_buckets_of_powers_of_two(void **state)
{
	(void)state;
	assert_int_equal(splice_gap_bucket(0), 0);
	assert_int_equal(splice_gap_bucket(1023), 0);
	assert_int_equal(splice_gap_bucket(1024), 1);
	for (uint32_t i = 1; i < SLUICE_SPLICE_GAPS - 1; i++) {
		assert_int_equal(splice_gap_bucket(((1ULL << i) - 1) << 10), i);
		assert_int_equal(splice_gap_bucket((1ULL << i) << 10), i + 1);
	}
	assert_int_equal(splice_gap_bucket(~0ULL), SLUICE_SPLICE_GAPS - 1);
}

/* ---- options -----------------------------------------------------------------------------------
 */

static struct splice_options walk(const uint8_t *bytes, uint32_t n)
{
	struct splice_options o = {.end = n};

	memcpy(o.bytes, bytes, n);
	while (splice_option_step(&o))
		;
	return o;
}

static void a_linux_syn_tells_all_of_its_options(void **state)
{
	static const uint8_t linux_syn[] = {2,	  4,	0x05, 0xb4, 4, 2, 8, 10, 0x11, 0x22,
					    0x33, 0x44, 0,    0,    0, 0, 1, 3,	 3,    10};
	struct splice_options o = walk(linux_syn, sizeof(linux_syn));

	(void)state;
	assert_false(o.bad);
	assert_int_equal(o.said.mss, 1460);
	assert_int_equal(o.said.shift, 10);
	assert_true(o.said.has_shift && o.said.has_sack && o.said.has_timestamps);
	assert_int_equal(o.tsval, 0x11223344);
}

static void broken_options_end_the_walk(void **state)
{
	static const struct {
		uint8_t bytes[6], n;
		bool bad;
	} cases[] = {
		{{2, 0, 1, 1, 1, 1}, 6, true},	{{2, 1, 1, 1, 1, 1}, 6, true},
		{{2, 7, 1, 1, 1, 1}, 6, true},	{{1, 1, 1, 1, 1, 8}, 6, true},
		{{0, 9, 9, 9, 9, 9}, 6, false}, {{1, 1, 1, 1, 3, 2}, 6, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(walk(cases[i].bytes, cases[i].n).bad, cases[i].bad);
}

static void a_scale_beyond_fourteen_counts_as_fourteen(void **state)
{
	static const uint8_t options[] = {3, 3, 200, 0};

	(void)state;
	assert_int_equal(walk(options, sizeof(options)).said.shift, 14);
}

static void stripped_options_leave_nops_and_nothing_else_changes(void **state)
{
	static const uint8_t linux_syn[] = {2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2,
					    3, 4, 0,	0,    0, 0, 1, 3,  3, 10};
	struct splice_options o = walk(linux_syn, sizeof(linux_syn));

	(void)state;
	assert_false(splice_options_strip(&o, SLUICE_MARK));
	assert_memory_equal(o.bytes, linux_syn, sizeof(linux_syn));
	assert_true(splice_options_strip(&o, SLUICE_MARK | SLUICE_MARK_NO_TIMESTAMPS |
						     SLUICE_MARK_NO_SACK));
	for (int i = 4; i < 16; i++)
		assert_int_equal(o.bytes[i], 1);
	assert_memory_equal(o.bytes, linux_syn, 4);
	assert_memory_equal(o.bytes + 16, linux_syn + 16, 4);
	assert_false(o.said.has_timestamps || o.said.has_sack);
	o = walk(o.bytes, sizeof(linux_syn));
	assert_false(o.said.has_timestamps || o.said.has_sack || o.bad);
	assert_int_equal(o.said.mss, 1460);
}

/* ---- packets -----------------------------------------------------------------------------------
 */

struct packet {
	struct splice_frame f;
	uint8_t rest[SPLICE_OPTIONS + 64];
} __attribute__((packed));

static uint16_t sum16(const void *data, size_t n, uint32_t start)
{
	const uint8_t *p = data;
	uint64_t sum = start;

	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	if (n & 1)
		sum += (uint32_t)p[n - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint32_t pseudo(const struct packet *p, size_t tcp_bytes)
{
	uint32_t from = ntohl(p->f.from), to = ntohl(p->f.to);

	return (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff) + 6 +
	       (uint32_t)tcp_bytes;
}

static size_t tcp_bytes_of(const struct packet *p)
{
	return ntohs(p->f.bytes) - 20U;
}

static void checksums_make(struct packet *p)
{
	p->f.ip_check = p->f.check = 0;
	p->f.ip_check = htons((uint16_t)~sum16(&p->f.version, 20, 0));
	p->f.check = htons((uint16_t)~sum16((uint8_t *)p + SPLICE_TCP_AT, tcp_bytes_of(p),
					    pseudo(p, tcp_bytes_of(p))));
}

static void checksums_are_right(const struct packet *p)
{
	assert_int_equal(sum16(&p->f.version, 20, 0), 0xffff);
	assert_int_equal(sum16((const uint8_t *)p + SPLICE_TCP_AT, tcp_bytes_of(p),
			       pseudo(p, tcp_bytes_of(p))),
			 0xffff);
}

static struct packet packet_make(const struct sluice_flow_key *k, uint32_t seq, uint32_t ack,
				 const uint8_t *options, unsigned int option_bytes,
				 unsigned int payload)
{
	struct packet p = {.f = {.type = htons(0x0800),
				 .version = 0x45,
				 .bytes = htons((uint16_t)(40 + option_bytes + payload)),
				 .ttl = 64,
				 .protocol = 6,
				 .from = k->peer[3],
				 .to = k->here[3],
				 .from_port = k->peer_port,
				 .to_port = k->here_port,
				 .seq = htonl(seq),
				 .ack = htonl(ack),
				 .offset = (uint8_t)((20 + option_bytes) / 4 << 4),
				 .flags = SPLICE_ACK,
				 .window = htons(501)}};

	if (option_bytes)
		memcpy(p.rest, options, option_bytes);
	for (unsigned int i = 0; i < payload; i++)
		p.rest[option_bytes + i] = (uint8_t)(i * 37 + 5);
	checksums_make(&p);
	return p;
}

static struct sluice_leg leg_make(uint32_t peer_isn, uint32_t here_isn)
{
	struct sluice_leg l = {.flags = SLUICE_LEG_PEER_SYN | SLUICE_LEG_HERE_SYN,
			       .ifindex = 3,
			       .peer = {peer_isn, 1460, 7, 1, 1, 1, 0},
			       .here = {here_isn, 1460, 10, 1, 1, 1, 0},
			       .peer_tsval = 1000,
			       .here_tsval = 5000};

	return l;
}

/* Client sent 100 bytes and got 300; we sent the endpoint 150 and got 200 of it. */
struct pair {
	struct sluice_leg client, endpoint;
	struct sluice_control c;
};

static struct pair pair_make(void)
{
	struct pair p = {.client = leg_make(0xffffff00, 7000),
			 .endpoint = leg_make(42, 0x80000000)};

	p.c = (struct sluice_control){.client = client_key,
				      .endpoint = endpoint_key,
				      .client_read = 100,
				      .client_written = 300,
				      .endpoint_read = 200,
				      .endpoint_written = 150,
				      .cookie = 99};
	p.client.peer_next = 0xffffff00 + 1 + 100;
	p.client.here_next = 7000 + 1 + 300;
	p.client.peer_right = 7301 + 60000;
	p.endpoint.peer_next = 42 + 1 + 200;
	p.endpoint.here_next = 0x80000000 + 1 + 150;
	p.endpoint.here_right = 243 + 16384;
	return p;
}

static enum sluice_arm check(const struct pair *p)
{
	struct splice_places at = splice_places(&p->client, &p->endpoint, &p->c);

	return splice_arm_check(&p->client, &p->endpoint, &at);
}

static void legs_join_only_when_everything_fits(void **state)
{
	struct pair p = pair_make();

	(void)state;
	assert_int_equal(check(&p), SLUICE_ARM_JOINED);
#define REFUSES(change, why)                                                                       \
	do {                                                                                       \
		p = pair_make();                                                                   \
		change;                                                                            \
		assert_int_equal(check(&p), why);                                                  \
	} while (0)
	REFUSES(p.client.flags = SLUICE_LEG_PEER_SYN, SLUICE_ARM_HALF_SEEN);
	REFUSES(p.endpoint.flags = SLUICE_LEG_HERE_SYN, SLUICE_ARM_HALF_SEEN);
	REFUSES(p.endpoint.flags |= SLUICE_LEG_FIN, SLUICE_ARM_HALF_SEEN);
	REFUSES(p.client.flags |= SLUICE_LEG_RST, SLUICE_ARM_HALF_SEEN);
	REFUSES(p.client.flags |= SLUICE_LEG_ECN, SLUICE_ARM_ECN);
	REFUSES(p.endpoint.flags |= SLUICE_LEG_ODD, SLUICE_ARM_ODD);
	REFUSES(p.endpoint.here.mss = 1461, SLUICE_ARM_MSS);
	REFUSES(p.endpoint.peer.has_timestamps = 0, SLUICE_ARM_TIMESTAMPS);
	REFUSES(p.client.here.has_timestamps = 0, SLUICE_ARM_TIMESTAMPS);
	REFUSES(p.c.endpoint_read++, SLUICE_ARM_COUNTERS);
	REFUSES(p.c.endpoint_written--, SLUICE_ARM_COUNTERS);
	REFUSES(p.c.client_written--, SLUICE_ARM_COUNTERS);
	REFUSES(p.c.client_read++, SLUICE_ARM_COUNTERS);
	REFUSES(p.client.peer_next++, SLUICE_ARM_CLIENT_SPOKE);
	REFUSES(p.client.peer_right = 7301 + 16383, SLUICE_ARM_WINDOW);
	REFUSES(p.client.peer_right = 7301 + 16384, SLUICE_ARM_JOINED);
#undef REFUSES
	p = pair_make();
	p.endpoint.here.mss = 1400; /* smaller segments always fit */
	p.client.peer.has_timestamps = p.endpoint.peer.has_timestamps = 0;
	assert_int_equal(check(&p), SLUICE_ARM_JOINED);
}

static void join(struct pair *p, struct sluice_flow *c, struct sluice_flow *e)
{
	struct splice_places at = splice_places(&p->client, &p->endpoint, &p->c);

	splice_join(c, e, &client_key, &endpoint_key, &p->client, &p->endpoint, &at, p->c.cookie, 5,
		    0);
}

static void the_two_translations_are_each_other_turned_round(void **state)
{
	struct sluice_flow c, e;
	struct pair p = pair_make();

	(void)state;
	join(&p, &c, &e);
	assert_int_equal(c.seq_delta, (uint32_t)-e.ack_delta);
	assert_int_equal(c.ack_delta, (uint32_t)-e.seq_delta);
	assert_int_equal(c.tsval_delta, (uint32_t)-e.tsecr_delta);
	assert_int_equal(c.tsecr_delta, (uint32_t)-e.tsval_delta);
	assert_int_equal(e.seq_delta, 7301 - 243);
	assert_memory_equal(&c.peer, &e.key, sizeof(c.peer));
	assert_int_equal(c.in_shift, 7);
	assert_int_equal(c.out_shift, 10);
	assert_int_equal(c.state, SLUICE_FLOW_NONE);
	assert_true(splice_promotes(7301, c.ack_delta, 243));
	assert_false(splice_promotes(7300, c.ack_delta, 243));
}

/* The fast way, or the long one as options_translate() in splice.bpf.c takes it. */
static void translate(struct packet *p, const struct sluice_flow *x, enum splice_work want)
{
	unsigned int option_bytes = splice_header_bytes(&p->f) - 20U;
	uint32_t change;
	__u64 sum = 0;
	enum splice_work got = splice_translate(&p->f, (uint8_t *)p + sizeof(*p), x, &change);

	assert_int_equal(got, want);
	splice_sum(&sum, 0, change);
	splice_sum(&sum, 0, x->address_change);
	if (got == SPLICE_OPTIONS_LEFT) {
		struct splice_options o = {.end = option_bytes,
					   .translate = true,
					   .tsval_delta = x->tsval_delta,
					   .tsecr_delta = x->tsecr_delta,
					   .ack_delta = x->ack_delta};

		memcpy(o.bytes, p->rest, option_bytes);
		while (splice_option_step(&o))
			;
		assert_false(o.bad);
		for (unsigned int i = 0; i < option_bytes; i += 4) {
			uint32_t before, now;

			memcpy(&before, p->rest + i, 4);
			memcpy(&now, o.bytes + i, 4);
			splice_sum(&sum, before, now);
		}
		memcpy(p->rest, o.bytes, option_bytes);
	}
	p->f.check = splice_check(p->f.check, sum);
}

static void packets_change_sides_with_right_checksums(void **state)
{
	static const uint8_t stamps[] = {1, 1, 8, 10, 0, 0, 4, 0, 0, 0, 0x13, 0x90};
	static const uint8_t sack[] = {1, 1, 8, 10, 0, 0, 4, 0, 0, 0, 0x13, 0x90, 1, 1, 5, 18,
				       0, 0, 0, 99, 0, 0, 1, 0, 0, 0, 2,    0,	  0, 0, 3, 0};
	static const uint8_t odd[] = {8, 10, 0, 0, 4, 0, 0, 0, 0x13, 0x90, 1, 1};
	static const uint8_t sack_alone[] = {1, 1, 5, 10, 0, 0, 0, 99, 0, 0, 1, 0};
	static const struct {
		const uint8_t *options;
		unsigned int bytes, payload;
		enum splice_work work;
	} cases[] = {
		{NULL, 0, 0, SPLICE_DONE},
		{stamps, sizeof(stamps), 0, SPLICE_DONE},
		{stamps, sizeof(stamps), 51, SPLICE_DONE},
		{sack, sizeof(sack), 0, SPLICE_DONE},
		{odd, sizeof(odd), 13, SPLICE_OPTIONS_LEFT},
		{sack_alone, sizeof(sack_alone), 0, SPLICE_OPTIONS_LEFT},
	};
	struct sluice_flow c, e;
	struct pair pair = pair_make();

	(void)state;
	join(&pair, &c, &e);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct packet p = packet_make(&endpoint_key, 243, 0x80000097, cases[i].options,
					      cases[i].bytes, cases[i].payload),
			      there = p;

		assert_int_equal(splice_parse(&p, &p + 1), SPLICE_PLAIN);
		translate(&there, &e, cases[i].work);
		checksums_are_right(&there);
		assert_int_equal(ntohl(there.f.seq), 7301);
		assert_int_equal(ntohl(there.f.ack), 0xffffff00 + 101);
		assert_int_equal(there.f.to, client_key.peer[3]);
		assert_int_equal(there.f.from, client_key.here[3]);
		assert_int_equal(there.f.to_port, client_key.peer_port);
		assert_int_equal(there.f.ttl, 63);
		assert_memory_equal(there.rest + cases[i].bytes, p.rest + cases[i].bytes,
				    cases[i].payload);
	}
}

static void sack_blocks_and_stamps_move_with_their_spaces(void **state)
{
	static const uint8_t sack[] = {1, 1, 8, 10, 0, 0, 4, 0,	 0, 0, 0x13, 0x90,
				       1, 1, 5, 10, 0, 0, 0, 99, 0, 0, 1,    0};
	struct sluice_flow c, e;
	struct pair pair = pair_make();
	struct packet p;
	uint32_t words[6];

	(void)state;
	join(&pair, &c, &e);
	p = packet_make(&endpoint_key, 243, 0x80000097, sack, sizeof(sack), 0);
	translate(&p, &e, SPLICE_DONE);
	memcpy(words, p.rest, sizeof(words));
	assert_int_equal(ntohl(words[1]), 0x400 + e.tsval_delta);
	assert_int_equal(ntohl(words[2]), 0x1390 + e.tsecr_delta);
	assert_int_equal(ntohl(words[4]), 99 + e.ack_delta);
	assert_int_equal(ntohl(words[5]), 0x100 + e.ack_delta);
	assert_int_equal(ntohl(words[3]), 0x0101050a);
}

static void odd_packets_are_told_apart(void **state)
{
	struct packet p = packet_make(&client_key, 1, 1, NULL, 0, 0), q;

	(void)state;
	assert_int_equal(splice_parse(&p, (uint8_t *)&p + 54), SPLICE_PLAIN);
	assert_int_equal(splice_parse(&p, (uint8_t *)&p + 53), SPLICE_OTHER);
	q = p, q.f.version = 0x46;
	assert_int_equal(splice_parse(&q, &q + 1), SPLICE_ODD);
	q = p, q.f.fragment = htons(0x2000);
	assert_int_equal(splice_parse(&q, &q + 1), SPLICE_ODD);
	q = p, q.f.fragment = htons(0x4000); /* don't fragment */
	assert_int_equal(splice_parse(&q, &q + 1), SPLICE_PLAIN);
	q = p, q.f.protocol = 17;
	assert_int_equal(splice_parse(&q, &q + 1), SPLICE_OTHER);
	q = p, q.f.type = htons(0x86dd);
	assert_int_equal(splice_parse(&q, &q + 1), SPLICE_OTHER);
	q = p, q.f.offset = 0x40;
	assert_int_equal(splice_parse(&q, &q + 1), SPLICE_OTHER);
}

/* ---- counting ----------------------------------------------------------------------------------
 */

static void bytes_are_counted_by_position_not_by_packet(void **state)
{
	struct sluice_flow x = {.ack = 0xfffffff0, .next = 0xffffffff};
	struct packet p = packet_make(&endpoint_key, 0xffffffff, 0xfffffff8, NULL, 0, 10);

	(void)state;
	splice_count(&x, &p.f, 10, 1000);
	splice_count(&x, &p.f, 10, 3000); /* again: a retransmission */
	assert_int_equal(x.sent_bytes, 10);
	assert_int_equal(x.acked_bytes, 8);
	p = packet_make(&endpoint_key, 9, 5, NULL, 0, 10);
	splice_count(&x, &p.f, 10, 2 * SPLICE_STALL_NS);
	assert_int_equal(x.sent_bytes, 20);
	assert_int_equal(x.acked_bytes, 21);
	assert_int_equal(x.data_packets, 3);
	assert_int_equal(x.stalls, 1);
	assert_int_equal(x.first_ns, 1000);
	assert_int_equal(x.gaps[splice_gap_bucket(2000)], 1);
}

static void a_flow_is_over_with_both_fins_or_one_reset(void **state)
{
	(void)state;
	assert_false(splice_is_over(SLUICE_FLOW_FIN, 0));
	assert_false(splice_is_over(0, SLUICE_FLOW_FIN | SLUICE_FLOW_SPOKE));
	assert_true(splice_is_over(SLUICE_FLOW_FIN, SLUICE_FLOW_FIN));
	assert_true(splice_is_over(SLUICE_FLOW_RST, 0));
	assert_true(splice_is_over(0, SLUICE_FLOW_RST));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sequence_numbers_compare_across_the_wrap),
		cmocka_unit_test(windows_keep_their_bytes_in_the_other_scale),
		cmocka_unit_test(the_cap_narrows_but_never_shuts_a_window),
		cmocka_unit_test(gaps_fall_into_buckets_of_powers_of_two),
		cmocka_unit_test(a_linux_syn_tells_all_of_its_options),
		cmocka_unit_test(broken_options_end_the_walk),
		cmocka_unit_test(a_scale_beyond_fourteen_counts_as_fourteen),
		cmocka_unit_test(stripped_options_leave_nops_and_nothing_else_changes),
		cmocka_unit_test(legs_join_only_when_everything_fits),
		cmocka_unit_test(the_two_translations_are_each_other_turned_round),
		cmocka_unit_test(packets_change_sides_with_right_checksums),
		cmocka_unit_test(sack_blocks_and_stamps_move_with_their_spaces),
		cmocka_unit_test(odd_packets_are_told_apart),
		cmocka_unit_test(bytes_are_counted_by_position_not_by_packet),
		cmocka_unit_test(a_flow_is_over_with_both_fins_or_one_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
