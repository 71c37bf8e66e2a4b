/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control thread: one epoll loop that keeps the store true. It resolves and watches where
 * endpoints come from, reads their load, models and health. Nothing here runs on workers.
 */
#ifndef SLUICE_CONTROLPLANE_CONTROL_H
#define SLUICE_CONTROLPLANE_CONTROL_H

#include <stddef.h>

#include "base/config.h"
#include "controlplane/store.h"

struct control;

/*
 * Reads the configured endpoints (once, before it returns; a bad --endpoint or --endpoints file is
 * an error whose text goes to ret_error) and starts the thread. 0 or -errno.
 */
int control_start(const struct config *config, struct store *store, char *ret_error,
		  size_t error_bytes, struct control **ret_control);

/* SIGHUP: reads the endpoints file again and resolves the names again. Any thread. */
void control_reload(struct control *control);

/* Stops and joins the thread, closes its connections, frees. NULL is fine. */
void control_stop(struct control *control);

/* For --check-config: are the endpoints and the file well formed? 0, or -EINVAL with the text. */
int control_check(const struct config *config, char *ret_error, size_t error_bytes);

#endif
