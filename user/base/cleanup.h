/* SPDX-License-Identifier: Apache-2.0 */
/* Scope-bound release for control-plane code; the data plane frees by hand, in one place. */
#ifndef SLUICE_BASE_CLEANUP_H
#define SLUICE_BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define __cleanup(fn) __attribute__((cleanup(fn)))

static inline void fd_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void mem_free(void *p)
{
	free(*(void **)p);
}

static inline void file_close(FILE **f)
{
	if (*f)
		fclose(*f);
}

#endif
