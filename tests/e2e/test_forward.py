# SPDX-License-Identifier: Apache-2.0
"""Forwarding and the relay: kept connections, retries, clients that leave, streams that stall."""
import concurrent.futures
import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading

import replay
from harness import Gateway, Skip, chat, eventually, get, main, post
from replay import Replay, dechunk, fixture, hang, payload, split_head

PATH = "/v1/chat/completions"
WANT = payload(fixture("chat"))[0]
STREAM = fixture("chat_stream_usage")
SERVED = "x-gateway-destination-endpoint-served"


def open_request(gw, body):
    """A request of a client that goes on by hand."""
    data = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", gw.port), 20)
    s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (
        PATH.encode(), len(data)) + data)
    return s


def read_all(s):
    out = b""
    try:
        while got := s.recv(65536):
            out += got
    except ConnectionResetError:
        pass
    return out


def last_error(out):
    events = [e for e in payload(out)[0].split(b"\n\n") if e.strip()]
    return json.loads(events[-1].strip()[6:])["error"]


# ---- kept connections ---------------------------------------------------------------------------

def test_connections_to_engines_are_kept_and_retired_before_the_engine_would():
    engine = Replay()
    with Gateway([engine], "--upstream-idle", "400ms") as gw:
        def connects():
            return gw.metric("sluice_upstream_connects_total")
        for _ in range(10):
            assert post(gw.port, PATH, chat()).status == 200
        assert connects() == 1, "requests in a row did not share a connection"
        eventually("it is retired", lambda: engine.open == 1)  # the scrape's remains
        assert post(gw.port, PATH, chat()).status == 200
        assert connects() == 2
        assert gw.metric("sluice_upstream_stale_total") == 0
    engine.stop()


def test_no_more_connections_are_kept_than_allowed():
    go = threading.Event()

    def slow(conn, _):
        go.wait(20)
        conn.sendall(fixture("chat"))
        return None
    engine = Replay(otherwise=slow)
    with Gateway([engine], "--upstream-kept-max", "2") as gw:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, gw.port, PATH, chat(f"{i}")) for i in range(8)]
            eventually("all run", lambda: len(engine.inference()) == 8)
            go.set()
            assert all(a.result(20).status == 200 for a in asked)
        eventually("two are kept", lambda: engine.open <= 3)
    engine.stop()


def test_a_reset_on_a_reused_connection_costs_no_retry():
    served = {}

    def once(conn, request):
        if served.get(conn):
            return replay.reset(conn, request)
        served[conn] = True
        conn.sendall(fixture("chat"))
        return None
    engine = Replay(otherwise=once)
    with Gateway([f"{engine.address},name=one"], "--retries-max", "0") as gw:
        for i in range(30):
            got = post(gw.port, PATH, chat(f"{i}"))
            assert got.status == 200 and got.body == WANT, (i, got.status, got.body)
        assert gw.metric("sluice_upstream_stale_total") >= 20
        assert gw.metric("sluice_forward_retries_total") == 0
        assert gw.metric("sluice_breaker_opened_total") == 0
    engine.stop()


# ---- retries ------------------------------------------------------------------------------------

def test_what_may_be_retried_is_and_what_may_not_is_not():
    cases = [(replay.reset, 3), (replay.close_silently, 3), (replay.garbage, 3)]
    cases += [(replay.status(code, "No"), 3) for code in (502, 503, 504)]
    cases += [(replay.status(code, "No"), 1) for code in (400, 401, 404, 408, 409, 413, 422, 429,
                                                           500, 501)]
    cases += [(fixture("rejected"), 3), (fixture("error_context_length"), 1)]
    for act, want in cases:
        engines = [Replay(otherwise=act) for _ in range(5)]
        with Gateway(engines) as gw:
            got = post(gw.port, PATH, chat())
            tries = sum(len(e.inference()) for e in engines)
            assert tries == want, (act, tries, want)
            assert got.status >= 400 and got.body, (act, got.status)
            if isinstance(act, bytes):
                assert got.status == int(act.split(b" ")[1]), (act, got.status)
                if want == 1:
                    assert got.body == payload(act)[0], (act, got.body)
        [e.stop() for e in engines]


def test_a_stream_that_a_full_engine_rejects_goes_to_another():
    full, free = Replay(otherwise=fixture("rejected_stream")), Replay()
    with Gateway([full, free], "--scheduler-profile", "random-picker") as gw:
        for i in range(24):
            got = post(gw.port, PATH, chat(f"{i}", stream=True))
            assert got.status == 200 and got.body == payload(STREAM)[0], got.body[:300]
        assert full.inference(), "it was never tried"
        assert gw.metric("sluice_forward_retries_total", reason="first-event") >= 1
    full.stop(), free.stop()


def test_the_retry_budget_keeps_a_sick_pool_from_being_flooded():
    count, gate, over = 60, threading.Event(), threading.Event()
    lock, seen = threading.Lock(), []

    def sick(conn, request):
        with lock:
            seen.append(request)
            first = len(seen) <= count
        if not first:  # a retry holds its share of the budget
            over.wait(20)
            return replay.reset(conn, request)
        gate.wait(20)
        return replay.reset(conn, request)
    engines = [Replay(otherwise=sick) for _ in range(count)]
    with Gateway(engines, "--scheduler-profile", "random-picker") as gw:
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            asked = [pool.submit(_post_or_none, gw, i) for i in range(count)]
            eventually("all are running", lambda: len(seen) == count)
            gate.set()
            # All 60 fail at once; 16 of them may be tried again, and hold their share meanwhile.
            eventually("most are refused", lambda: sum(a.done() for a in asked) >= count - 16)
            eventually("they are counted", lambda: gw.metric(
                "sluice_retry_budget_empty_total") >= count - 16)
            assert count < len(seen) <= count + 16, len(seen)
            assert all(a.result().status == 502 for a in asked if a.done())
            over.set()
    [e.stop() for e in engines]


def _post_or_none(gw, i):
    try:
        return post(gw.port, PATH, chat(f"{i}"))
    except OSError:
        return None


def test_nothing_is_retried_once_the_client_has_a_byte():
    def head_and_gone(conn, _):
        conn.sendall(STREAM[:STREAM.index(b"data:", STREAM.index(b"data:") + 9)])
        return "close"
    engines = [Replay(otherwise=head_and_gone) for _ in range(3)]
    with Gateway(engines) as gw:
        got = read_all(open_request(gw, chat(stream=True)))
        assert last_error(got)["message"]
        assert sum(len(e.inference()) for e in engines) == 1
        assert gw.metric("sluice_forward_retries_total") == 0
    [e.stop() for e in engines]


def test_an_engine_that_starts_late_is_waited_for_and_then_served():
    port_holder = socket.socket()
    port_holder.bind(("127.0.0.1", 0))
    port = port_holder.getsockname()[1]
    port_holder.close()
    well = Replay()
    with Gateway([f"127.0.0.1:{port},name=late", well], "--probe-interval", "50ms",
                 "--models-interval", "100ms") as gw:
        for i in range(8):
            assert post(gw.port, PATH, chat(f"{i}")).status == 200
        late = Replay(port=port)
        late.answers[("GET", "/health")] = replay.status(503, "ServiceUnavailable")
        late.answers[("GET", "/v1/models")] = replay.status(503, "ServiceUnavailable")
        eventually("it is asked for its health",
                   lambda: any(r.path == "/health" for r in late.requests))
        for i in range(8):  # it listens, but is not ready: nothing goes there
            assert post(gw.port, PATH, chat(f"b{i}")).status == 200
        assert not late.inference()
        late.answers.clear()
        numbers = iter(range(10 ** 6))
        eventually("it serves", lambda: post(gw.port, PATH, chat(f"c{next(numbers)}")).headers.get(
            SERVED) == late.address)
    late.stop(), well.stop()


# ---- clients that leave -------------------------------------------------------------------------

def test_a_client_that_leaves_ends_its_request_at_the_engine_in_every_phase():
    def mid_stream(conn, request):
        conn.sendall(STREAM[:STREAM.index(b"data:", 900)])
        return hang(conn, request)

    def mid_body(conn, request):
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc")
        return hang(conn, request)
    for act, body in ((hang, chat()), (hang, chat(stream=True)), (mid_stream, chat(stream=True)),
                      (mid_body, chat())):
        for how in ("close", "reset", "half"):
            engine = Replay(otherwise=act)
            with Gateway([engine]) as gw:
                s = open_request(gw, body)
                eventually("it is at the engine", lambda: engine.inference())
                if act not in (hang,):
                    s.recv(10)
                if how == "reset":
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if how == "half":  # a real engine takes it for gone, too
                    s.shutdown(socket.SHUT_WR)
                else:
                    s.close()
                assert engine.gone.wait(10), (act, how, "the engine's connection stayed open")
                eventually("it is counted", lambda: gw.metric("sluice_client_left_total") == 1)
                s.close()
            engine.stop()


def test_a_client_that_leaves_in_its_body_reaches_no_engine():
    engine = Replay()
    with Gateway([engine]) as gw:
        for n in (1, 50, 4000):
            s = socket.create_connection(("127.0.0.1", gw.port), 20)
            s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" %
                      PATH.encode() + b"{" + b" " * n)
            s.close()
        eventually("all are gone", lambda: gw.metric("sluice_client_left_total") == 3)
        assert not engine.inference() and gw.metric("sluice_buffered_bytes") == 0
    engine.stop()


class Impatient(Replay):
    """Answers 413 when it has seen a head, and reads no further."""

    def _read(self, conn, buf):
        while b"\r\n\r\n" not in buf:
            got = conn.recv(4096)
            if not got:
                return None, b""
            buf += got
        head = buf.partition(b"\r\n\r\n")[0]
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ", 2)
        if method == "POST":
            with self.lock:
                self.requests.append(replay.Request(method, target, head, b""))
            conn.sendall(replay.status(413, "TooLarge", "no more of it"))
            self.over.wait(20)
            return None, b""
        return replay.Request(method, target, head, b""), b""


def test_an_answer_that_comes_before_the_body_is_sent_is_passed_on():
    engine = Impatient()
    engine.over = threading.Event()
    with Gateway([engine]) as gw:
        for i in range(8):
            got = post(gw.port, PATH, chat("x" * 8_000_000))
            assert got.status == 413 and b"no more of it" in got.body, (got.status, got.body[:200])
            assert get(gw.port, "/health").status == 200
        assert len(engine.inference()) == 8, "a connection with an unsent body was used again"
        eventually("the bytes are given back", lambda: gw.metric("sluice_buffered_bytes") == 0)
        engine.over.set()
    engine.stop()


def test_towards_engines_nothing_is_ever_half_closed():
    shut = []

    def watchful(conn, request):
        raw = STREAM if b"stream" in request.body else fixture("chat")
        conn.setblocking(False)
        for i in range(0, len(raw), 400):
            try:
                shut.append(conn.recv(1, socket.MSG_PEEK) == b"")
            except BlockingIOError:
                pass
            conn.setblocking(True)
            conn.sendall(raw[i:i + 400])
            conn.setblocking(False)
        conn.setblocking(True)
        return None
    engine = Replay(otherwise=watchful)
    with Gateway([engine]) as gw:
        for stream in (True, False):
            s = open_request(gw, chat(stream=stream))
            out = b""
            while not out.endswith((b"0\r\n\r\n", WANT)):
                out += s.recv(65536)
            s.close()
        assert len(engine.inference()) == 2 and not any(shut)
    engine.stop()


# ---- streams ------------------------------------------------------------------------------------

def test_each_event_is_passed_on_before_the_next_one_is_made():
    head, body = split_head(STREAM)
    chunks, at = [], 0
    while at < len(body):
        size = int(body[at:body.index(b"\r\n", at)], 16)
        end = body.index(b"\r\n", at) + 2 + size + 2
        chunks.append(body[at:end])
        at = end
    seen = threading.Semaphore(0)
    stuck = []

    def step_by_step(conn, _):
        conn.sendall(head + b"\r\n\r\n")
        for chunk in chunks:
            conn.sendall(chunk)
            if not seen.acquire(timeout=20):
                stuck.append(chunk)
                return "close"
        return None
    engine = Replay(otherwise=step_by_step)
    with Gateway([engine]) as gw, open_request(gw, chat(stream=True)) as s:
        out, told = b"", 0
        while not out.endswith(b"0\r\n\r\n"):
            got = s.recv(65536)
            assert got, out[-200:]
            out += got
            whole = sum(out.endswith(b"".join(chunks[:n + 1])) for n in range(told, told + 1))
            if whole:
                told += 1
                seen.release()
        assert not stuck and told == len(chunks), (told, len(chunks))
        assert payload(out)[0] == payload(STREAM)[0]
    engine.stop()


def stalls(raw):
    def act(conn, request):
        conn.sendall(raw)
        return hang(conn, request)
    return act


def stalled_gateway(raw, *flags):
    engine = Replay(otherwise=stalls(raw))
    return engine, Gateway([f"{engine.address},name=one"], "--probe-interval", "50ms",
                           "--stall-timeout", "300ms", *flags)


def test_a_stream_that_hangs_as_real_engines_do_on_sigterm_is_cut():
    raw = fixture("sigterm_stream")  # what came until the engine hung
    assert not dechunk(split_head(raw)[1])[1], "the fixture is whole"
    for sick in ("probe", "refuses"):
        engine, gateway = stalled_gateway(raw)
        with gateway as gw, open_request(gw, chat(stream=True)) as s:
            eventually("it is at the engine", lambda: engine.inference())
            if sick == "probe":
                engine.answers[("GET", "/health")] = replay.status(503, "No")
            else:
                engine.server.close()
                engine.answers[("GET", "/health")] = replay.reset
            out = read_all(s)
            assert not payload(out)[1], "the cut stream looks complete"
            assert payload(out)[0].startswith(dechunk(split_head(raw)[1])[0])
            assert last_error(out)["message"], out[-300:]
            assert gw.metric("sluice_streams_stalled_total") == 1
            assert engine.gone.wait(10)
        engine.stop()


def test_comments_are_no_progress():
    raw = fixture("stream_keepalive_comments")
    head, body = split_head(raw)
    comment = body[:body.index(b"\r\n", body.index(b": keep-alive")) + 2]
    assert dechunk(comment + b"0\r\n\r\n") == (b": keep-alive\n\n", True), comment
    first_event = body.index(b"\r\n", body.index(b"data: ")) + 2
    over = threading.Event()

    def comment_on(conn, _):
        conn.sendall(head + b"\r\n\r\n" + body[:first_event])
        while not over.wait(0.05):
            conn.sendall(comment)
        return "close"
    engine, gateway = stalled_gateway(b"")
    engine.otherwise = comment_on
    with gateway as gw, open_request(gw, chat(stream=True)) as s:
        eventually("it is at the engine", lambda: engine.inference())
        engine.answers[("GET", "/health")] = replay.status(503, "No")
        out = read_all(s)
        assert last_error(out)["message"] and not payload(out)[1]
        assert payload(out)[0].count(b": keep-alive") > 2, "comments are passed on"
        assert gw.metric("sluice_streams_stalled_total") == 1
    over.set()
    engine.stop()


def test_a_silent_stream_of_a_healthy_engine_is_left_alone():
    go = threading.Event()
    cut = STREAM.index(b"data:", 900) - 5

    def pause(conn, _):
        conn.sendall(STREAM[:cut])
        go.wait(20)
        conn.sendall(STREAM[cut:])
        return None
    engine, gateway = stalled_gateway(b"")
    engine.otherwise = pause
    with gateway as gw, concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(post, gw.port, PATH, chat(stream=True))
        eventually("it is at the engine", lambda: engine.inference())
        probes = gw.metric("sluice_probes_total")
        # far beyond the stall timeout, as the probes count it: 40 x 50 ms
        eventually("time has passed", lambda: gw.metric("sluice_probes_total") > probes + 40)
        go.set()
        got = asked.result(20)
        assert got.complete and got.body == payload(STREAM)[0]
    engine.stop()


def test_progress_of_a_sick_engine_is_progress():
    go = threading.Event()

    def steady(conn, _):
        head, body = split_head(STREAM)
        conn.sendall(head + b"\r\n\r\n")
        for i in range(0, len(body), len(body) // 40):
            conn.sendall(body[i:i + len(body) // 40])
            go.wait(0.05)
        return None
    engine, gateway = stalled_gateway(b"", "--stall-timeout", "1s")
    engine.otherwise = steady
    engine.answers[("GET", "/health")] = lambda conn, _: conn.sendall(fixture("health"))
    with gateway as gw, concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(post, gw.port, PATH, chat(stream=True))
        eventually("it is at the engine", lambda: engine.inference())
        engine.answers[("GET", "/health")] = replay.status(503, "No")
        got = asked.result(20)
        assert got.complete and got.body == payload(STREAM)[0]
        assert gw.metric("sluice_streams_stalled_total") == 0
    engine.stop()


def test_an_engine_that_hangs_before_its_answer_is_left_for_another():
    sick, well = Replay(otherwise=hang), Replay()
    with Gateway([f"{sick.address},name=sick", f"{well.address},name=well"], "--probe-interval",
                 "50ms", "--stall-timeout", "200ms", "--scheduler-profile", "random-picker") as gw:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, gw.port, PATH, chat(f"{i}")) for i in range(24)]
            eventually("one hangs", lambda: sick.inference())
            sick.answers[("GET", "/health")] = hang
            assert all(a.result(20).body == WANT for a in asked)
    sick.stop(), well.stop()


def test_usage_is_read_from_streams_and_from_whole_answers():
    whole = json.loads(WANT)["usage"]
    lines = [x for x in payload(STREAM)[0].split(b"\n") if x.startswith(b"data: {")]
    streamed = json.loads(lines[-1][6:])["usage"]
    for split in ("whole", "byte", "seven"):
        engine = Replay(split)
        with Gateway([engine]) as gw:
            post(gw.port, PATH, chat())
            got = post(gw.port, PATH, chat(stream=True))
            assert got.complete
            eventually("both are read", lambda: (
                gw.metric("sluice_prompt_tokens_total"),
                gw.metric("sluice_completion_tokens_total")) == (
                    whole["prompt_tokens"] + streamed["prompt_tokens"],
                    whole["completion_tokens"] + streamed["completion_tokens"]))
        engine.stop()


def test_a_slow_reader_gets_every_byte():
    count = 400
    event = b"data: " + b"y" * 20000 + b"\n\n"

    def big(conn, _):
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                     b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(count):
            conn.sendall(b"%x\r\n%s\r\n" % (len(event), event))
        conn.sendall(b"0\r\n\r\n")
        return None
    engine = Replay(otherwise=big)
    with Gateway([engine]) as gw:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(20)
        s.connect(("127.0.0.1", gw.port))
        data = json.dumps(chat(stream=True)).encode()
        s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                  % (PATH.encode(), len(data)) + data)
        eventually("reading pauses", lambda: gw.metric("sluice_relay_paused_total") >= 1)
        assert gw.metric("sluice_buffered_bytes") < 1 << 20
        got, complete = payload(read_all(s))
        assert complete and got == event * count
        s.close()
    engine.stop()


# ---- ends of the process ------------------------------------------------------------------------

def test_sighup_reopens_the_access_log():
    engine = Replay()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "access.log")

        def has(at, name):
            try:
                with open(at, encoding="utf-8") as f:
                    return name in f.read()
            except FileNotFoundError:
                return False
        with Gateway([engine], "--access-log", path) as gw:
            post(gw.port, PATH, chat(), headers={"x-request-id": "before"})
            eventually("it is written", lambda: has(path, "before"))
            os.rename(path, path + ".1")
            gw.popen.send_signal(signal.SIGHUP)
            eventually("a new file is there", lambda: os.path.exists(path))
            post(gw.port, PATH, chat(), headers={"x-request-id": "after"})
            eventually("it is in the new file", lambda: has(path, "after"))
            assert not has(path + ".1", "after") and gw.alive()
    engine.stop()


def test_sigterm_refuses_new_connections_and_lets_streams_finish():
    go = threading.Event()
    cut = STREAM.index(b"data:", 900) - 5

    def pause(conn, _):
        conn.sendall(STREAM[:cut])
        go.wait(20)
        conn.sendall(STREAM[cut:])
        return None
    engine = Replay(otherwise=pause)
    with Gateway([engine]) as gw, open_request(gw, chat(stream=True)) as s:
        first = s.recv(65536)
        gw.popen.send_signal(signal.SIGTERM)

        def refused():
            try:
                socket.create_connection(("127.0.0.1", gw.port), 5).close()
                return False
            except ConnectionRefusedError:
                return True
        eventually("accepting stops", refused)
        assert gw.alive()
        go.set()
        got, complete = payload(first + read_all(s))
        assert complete and got == payload(STREAM)[0]
        assert gw.popen.wait(20) == 0
    engine.stop()


def test_after_kill_9_the_next_start_takes_the_pins_over():
    if os.geteuid() != 0:
        raise Skip("BPF maps need root")
    if not re.search(r" /sys/fs/bpf bpf ", open("/proc/mounts").read()):
        raise Skip("bpffs is not mounted")
    directory = f"/sys/fs/bpf/sluice-e2e-{os.getpid()}"
    engine = Replay()
    flags = ("--bpf", "--bpffs-dir", directory)
    exe = None
    try:
        with Gateway([engine], *flags) as gw:
            exe = gw.argv[0]
            if "plain memory instead" in gw.output():
                raise Skip("no BPF here: " + gw.output().split("plain memory")[0][-200:])
            assert post(gw.port, PATH, chat("x" * 3000)).status == 200
            pins = {p: os.stat(os.path.join(directory, p)).st_ino for p in os.listdir(directory)}
            assert {"endpoints", "endpoint_load", "kv_affinity"} <= set(pins), pins
            gw.popen.send_signal(signal.SIGKILL)
            gw.popen.wait(20)
            assert set(os.listdir(directory)) == set(pins), "a crash took the pins away"
            gw.popen.returncode = 0  # it did not end by itself
        with Gateway([engine], *flags) as gw:
            assert "plain memory instead" not in gw.output(), gw.output()
            assert post(gw.port, PATH, chat()).status == 200
            with open(os.path.join(directory, "show", "endpoints")) as f:
                assert engine.address.split(":")[1] in f.read()
            assert set(os.listdir(directory)) == set(pins)
            assert gw.stop(signal.SIGTERM) == 0
    finally:
        if exe and os.path.isdir(directory):
            subprocess.run([exe, "--uninstall", "--bpffs-dir", directory], capture_output=True)
        engine.stop()


main(globals()) if __name__ == "__main__" else None
