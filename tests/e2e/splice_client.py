# SPDX-License-Identifier: Apache-2.0
"""Clients of splice_engine.py: splice_client.py HOST PORT JSON, prints what became of them as JSON.

{"count", "concurrency", "spec": …, "abort": share, "speak": share, "slow": bytes a second}
Each answer is compared byte by byte with what the engine must have said. abort: hang up in the
middle; speak: send a second request on the same connection in the middle of the first one's answer.
"""
import asyncio
import json
import random
import socket
import struct
import sys

from splice_engine import body

out = {"whole": 0, "cut": 0, "wrong": 0, "aborted": 0, "refused": 0, "spoke": 0, "close_told": 0,
       "errors": {}}


def request(spec, key):
    text = json.dumps({"model": "tiny", "stream": True, "messages": [
        {"role": "user", "content": json.dumps(spec)}]}).encode()
    return (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"x-request-id: %s\r\ncontent-length: %d\r\n\r\n%s" % (key.encode(), len(text), text))


async def dechunk(reader, job, writer, spec, draw):
    got = []
    total = 0
    expect = 2 * spec["size"]
    abort_at = draw.randrange(expect) if draw.random() < job.get("abort", 0) else None
    speak_at = draw.randrange(expect) if draw.random() < job.get("speak", 0) else None
    while True:
        line = await reader.readuntil(b"\r\n")
        n = int(line, 16)
        data = await reader.readexactly(n + 2)
        if n == 0:
            return b"".join(got)
        got.append(data[:-2])
        total += n
        if job.get("slow"):
            await asyncio.sleep(n / job["slow"])
        if speak_at is not None and total >= speak_at:
            speak_at = None
            out["spoke"] += 1
            writer.write(request(dict(spec, seed=1), "second"))
        if abort_at is not None and total >= abort_at:
            if draw.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return None


async def one(job, index, limit):
    async with limit:
        draw = random.Random(job.get("seed", 0) * 1000003 + index)
        spec = {k: draw.choice(v) if isinstance(v, list) else v for k, v in job["spec"].items()}
        spec["seed"] = draw.randrange(1 << 30)
        await asyncio.sleep(draw.random() * job.get("spread", 0))
        try:
            reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]),
                                                           limit=1 << 20)
            sock = writer.get_extra_info("socket")
            if job.get("rcvbuf"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, job["rcvbuf"])
        except OSError:
            out["refused"] += 1
            return
        try:
            writer.write(request(spec, f"r{job.get('seed', 0)}-{index}"))
            head = await reader.readuntil(b"\r\n\r\n")
            out["close_told"] += b"connection: close" in head.lower()
            if b" 200 " not in head.split(b"\r\n")[0]:
                out["refused"] += 1
                return
            got = await dechunk(reader, job, writer, spec, draw)
            if got is None:
                out["aborted"] += 1
            elif got == body(spec):
                out["whole"] += 1
            else:
                out["wrong"] += 1
        except (asyncio.IncompleteReadError, OSError, ValueError) as e:
            out["wrong" if isinstance(e, ValueError) else "cut"] += 1
            kind = type(e).__name__
            out["errors"][kind] = out["errors"].get(kind, 0) + 1
        finally:
            writer.close()


async def main():
    job = json.loads(sys.argv[3])
    limit = asyncio.Semaphore(job.get("concurrency", 100))
    tasks = [asyncio.create_task(one(job, i, limit)) for i in range(job["count"])]
    done, late = await asyncio.wait(tasks, timeout=job.get("timeout", 120))
    out["hung"] = len(late)
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
