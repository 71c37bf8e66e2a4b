#!/bin/bash
# A part of make demo: two prefill and two decode engines, one of them dying, no sidecar anywhere.
# Ends only what it started.
set -u
cd "$(dirname "$0")/../.."
BIN=build/bin PORT=${PORT:-18120} PIDS=() TMP=$(mktemp -d)
trap 'kill "${PIDS[@]}" 2>/dev/null; wait "${PIDS[@]}" 2>/dev/null; rm -rf "$TMP"' EXIT

load() {
	$BIN/sluice-load --target 127.0.0.1:$PORT --requests 200 --rate 100 --prompt-tokens 2000 \
		--max-tokens 16 --verify --json >"$TMP/load.json" 2>/dev/null
	python3 -c '
import json, sys
r = json.load(open(sys.argv[1]))
print("answered {}/{}, TTFT p50 {:.0f} ms".format(r["ok"], r["sent"], r["ttft_ms"]["p50"]))' "$TMP/load.json"
}
counters() {
	curl -s 127.0.0.1:$((PORT + 20))/metrics | grep -E '^sluice_(disagg_decision|pd_(requests|leg_failures|fallbacks)_)' |
		grep -v ' 0$' | sed 's/^/   /'
}

echo "== prefill and decode apart: 2 prefill and 2 decode engines over NIXL, no sidecar"
$BIN/sluice-sim --port $((PORT + 1)) --instances 4 --kv-connector nixlv2 --time-scale 20 \
	--kv-cache-transfer-latency 5ms 2>/dev/null &
PIDS+=($!)
ENDS=()
for i in 1 2 3 4; do
	ENDS+=(--endpoint "127.0.0.1:$((PORT + i)),role=$([ $i -le 2 ] && echo prefill || echo decode)")
done
$BIN/sluiced --listen 127.0.0.1:$PORT --admin 127.0.0.1:$((PORT + 20)) --no-bpf --pd-decider always \
	--probe-interval 60s "${ENDS[@]}" 2>"$TMP/log" &
PIDS+=($!)
for i in $(seq 100); do
	curl -fs 127.0.0.1:$((PORT + 20))/readyz >/dev/null 2>&1 && break
	sleep 0.1
done
load
counters
echo "-- both prefill engines fail from now on: the decode engines do it alone, clients see nothing"
for i in 1 2; do
	curl -s 127.0.0.1:$((PORT + i))/sim/fail -H 'content-type: application/json' \
		-d '{"leg":"prefill","what":"status-500","count":1000000}' >/dev/null
done
load
counters
