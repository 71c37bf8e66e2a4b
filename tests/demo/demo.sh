#!/bin/bash
# make demo: eight simulated engines, a stretch of a real trace, first round robin, then Sluice.
# KEEP=1 leaves engines and gateway running. Ends only what it started.
set -u
cd "$(dirname "$0")/../.."
BIN=build/bin TMP=$(mktemp -d) PORT=${PORT:-18080} SPEED=${SPEED:-12} PROFILE=${PROFILE:-sluice} ROWS=${ROWS:-800}
TRACE=tests/data/mooncake_conversation_800.jsonl
PIDS=()
BPFFS=/sys/fs/bpf/sluice-demo-$$

stop() {
	[ ${#PIDS[@]} -gt 0 ] && kill "${PIDS[@]}" 2>/dev/null && wait "${PIDS[@]}" 2>/dev/null
	PIDS=()
}
finish() {
	stop
	[ -d "$BPFFS" ] && $BIN/sluiced --uninstall --bpffs-dir "$BPFFS" >/dev/null 2>&1
	rm -rf "$TMP"
}
trap finish EXIT
trap 'exit 130' INT TERM

engines() {
	$BIN/sluice-sim --port $((PORT + 1)) --instances 8 --time-scale "$SPEED" \
		--kv-cache-size 131072 --max-model-len 200000 &
	PIDS+=($!)
	for i in $(seq 100); do
		kill -0 "${PIDS[-1]}" 2>/dev/null || break
		(exec 3<>/dev/tcp/127.0.0.1/$((PORT + 8))) 2>/dev/null && return
		sleep 0.1
	done
	echo "the engines did not start" >&2
	exit 1
}
gateway() {
	local flags=()
	for i in 1 2 3 4 5 6 7 8; do
		flags+=(--endpoint "127.0.0.1:$((PORT + i)),name=engine-$i")
	done
	[ "$(id -u)" = 0 ] && flags+=(--bpffs-dir "$BPFFS") || {
		echo "not root: the maps stay in plain memory (--no-bpf)"
		flags+=(--no-bpf)
	}
	$BIN/sluiced --listen 127.0.0.1:$PORT --admin 127.0.0.1:$((PORT + 20)) "${flags[@]}" ${PROFILE:+--scheduler-profile "$PROFILE"} \
		--access-log "$TMP/access.log" 2>"$TMP/sluiced.log" &
	PIDS+=($!)
	for i in $(seq 100); do
		kill -0 "${PIDS[-1]}" 2>/dev/null || break
		curl -fs 127.0.0.1:$PORT/v1/models 2>/dev/null | grep -q tiny && return
		sleep 0.1
	done
	cat "$TMP/sluiced.log" >&2
	exit 1
}
replay() { # targets, name
	$BIN/sluice-load --target "$1" --trace $TRACE --limit "$ROWS" --speed "$SPEED" --timeout 60 \
		--json >"$TMP/$2.json" || echo "some requests failed: see the errors below"
}

echo "== $ROWS requests of the Mooncake conversation trace, $SPEED times faster, 8 engines"
echo "-- round robin, no gateway"
engines
replay "$(seq -s, -f "127.0.0.1:%g" $((PORT + 1)) $((PORT + 8)))" round_robin
stop
echo "-- through sluiced, profile $PROFILE"
engines
gateway
replay 127.0.0.1:$PORT sluice
python3 - "$TMP" "$SPEED" <<'PY'
import json, sys
tmp, speed = sys.argv[1], float(sys.argv[2])
a, b = (json.load(open(f"{tmp}/{n}.json")) for n in ("round_robin", "sluice"))
row = "{:34} {:>12} {:>12}".format
print(row("", "round robin", "sluice"))
print(row("answered", f"{a['ok']}/{a['sent']}", f"{b['ok']}/{b['sent']}"))
for p in ("p50", "p90"):
    print(row(f"TTFT {p}, engine seconds", *(f"{r['ttft_ms'][p] * speed / 1000:.2f}" for r in (a, b))))
print(row("prompt tokens found cached", *(f"{r['hit_share'] * 100:.1f} %" for r in (a, b))))
print(row("spread of requests (CV)", *(f"{r['spread_cv']:.2f}" for r in (a, b))))
print(row("errors", *(str(sum(r["errors"].values())) for r in (a, b))))
PY
if [ -e "$BPFFS/show/endpoints" ]; then
	echo "-- cat $BPFFS/show/endpoints"
	head -12 "$BPFFS/show/endpoints"
	echo "-- bpftool map dump pinned $BPFFS/endpoint_load (first entry)"
	bpftool map dump pinned "$BPFFS/endpoint_load" 2>/dev/null | head -22
	echo "-- cat $BPFFS/show/affinity"
	head -6 "$BPFFS/show/affinity" # of many rows
else
	grep -i bpf "$TMP/sluiced.log" | head -1
fi
ID=$(tail -1 "$TMP/access.log" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
for say in "why $ID" affinity; do
	echo "-- sluicectl $say"
	$BIN/sluicectl --admin 127.0.0.1:$((PORT + 20)) $say
done
[ -z "${KEEP:-}" ] && stop
PORT=$((PORT + 40)) tests/demo/pd.sh
if [ -n "${KEEP:-}" ]; then
	echo "left running; ask it something, end with Ctrl-C:"
	echo "  curl http://127.0.0.1:$PORT/v1/chat/completions -d '{\"model\":\"tiny\",\"max_tokens\":8,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}'"
	wait
fi
