/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The maps of the steer path, shared by bpf/steer.bpf.c and the agent: an endpoint's accepted
 * socket, on this kernel, sends straight to the client's socket.
 */
#ifndef SLUICE_STEER_H
#define SLUICE_STEER_H

#ifndef __bpf__
#include <linux/types.h>
#include <assert.h>
#include <stdbool.h>
#endif

#define STEER_INLINE static inline __attribute__((always_inline))

/* Of sluice_steer_flow.word; below it: every byte that the endpoint has sent on the connection. */
#define SLUICE_STEER_REDIRECT (1ULL << 62)

#define SLUICE_STEER_GAPS 32
#define SLUICE_STEER_TAIL 7 /* bytes of a tail: a line end and the last chunk */

enum sluice_steer_state {
	SLUICE_STEER_SEEN = 1, /* the endpoint's socket is on this kernel, and in steer_endpoints */
	SLUICE_STEER_CLOSED = 2, /* it has closed: nobody writes the flow any more */
};

/*
 * Map `steer_flows` (array, mmapable), one element a flow. word belongs to both sides and changes
 * by atomics only: the program adds what is sent and clears the bit when the credit is used up, the
 * agent sets the bit, by compare-and-swap from the count of bytes that it has relayed itself.
 */
struct sluice_steer_flow {
	__u64 word;
	__u64 redirected; /* bytes that went straight to the client's socket; the program's */
	__u64 base;	  /* position in the client's stream less redirected; the agent's */
	__u64 acked;	  /* by the client, position in its stream; from RTT callbacks */
	__u64 credit;	  /* bytes that may be under way to the client; the agent's */
	__u64 client;	  /* socket cookie; the agent's */
	__u64 last_ns;	  /* CLOCK_MONOTONIC of the last message */
	__u32 messages;	  /* sends of the endpoint; an event may take two, or share one */
	__u32 state;	  /* of SLUICE_STEER_* */
	__u32 out_of_credit;
	__u32 stalls;		       /* gaps of more than a second */
	__u64 tail;		       /* the last bytes sent, the last one lowest; 0: not known */
	__u32 gaps[SLUICE_STEER_GAPS]; /* between messages: [i] counts 2^i us and more */
	__u64 request_ns;	       /* when the request was sent, 0 unknown; the agent's */
	__u64 body_ns, next_ns;	       /* of the second and the third message */
	__u32 endpoint;		       /* slot: row of map `latency`; the agent's */
	__u32 ttft_due;		       /* what of latency.h's ttft is still to come */
	__u32 steered;		       /* messages that went straight to the client */
	__u32 reserved[3];
};

/*
 * Map `steer_tails` (hash by slot): the ends of the last messages, where an engine says its usage.
 * There while a flow is steered.
 */
#define SLUICE_STEER_TAILS	4 /* a power of two */
#define SLUICE_STEER_TAIL_BYTES 512
struct sluice_steer_tail {
	__u32 count; /* of messages; message i is in text[i % SLUICE_STEER_TAILS] */
	__u32 bytes[SLUICE_STEER_TAILS];
	char text[SLUICE_STEER_TAILS][SLUICE_STEER_TAIL_BYTES];
};

/* Whose socket it is: value of `steer_owner` (socket storage). */
enum sluice_steer_role {
	SLUICE_STEER_UPSTREAM = 1, /* ours, to the endpoint */
	SLUICE_STEER_ENDPOINT,	   /* the endpoint's, accepted */
	SLUICE_STEER_CLIENT,	   /* ours, to the client */
};
struct sluice_steer_owner {
	__u32 slot; /* of steer_flows */
	__u32 role;
};

/* Key of `steer_expected`: a connection as the connecting side sees it. IPv4 is v4-mapped. */
struct sluice_steer_tuple {
	__u8 local[16], remote[16];
	__u16 local_port, remote_port; /* host order */
};
struct sluice_steer_expected {
	__u64 netns; /* cookie: loopback addresses mean something in one namespace only */
	__u32 slot;
	__u32 pad;
};

STEER_INLINE bool steer_is_redirected(__u64 word)
{
	return word & SLUICE_STEER_REDIRECT;
}

/* What the endpoint has sent so far, by whichever way. */
STEER_INLINE __u64 steer_sent(__u64 word)
{
	return word & (SLUICE_STEER_REDIRECT - 1);
}

/*
 * The only word from which the agent may switch to redirection: it has relayed all that did not go
 * straight to the client, so that nothing can overtake anything.
 */
STEER_INLINE __u64 steer_settled_word(__u64 relayed, __u64 redirected)
{
	return relayed + redirected;
}

/* CR LF 0 CR LF CR LF. A chunk's payload could end so too, but no engine stops there. */
STEER_INLINE bool steer_tail_is_last_chunk(__u64 tail)
{
	return (tail & 0xffffffffffffffULL) == 0x0d0a300d0a0d0aULL;
}

#ifndef __bpf__
static_assert(sizeof(struct sluice_steer_flow) == 256, "steer_flows map value");
static_assert(sizeof(struct sluice_steer_tuple) == 36, "steer_expected map key");
static_assert(sizeof(struct sluice_steer_expected) == 16, "steer_expected map value");
#endif

#endif
