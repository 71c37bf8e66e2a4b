/* SPDX-License-Identifier: Apache-2.0 */
/* SCM_RIGHTS, wrapped. A packet that was cut or is of another kind costs no descriptor. */
#include "base/fd_pass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sluice/limits.h"

_Static_assert(sizeof(struct fd_pass) == 144, "two versions of sluiced speak this record");

int fd_pass_send(int socket_fd, struct fd_pass *record, const int *fds, unsigned int count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(FD_PASS_MAX * sizeof(int))];
	struct iovec iov = {.iov_base = record, .iov_len = sizeof(*record)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (count > FD_PASS_MAX)
		return -E2BIG;
	record->magic = FD_PASS_MAGIC;
	if (count) {
		struct cmsghdr *c;

		memset(control, 0, sizeof(control));
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	return sendmsg(socket_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static unsigned int fds_take(struct msghdr *msg, int *ret_fds)
{
	unsigned int n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(ret_fds, CMSG_DATA(c), bytes); /* one header of at most FD_PASS_MAX */
		n = (unsigned int)(bytes / sizeof(int));
	}
	return n;
}

int fd_pass_receive(int socket_fd, struct fd_pass *ret_record, int *ret_fds,
		    unsigned int *ret_count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(FD_PASS_MAX * sizeof(int))];
	struct iovec iov = {.iov_base = ret_record, .iov_len = sizeof(*ret_record)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(socket_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	unsigned int count;

	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	count = fds_take(&msg, ret_fds);
	if (n == 0 && !count)
		return -EPIPE;
	if (n < (ssize_t)sizeof(*ret_record) || ret_record->magic != FD_PASS_MAGIC ||
	    msg.msg_flags & MSG_CTRUNC) {
		while (count)
			close(ret_fds[--count]);
		return -EBADMSG;
	}
	ret_record->text[sizeof(ret_record->text) - 1] = '\0';
	*ret_count = count;
	return 0;
}
