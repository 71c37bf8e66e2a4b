# SPDX-License-Identifier: Apache-2.0
"""The HTTP side towards clients: order, framing, refusals and every limit, byte by byte."""
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

from harness import ROOT, SLUICED, Gateway, Skip, call, chat, eventually, free_port, get, main, post, raw
from replay import Replay, fixture, hang, payload, relength, split_head

PATH = "/v1/chat/completions"
WANT = payload(fixture("chat"))[0]
CLOSE = "Connection: close"


def request(body=None, *lines, path=PATH, method="POST", version="1.1"):
    body = json.dumps(chat() if body is None else body).encode() if not isinstance(
        body, bytes) else body
    head = [f"{method} {path} HTTP/{version}", "Host: a", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answers(out):
    """Every answer in a row of bytes: [(status, head, body)]; all must be whole."""
    got = []
    while out:
        head, rest = split_head(out)
        m = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        assert head.startswith(b"HTTP/1.1 ") and (m or b" 100 " in head), out[:200]
        n = int(m[1]) if m else 0
        assert len(rest) >= n, (head, len(rest))
        got.append((int(head.split(b" ")[1]), head, rest[:n]))
        out = rest[n:]
    return got


def field(head, name):
    m = re.search(rb"(?im)^" + name.encode() + rb": *(.*?)\r?$", head)
    return m[1].decode() if m else None


def test_pipelined_requests_are_answered_in_the_order_they_came():
    first = threading.Event()

    def slow_first(conn, req):
        if b"number 0" in req.body:
            first.wait(20)
        n = re.search(rb"number (\d+)", req.body)[1]
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(n), n))

    engine = Replay(otherwise=slow_first)
    with Gateway([engine]) as gw:
        data = b"".join(request(chat(f"number {i}"), f"x-request-id: r{i}",
                                *([CLOSE] if i == 19 else [])) for i in range(20))
        with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
            s.sendall(data)
            eventually("the first is at the engine", lambda: engine.inference())
            first.set()
            out = b""
            while got := s.recv(65536):
                out += got
        got = answers(out)
        assert [a[2] for a in got] == [b"%d" % i for i in range(20)], got
        assert [field(a[1], "x-request-id") for a in got] == [f"r{i}" for i in range(20)]
    engine.stop()


def test_pipelined_requests_cut_anywhere_are_answered_in_order():
    engine = Replay()
    with Gateway([engine]) as gw:
        data = request() + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" + request(chat("x"), CLOSE)
        for cut in range(1, len(data), 3):
            with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                s.sendall(data[:cut])
                s.sendall(data[cut:])
                out = b""
                while got := s.recv(65536):
                    out += got
            assert [a[2] for a in answers(out)] == [WANT, b"{}", WANT], (cut, out)
    engine.stop()


def test_a_refusal_ends_the_connection_and_what_follows_is_not_read():
    engine = Replay()
    with Gateway([engine]) as gw:
        out = raw(gw.port, request() + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + request())
        assert [a[0] for a in answers(out)] == [200, 400], out
        assert len(engine.inference()) == 1
    engine.stop()


REFUSALS = (  # (reason, status, bytes)
    ("both-lengths", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
     b"Transfer-Encoding: chunked\r\n\r\n"),
    ("length", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
    ("length", 400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n"),
    ("coding", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("coding-10", 400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("bare-cr", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    ("bare-lf", 400, b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    ("nul", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("obs-fold", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    ("space-colon", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n"),
    ("field-name", 400, b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    ("field-value", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"),
    ("bad-target", 400, b"GET /a{b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no-host", 400, b"GET / HTTP/1.1\r\n\r\n"),
    ("two-hosts", 400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("bad-start", 400, b"GET /\r\n\r\n"),
    ("version", 505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("expect", 417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n"),
) + tuple(("chunk", 400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + c)
          for c in (b"+1\r\na\r\n0\r\n\r\n", b"0x1\r\na\r\n0\r\n\r\n", b" 1\r\na\r\n0\r\n\r\n",
                    b"1 \r\na\r\n0\r\n\r\n", b"fffffffffffffffff\r\na", b"1\r\nab\r\n0\r\n\r\n",
                    b"1\r\na\n0\r\n\r\n"))


def test_each_refusal_has_its_answer_its_counter_and_a_closed_connection():
    engine = Replay()
    with Gateway([engine]) as gw:
        for reason, status, data in REFUSALS:
            before = gw.metric("sluice_http_refused_total", reason=reason)
            out = raw(gw.port, data + request())
            got = answers(out)
            assert [a[0] for a in got] == [status], (reason, data, out)
            assert field(got[0][1], "connection") == "close", got
            assert json.loads(got[0][2])["error"]["message"], got
            after = gw.metric("sluice_http_refused_total", reason=reason)
            assert after == before + 1, (reason, before, after)
        assert not engine.inference()
    engine.stop()


def refused_heads():
    """The unit tests' table: [(status, bytes)] of all that is refused."""
    with open(os.path.join(ROOT, "user/base/http1.h"), encoding="utf-8") as f:
        status = {m[1]: int(m[2]) for m in re.finditer(r"X\((\w+), (\d{3})", f.read())}
    status["ANY_400"] = 400
    with open(os.path.join(ROOT, "tests/unit/http1_cases.h"), encoding="latin-1") as f:
        rows = re.findall(r'^CASE\((\w+), ((?:\s*"(?:[^"\\]|\\.)*")+)\)', f.read(), re.M)
    out = []
    for why, literal in rows:
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal)).replace("\\?", "?")
        if why != "FINE":
            out.append((status[why], text.encode("latin-1").decode("unicode_escape").encode(
                "latin-1")))
    return out


def test_every_refused_head_has_one_answer_at_every_split():
    """The table's heads, cut in two at each byte, each with a second request behind it."""
    engine = Replay()
    tried = 0
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "s")
        with Gateway([engine], "--listen", f"unix:{path}") as gw:
            second = request(None, "x-request-id: smuggled")
            heads = refused_heads()
            assert len(heads) > 150, len(heads)
            for status, head in heads:
                for cut in range(len(head)):
                    tried += 1
                    with socket.socket(socket.AF_UNIX) as s:
                        s.settimeout(20)
                        s.connect(path)
                        out = b""
                        try:
                            s.sendall(head[:cut])
                            s.sendall(head[cut:] + second)
                        except BrokenPipeError:
                            pass  # it was refused at its first part
                        try:
                            while got := s.recv(65536):
                                out += got
                        except ConnectionResetError:
                            pass
                    assert len(re.findall(rb"HTTP/1.1 \d{3} ", out)) == 1, (head, cut, out)
                    assert out.startswith(b"HTTP/1.1 %d" % status), (head, cut, out)
                    assert b"smuggled" not in out, (head, cut, out)
            assert gw.metric("sluice_http_refused_total") == tried
        assert not engine.inference()
    engine.stop()


def test_the_limits_of_a_head_can_be_set_and_are_counted():
    engine = Replay()
    flags = ("--head-bytes-max", "2KiB", "--head-fields-max", "10", "--target-bytes-max", "100")
    with Gateway([engine], *flags) as gw:
        def head(target=b"/health", fill=0, fields=0):
            return (b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * fields +
                    b"F: " + b"f" * fill + b"\r\n" + CLOSE.encode() + b"\r\n\r\n")
        for data, status, reason in (
                (head(b"/health?" + b"q" * 92), 200, None),
                (head(b"/health?" + b"q" * 93), 414, "target-bytes"),
                (head(fields=7), 200, None),
                (head(fields=8), 431, "head-fields"),
                (head(fill=2048 - len(head())), 200, None),
                (head(fill=2049 - len(head())), 431, "head-bytes"),
                (b"GET /" + b"t" * 4000, 414, "target-bytes"),
                (b"GET /health HTTP/1.1\r\nX: " + b"t" * 4000, 431, "head-bytes")):
            before = gw.metric("sluice_http_refused_total", reason=reason) if reason else 0
            got = answers(raw(gw.port, data))
            assert [a[0] for a in got] == [status], (data[:60], len(data), got)
            if reason:
                assert gw.metric("sluice_http_refused_total", reason=reason) == before + 1
    engine.stop()


def test_the_default_limits_are_the_documented_ones():
    engine = Replay()
    with Gateway([engine]) as gw:
        pad = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: "
        fits = pad + b"x" * (65536 - len(pad) - 4) + b"\r\n\r\n"
        assert answers(raw(gw.port, fits))[0][0] == 200
        assert answers(raw(gw.port, fits.replace(b"X: x", b"X: xx")))[0][0] == 431
        target = b"/health?" + b"q" * (8192 - 8)
        line = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert answers(raw(gw.port, line % target))[0][0] == 200
        assert answers(raw(gw.port, line % (target + b"q")))[0][0] == 414
        many = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n"
        assert answers(raw(gw.port, many % (b"X: y\r\n" * 126)))[0][0] == 200
        assert answers(raw(gw.port, many % (b"X: y\r\n" * 127)))[0][0] == 431
        over = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
        got = raw(gw.port, over % (PATH.encode(), (64 << 20) + 1))
        assert answers(got)[0][0] == 413
    done = subprocess.run([SLUICED,
                           "--endpoint", "127.0.0.1:1", "--check-config"], capture_output=True)
    text = done.stdout.decode()
    for line in ("head-timeout: 10s", "body-grace: 10s", "body-rate-min: 1KiB",
                 "idle-timeout: 75s", "connections-max: 16384", "buffered-bytes-max: 1GiB",
                 "buffered-wait: 5s", "upstream-idle: 4s", "connect-timeout: 1s",
                 "retries-max: 2", "retry-budget-percent: 20", "stall-timeout: 10s",
                 "scrape-interval: 100ms", "load-stale: 2s"):
        assert line in text, (line, text)
    engine.stop()


def test_a_body_that_says_too_much_is_refused_before_it_is_read():
    engine = Replay()
    with Gateway([engine], "--body-bytes-max", "10000") as gw:
        for expect in (b"", b"Expect: 100-continue\r\n"):
            with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
                s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\n%sContent-Length: 10001\r\n\r\n"
                          % (PATH.encode(), expect))  # and not one byte of it
                got = answers(s.recv(65536))
                assert [a[0] for a in got] == [413], got
                assert s.recv(1) == b"", "the connection stays open"
        out = raw(gw.port, request(chat("x" * 20000)))
        assert [a[0] for a in answers(out)] == [413], out
        chunks = b"".join(b"3e8\r\n" + b" " * 1000 + b"\r\n" for _ in range(10))
        chunked = (b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                   % PATH.encode())
        out = raw(gw.port, chunked + chunks + b"1\r\n \r\n")
        assert [a[0] for a in answers(out)] == [413], out
        assert gw.metric("sluice_http_refused_total", reason="body-bytes") == 4
        body = json.dumps(chat()).encode()
        assert post(gw.port, PATH, body + b" " * (10000 - len(body))).status == 200
        assert len(engine.inference()) == 1
    engine.stop()


def test_a_body_without_progress_is_answered_408():
    engine = Replay()
    with Gateway([engine], "--body-grace", "200ms", "--body-rate-min", "1KiB") as gw:
        head = (b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" % PATH.encode())
        with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
            s.sendall(head + b"{")
            got = answers(s.recv(65536))
            assert [a[0] for a in got] == [408], got
            assert s.recv(1) == b""
        with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
            s.settimeout(0.02)  # a byte now and then does not buy time
            s.sendall(head)
            out = b""
            while not out:
                try:
                    s.sendall(b" ")
                    out = s.recv(65536)
                except TimeoutError:
                    pass
            assert [a[0] for a in answers(out)] == [408], out
        eventually("both are counted", lambda: gw.metric(
            "sluice_http_refused_total", reason="body-slow") == 2)
        assert not engine.inference()
    engine.stop()


def test_a_body_that_keeps_its_rate_is_waited_for():
    engine = Replay()
    with Gateway([engine], "--body-grace", "100ms", "--body-rate-min", "100") as gw:
        data = request(chat("x" * 4000), CLOSE)
        with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
            for i in range(0, len(data), 200):  # two seconds and more: two looks of the timer
                s.sendall(data[i:i + 200])
                time.sleep(0.11)
            assert answers(s.recv(65536))[0][0] == 200
    engine.stop()


def test_accepting_pauses_at_the_most_connections_and_goes_on():
    engine = Replay()
    with Gateway([engine], "--connections-max", "4") as gw:
        held = [socket.create_connection(("127.0.0.1", gw.port), 20) for _ in range(4)]
        for s in held:  # each is served
            s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
        waiting = [socket.create_connection(("127.0.0.1", gw.port), 20) for _ in range(8)]
        for s in waiting:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        eventually("the pause is counted",
                   lambda: gw.metric("sluice_accept_paused_total") >= 1)
        assert gw.metric("sluice_client_connections_total") == 4, "more were let in"
        for s in held[:2]:
            s.close()
        for s in waiting:  # none was thrown away
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
            s.close()
        held[2].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert held[2].recv(65536).startswith(b"HTTP/1.1 200")
        for s in held[2:]:
            s.close()
    engine.stop()


def test_bodies_beyond_the_bytes_budget_wait_and_then_get_503():
    engine = Replay(otherwise=hang)
    with Gateway([engine], "--buffered-bytes-max", "1MiB", "--buffered-wait", "300ms") as gw:
        held = []
        body = json.dumps(chat("x" * 700_000)).encode()
        s = socket.create_connection(("127.0.0.1", gw.port), 20)
        s.sendall(request(body))  # holds most of the budget while its engine is silent
        held.append(s)
        eventually("the first is at the engine", lambda: engine.inference())
        with socket.create_connection(("127.0.0.1", gw.port), 20) as late:
            data = request(body)
            late.settimeout(20)
            threading.Thread(target=lambda: _send_quietly(late, data), daemon=True).start()
            out = late.recv(65536)
            got = answers(out)
            assert [a[0] for a in got] == [503], out[:300]
            assert field(got[0][1], "retry-after"), got
        assert gw.metric("sluice_body_budget_waits_total") >= 1
        assert gw.metric("sluice_http_refused_total", reason="no-memory") == 1
        assert gw.metric("sluice_buffered_bytes") <= 1 << 20
        s.close()
        eventually("the bytes are given back", lambda: gw.metric("sluice_buffered_bytes") == 0)
    engine.stop()


def _send_quietly(s, data):
    try:
        s.sendall(data)
    except OSError:
        pass


def test_a_body_that_waited_for_the_budget_is_served_when_there_is_room():
    engine = Replay(otherwise=hang)
    with Gateway([engine], "--buffered-bytes-max", "1MiB", "--buffered-wait", "20s") as gw:
        body = json.dumps(chat("x" * 700_000)).encode()
        first = socket.create_connection(("127.0.0.1", gw.port), 20)
        first.sendall(request(body))
        eventually("the first is at the engine", lambda: engine.inference())
        with socket.create_connection(("127.0.0.1", gw.port), 20) as late:
            threading.Thread(target=lambda: _send_quietly(late, request(body)),
                             daemon=True).start()
            eventually("the second waits",
                       lambda: gw.metric("sluice_body_budget_waits_total") >= 1)
            engine.otherwise = None
            first.close()
            assert late.recv(65536).startswith(b"HTTP/1.1 200")
        assert engine.inference()[-1].body == body
    engine.stop()


def test_the_idle_timeout_does_not_cut_a_running_request():
    go = threading.Event()

    def slow(conn, _):
        go.wait(20)
        conn.sendall(fixture("chat"))
        return "close"
    engine = Replay(otherwise=slow)
    with Gateway([engine], "--idle-timeout", "100ms", "--head-timeout", "100ms") as gw:
        got = []
        t = threading.Thread(target=lambda: got.append(post(gw.port, PATH, chat())))
        t.start()
        eventually("it is at the engine", lambda: engine.inference())
        with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
            assert s.recv(1) == b"", "an idle one goes meanwhile"
        go.set()
        t.join(20)
        assert got and got[0].body == WANT
    engine.stop()


def test_several_listeners_ipv6_and_unix_serve_alike():
    engine = Replay()
    with tempfile.TemporaryDirectory() as d:
        v6 = socket.socket(socket.AF_INET6)
        try:
            v6.bind(("::1", 0))
        except OSError as err:
            raise Skip(f"no IPv6 here: {err}") from None
        port6 = v6.getsockname()[1]
        v6.close()
        more = socket.create_server(("127.0.0.1", 0))
        port4 = more.getsockname()[1]
        more.close()
        path = os.path.join(d, "s")
        with Gateway([engine], "--listen", f"[::1]:{port6}", "--listen", f"127.0.0.1:{port4}",
                     "--listen", f"unix:{path}") as gw:
            for family, address in ((socket.AF_INET, ("127.0.0.1", gw.port)),
                                    (socket.AF_INET, ("127.0.0.1", port4)),
                                    (socket.AF_INET6, ("::1", port6)), (socket.AF_UNIX, path)):
                engine.clear()
                with socket.socket(family) as s:
                    s.settimeout(20)
                    s.connect(address)
                    s.sendall(request(None, CLOSE))
                    out = b""
                    while got := s.recv(65536):
                        out += got
                assert [a[2] for a in answers(out)] == [WANT], (address, out)
                seen = engine.inference()[0].field("x-forwarded-for")
                want = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}.get(family)
                assert seen == want, (address, seen)
    engine.stop()


def test_an_engine_on_ipv6_is_reached():
    engine = Replay()
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=64)
    except OSError as err:
        raise Skip(f"no IPv6 here: {err}") from None
    engine.server.close()
    engine.server = server
    threading.Thread(target=engine._accept, daemon=True).start()
    address = f"[::1]:{server.getsockname()[1]}"
    with Gateway([address]) as gw:
        got = post(gw.port, PATH, chat())
        assert got.status == 200 and got.body == WANT
        assert got.headers["x-gateway-destination-endpoint-served"] == address
        assert engine.inference()[0].field("host") == address
    engine.stop()


def test_http_1_0_may_keep_its_connection():
    engine = Replay()
    with Gateway([engine]) as gw:
        keep = request(None, "Connection: keep-alive", version="1.0")
        last = request(None, version="1.0")
        got = answers(raw(gw.port, keep + last))
        assert [a[2] for a in got] == [WANT, WANT], got
        assert field(got[0][1], "connection") == "keep-alive"
        assert field(got[1][1], "connection") == "close"
    engine.stop()


def test_head_says_what_get_says_and_no_more():
    engine = Replay()
    with Gateway([engine]) as gw:
        line = b" /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        full = raw(gw.port, b"GET" + line)
        only = raw(gw.port, b"HEAD" + line)
        head, body = split_head(only)
        assert body == b"" and field(head, "content-length") == str(len(split_head(full)[1]))
        both = raw(gw.port, b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\nGET" + line)
        assert both.count(b"HTTP/1.1 200") == 2, both
    engine.stop()


def test_expect_is_answered_once_and_only_when_a_body_is_awaited():
    engine = Replay()
    with Gateway([engine]) as gw:
        data = request(None, "Expect: 100-continue", CLOSE)
        head, body = split_head(data)
        with socket.create_connection(("127.0.0.1", gw.port), 20) as s:
            s.sendall(head + b"\r\n\r\n")
            assert s.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            s.sendall(body)
            out = b""
            while got := s.recv(65536):
                out += got
            assert [a[0] for a in answers(out)] == [200], out
        got = answers(raw(gw.port, data))  # the body came along: nobody waits for a word
        assert got[-1][0] == 200 and len(got) <= 2, got
    engine.stop()


def test_every_hop_of_forwarded_for_is_kept_and_hop_fields_of_answers_are_not():
    engine = Replay()
    engine.otherwise = relength(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n"
        b"connection: keep-alive, x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n"
        b"x-gateway-destination-endpoint-served: 1.2.3.4:5\r\nx-request-id: theirs\r\n"
        b"x-kept: yes\r\n\r\n" + WANT)
    with Gateway([engine]) as gw:
        got = answers(raw(gw.port, request(None, "X-Forwarded-For: 192.0.2.7, 192.0.2.8",
                                           "x-forwarded-for: 192.0.2.9", "x-request-id: ours",
                                           CLOSE)))
        status, head, body = got[0]
        assert status == 200 and body == WANT
        sent = engine.inference()[0]
        assert sent.field("x-forwarded-for") == "192.0.2.7, 192.0.2.8, 192.0.2.9, 127.0.0.1"
        assert len(re.findall(rb"(?i)x-forwarded-for:", sent.head)) == 1, sent.head
        assert field(head, "x-private") is None and field(head, "keep-alive") is None, head
        assert field(head, "x-kept") == "yes"
        assert re.findall(rb"(?im)^x-gateway-destination-endpoint-served: (.*?)\r?$", head) == [
            engine.address.encode()], head
        assert re.findall(rb"(?im)^x-request-id: (.*?)\r?$", head) == [b"ours"], head
    engine.stop()


def test_cors_is_a_switch():
    engine = Replay()
    ask = (b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n"
           b"Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n")
    with Gateway([engine]) as gw:
        assert raw(gw.port, ask).startswith(b"HTTP/1.1 405")
        assert "access-control-allow-origin" not in post(gw.port, PATH, chat()).headers
    with Gateway([engine], "--cors") as gw:
        head, body = split_head(raw(gw.port, ask))
        assert head.startswith(b"HTTP/1.1 204") and body == b"", head
        assert field(head, "access-control-allow-origin") == "*"
        assert "POST" in field(head, "access-control-allow-methods")
        got = post(gw.port, PATH, chat())
        assert got.headers.get_all("access-control-allow-origin") == ["*"], got.headers
    engine.stop()


def test_a_path_of_another_method_says_which_one_it_takes():
    engine = Replay()
    with Gateway([engine]) as gw:
        got = call(gw.port, "GET", PATH)
        assert got.status == 405 and got.headers["allow"] == "POST"
        got = call(gw.port, "POST", "/v1/models", b"{}")
        assert got.status == 405 and "GET" in got.headers["allow"]
    engine.stop()


def test_anthropic_clients_get_errors_of_their_shape_for_every_cause():
    engine = Replay(otherwise=hang)
    flags = ("--body-bytes-max", "4000", "--response-timeout", "100ms")
    with Gateway([engine], *flags) as gw:
        good = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "a"}]}
        for body, status, kind in (
                (b"{", 400, "invalid_request_error"),
                ({**good, "model": 7}, 400, "invalid_request_error"),
                ({**good, "system": "x" * 5000}, 413, "invalid_request_error"),
                ({**good, "model": "nope"}, 404, "NotFoundError"),
                (good, 504, "api_error")):
            got = call(gw.port, "POST", "/v1/messages", body)
            assert got.status == status, (status, got.status, got.body)
            said = got.json()
            assert said["type"] == "error" and said["error"]["type"] == kind, said
            assert said["error"]["message"], said
    with Gateway([f"127.0.0.1:{free_port()}"], ready=False) as gw:
        eventually("it listens", lambda: _answers_at_all(gw))
        got = call(gw.port, "POST", "/v1/messages", good)
        eventually("it is known as dead", lambda: call(
            gw.port, "POST", "/v1/messages", good).status == 503)
        got = call(gw.port, "POST", "/v1/messages", good)
        assert (got.status, got.json()["error"]["type"]) == (503, "overloaded_error"), got.body
        assert got.headers["retry-after"]
    engine.stop()


def _answers_at_all(gw):
    try:
        return get(gw.port, "/health").status
    except OSError:
        return None


def test_an_unknown_model_is_refused_as_a_real_engine_refuses_it():
    engine = Replay()
    want = json.loads(payload(fixture("error_unknown_model"))[0])
    with Gateway([engine]) as gw:
        got = post(gw.port, PATH, {**chat(), "model": "nope"})
        assert got.status == 404 and got.json() == want, got.body
        got = get(gw.port, "/v1/models/nope")
        assert got.status == 404 and got.json() == want, got.body
        assert not engine.inference()
    engine.stop()


def test_each_worker_serves_and_sits_on_its_cpu():
    engine = Replay()
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("one CPU only")
    with Gateway([engine], "--workers", "2", "--pin-workers") as gw:
        for i in range(40):  # SO_REUSEPORT spreads connections by their port
            assert post(gw.port, PATH, chat(f"{i}")).status == 200
        pinned = set()
        for task in os.listdir(f"/proc/{gw.pid}/task"):
            with open(f"/proc/{gw.pid}/task/{task}/status") as f:
                cpus = re.search(r"Cpus_allowed_list:\s*(\S+)", f.read())[1]
            if cpus.isdigit():
                pinned.add(cpus)
        assert len(pinned) == 2, pinned
    engine.stop()


def test_a_worker_without_its_ring_ends_the_process():
    if subprocess.run(["bash", "-c", "ulimit -l 0 && ulimit -n 16"]).returncode:
        raise Skip("limits cannot be set here")
    exe = SLUICED
    with tempfile.TemporaryDirectory() as d:
        done = subprocess.run(
            ["bash", "-c", f"ulimit -n 10; exec {exe} --no-bpf --workers 4 --listen unix:{d}/s "
             "--admin '' --endpoint 127.0.0.1:1"], capture_output=True, timeout=20)
    assert done.returncode not in (0, 124), done
    assert b"error" in done.stderr, done.stderr


main(globals()) if __name__ == "__main__" else None
