/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a flow does not take a kernel path: REFUSAL(id, "name", "one clause for sluicectl why"). The
 * names are labels of sluice_path_refused_total, in the access log and in `sluicectl why`. No
 * guard.
 */
REFUSAL(DISABLED, "disabled", "the path is switched off")
REFUSAL(NO_BPF, "no-bpf", "its programs are not loaded")
REFUSAL(KERNEL_TOO_OLD, "kernel-too-old", "the kernel cannot do it")
REFUSAL(NO_ANSWER_BODY, "no-generation", "the route generates nothing")
REFUSAL(SHORT_ANSWER, "short-answer", "the answer is short: a handover costs more than it saves")
REFUSAL(TLS, "tls", "the client speaks TLS to us")
REFUSAL(GUARDRAIL, "guardrail", "a policy reads the answer")
REFUSAL(LEGS, "legs", "the request has several legs")
REFUSAL(IPV6, "ipv6", "a leg is IPv6")
REFUSAL(NOT_TCP, "not-tcp", "the client is no TCP connection")
REFUSAL(ENDPOINT_ELSEWHERE, "endpoint-elsewhere", "the endpoint's process is not on this kernel")
REFUSAL(NO_TUPLE, "no-tuple", "a leg's handshake was not seen on our interfaces")
REFUSAL(NAT, "nat", "a leg's addresses change on the way")
REFUSAL(ECN, "ecn", "a leg negotiated ECN")
REFUSAL(IP_OPTIONS, "ip-options", "a leg carries IP options or fragments")
REFUSAL(MSS, "mss", "the endpoint's segments would not fit the client's leg")
REFUSAL(TIMESTAMPS, "timestamps", "only one leg has timestamps")
REFUSAL(WINDOW, "window", "the client's window stayed below what the endpoint was offered")
REFUSAL(FULL, "full", "the table of flows is full")
REFUSAL(NO_PORT, "no-port", "no source port is free towards the endpoint")
REFUSAL(FRAMING, "framing", "the answer is not copied byte by byte")
REFUSAL(CLIENT_SPOKE, "client-spoke", "the client sent more after its request")
REFUSAL(UNSENT_BYTES, "unsent-bytes", "bytes stayed unsent until the end")
REFUSAL(COUNTERS, "counters", "our counts and the kernel's disagree")
REFUSAL(ENDED_FIRST, "ended-first", "the answer was over before the handover")
