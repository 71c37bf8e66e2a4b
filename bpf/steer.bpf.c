/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steer: the endpoint's process runs on this kernel (in whichever namespace), so that its sends can
 * go straight to the client's socket.
 *
 *   on_socket (sock_ops)  our connect: the connection is expected
 *                         the endpoint's accept of it: its socket is known, before any data
 *                         acknowledgements of the client: the credit is renewed
 *   on_send (sk_msg)      each send of such an endpoint: count, then to us, or to the client
 *
 * A socket that was put into steer_endpoints stays until it closes. One writer of the client's
 * stream at a time: the bit in word says which.
 */
#include <vmlinux.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "latency.h"
#include "sluice/limits.h"
#include "steer.h"

#define AF_INET 2

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, STEER_FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct sluice_steer_flow);
} steer_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, STEER_FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct sluice_steer_tail);
} steer_tails SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sluice_steer_owner);
} steer_owner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_FLOWS_MAX);
	__type(key, struct sluice_steer_tuple);
	__type(value, struct sluice_steer_expected);
} steer_expected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, STEER_FLOWS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} steer_endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, STEER_FLOWS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} steer_clients SEC(".maps");

/* sluice/latency.h; shared with the splice by its pin. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __u32);
	__type(value, struct sluice_latency);
} latency SEC(".maps");

/* Our listen ports: only their connections report round trips. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STEER_PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} steer_ports SEC(".maps");

/* Every word is read by itself: the verifier takes no context pointer that was computed. */
#define READ(to, field)                                                                            \
	do {                                                                                       \
		(to) = (field);                                                                    \
		barrier_var(to);                                                                   \
	} while (0)

static __always_inline void local_of(struct bpf_sock_ops *ops, __u8 *to)
{
	__u32 words[4] = {0, 0, bpf_htonl(0xffff), 0};

	if (ops->family == AF_INET) {
		READ(words[3], ops->local_ip4);
	} else {
		READ(words[0], ops->local_ip6[0]);
		READ(words[1], ops->local_ip6[1]);
		READ(words[2], ops->local_ip6[2]);
		READ(words[3], ops->local_ip6[3]);
	}
	__builtin_memcpy(to, words, sizeof(words));
}

static __always_inline void remote_of(struct bpf_sock_ops *ops, __u8 *to)
{
	__u32 words[4] = {0, 0, bpf_htonl(0xffff), 0};

	if (ops->family == AF_INET) {
		READ(words[3], ops->remote_ip4);
	} else {
		READ(words[0], ops->remote_ip6[0]);
		READ(words[1], ops->remote_ip6[1]);
		READ(words[2], ops->remote_ip6[2]);
		READ(words[3], ops->remote_ip6[3]);
	}
	__builtin_memcpy(to, words, sizeof(words));
}

/* The connection as its connecting side sees it. */
static __noinline int tuple_of_connecting(struct bpf_sock_ops *ops, struct sluice_steer_tuple *t)
{
	if (!t)
		return 0;
	local_of(ops, t->local);
	remote_of(ops, t->remote);
	t->local_port = (__u16)ops->local_port;
	t->remote_port = (__u16)bpf_ntohl(ops->remote_port);
	return 0;
}

static __noinline int tuple_of_accepting(struct bpf_sock_ops *ops, struct sluice_steer_tuple *t)
{
	if (!t)
		return 0;
	local_of(ops, t->remote);
	remote_of(ops, t->local);
	t->remote_port = (__u16)ops->local_port;
	t->local_port = (__u16)bpf_ntohl(ops->remote_port);
	return 0;
}

static __always_inline struct sluice_steer_owner *owner_of(struct bpf_sock_ops *ops, __u64 flags)
{
	struct bpf_sock *sk = ops->sk;

	return sk ? bpf_sk_storage_get(&steer_owner, sk, 0, flags) : NULL;
}

static __always_inline void connects(struct bpf_sock_ops *ops)
{
	struct sluice_steer_owner *owner = owner_of(ops, 0);
	struct sluice_steer_expected e = {};
	struct sluice_steer_tuple t;

	if (!owner || owner->role != SLUICE_STEER_UPSTREAM)
		return;
	tuple_of_connecting(ops, &t);
	e.netns = bpf_get_netns_cookie(ops);
	e.slot = owner->slot;
	if (bpf_map_update_elem(&steer_expected, &t, &e, BPF_ANY) == 0)
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void accepts(struct bpf_sock_ops *ops)
{
	struct sluice_steer_expected *e, found;
	__u64 cookie = bpf_get_socket_cookie(ops);
	__u32 port = ops->local_port;
	struct sluice_steer_owner *owner;
	struct sluice_steer_flow *f;
	struct sluice_steer_tuple t;

	if (bpf_map_lookup_elem(&steer_ports, &port))
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_RTT_CB_FLAG);
	tuple_of_accepting(ops, &t);
	e = bpf_map_lookup_elem(&steer_expected, &t);
	if (!e || (steer_is_loopback(t.remote) && e->netns != bpf_get_netns_cookie(ops)))
		return;
	found = *e;
	f = bpf_map_lookup_elem(&steer_flows, &found.slot);
	owner = owner_of(ops, BPF_SK_STORAGE_GET_F_CREATE);
	if (!f || !owner || bpf_map_delete_elem(&steer_expected, &t))
		return;
	owner->slot = found.slot;
	owner->role = SLUICE_STEER_ENDPOINT;
	bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
	if (bpf_sock_hash_update(ops, &steer_endpoints, &cookie, BPF_NOEXIST) == 0)
		__sync_fetch_and_or(&f->state, SLUICE_STEER_SEEN);
	else
		owner->role = 0;
}

static __always_inline void acknowledges(struct bpf_sock_ops *ops)
{
	struct sluice_steer_owner *owner = owner_of(ops, 0);
	struct sluice_steer_flow *f;

	if (!owner || owner->role != SLUICE_STEER_CLIENT)
		return;
	f = bpf_map_lookup_elem(&steer_flows, &owner->slot);
	if (f)
		f->acked = ops->bytes_acked;
}

static __always_inline void closes(struct bpf_sock_ops *ops)
{
	struct sluice_steer_owner *owner = owner_of(ops, 0);
	struct sluice_steer_flow *f;
	struct sluice_steer_tuple t;

	if (!owner)
		return;
	if (owner->role == SLUICE_STEER_UPSTREAM) {
		tuple_of_connecting(ops, &t);
		bpf_map_delete_elem(&steer_expected, &t);
	} else if (owner->role == SLUICE_STEER_ENDPOINT) {
		f = bpf_map_lookup_elem(&steer_flows, &owner->slot);
		owner->role = 0;
		if (f)
			__sync_fetch_and_or(&f->state, SLUICE_STEER_CLOSED);
	}
}

SEC("sockops")
int on_socket(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connects(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepts(ops);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		acknowledges(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE)
			closes(ops);
		break;
	}
	return 1;
}

/*
 * The last bytes that were sent, so that the agent can tell whether a last chunk was among them.
 * Of a message whose end lies in another piece than its beginning they are not known: zeroes.
 */
static __always_inline __u64 tail_of(struct sk_msg_md *msg, __u32 size, __u64 tail)
{
	const __u8 *p = msg->data, *end = msg->data_end;
	__u32 n = size < SLUICE_STEER_TAIL ? size : SLUICE_STEER_TAIL;

	if (size > 0x7fff)
		return 0;
	p += (size - n) & 0x7fff;
	barrier_var(p);
	for (__u32 i = 0; i < SLUICE_STEER_TAIL && i < n; i++) {
		if (p + i + 1 > end)
			return 0;
		tail = tail << 8 | p[i];
	}
	return tail;
}

/* The endpoint's pace, by its messages that go straight to the client. */
static __always_inline void measure(struct sluice_steer_flow *f, __u32 size, __u64 now_ns)
{
	__u32 slot = f->endpoint, due = f->ttft_due;
	struct sluice_latency *row = bpf_map_lookup_elem(&latency, &slot);

	if (!row)
		return;
	if (!f->steered++) { /* what came before the switch */
		due = latency_due(f->request_ns, f->body_ns, f->next_ns);
		if (f->request_ns && f->body_ns)
			latency_ttft(row, SLUICE_TTFT_BODY, f->body_ns - f->request_ns);
		if (f->request_ns && f->next_ns)
			latency_ttft(row, SLUICE_TTFT_NEXT, f->next_ns - f->request_ns);
	}
	latency_packet(row, size, now_ns, f->last_ns, f->request_ns, &due);
	f->ttft_due = due;
}

static __always_inline void message_note(struct sluice_steer_flow *f, __u64 now_ns)
{
	__u64 gap_ns = now_ns - f->last_ns;

	if (f->messages == 1)
		f->body_ns = now_ns;
	else if (f->messages == 2)
		f->next_ns = now_ns;
	if (f->messages++) {
		f->gaps[steer_gap_bucket(gap_ns)]++;
		f->stalls += gap_ns > 1000000000ULL;
	}
	f->last_ns = now_ns;
}

/* One endpoint socket sends at a time: nobody else writes the entry. */
static __always_inline void tail_keep(struct sk_msg_md *msg, __u32 slot, __u32 size)
{
	struct sluice_steer_tail *t = bpf_map_lookup_elem(&steer_tails, &slot);
	const __u8 *p = msg->data, *end = msg->data_end;
	__u32 n = size < SLUICE_STEER_TAIL_BYTES ? size : SLUICE_STEER_TAIL_BYTES, i;

	if (!t || size > 0x7fff || end - p != size)
		return;
	i = t->count & (SLUICE_STEER_TAILS - 1);
	if (bpf_probe_read_kernel(t->text[i], n, p + ((size - n) & 0x7fff)))
		return;
	t->bytes[i] = n;
	t->count++;
}

SEC("sk_msg")
int on_send(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	__u32 size = msg->size;
	struct sluice_steer_owner *owner;
	struct sluice_steer_flow *f;
	__u64 before, now_ns = bpf_ktime_get_ns();
	bool redirected, credit;

	if (!sk)
		return SK_PASS;
	owner = bpf_sk_storage_get(&steer_owner, sk, 0, 0);
	if (!owner || owner->role != SLUICE_STEER_ENDPOINT)
		return SK_PASS;
	f = bpf_map_lookup_elem(&steer_flows, &owner->slot);
	if (!f)
		return SK_PASS;
	before = __sync_fetch_and_add(&f->word, size);
	redirected = steer_is_redirected(before);
	credit = steer_has_credit(f, size);
	if (redirected && credit)
		measure(f, size, now_ns);
	message_note(f, now_ns);
	f->tail = tail_of(msg, size, f->tail);
	tail_keep(msg, owner->slot, size);
	if (!redirected)
		return SK_PASS;
	if (!credit) {
		__sync_fetch_and_and(&f->word, ~SLUICE_STEER_REDIRECT);
		f->out_of_credit++;
		return SK_PASS;
	}
	f->redirected += size;
	return (int)bpf_msg_redirect_hash(msg, &steer_clients, &f->client, 0);
}

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";
