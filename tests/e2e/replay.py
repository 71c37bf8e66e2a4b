# SPDX-License-Identifier: Apache-2.0
"""An engine that says exactly the bytes it was told to, cut where it was told to.

Answers come from tests/data/vllm: what a real vLLM sent, framing included. A test may put its own
bytes, or a function that misbehaves on the raw connection, in place of any path. Everything that
arrived is kept, so that a test can say what must never reach an engine.
"""
import json
import os
import re
import socket
import struct
import threading
import time

DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "vllm")

DEFAULTS = {
    ("POST", "/v1/chat/completions"): ("chat", "chat_stream_usage"),
    ("POST", "/v1/completions"): ("completions", "completions_stream"),
    ("POST", "/v1/responses"): ("responses", "responses_stream"),
    ("POST", "/v1/messages"): ("messages", "messages_stream"),
    ("POST", "/v1/embeddings"): ("embeddings_unsupported",) * 2,
    ("POST", "/tokenize"): ("tokenize_chat",) * 2,
    ("GET", "/v1/models"): ("models",) * 2,
    ("GET", "/health"): ("health",) * 2,
    ("GET", "/metrics"): ("metrics_idle",) * 2,
    ("GET", "/version"): ("version",) * 2,
}
CONTROL = {"/health", "/metrics", "/v1/models", "/version", "/kv_event_sources"}


def fixture(name, kind="response"):
    with open(os.path.join(DATA, f"{name}.{kind}"), "rb") as f:
        raw = f.read()
    if kind == "response":  # clients of the capture wanted no more; here connections are kept
        raw = re.sub(rb"(?i)connection: close\r\n", b"", raw, count=1)
    return relength(raw)


def relength(raw):
    """The capture had addresses put in place; a Content-Length says the new body's length."""
    head, sep, body = raw.partition(b"\r\n\r\n")
    head = re.sub(rb"(?i)(content-length: )\d+", lambda m: m[1] + str(len(body)).encode(), head)
    return head + sep + body


def fixture_request_body(name):
    return fixture(name, "request").partition(b"\r\n\r\n")[2]


def split_head(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    return head, body


def dechunk(body):
    """(payload, complete): whatever of a chunked body can be read."""
    out = b""
    while True:
        line, sep, rest = body.partition(b"\r\n")
        if not sep:
            return out, False
        size = int(line.split(b";")[0], 16)
        if size == 0:
            return out, rest.startswith(b"\r\n")
        out += rest[:size]
        if len(rest) < size + 2:
            return out, False
        body = rest[size + 2:]


def payload(raw):
    """The body of a raw answer without its framing."""
    head, body = split_head(raw)
    if re.search(rb"(?i)transfer-encoding: *chunked", head):
        return dechunk(body)
    m = re.search(rb"(?i)content-length: *(\d+)", head)
    if m:
        return body[:int(m[1])], len(body) >= int(m[1])
    return body, True


def cuts(raw, how):
    """The pieces in which an answer is sent."""
    if how == "whole":
        return [raw]
    if how == "byte":
        return [raw[i:i + 1] for i in range(len(raw))]
    if how == "crlf":  # between every CR and its LF
        return [p for p in re.split(rb"(?<=\r)(?=\n)", raw) if p]
    if how == "head":  # the head alone, then the rest
        head, sep, body = raw.partition(b"\r\n\r\n")
        return [head + sep, body] if body else [raw]
    if how == "events":  # in the middle of each event
        return [p for p in re.split(rb'(?<="choices")', raw) if p]
    if how == "seven":
        return [raw[i:i + 7] for i in range(0, len(raw), 7)]
    raise ValueError(how)


SPLITS = ("whole", "byte", "crlf", "head", "events", "seven")


class Request:
    def __init__(self, method, target, head, body):
        self.method, self.target, self.head, self.body = method, target, head, body
        self.path = target.split("?")[0]

    def field(self, name):
        m = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*(.*?)\r?$", self.head)
        return m[1].decode("latin-1") if m else None

    def json(self):
        return json.loads(self.body)


class Replay:
    """Listens at once; `answers[(method, path)]` overrides, `otherwise` answers every other POST."""

    def __init__(self, split="whole", port=0, **answers):
        self.split = split
        self.answers = {}
        self.otherwise = answers.get("otherwise")
        self.requests, self.lock = [], threading.Lock()
        self.gone = threading.Event()  # a client left while an answer was under way
        self.open = 0
        self.server = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port = self.server.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                conn, _ = self.server.accept()
            except OSError:
                return
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        with self.lock:
            self.open += 1
        try:
            buf = b""
            while not self.closed:
                request, buf = self._read(conn, buf)
                if request is None:
                    return
                with self.lock:
                    self.requests.append(request)
                if self._answer(conn, request) == "close":
                    return
        except OSError:
            self.gone.set()
        finally:
            with self.lock:
                self.open -= 1
            conn.close()

    def _read(self, conn, buf):
        while b"\r\n\r\n" not in buf:
            got = conn.recv(65536)
            if not got:
                return None, b""
            buf += got
        head, _, body = buf.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
        m = re.search(rb"(?im)^content-length: *(\d+)", head)
        want = int(m[1]) if m else 0
        chunked = re.search(rb"(?im)^transfer-encoding: *chunked", head)
        while (not dechunk(body)[1]) if chunked else len(body) < want:
            got = conn.recv(1 << 20)
            if not got:
                return None, b""
            body += got
        if chunked:
            return Request(method, target, head, dechunk(body)[0]), b""
        return Request(method, target, head, body[:want]), body[want:]

    def _answer(self, conn, request):
        what = self.answers.get((request.method, request.path))
        if what is None and request.path not in CONTROL:
            what = self.otherwise
        if what is None:
            names = DEFAULTS.get((request.method, request.path))
            if not names:
                what = (b"HTTP/1.1 404 Not Found\r\ncontent-length: 22\r\n"
                        b"content-type: application/json\r\n\r\n{\"detail\":\"Not Found\"}")
            else:
                streamed = re.search(rb'"stream": *true', request.body) is not None
                what = fixture(names[streamed])
        if callable(what):
            return what(conn, request)
        return self.send(conn, what)

    def send(self, conn, raw):
        pieces = cuts(raw, self.split)
        for piece in pieces:
            conn.sendall(piece)
            if 1 < len(pieces) <= 200:
                time.sleep(0.0005)  # so that the pieces travel apart
        head = split_head(raw)[0]
        return "close" if re.search(rb"(?im)^connection: *close", head) else None

    def inference(self):
        """The requests that were not the gateway's own."""
        with self.lock:
            return [r for r in self.requests if r.path not in CONTROL]

    def clear(self):
        with self.lock:
            self.requests.clear()
        self.gone.clear()

    def stop(self):
        self.closed = True
        try:
            self.server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.server.close()


# ---- ways to misbehave: each takes the raw connection after a whole request was read ------------

def reset(conn, _):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "close"


def hang(conn, _):
    """Says nothing until the gateway leaves."""
    while conn.recv(65536):
        pass
    raise OSError("left")


def close_silently(conn, _):
    return "close"


def half_close(conn, _):
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(65536):
        pass
    return "close"


def says(raw, end="close"):
    def act(conn, _):
        conn.sendall(raw)
        return end
    return act


def truncated(conn, _):
    conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                 b"content-length: 1000\r\n\r\n" + b"{" + b" " * 99)
    return "close"


def over_long(conn, _):
    conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                 b"content-length: 2\r\n\r\n{}" + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSECRET")
    return None


garbage = says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not http at all\r\n\r\n")
lying_twice = says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\n{}   ")
lying_both = says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
                  b"2\r\n{}\r\n0\r\n\r\n")
bad_chunk = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n")


def huge_head(conn, _):
    conn.sendall(b"HTTP/1.1 200 OK\r\n")
    line = b"x-filler: " + b"a" * 65000 + b"\r\n"
    for _ in range(1600):
        conn.sendall(line)
    return "close"


def interim(conn, _):
    conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    conn.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    raw = fixture("chat")
    conn.sendall(raw)
    return "close"


def no_content(conn, _):
    conn.sendall(b"HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n")
    return None


def status(code, reason, message="no"):
    body = json.dumps({"error": {"message": message, "type": reason, "param": None,
                                 "code": code}}).encode()
    return (f"HTTP/1.1 {code} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n").encode() + body


def dies_in_stream(conn, _):
    """Half a stream of a real engine, then a FIN without the last chunk."""
    raw = fixture("chat_stream_usage")
    half = raw.index(b"data:", len(raw) // 2)
    conn.sendall(raw[:half - 5])
    return "close"


def resets_in_stream(conn, request):
    dies_in_stream(conn, request)
    time.sleep(0.05)  # let the bytes travel before the reset overtakes them
    return reset(conn, request)
