# SPDX-License-Identifier: Apache-2.0
"""Peers that hold on, read slowly or leave: memory and descriptors come back, others are served.

`make soak` runs the full counts and measures what others feel of it; `make check` runs a part of
the counts and no clock.
"""
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time

from harness import BIN, ROOT, SOAK, Gateway, Process, Sim, Skip, eventually, free_port, get, main, post
from replay import fixture, payload

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = "/v1/chat/completions"
WANT = payload(fixture("chat"))[0]
SLOW_HEADS = 2000 if SOAK else 200
STALLED, ANSWER_BYTES = (1000, 10_000_000) if SOAK else (60, 10_000_000)
ABORTERS, THREADS = (10000, 10) if SOAK else (600, 10)
# What may stay: free blocks kept resident (1024 of 16 KB, 64 of 128 KB), receive buffers on offer
# (512 of 16 KB), and the pools' slots that were in use at a time. A second wave must not add to it.
RSS_SLACK_KB = (16 + 8 + 8) * 1024
SLOT_KB = 12
ROUNDS = 3


def chat(text="hello", **more):
    return {**{"model": "big", "messages": [{"role": "user", "content": text}]}, **more}


def request(**more):
    body = json.dumps(chat(**more)).encode()
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)) + body


class StreamEngine(Process):
    def __init__(self):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        super().__init__([sys.executable, os.path.join(HERE, "stream_engine.py"),
                          str(self.port), str(ANSWER_BYTES)])
        eventually("the engine listens", lambda: self._up())

    def _up(self):
        assert self.alive(), self.output()
        try:
            return get(self.port, "/health").status == 200
        except OSError:
            return False

    def count(self):
        return int(get(self.port, "/count").body)

    def under_way(self):
        return int(get(self.port, "/open").body)


class Yard:
    """A gateway, the engine of the abused model, and (soak) one for everybody else."""

    def __init__(self, *flags):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if SOAK and hard < 8192:
            raise Skip(f"the descriptor limit is {hard}")
        self.engine, self.other = StreamEngine(), None
        endpoints = [self.engine]
        if SOAK:
            port = free_port()
            self.other = Process([os.path.join(ROOT, "build/release/bench/fixed_engine"),
                                  str(port), "1"])
            endpoints.append(f"127.0.0.1:{port}")
        self.gw = Gateway(endpoints, *flags)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.gw.__exit__(*exc)
        finally:
            self.engine.stop()
            if self.other:
                self.other.stop()

    def p99_ms(self):
        """What the users of another model feel: median of the p99 of three windows."""
        if not SOAK:
            return None
        windows = []
        for _ in range(ROUNDS):
            done = subprocess.run(
                [os.path.join(BIN, "sluice-load"), "--target", f"127.0.0.1:{self.gw.port}",
                 "--rate", "200", "--duration", "4", "--no-stream", "--json", "--quiet"],
                capture_output=True)
            said = json.loads(done.stdout)
            assert said["ok"] == said["sent"], said
            windows.append(said["e2e_ms"]["p99"])
        return statistics.median(windows)


def nobody_else_suffers(what, before, during, after):
    if SOAK:
        print(f"# {what}: others' p99 {before:.2f} ms before, {during:.2f} ms during, "
              f"{after:.2f} ms after", flush=True)
        assert during <= 2 * max(before, after), (before, during, after)


def served(gw, count=20):
    for i in range(count):
        got = post(gw.port, PATH, chat(f"{i}"))
        assert got.status == 200 and got.body == WANT, (got.status, got.body[:100])


def settle(yard, what, fds, rss, at_a_time=0):
    """All client and engine connections are gone, but for those kept to engines."""
    gw = yard.gw
    eventually("descriptors come back", lambda: gw.fds() <= fds + 16, 60)
    eventually("bytes come back", lambda: gw.metric("sluice_buffered_bytes") == 0)
    eventually("no request is left running",
               lambda: get(gw.admin, "/state/requests").json()["requests"] == [])
    assert gw.grew_kb(rss) < RSS_SLACK_KB + at_a_time * SLOT_KB, (rss, gw.rss_kb())
    print(f"# {what}: RSS {rss} KB before, {gw.rss_kb()} KB after; descriptors {fds} and "
          f"{gw.fds()}", flush=True)


def test_slow_heads_hold_nothing_and_nobody_up():
    with Yard("--head-timeout", "20s" if SOAK else "2s") as yard:
        gw = yard.gw
        served(gw)
        before = yard.p99_ms()
        fds, rss = gw.fds(), gw.rss_kb()
        came = gw.metric("sluice_client_connections_total")
        slow = []
        for _ in range(SLOW_HEADS):
            s = socket.create_connection(("127.0.0.1", gw.port))
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-")
            slow.append(s)
        eventually("all are held", lambda: gw.metric(
            "sluice_client_connections_total") >= came + SLOW_HEADS)
        print(f"# {SLOW_HEADS} slow heads: {gw.grew_kb(rss) * 1024 // SLOW_HEADS} bytes each",
              flush=True)
        served(gw)
        during = yard.p99_ms()
        for s in slow[::2]:
            try:
                s.sendall(b"a")  # a byte now and then must not buy time
            except OSError:
                pass  # it was refused already
        for s in slow:
            s.settimeout(60)
            assert s.recv(4096).startswith(b"HTTP/1.1 408"), "it was not refused"
            s.close()
        settle(yard, "slow heads", fds, rss)
        served(gw)
        nobody_else_suffers("slow heads", before, during, yard.p99_ms())


def stall(yard, count):
    """`count` clients that ask for a long stream and do not read it."""
    gw, before, paused = yard.gw, yard.engine.count(), yard.gw.metric("sluice_relay_paused_total")
    readers = []
    for _ in range(count):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", gw.port))
        s.sendall(request(text="BIG", stream=True))
        readers.append(s)
    eventually("all are at the engine", lambda: yard.engine.count() == before + count, 60)
    eventually("all wait for their readers",
               lambda: gw.metric("sluice_relay_paused_total") >= paused + count, 60)
    return readers


def leave(yard, readers):
    for s in readers:
        s.close()
    eventually("the engine is told of each", lambda: yard.engine.under_way() == 0, 60)


def test_stalled_readers_stop_our_reading_not_our_memory():
    with Yard() as yard:
        gw = yard.gw
        served(gw)
        before = yard.p99_ms()
        fds, rss = gw.fds(), gw.rss_kb()
        readers = stall(yard, STALLED)
        served(gw)
        during = yard.p99_ms()
        held = gw.grew_kb(rss)
        print(f"# {STALLED} stalled readers: {held / STALLED:.0f} KB each", flush=True)
        # RELAY_BYTES_MAX unsent for each, and what was received when reading stopped.
        assert held < STALLED * 360 + RSS_SLACK_KB, (held, STALLED)
        one = readers[0]
        one.settimeout(60)
        got = 0
        while data := one.recv(1 << 20):
            got += len(data)
            if data.endswith(b"0\r\n\r\n"):
                break
        assert got > ANSWER_BYTES, got
        leave(yard, readers)
        settle(yard, "stalled readers", fds, rss, STALLED)
        first = gw.rss_kb()
        leave(yard, stall(yard, STALLED))
        settle(yard, "stalled readers again", fds, rss, STALLED)
        assert gw.grew_kb(first) < 4096, (first, gw.rss_kb())
        served(gw)
        nobody_else_suffers("stalled readers", before, during, yard.p99_ms())


def test_idle_and_streaming_connections_are_small():
    """User memory, of which the gateway's own history (decisions, index) is a part."""
    idle, streaming = (9500, 2000) if SOAK else (800, 100)
    with Sim("--max-num-seqs", "4096", "--max-waiting-queue-length", "4096",
             "--time-to-first-token", "50ms", "--inter-token-latency", "300ms") as sim, \
            Gateway(sim.endpoints, "--head-timeout", "60s") as gw:
        ask = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
        for _ in range(20):
            assert post(gw.port, PATH, chat(model="tiny")).status == 200
        rss, fds = gw.rss_kb(), gw.fds()
        held = []
        for _ in range(idle):
            s = socket.create_connection(("127.0.0.1", gw.port), 60)
            s.sendall(ask)
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
            held.append(s)
        each = gw.grew_kb(rss) / idle
        print(f"# {idle} idle connections: RSS {rss} KB before, {gw.rss_kb()} KB with them, "
              f"{each:.2f} KB each", flush=True)
        assert each <= 2 + 2048 / idle, each
        for s in held:
            s.close()
        eventually("they are gone", lambda: gw.fds() <= fds + 16, 60)
        rss = gw.rss_kb()
        streams = []
        for i in range(streaming):
            s = socket.create_connection(("127.0.0.1", gw.port), 60)
            s.sendall(request(text=f"{i} stream", stream=True, model="tiny", max_tokens=1000))
            streams.append(s)
        for s in streams:
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
        eventually("all are relayed", lambda: sum(
            e["inflight_requests"] for e in get(gw.admin, "/state/endpoints").json()["endpoints"])
            == streaming)
        each = gw.grew_kb(rss) / streaming
        print(f"# {streaming} relayed streams: RSS {rss} KB before, {gw.rss_kb()} KB with them, "
              f"{each:.2f} KB each, goal 16 KB: {'met' if each <= 16 else 'missed'}", flush=True)
        assert each <= 24 + 4096 / streaming, each  # so that it grows no further from its goal
        for s in streams:
            s.close()
        eventually("descriptors come back", lambda: gw.fds() <= fds + 16, 60)


def abort_some(port, seed, count, over):
    r = random.Random(seed)
    texts = [request(stream=True), request(), request(text="BIG", stream=True)]
    for i in range(count):
        try:
            s = socket.create_connection(("127.0.0.1", port))
            data = r.choice(texts)
            s.sendall(data[:r.randrange(1, len(data) + 400)])
            if r.random() < 0.5:
                s.settimeout(0.02)
                try:
                    s.recv(r.randrange(1, 2000))
                except TimeoutError:
                    pass
            if r.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.close()
        except OSError:
            pass
        if SOAK:  # spread over the time in which others are measured
            over.wait(0.01)


def test_clients_that_leave_at_random_leave_nothing_behind():
    with Yard() as yard:
        gw = yard.gw
        served(gw)
        before = yard.p99_ms()
        never = threading.Event()
        fds = gw.fds()
        abort_some(gw.port, 0, ABORTERS // 20, never)  # warm: pools grow to their size
        rss = gw.rss_kb()
        code = ("import sys, threading; sys.path.insert(0, sys.argv[1]); import test_abuse as t; "
                "t.abort_some(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), "
                "threading.Event())")
        crowd = [Process([sys.executable, "-c", code, HERE, str(gw.port), str(i),
                          str(ABORTERS // 2)], {"SLUICE_SOAK": "1" if SOAK else "0"})
                 for i in range(2)] if SOAK else []
        threads = [] if SOAK else [threading.Thread(
            target=abort_some, args=(gw.port, i, ABORTERS // THREADS, never))
            for i in range(THREADS)]
        [t.start() for t in threads]
        served(gw)
        during = yard.p99_ms()
        [t.join() for t in threads]
        for p in crowd:
            assert p.popen.wait(600) == 0, p.output()
        settle(yard, f"{ABORTERS} aborts", fds, rss)
        served(gw)
        nobody_else_suffers("aborts", before, during, yard.p99_ms())


main(globals()) if __name__ == "__main__" else None
