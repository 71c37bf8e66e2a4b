#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The prefill hop: what a second leg costs in the gateway, at 200 requests/s of 20 KB prompts.

Engines answer at once, so that what is left is the gateway and two exchanges. Beside it a straight
HTTP client that makes the same two calls to the same engines. Gateway on CPU 0, the rest on CPU 1;
medians and spread of ROUNDS rounds, the three ways in turn within each."""
import glob
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENGINE = ROOT / "build/release/bench/fixed_engine"
PORT, ROUNDS, COUNT, RATE = 29300, int(os.environ.get("ROUNDS", 5)), 1000, 200
OURS = (b',"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,'
        b'"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}}')
children = []


def start(cpu, *args):
    pin = ["taskset", "-c", str(cpu)] if os.cpu_count() > 1 else []
    children.append(subprocess.Popen([*pin, *map(str, args)], stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL))
    return children[-1]


def wait_for(what):
    end = time.monotonic() + 15
    while time.monotonic() < end:
        try:
            if what():
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit("something did not start")


def reach(port, path):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).status == 200


def gateway(port, *flags):
    g = start(0, ROOT / "build/bin/sluiced", "--listen", f"127.0.0.1:{port}", "--admin",
              f"127.0.0.1:{port + 1}", "--workers", 1, "--no-pin-workers", "--no-bpf",
              "--scrape-interval", "10s", "--probe-interval", "10s",
              "--endpoint", f"127.0.0.1:{PORT},role=prefill",
              "--endpoint", f"127.0.0.1:{PORT + 1},role=decode", *flags)
    wait_for(lambda: reach(port + 1, "/readyz"))
    return g


def cpu_s(pid):
    return sum(int(open(f).read().split()[0])
               for f in glob.glob(f"/proc/{pid}/task/*/schedstat")) / 1e9


class Caller:
    """One kept connection; call() returns when the whole answer is here."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port))
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, body):
        self.s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: "
                       b"application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.s.recv(65536)
        head, _, rest = data.partition(b"\r\n\r\n")
        want = int(re.search(rb"content-length: (\d+)", head)[1])
        while len(rest) < want:
            rest += self.s.recv(65536)
        assert b" 200 " in head, head
        return rest


def bodies(i):
    """As a client sends it, and as the two legs are."""
    prompt = (b"%08d " % i + b"the quick brown fox jumps over the lazy dog " * 460)[:20000]
    plain = b'{"model":"tiny","messages":[{"role":"user","content":"%s"}],"max_tokens":100}' % prompt
    return plain, plain.replace(b'"max_tokens":100}', b'"max_tokens":1,"stream":false') + OURS


def round_of(call):
    """Latencies in us of COUNT calls at RATE."""
    out, begin = [], time.perf_counter()
    for i in range(COUNT):
        due = begin + i / RATE
        if due > time.perf_counter():
            time.sleep(due - time.perf_counter())
        at = time.perf_counter()
        call(i)
        out.append((time.perf_counter() - at) * 1e6)
    return sorted(out)


def straight():
    one, two = Caller(PORT), Caller(PORT + 1)

    def call(i):
        plain, prefill = bodies(i)
        answer = one.call(prefill)
        at = answer.index(b'"kv_transfer_params":')
        two.call(plain[:-1] + b"," + answer[at:-1] + b"}")
    return call


def through(port):
    c = Caller(port)
    return lambda i: c.call(bodies(i)[0])


def spread(values, digits=0):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def quantile_us(port, name, q):
    """Of one of the gateway's own histograms: linear within a bucket."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    rows = [(float(le), float(n)) for le, n in
            re.findall(rf'^sluice_{name}_bucket{{le="([^"]+)"}} (\S+)', text, re.M)]
    want, low, below = q * rows[-1][1], 0.0, 0.0
    for le, n in rows:
        if n >= want and n > below:
            return (low + (min(le, low * 2 or le) - low) * (want - below) / (n - below)) * 1e6
        low, below = le, n
    return 0.0


def main():
    start(1, ENGINE, PORT, 2)
    wait_for(lambda: reach(PORT, "/health"))
    pd = gateway(PORT + 10, "--pd", "nixlv2", "--pd-decider", "always")
    alone = gateway(PORT + 20, "--pd", "off")
    if os.cpu_count() > 1:
        os.sched_setaffinity(0, {1})
    ways = {"straight client": (straight(), None), "prefill + decode": (through(PORT + 10), pd),
            "decode only": (through(PORT + 20), alone)}
    rows = {name: {"p50": [], "p99": [], "cpu": []} for name in ways}
    for call, _ in ways.values():
        for i in range(50):
            call(i)
    for _ in range(ROUNDS):
        for name, (call, process) in ways.items():
            before = cpu_s(process.pid) if process else 0
            got = round_of(call)
            rows[name]["p50"].append(got[len(got) // 2])
            rows[name]["p99"].append(got[len(got) * 99 // 100])
            if process:
                rows[name]["cpu"].append((cpu_s(process.pid) - before) / COUNT * 1e6)
    print(f"\nprefill hop: {RATE} requests/s of 20 KB, {ROUNDS} rounds of {COUNT}, medians (range)")
    print(f"{'':20}{'p50 us':>20}{'p99 us':>20}{'gateway CPU us':>20}")
    for name, r in rows.items():
        print(f"{name:20}{spread(r['p50']):>20}{spread(r['p99']):>20}"
              f"{spread(r['cpu'], 1) if r['cpu'] else '-':>20}")
    base, ours, plain = rows["straight client"], rows["prefill + decode"], rows["decode only"]
    added = {k: [b - a for a, b in zip(base[k], ours[k])] for k in ("p50", "p99")}
    ratio = [b / a for a, b in zip(plain["cpu"], ours["cpu"])]
    print("inside the gateway, by its own clock: the hop (prefill answer whole -> decode leg sent) "
          f"p50 {quantile_us(PORT + 11, 'pd_hop_seconds', .5):.0f} us (<= 150), "
          f"p99 {quantile_us(PORT + 11, 'pd_hop_seconds', .99):.0f} us (<= 1000); both legs "
          f"(body whole -> decode leg sent, less the prefill's own time) "
          f"p50 {quantile_us(PORT + 11, 'gateway_seconds', .5):.0f} us, "
          f"p99 {quantile_us(PORT + 11, 'gateway_seconds', .99):.0f} us")
    print(f"end to end: the gateway adds p50 {spread(added['p50'])} us, p99 {spread(added['p99'])} "
          f"us to the two calls; the second leg adds p50 "
          f"{spread([b - a for a, b in zip(plain['p50'], ours['p50'])])} us to one leg")
    print(f"gateway CPU of both legs against one: {spread(ratio, 2)} x (<= 2.20)")


try:
    main()
finally:
    for c in children:
        c.send_signal(signal.SIGKILL)
        c.wait()
