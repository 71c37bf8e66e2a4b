/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The splice's maps: two TCP connections translated into each other by tc programs. Part of the
 * contract of abi.h, in a file of its own because nothing else of the agent depends on it.
 *
 *   client ---- leg ---- gateway ---- leg ---- endpoint
 *   flows[client's tuple]   how packets of the client become packets to the endpoint
 *   flows[endpoint's tuple] and the other way round
 *
 * Sequence numbers, time stamps and lengths are in host order; addresses and ports as on the wire.
 */
#ifndef SLUICE_SPLICE_H
#define SLUICE_SPLICE_H

#ifndef __bpf__
#include <linux/types.h>
#include <assert.h>
#endif

#define SLUICE_SPLICE_PORTS_MAX 16
#define SLUICE_SPLICE_GAPS	24

/* SO_MARK of our connections to endpoints: the egress program notes their handshake. */
#define SLUICE_MARK		  0x5e110000u
#define SLUICE_MARK_MASK	  0xffff0000u
#define SLUICE_MARK_NO_TIMESTAMPS 1u /* the client has none: our SYN must not offer them */
#define SLUICE_MARK_NO_SACK	  2u

/* As packets from the peer carry it. IPv4 is v4-mapped. */
struct sluice_flow_key {
	__u32 peer[4], here[4];
	__u16 peer_port, here_port;
};

#define SLUICE_LEG_PEER_SYN 1 /* the peer's SYN or SYN-ACK passed our ingress */
#define SLUICE_LEG_HERE_SYN 2 /* ours passed our egress */
#define SLUICE_LEG_RST	    4
#define SLUICE_LEG_FIN	    8  /* the peer's */
#define SLUICE_LEG_ECN	    16 /* negotiated */
#define SLUICE_LEG_ODD	    32 /* IP options or fragments were seen */

/* What one SYN or SYN-ACK offered. */
struct sluice_handshake {
	__u32 isn;
	__u16 mss;
	__u8 shift; /* window scale */
	__u8 has_shift, has_timestamps, has_sack;
	__u16 reserved;
};

/* Map `legs`: one connection of our stack, as seen by the hooks. LRU: a lost leg is a refusal. */
struct sluice_leg {
	__u32 flags, ifindex;
	struct sluice_handshake peer, here;
	__u32 peer_tsval; /* the last one */
	__u32 here_tsval; /* the last one, and when it left */
	__u64 here_ts_ns;
	__u32 here_next;	/* end of what our stack ever sent */
	__u32 peer_next;	/* end of what the peer ever sent to our stack */
	__u32 peer_ack;		/* highest */
	__u32 peer_right;	/* right edge of the peer's window, in our sequence space */
	__u32 here_right;	/* of ours, in the peer's */
	__u32 window_cap;	/* bytes our stack may offer; 0: any */
	__u64 request_ns;	/* our stack's last byte to the peer */
	__u64 head_ns;		/* the peer's first byte after it */
	__u64 body_ns, next_ns; /* the data packet after that one, and the one after (latency.h) */
};

enum sluice_flow_state {
	SLUICE_FLOW_NONE,
	SLUICE_FLOW_DRAIN,   /* the endpoint speaks to the client; our stack still sends what it had
			      */
	SLUICE_FLOW_SPLICED, /* our stack has nothing to say any more */
	SLUICE_FLOW_CLOSED,  /* given back: packets go to the stack again; to be deleted */
};

enum sluice_flow_direction {
	SLUICE_FROM_CLIENT,
	SLUICE_FROM_ENDPOINT,
};

enum sluice_flow_timestamps {
	SLUICE_TIMESTAMPS_NONE,	     /* the packets carry none */
	SLUICE_TIMESTAMPS_TRANSLATE, /* both legs do */
};

#define SLUICE_FLOW_FIN	  1
#define SLUICE_FLOW_RST	  2
#define SLUICE_FLOW_TOLD  4 /* its end was put into the ring */
#define SLUICE_FLOW_SPOKE 8 /* client payload was dropped */

/* Map `flows`: what becomes of packets that carry the key. Two entries a flow. */
struct sluice_flow {
	struct sluice_flow_key key;  /* its own: an element may be reused under a packet */
	struct sluice_flow_key peer; /* of the opposite entry: addresses and ports to write */
	__u64 cookie;		     /* the agent's: owner << 40 | worker << 32 | upstream */
	__u32 state;		     /* enum sluice_flow_state */
	__u8 direction, timestamps, in_shift, out_shift;
	__u32 ifindex; /* to leave by */
	__u32 seq_delta, ack_delta, tsval_delta, tsecr_delta;
	__u32 address_change, port_change; /* of checksums, folded */
	__u32 flags;
	__u32 ack, next;   /* newest seen: acknowledgement, end of payload */
	__u64 acked_bytes; /* of the other side's, since the switch */
	__u64 sent_bytes;  /* of this side's, without retransmissions, since the switch */
	__u64 armed_ns, first_ns, last_ns, end_ns;
	__u64 packets, data_packets, dropped;
	__u32 stalls;			/* gaps over 1 s */
	__u32 endpoint;			/* slot: row of map `latency` */
	__u64 request_ns;		/* of the endpoint's leg */
	__u32 ttft_due, reserved;	/* what of latency.h's ttft is still to come */
	__u32 gaps[SLUICE_SPLICE_GAPS]; /* between data packets: bucket i is < 2^i microseconds */
};

/* Map `notes`: what the account of a flow needs when its agent is gone. Key: the client's. */
struct sluice_flow_note {
	char request_id[64], model[64], endpoint[64], path[40];
	__u64 begin_ns, wall_ns, sent_ns, first_ns; /* wall_ns: CLOCK_REALTIME of the beginning */
	__u64 bytes_in, bytes_out;		    /* before the switch */
	__u32 status, prompt_tokens;
};

enum sluice_control_op {
	SLUICE_CONTROL_ARM,    /* join the two legs */
	SLUICE_CONTROL_UNCAP,  /* it will not be joined: our stack may offer any window */
	SLUICE_CONTROL_DRAIN,  /* bytes turned up late: our stack speaks again */
	SLUICE_CONTROL_CLOSE,  /* give it back to the stack */
	SLUICE_CONTROL_DELETE, /* after the grace time */
	SLUICE_CONTROL_REOPEN, /* the RST was not heeded: its end is still to come */
};

/* Why ARM did not join. The last two pass by themselves. */
enum sluice_arm {
	SLUICE_ARM_JOINED,
	SLUICE_ARM_NO_LEG,
	SLUICE_ARM_HALF_SEEN, /* a handshake is not complete, or the leg is ending */
	SLUICE_ARM_ODD,
	SLUICE_ARM_ECN,
	SLUICE_ARM_MSS,
	SLUICE_ARM_TIMESTAMPS,
	SLUICE_ARM_COUNTERS,
	SLUICE_ARM_FULL,
	SLUICE_ARM_CLIENT_SPOKE, /* the client sent what the agent has not read */
	SLUICE_ARM_WINDOW,	 /* the client's window is behind what the endpoint was offered */
};

/* Context of the syscall program. The counters are bytes since the connection began, mod 2^32. */
struct sluice_control {
	__u32 op;
	__s32 result; /* enum sluice_arm, or 0 / -errno */
	struct sluice_flow_key client, endpoint;
	__u32 client_read, client_written, endpoint_read, endpoint_written;
	__u32 endpoint_slot, state; /* state: out, of the flow afterwards */
	__u64 cookie;
};

/* Ring `events`: both sides are done, or one sent RST. */
struct sluice_flow_event {
	struct sluice_flow_key endpoint;
	__u32 flags; /* of both directions */
	__u64 cookie, now_ns;
};

/* Per-CPU counters of the programs: SPLICE_COUNT(id, "name"). */
#define SLUICE_SPLICE_COUNTS(X)                                                                    \
	X(TO_CLIENT, "to-client")                                                                  \
	X(TO_ENDPOINT, "to-endpoint")                                                              \
	X(CLIENT_PAYLOAD, "client-payload-dropped")                                                \
	X(DRAIN_CLIENT, "drain-client-dropped")                                                    \
	X(DRAIN_CLONED, "drain-ack-cloned")                                                        \
	X(STACK_SILENCED, "stack-dropped")                                                         \
	X(PROMOTED, "promoted")                                                                    \
	X(SLOW_OPTIONS, "slow-options")                                                            \
	X(BAD_OPTIONS, "bad-options-dropped")                                                      \
	X(TTL, "ttl-dropped")                                                                      \
	X(ODD, "odd-dropped")                                                                      \
	X(SYN_REUSE, "syn-reuse")                                                                  \
	X(SYN_DROPPED, "syn-dropped")                                                              \
	X(REUSED_ELEMENT, "reused-element")                                                        \
	X(CAPPED, "window-capped")                                                                 \
	X(EVENT_LOST, "event-lost")

enum sluice_splice_count {
#define X(id, name) SLUICE_SPLICE_##id,
	SLUICE_SPLICE_COUNTS(X)
#undef X
	SLUICE_SPLICE_COUNT
};

#ifndef __bpf__
static_assert(sizeof(struct sluice_flow_key) == 36, "key of flows, legs, notes");
static_assert(sizeof(struct sluice_handshake) == 12, "part of the legs map value");
static_assert(sizeof(struct sluice_leg) == 104, "legs map value");
static_assert(sizeof(struct sluice_flow) == 320, "flows map value");
static_assert(sizeof(struct sluice_flow_note) == 288, "notes map value");
#endif

#endif
