# SPDX-License-Identifier: Apache-2.0
"""An engine whose every answer follows from its request: splice_engine.py HOST PORT.

The prompt names size, piece, gap, head and end: {"size": 5000, "piece": 7, "gap": 0.001, …}. The
answer is an SSE stream of that many content bytes, written `piece` bytes of the wire at a time with
a pause of `gap` seconds; body() says what it must be. GET /posts tells how many requests came, and
how many bytes after one on the same connection: none ever may.
"""
import asyncio
import json
import random
import socket
import struct
import sys

HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
seen = {"posts": 0, "late_bytes": 0, "aborted": 0}


def events(spec):
    """Position-addressed: what byte n is depends on the seed and n alone."""
    draw = random.Random(spec["seed"])
    left, first = spec["size"], True
    while left > 0:
        n = min(left, 1 + draw.randrange(spec.get("event", 200)), 1 if first else left)
        left -= n
        first = False
        text = draw.getrandbits(8 * n).to_bytes(n, "big").hex()
        yield b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode()
    yield b"data: [DONE]\n\n"


def body(spec):
    return b"".join(events(spec))


def wire(spec):
    return b"".join(b"%x\r\n%s\r\n" % (len(e), e) for e in events(spec)) + b"0\r\n\r\n"


def small(text):
    return (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(text), text))


async def serve(reader, writer):
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                path = head.split(b" ")[1]
                text = b"{}"
                if path == b"/posts":
                    text = json.dumps(seen).encode()
                elif path == b"/v1/models":
                    text = b'{"object":"list","data":[{"id":"tiny","object":"model"}]}'
                writer.write(small(text))
                continue
            length = [int(h.split(b":")[1]) for h in head.split(b"\r\n")
                      if h.lower().startswith(b"content-length")]
            request = json.loads(await reader.readexactly(length[0]))
            seen["posts"] += 1
            await answer(json.loads(request["messages"][0]["content"]), writer)
            break
        while True:  # the gateway said Connection: close: nothing may follow
            more = await reader.read(65536)
            if not more:
                break
            seen["late_bytes"] += len(more)
    except (asyncio.IncompleteReadError, ConnectionError, BrokenPipeError):
        seen["aborted"] += 1
    finally:
        writer.close()


async def answer(spec, writer):
    data, piece, gap = wire(spec), spec.get("piece", 1 << 16), spec.get("gap", 0)
    draw = random.Random(spec["seed"] ^ 77)
    writer.write(HEAD)
    await asyncio.sleep(spec.get("head", 0))
    cut = int(len(data) * spec["cut"]) if "cut" in spec else len(data)
    for at in range(0, cut, piece):
        writer.write(data[at:min(at + piece, cut)])
        await writer.drain()
        if gap:
            await asyncio.sleep(gap * draw.random() * 2)
    if "cut" in spec:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                                   struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise ConnectionError
    writer.write_eof()


async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]), backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
