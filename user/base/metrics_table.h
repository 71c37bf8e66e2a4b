/* SPDX-License-Identifier: Apache-2.0 */
/* Every tabled metric, in the order of the exporter. Rows of one name stand together. No guard. */
COUNTER(REQUESTS, "requests_total", "", "Requests whose head was read")
COUNTER(CONNECTIONS, "client_connections_total", "", "Client connections accepted")
HISTOGRAM(TTFT, "ttft_seconds", "", "From the request's first byte to the first event with content")
HISTOGRAM(PICK, "pick_seconds", "", "Time of one scheduling decision")
