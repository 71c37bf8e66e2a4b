#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench-routing`: does the order of policies that sluice-fleet finds hold end to end?

sluiced before 8 simulated engines replays a piece of the Mooncake conversation trace in scaled real
time, once per policy and round; sluice-fleet replays the same piece in virtual time. Exit 1 when a
pair of policies stands the other way round by TTFT p90, beyond the spread of the rounds.
"""
import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(ROOT, "build/bin")
TRACE = os.path.join(ROOT, "tests/data/mooncake_conversation_800.jsonl")
# What sluiced runs, and the same rule in sluice-fleet.
POLICIES = (("active-request-scorer", "least-requests"), ("llm-d", "llm-d"), ("sluice", "sluice"))
ENGINES = 8


def free_block(count):
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            first = s.getsockname()[1]
        if first + count > 65535:
            continue
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            continue


def wait_for(url, seconds=30):
    end = time.monotonic() + seconds
    while True:
        try:
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def replay(profile, scale, limit):
    port = free_block(ENGINES + 2)
    started = [subprocess.Popen(
        [f"{BIN}/sluice-sim", "--port", str(port), "--instances", str(ENGINES), "--model", "tiny",
         "--latency-calculator", "batch", "--time-scale", str(scale), "--block-size", "512",
         "--kv-cache-size", "4096", "--max-num-seqs", "256", "--max-waiting-queue-length", "5000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    try:
        for i in range(ENGINES):
            wait_for(f"http://127.0.0.1:{port + i}/health")
        gateway, admin = port + ENGINES, port + ENGINES + 1
        ends = [x for i in range(ENGINES) for x in ("--endpoint", f"127.0.0.1:{port + i}")]
        started.append(subprocess.Popen(
            [f"{BIN}/sluiced", "--listen", f"127.0.0.1:{gateway}", "--admin", f"127.0.0.1:{admin}",
             "--workers", "1", "--no-pin-workers", "--no-bpf", "--scrape-interval", "10ms",
             "--scheduler-profile", profile, *ends],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(f"http://127.0.0.1:{admin}/readyz")
        out = subprocess.run(
            [f"{BIN}/sluice-load", "--target", f"127.0.0.1:{gateway}", "--trace", TRACE, "--speed",
             str(scale), "--limit", str(limit), "--ignore-eos", "--json", "--quiet"],
            capture_output=True, text=True, check=True).stdout
    finally:
        for p in reversed(started):
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
    got = json.loads(out)
    if got["ok"] != limit:
        sys.exit(f"{profile}: only {got['ok']} of {limit} requests were answered: {got['errors']}")
    return {"p50": got["ttft_ms"]["p50"] * scale, "p90": got["ttft_ms"]["p90"] * scale,
            "hit": got["hit_share"]}


def virtual(limit):
    with open(TRACE) as f:
        piece = [line for line, _ in zip(f, range(limit))]
    path = os.path.join(ROOT, "build/routing-trace.jsonl")
    with open(path, "w") as f:
        f.writelines(piece)
    out = subprocess.run([f"{BIN}/sluice-fleet", "--trace", path, "--speed", "1", "--json", "--policy",
                          ",".join(p[1] for p in POLICIES)], capture_output=True, text=True,
                         check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def spread(values, form):
    return f"{statistics.median(values):{form}} ±{(max(values) - min(values)) / 2:{form}}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=10, help="times faster than the engines are")
    parser.add_argument("--limit", type=int, default=800, help="requests")
    args = parser.parse_args()
    fleet = virtual(args.limit)
    runs = {p[0]: [] for p in POLICIES}
    for number in range(args.rounds):
        for profile, _ in POLICIES if number % 2 == 0 else reversed(POLICIES):
            runs[profile].append(replay(profile, args.scale, args.limit))
    print(f"{args.limit} requests, {ENGINES} engines, {args.scale} times faster, {args.rounds} rounds; "
          "times in the engines' clock")
    print(f"{'policy':24} {'TTFT p50 ms':>14} {'TTFT p90 ms':>14} {'hit share':>14}   in virtual time: "
          "p50, p90, hit")
    for (profile, _), v in zip(POLICIES, fleet):
        r = runs[profile]
        print(f"{profile:24} {spread([x['p50'] for x in r], '.0f'):>14} "
              f"{spread([x['p90'] for x in r], '.0f'):>14} {spread([x['hit'] for x in r], '.3f'):>14}"
              f"   {v['ttft_p50_ms']:.0f}, {v['ttft_p90_ms']:.0f}, {v['hit_share']:.3f}")
    order = [p[0] for p, _ in sorted(zip(POLICIES, fleet), key=lambda x: x[1]["ttft_p90_ms"])]
    p90 = {p: [x["p90"] for x in r] for p, r in runs.items()}
    pairs = [(a, b) for n, a in enumerate(order) for b in order[n + 1:]]
    against = [(a, b) for a, b in pairs if min(p90[a]) > max(p90[b])]
    open_ = [(a, b) for a, b in pairs if max(p90[a]) >= min(p90[b]) and (a, b) not in against]
    print("order by TTFT p90 in virtual time:", " < ".join(order))
    for a, b in open_:
        print(f"end to end {a} and {b} are within each other's spread")
    for a, b in against:
        print(f"end to end {b} is better than {a}: NOT as in virtual time")
    if not against:
        print("end to end nothing contradicts it")
    sys.exit(bool(against))


main()
