/* SPDX-License-Identifier: Apache-2.0 */
/* Every tabled metric, in the order of the exporter. Rows of one name stand together. No guard. */
COUNTER(REQUESTS, "requests_total", "", "Requests whose head was read")
COUNTER(CONNECTIONS, "client_connections_total", "", "Client connections accepted")
COUNTER(ACCESS_LOG_LINES, "access_log_lines_total", "", "Lines written to the access log")
COUNTER(ACCESS_LOG_DROPPED, "access_log_dropped_total", "", "Requests missing from the access log: full ring or failed write")
COUNTER(ADMIN_REQUESTS, "admin_requests_total", "", "Requests answered on the admin port")
COUNTER(ADMIN_REFUSED, "admin_refused_total", "", "Admin connections refused: too many, too slow or malformed")
HISTOGRAM(TTFT, "ttft_seconds", "", "From the request's first byte to the first event with content")
HISTOGRAM(PICK, "pick_seconds", "", "Time of one scheduling decision")
