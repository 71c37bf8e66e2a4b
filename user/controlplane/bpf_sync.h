/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The BPF maps as shared memory: created (or taken over from an earlier process), pinned, mmaped.
 *
 *   <bpffs_dir>/abi  endpoints  endpoint_load  kv_affinity  show/endpoints  show/affinity
 *
 * Without BPF (--no-bpf, no privileges, no bpffs) the same structures are anonymous memory, said
 * in one log line; everything else works the same, so callers never look.
 */
#ifndef SLUICE_CONTROLPLANE_BPF_SYNC_H
#define SLUICE_CONTROLPLANE_BPF_SYNC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/config.h"
#include "sluice/abi.h"

struct bpf_sync;

/* Reads cfg->bpf, bpffs_dir and affinity_bytes_max. Fails for want of memory only. */
int bpf_sync_new(const struct config *cfg, struct bpf_sync **ret);
/*
 * The same for the successor of a running process, whose lock of the directory (bpf_sync_lock_fd)
 * it was given: makes maps of its own and pins them in place of the others, which go on unseen
 * until their owner ends. Owns lock_fd.
 */
int bpf_sync_succeed(const struct config *cfg, int lock_fd, struct bpf_sync **ret);
/* Belongs to sync; -1 if it holds none. */
int bpf_sync_lock_fd(const struct bpf_sync *sync);
/* Unmaps; the pins stay for the next process. NULL is fine. */
void bpf_sync_free(struct bpf_sync *sync);

/* The maps' memory. Arrays of ENDPOINTS_MAX; zeroed, whatever the last process left. */
struct sluice_endpoint *bpf_sync_endpoints(struct bpf_sync *sync);
struct sluice_endpoint_load *bpf_sync_load(struct bpf_sync *sync);
/* Page-aligned buckets, ret_bytes a multiple of the bucket's size, at most affinity_bytes_max. */
void *bpf_sync_affinity(struct bpf_sync *sync, size_t *ret_bytes);
/* True if the three are kernel maps. */
bool bpf_sync_in_kernel(const struct bpf_sync *sync);

#endif
