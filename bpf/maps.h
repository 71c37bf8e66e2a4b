/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every map, once. Weak, so that several objects include this and link into one skeleton. Values
 * are the structs of sluice/abi.h; sizes marked 1 are set before loading. The agent reads and
 * writes all of these through mmap.
 */
#ifndef SLUICE_BPF_MAPS_H
#define SLUICE_BPF_MAPS_H

#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

#include "sluice/abi.h"
#include "sluice/limits.h"

#define BPF_F_MMAPABLE_ARRAY                                                                       \
	1024 /* BPF_F_MMAPABLE; an enum in some vmlinux.h, absent in others                        \
	      */

/* Which layout the other pins have: read before they are taken over. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sluice_abi);
} abi SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE_ARRAY);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __u32);
	__type(value, struct sluice_endpoint);
} endpoints SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE_ARRAY);
	__uint(max_entries, ENDPOINTS_MAX);
	__type(key, __u32);
	__type(value, struct sluice_endpoint_load);
} endpoint_load SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sluice_affinity_bucket);
} kv_affinity SEC(".maps") __weak;

#endif
