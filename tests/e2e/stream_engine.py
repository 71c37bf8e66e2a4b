# SPDX-License-Identifier: Apache-2.0
"""An engine for thousands of connections, a process of its own: stream_engine.py PORT BYTES.

Serves the model "big": a prompt with BIG in it gets an SSE answer of BYTES bytes, written as fast
as it is read; any other one the short answer of a real engine. GET /count says how many requests
came, GET /open how many answers are under way.
"""
import asyncio
import json
import re
import resource
import sys

from replay import fixture, relength

EVENT = b"data: " + b"x" * 65536 + b"\n\n"
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"transfer-encoding: chunked\r\n\r\n")
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
MODELS = json.dumps({"object": "list", "data": [{"id": "big", "object": "model"}]}).encode()
GETS = {b"/v1/models": relength(JSON + MODELS), b"/health": fixture("health"),
        b"/metrics": fixture("metrics_idle")}
CHAT = fixture("chat")


class Engine(asyncio.Protocol):
    count = under_way = 0

    def __init__(self, size):
        self.size, self.buf, self.left, self.paused = size, b"", None, False

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=1, low=0)

    def connection_lost(self, _):
        if self.left is not None:
            Engine.under_way -= 1
        self.left = None

    def data_received(self, data):
        self.buf += data
        while self.left is None and b"\r\n\r\n" in self.buf:
            head, _, rest = self.buf.partition(b"\r\n\r\n")
            m = re.search(rb"(?i)content-length: *(\d+)", head)
            need = int(m[1]) if m else 0
            if len(rest) < need:
                return
            self.buf = rest[need:]
            self.answer(head, rest[:need])

    def answer(self, head, body):
        method, path, _ = head.split(b" ", 2)
        if method == b"GET":
            own = {b"/count": Engine.count, b"/open": Engine.under_way}.get(path)
            self.transport.write(GETS.get(path) if own is None else relength(JSON + b"%d" % own))
            return
        Engine.count += 1
        if b"BIG" not in body:
            self.transport.write(CHAT)
            return
        Engine.under_way += 1
        self.left = self.size
        self.transport.write(HEAD)
        self.more()

    def more(self):
        while self.left and self.left > 0 and not self.paused:
            self.left -= len(EVENT)
            self.transport.write(CHUNK)
        if self.left is not None and self.left <= 0:
            self.left = None
            Engine.under_way -= 1
            self.transport.write(b"0\r\n\r\n")

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.more()


async def serve(port, size):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(size), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
