/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Atomic access to endpoint_load. Its fields are plain integers in the ABI (BPF and bpftool read
 * them), so user space goes through these, relaxed: each field is a figure of its own.
 */
#ifndef SLUICE_BASE_LOAD_H
#define SLUICE_BASE_LOAD_H

#include "sluice/abi.h"

#define load_read(field)     __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define load_write(field, v) __atomic_store_n(&(field), (v), __ATOMIC_RELAXED)
#define load_add(field, v)   __atomic_fetch_add(&(field), (v), __ATOMIC_RELAXED)
#define load_sub(field, v)   __atomic_fetch_sub(&(field), (v), __ATOMIC_RELAXED)

#endif
