# SPDX-License-Identifier: Apache-2.0
"""Peers that hold on, read slowly or leave: memory and descriptors come back, others are served.

`make soak` runs the full counts; `make check` a tenth of them.
"""
import json
import random
import socket
import threading

from harness import SOAK, Gateway, chat, eventually, main, post
from replay import Replay, fixture, payload

PATH = "/v1/chat/completions"
WANT = payload(fixture("chat"))[0]
SLOW_HEADS = 2000 if SOAK else 200
STALLED, ANSWER_BYTES = (1000, 10_000_000) if SOAK else (60, 4_000_000)
ABORTERS = 10000 if SOAK else 600
RSS_SLACK_KB = 24 * 1024


def request(**more):
    body = json.dumps(chat(**more)).encode()
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)) + body


def served(gw, count=20):
    for i in range(count):
        got = post(gw.port, PATH, chat(f"{i}"))
        assert got.status == 200 and got.body == WANT, (got.status, got.body[:100])


def settle(gw, before_fds):
    """All client and engine connections are gone, but for those kept to engines."""
    eventually("descriptors come back", lambda: gw.fds() <= before_fds + 16, 30)


def test_slow_heads_hold_nothing_and_nobody_up():
    engine = Replay()
    with Gateway([engine], "--head-timeout", "2s") as gw:
        served(gw)
        fds, rss = gw.fds(), gw.rss_kb()
        slow = []
        for _ in range(SLOW_HEADS):
            s = socket.create_connection(("127.0.0.1", gw.port))
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-")
            slow.append(s)
        served(gw)
        for s in slow[::2]:
            s.sendall(b"a")  # a byte now and then must not buy time
        for s in slow:
            s.settimeout(20)
            assert s.recv(4096).startswith(b"HTTP/1.1 408"), "it was not refused"
            s.close()
        settle(gw, fds)
        assert gw.rss_kb() < rss + RSS_SLACK_KB, (rss, gw.rss_kb())
        served(gw)
    engine.stop()


def test_stalled_readers_stop_our_reading_not_our_memory():
    chunk = b"data: " + b"x" * 65536 + b"\n\n"

    def big(conn, req):
        if b"BIG" not in req.body:
            conn.sendall(fixture("chat"))
            return "close"
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                     b"transfer-encoding: chunked\r\n\r\n")
        sent = 0
        while sent < ANSWER_BYTES:
            conn.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            sent += len(chunk)
        conn.sendall(b"0\r\n\r\n")
        return None

    engine = Replay(otherwise=big)
    with Gateway([engine]) as gw:
        served(gw)
        fds, rss = gw.fds(), gw.rss_kb()
        readers = []
        for _ in range(STALLED):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(("127.0.0.1", gw.port))
            s.sendall(request(text="BIG", stream=True))
            readers.append(s)
        eventually("all are at the engine", lambda: len(engine.inference()) >= STALLED + 20)
        served(gw)
        held = gw.rss_kb() - rss
        # RELAY_BYTES_MAX unsent for each, and what was received when reading stopped.
        assert held < STALLED * 400 + RSS_SLACK_KB, (held, STALLED)
        one = readers[0]
        one.settimeout(30)
        got = 0
        while data := one.recv(1 << 20):
            got += len(data)
            if data.endswith(b"0\r\n\r\n"):
                break
        assert got > ANSWER_BYTES, got
        for s in readers:
            s.close()
        settle(gw, fds)
        served(gw)
    engine.stop()


def test_clients_that_leave_at_random_leave_nothing_behind():
    engine = Replay("events")
    rnd = random.Random(7)
    with Gateway([engine]) as gw:
        served(gw)
        fds = gw.fds()
        texts = [request(stream=True), request()]

        def abort(seed):
            r = random.Random(seed)
            for _ in range(ABORTERS // 12):
                try:
                    s = socket.create_connection(("127.0.0.1", gw.port))
                    data = r.choice(texts)
                    s.sendall(data[:r.randrange(1, len(data) + 400)])
                    if r.random() < 0.5:
                        s.settimeout(0.02)
                        try:
                            s.recv(r.randrange(1, 2000))
                        except TimeoutError:
                            pass
                    if r.random() < 0.5:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                     b"\1\0\0\0\0\0\0\0")
                    s.close()
                except OSError:
                    pass
        abort(rnd.random())  # warm: pools grow to their size
        rss = gw.rss_kb()
        threads = [threading.Thread(target=abort, args=(i,)) for i in range(11)]
        [t.start() for t in threads]
        served(gw)
        [t.join() for t in threads]
        settle(gw, fds)
        assert gw.rss_kb() < rss + RSS_SLACK_KB, (rss, gw.rss_kb())
        eventually("no request is left running", lambda: json.loads(
            __import__("harness").get(gw.admin, "/state/requests").body) in ([], {"requests": []}))
        served(gw)
    engine.stop()


main(globals()) if __name__ == "__main__" else None
