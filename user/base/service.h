/* SPDX-License-Identifier: Apache-2.0 */
/* What a service manager wants to know: sd_notify(3), without its library. */
#ifndef SLUICE_BASE_SERVICE_H
#define SLUICE_BASE_SERVICE_H

/* Sends "READY=1", "MAINPID=…", … to $NOTIFY_SOCKET, if there is one. Never waits, never fails. */
void service_notify(const char *state);

#endif
