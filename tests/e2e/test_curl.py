# SPDX-License-Identifier: Apache-2.0
"""HTTP as clients other than SDKs speak it: curl, and exchanges written by hand."""
import json
import shutil
import socket
import subprocess

from harness import Gateway, Skip, call, chat, eventually, get, main, raw
from replay import Replay, fixture, payload

BODY = json.dumps(chat()).encode()


class Pair:
    def __init__(self, *flags):
        self.engine = Replay()
        self.gw = Gateway([self.engine], *flags)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.gw.__exit__(*exc)
        self.engine.stop()

    def curl(self, *args, stdin=None):
        if not shutil.which("curl"):
            raise Skip("curl is not installed")
        done = subprocess.run(["curl", "-sS", "--max-time", "20", *args], input=stdin,
                              capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout, done.stderr.decode()

    @property
    def url(self):
        return self.gw.base + "/v1/chat/completions"


JSON = ("-H", "Content-Type: application/json")
WANT = payload(fixture("chat"))[0]


def test_a_plain_post():
    with Pair() as p:
        out, _ = p.curl(*JSON, "-d", BODY, p.url)
        assert out == WANT, out


def test_two_requests_on_one_kept_connection():
    with Pair() as p:
        out, err = p.curl("-v", *JSON, "-d", BODY, p.url, "--next", "-sS", "-v", *JSON, "-d", BODY,
                          p.url)
        assert out == WANT * 2
        assert "Re-using existing connection" in err, err
        assert p.gw.metric("sluice_client_connections_total") == 1, p.gw.metrics()[:500]


def test_a_chunked_upload_is_forwarded_with_our_framing():
    with Pair() as p:
        out, _ = p.curl(*JSON, "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", p.url,
                        stdin=BODY)
        assert out == WANT
        sent = p.engine.inference()[0]
        assert sent.body == BODY
        assert sent.field("content-length") == str(len(BODY)), sent.head


def test_chunk_extensions_and_trailers_are_dropped():
    with Pair() as p:
        half = len(BODY) // 2
        out = raw(p.gw.port, b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                  b"Transfer-Encoding: chunked\r\n\r\n%x;ext=1\r\n%s\r\n%x\r\n%s\r\n"
                  b"0\r\nX-Trailer: evil\r\n\r\n"
                  % (half, BODY[:half], len(BODY) - half, BODY[half:]))
        assert payload(out)[0] == WANT, out[:200]
        assert b"railer" not in p.engine.inference()[0].head + p.engine.inference()[0].body


def test_http_1_0_is_answered_and_closed():
    with Pair() as p:
        out, _ = p.curl("--http1.0", *JSON, "-d", BODY, p.url)
        assert out == WANT


def test_http_1_0_streams_are_not_chunked():
    with Pair() as p:
        body = json.dumps(chat(stream=True)).encode()
        out = raw(p.gw.port, b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s"
                  % (len(body), body))
        head, _, rest = out.partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower(), head
        assert rest == payload(fixture("chat_stream_usage"))[0], rest[:200]


def test_head_is_answered_without_a_body():
    with Pair() as p:
        out, _ = p.curl("-I", p.gw.base + "/health")
        assert out.startswith(b"HTTP/1.1 200"), out
        out = raw(p.gw.port, b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert out.endswith(b"\r\n\r\n"), out


def test_expect_100_continue():
    with Pair() as p:
        body = json.dumps(chat("x" * 100000)).encode()
        out, err = p.curl("-v", *JSON, "-H", "Expect: 100-continue", "--data-binary", "@-", p.url,
                          stdin=body)
        assert "100 Continue" in err, err[-2000:]
        assert out == WANT
        assert p.engine.inference()[0].field("expect") is None


def test_pipelined_requests_are_answered_in_order():
    with Pair() as p:
        one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (
            len(BODY), BODY)
        two = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        out = raw(p.gw.port, one + one + two)
        assert out.count(b"HTTP/1.1 200") == 3, out
        assert out.count(WANT) == 2
        assert out.rindex(WANT) < out.rindex(b"HTTP/1.1 200")


def test_connection_close_is_honoured():
    with Pair() as p:
        out = raw(p.gw.port, b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert out.lower().count(b"connection: close") == 1, out


def test_two_lengths_are_refused_and_never_forwarded():
    with Pair() as p:
        for lines in (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Content-Length: +5",
                      b"Content-Length: 5\r\nContent-Length: 6", b"Transfer-Encoding: gzip, chunked",
                      b"Content-Length: 5\r\nX: a\rb", b"Content-Length: 5\r\nX : y"):
            out = raw(p.gw.port, b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + lines +
                      b"\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert out.startswith(b"HTTP/1.1 400"), (lines, out)
            assert out.count(b"HTTP/1.1 ") == 1, (lines, out)
        assert not p.engine.inference()


def test_limits_of_the_head_target_and_body_are_kept():
    with Pair("--body-bytes-max", "10000") as p:
        cases = (
            (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
            (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70000 + b"\r\n\r\n", 431),
            (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431),
            (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10001\r\n\r\n", 413),
        )
        for data, want in cases:
            out = raw(p.gw.port, data)
            assert out.startswith(b"HTTP/1.1 %d" % want), (want, out[:100])


def test_slow_heads_are_answered_408():
    with Pair("--head-timeout", "200ms") as p:
        with socket.create_connection(("127.0.0.1", p.gw.port), 20) as s:
            s.sendall(b"GET /health HTTP/1.1\r\nHo")
            assert s.recv(65536).startswith(b"HTTP/1.1 408")


def test_idle_connections_are_closed_without_an_answer():
    with Pair("--idle-timeout", "200ms") as p:
        with socket.create_connection(("127.0.0.1", p.gw.port), 20) as s:
            assert s.recv(65536) == b""
        eventually("it is counted", lambda: p.gw.metric("sluice_client_idle_closed_total") >= 1)


def test_a_unix_socket_is_listened_on():
    import os
    import tempfile
    with tempfile.TemporaryDirectory() as d, Pair("--listen", f"unix:{d}/s") as p:
        out, _ = p.curl("--unix-socket", os.path.join(d, "s"), "http://x/health")
        assert isinstance(out, bytes)


def test_bodies_that_are_not_json_are_refused_with_the_byte():
    with Pair() as p:
        got = call(p.gw.port, "POST", "/v1/chat/completions", b'{"model": "tiny", }')
        assert got.status == 400, got.status
        error = got.json()["error"]
        assert "18" in error["message"] or "byte" in error["message"], error
        assert not p.engine.inference()


def test_duplicate_and_ill_typed_routing_fields_are_named():
    with Pair() as p:
        for body, name in ((b'{"model":"tiny","model":"tiny","messages":[]}', "model"),
                           (b'{"model":"tiny","mod\\u0065l":"x","messages":[]}', "model"),
                           (b'{"model":7,"messages":[]}', "model"),
                           (b'{"model":"tiny","stream":"yes","messages":[]}', "stream")):
            got = call(p.gw.port, "POST", "/v1/chat/completions", body)
            assert got.status == 400, (body, got.status)
            assert name in got.json()["error"]["message"], got.body
        assert not p.engine.inference()


def test_errors_to_anthropic_clients_have_their_shape():
    with Pair() as p:
        got = call(p.gw.port, "POST", "/v1/messages", b'{"model":')
        assert got.status == 400
        assert got.json()["type"] == "error", got.body
        assert got.json()["error"]["type"], got.body


def test_health_says_whether_anything_can_be_served():
    with Pair() as p:
        eventually("healthy", lambda: get(p.gw.port, "/health").status == 200)


main(globals()) if __name__ == "__main__" else None
