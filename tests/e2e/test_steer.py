# SPDX-License-Identifier: Apache-2.0
"""Steer: every byte arrives, whatever the endpoint and the client do; nothing grows."""
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

from harness import BIN, Gateway, Sim, Skip, chat, eventually, get, main
from replay import fixture, relength

SOAK = bool(os.environ.get("SLUICE_SOAK"))
HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"transfer-encoding: chunked\r\n\r\n")
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
GETS = {b"/v1/models": relength(JSON + MODELS), b"/health": fixture("health"),
        b"/metrics": fixture("metrics_idle")}


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(i, size):
    """Says where it stands: a byte that is lost, doubled or overtaken shows."""
    text = b"%08d" % i
    return b"data: " + (text * (size // 8 + 1))[:size] + b"\n\n"


class Engine:
    """A thread per connection; `speak(connection)` writes what follows the first content."""

    def __init__(self, speak):
        self.speak, self.gone = speak, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        buf = b""
        try:
            while True:
                while b"\r\n\r\n" not in buf:
                    got = c.recv(65536)
                    if not got:
                        return
                    buf += got
                head, _, buf = buf.partition(b"\r\n\r\n")
                m = re.search(rb"(?i)content-length: *(\d+)", head)
                while len(buf) < int(m[1] if m else 0):
                    buf += c.recv(65536)
                buf = buf[int(m[1] if m else 0):]
                if head.startswith(b"GET"):
                    c.sendall(GETS[head.split(b" ")[1]])
                    continue
                c.sendall(HEAD)
                c.sendall(chunk(FIRST))
                time.sleep(0.05)  # so that it has passed by the relay
                self.speak(c)
                return
        except OSError:
            self.gone.set()
        finally:
            c.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


class Steering(Gateway):
    def __init__(self, endpoints, *flags):
        self.pins = f"/sys/fs/bpf/sluice-steer-{os.getpid()}"
        super().__init__(endpoints, "--bpf", "--bpffs-dir", self.pins, "--path", "steer",
                         "--affinity-bytes-max", "1MB", *flags)

    def stop(self, *how):
        super().stop(*how)
        subprocess.run([os.path.join(BIN, "sluiced"), "--bpffs-dir", self.pins, "--uninstall"],
                       capture_output=True)


def asked(gw, rcvbuf=None):
    s = socket.socket()
    if rcvbuf:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.settimeout(120)
    s.connect(("127.0.0.1", gw.port))
    body = json.dumps(chat(stream=True, model="m")).encode()
    s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
              b"content-length: %d\r\n\r\n" % len(body) + body)
    return s


def read_all(s):
    got = bytearray()
    while True:
        part = s.recv(1 << 20)
        if not part:
            return bytes(got)
        got += part


def body_of(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    assert b"connection: close" in head.lower(), head
    return body


def steered(gw):
    return gw.metric("sluice_path_total", path="steer")


def need_steer(gw):
    """Some of it must have gone by the kernel, or why this machine cannot is printed."""
    if not steered(gw):
        raise Skip("nothing was steered here: " + " ".join(
            l for l in gw.metrics().splitlines()
            if l.startswith("sluice_path_refused_total") and not l.endswith(" 0")))


def test_every_byte_of_many_streams_arrives():
    count = 20000 if SOAK else 600
    with Sim("--time-to-first-token", "5ms", "--inter-token-latency", "1ms", instances=2) as sim, \
            Steering(sim.endpoints) as gw:
        r = json.loads(subprocess.run(
            [os.path.join(BIN, "sluice-load"), "--target", f"127.0.0.1:{gw.port}", "--verify",
             "--json", "--concurrency", "100", "--requests", str(count), "--max-tokens", "60"],
            capture_output=True, text=True).stdout)
        need_steer(gw)
        assert r["ok"] == r["sent"] == count, r
        assert steered(gw) == count
        eventually("nothing is left", lambda: gw.metric("sluice_requests_running") in (0, None))


def speak_events(sizes, seed, pause=0.0):
    def speak(c):
        rng = random.Random(seed)
        for i, size in enumerate(sizes):
            c.sendall(chunk(event(i, size)))
            if pause and rng.random() < 0.1:
                time.sleep(rng.random() * pause)
        c.sendall(b"0\r\n\r\n")
    return speak


def wanted(sizes):
    return (chunk(FIRST) + b"".join(chunk(event(i, n)) for i, n in enumerate(sizes)) + b"0\r\n\r\n")


def test_small_large_and_mixed_messages_arrive_in_order():
    rng = random.Random(7)
    kinds = [[16] * 3000, [65536] * 120, [rng.choice([1, 8, 200, 5000, 70000]) for _ in range(400)]]
    for sizes in kinds:
        want = wanted(sizes)
        for turn in range(40 if SOAK else 6):
            with Engine(speak_events(sizes, turn, 0.002)) as engine, \
                    Steering([engine.address]) as gw:
                answers = [None] * 8

                def ask(n):
                    answers[n] = body_of(read_all(asked(gw)))
                threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
                [t.start() for t in threads]
                [t.join() for t in threads]
                need_steer(gw)
                for got in answers:
                    assert got == want, (len(got or b""), len(want))
                assert gw.metric("sluice_steer_bytes_total") > 0


def test_an_answer_dribbled_byte_by_byte_arrives():
    text = wanted([40] * 12)[len(chunk(FIRST)):]

    def speak(c):
        for i in range(len(text)):
            c.sendall(text[i:i + 1])
    with Engine(speak) as engine, Steering([engine.address]) as gw:
        for _ in range(20):
            assert body_of(read_all(asked(gw))) == chunk(FIRST) + text
        need_steer(gw)


def tcp_pages():
    line = next(l for l in open("/proc/net/sockstat") if l.startswith("TCP:")).split()
    return int(line[line.index("mem") + 1])


def test_a_client_that_stops_reading_holds_no_memory_and_gets_every_byte():
    sizes = [65536] * (1600 if SOAK else 320)
    with Engine(speak_events(sizes, 1)) as engine, Steering([engine.address]) as gw:
        before = tcp_pages()
        s = asked(gw, rcvbuf=65536)
        eventually("the gateway stops reading",
                   lambda: gw.metric("sluice_relay_paused_total") > 0 or
                   gw.metric("sluice_buffered_bytes") > 200000)
        time.sleep(60 if SOAK else 3)  # the stall itself
        held = (tcp_pages() - before) * 4096
        # the credit, the relay's own buffers, and both ends' socket buffers
        assert held < 24 << 20, held
        assert gw.metric("sluice_buffered_bytes") < 4 << 20
        assert body_of(read_all(s)) == wanted(sizes)
        need_steer(gw)
        assert gw.metric("sluice_steer_out_of_credit_total") > 0


def test_slow_readers_get_every_byte():
    sizes = [9000] * 300
    with Engine(speak_events(sizes, 2)) as engine, Steering([engine.address]) as gw:
        def slow(out, n):
            s, got = asked(gw, rcvbuf=32768), bytearray()
            rng = random.Random(n)
            while part := s.recv(rng.choice([100, 4000, 50000])):
                got += part
                if rng.random() < 0.05:
                    time.sleep(0.003)
            out[n] = body_of(bytes(got))
        out = [None] * 10
        threads = [threading.Thread(target=slow, args=(out, n)) for n in range(10)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        need_steer(gw)
        assert all(got == wanted(sizes) for got in out)


def test_an_endpoint_that_dies_never_looks_complete():
    def speak_and(end):
        def speak(c):
            for i in range(50):
                c.sendall(chunk(event(i, 200)))
                time.sleep(0.002)
            if end == "inside":
                c.sendall(b"100\r\nhalf of it")
            if end == "reset":
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return speak
    for end in ("between", "inside", "reset"):
        with Engine(speak_and(end)) as engine, Steering([engine.address]) as gw:
            for _ in range(2):  # a third one would open the circuit
                s = asked(gw)
                try:
                    got = body_of(read_all(s))
                except ConnectionResetError:
                    continue
                assert not got.endswith(b"0\r\n\r\n"), got[-60:]
            need_steer(gw)
            eventually("it is counted as cut",
                       lambda: gw.metric("sluice_streams_cut_total") == 2)


def test_a_client_that_leaves_ends_its_request_at_the_endpoint():
    def speak(c):
        for i in range(100000):
            c.sendall(chunk(event(i, 200)))
            time.sleep(0.001)
    for _ in range(10 if SOAK else 3):
        with Engine(speak) as engine, Steering([engine.address]) as gw:
            s = asked(gw)
            while steered(gw) is None or gw.metric("sluice_requests_running") == 0:
                time.sleep(0.01)
            s.recv(4096)
            s.close()
            eventually("the endpoint hears of it", engine.gone.is_set)


def test_slots_come_back():
    """More streams than there are slots, one after the other, and none is refused."""
    count = 40000 if SOAK else 2000
    with Sim("--time-to-first-token", "0ms", "--inter-token-latency", "1ms") as sim, \
            Steering(sim.endpoints) as gw:
        r = json.loads(subprocess.run(
            [os.path.join(BIN, "sluice-load"), "--target", f"127.0.0.1:{gw.port}", "--verify",
             "--json", "--concurrency", "64", "--requests", str(count), "--max-tokens", "4"],
            capture_output=True, text=True).stdout)
        need_steer(gw)
        assert r["ok"] == count, r
        assert gw.metric("sluice_path_refused_total", path="steer", reason="full") == 0


def test_a_killed_agent_cuts_its_streams_and_nothing_looks_whole():
    def speak(c):
        for i in range(100000):
            c.sendall(chunk(event(i, 200)))
            time.sleep(0.001)
    with Engine(speak) as engine:
        gw = Steering([engine.address])
        streams = [asked(gw) for _ in range(20)]
        for s in streams:
            s.recv(2000)
        time.sleep(0.2)
        gw.stop(signal.SIGKILL)
        for s in streams:
            try:
                assert not read_all(s).endswith(b"0\r\n\r\n")
            except ConnectionResetError:
                pass


def test_usage_is_read_from_the_last_messages():
    with Sim("--inter-token-latency", "1ms") as sim, Steering(sim.endpoints) as gw:
        for n in range(1, 6):
            s = socket.create_connection(("127.0.0.1", gw.port))
            body = json.dumps(chat(stream=True, max_tokens=20, ignore_eos=True,
                                   stream_options={"include_usage": True})).encode()
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                      b"content-length: %d\r\n\r\n" % len(body) + body)
            assert b'"usage":{' in read_all(s)
            need_steer(gw)
            eventually("its tokens are counted",
                       lambda: gw.metric("sluice_completion_tokens_total") == 20 * n)
        assert steered(gw) == 5


def test_why_names_the_path_or_what_speaks_against_it():
    with Sim("--inter-token-latency", "1ms") as sim, Steering(sim.endpoints) as gw:
        for stream, want in ((True, "steer"), (False, "short-answer")):
            s = socket.create_connection(("127.0.0.1", gw.port))
            body = json.dumps(chat(stream=stream, max_tokens=20)).encode()
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                      b"x-request-id: way-%d\r\ncontent-length: %d\r\n\r\n" % (stream, len(body))
                      + body)
            read_all(s)
            if stream:
                need_steer(gw)
            text = json.dumps(get(gw.admin, f"/state/decisions/way-{int(stream)}").json())
            assert want in text, text


if __name__ == "__main__":
    main(globals())
