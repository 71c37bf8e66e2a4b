/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What two sluiced say to each other while one takes over from the other: one fixed record and up
 * to FD_PASS_MAX descriptors in a packet of an AF_UNIX SOCK_SEQPACKET socket. The record may only
 * grow at its end, because two versions speak it.
 */
#ifndef SLUICE_BASE_FD_PASS_H
#define SLUICE_BASE_FD_PASS_H

#include <stdint.h>

#include "sluice/limits.h"

#define FD_PASS_MAX   WORKERS_MAX /* descriptors in one packet */
#define FD_PASS_MAGIC 0x65637573  /* "suce" */

enum fd_pass_kind {
	FD_PASS_HELLO = 1, /* successor: I am here; value: pid */
	FD_PASS_LISTEN,	   /* predecessor: sockets of one listen address (text) */
	FD_PASS_ADMIN,	   /* the admin port's socket, at text */
	FD_PASS_LOCK,	   /* the lock of the pin directory */
	FD_PASS_END,	   /* nothing more but clients */
	FD_PASS_READY,	   /* successor: I serve; value: pid */
	FD_PASS_CLIENT,	   /* predecessor: an idle connection of a client */
	FD_PASS_DRAINED,   /* predecessor: an operator drained the endpoint text */
};

struct fd_pass {
	uint32_t magic, kind;
	uint64_t value;
	char text[128];
};

/* Sends the record (magic is filled in) with count descriptors; never waits. 0 or -errno. */
int fd_pass_send(int socket_fd, struct fd_pass *record, const int *fds, unsigned int count);

/*
 * Takes one packet; never waits. fds has room for FD_PASS_MAX; they are the caller's, CLOEXEC.
 * -EAGAIN, -EPIPE at the peer's end, -EBADMSG for what is none of ours (its descriptors closed).
 */
int fd_pass_receive(int socket_fd, struct fd_pass *ret_record, int *ret_fds,
		    unsigned int *ret_count);

#endif
