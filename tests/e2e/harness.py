# SPDX-License-Identifier: Apache-2.0
"""Starts and ends what the end-to-end tests need; runs their functions and prints TAP.

A test file defines functions `test_…` whose names are sentences and ends with `main(globals())`.
Everything started is ended by its own process id. Ports are free ones of 127.0.0.1.
"""
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(ROOT, "build", "bin")
SOAK = os.environ.get("SLUICE_SOAK") == "1"
VARIANT = os.environ.get("SLUICE_VARIANT", "release")  # which build of sluiced: make e2e VARIANT=asan
SANITIZED = VARIANT in ("asan", "tsan")
SLUICED = os.environ.get("SLUICED", os.path.join(
    BIN if VARIANT == "release" else os.path.join(ROOT, "build", VARIANT, "bin"), "sluiced"))
DEADLINE_S = 60.0 if SANITIZED else 20.0
COMPLAINT = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|: runtime error: ")


# A shell's background jobs ignore SIGINT, nohup's SIGHUP; what is started here must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Skip(Exception):
    pass


_given = set()


def free_port():
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def eventually(what, true, seconds=DEADLINE_S):
    """Waits for a state; the deadline only bounds how long a failure takes."""
    end = time.monotonic() + seconds
    while True:
        got = true()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"never came true: {what}")
        time.sleep(0.01)


class Process:
    def __init__(self, argv, env=None):
        self.log = tempfile.TemporaryFile()
        self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log,
                                      stderr=self.log, cwd=ROOT, env={**os.environ, **(env or {})})
        self.pid = self.popen.pid
        self.argv = argv

    def output(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def alive(self):
        return self.popen.poll() is None

    def stop(self, sig=signal.SIGKILL, seconds=DEADLINE_S):
        if self.alive():
            self.popen.send_signal(sig)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"{self.argv[0]} did not end after signal {sig}") from None

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_kb(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])


class Gateway(Process):
    """sluiced before the given endpoints ("ip:port" or objects with .address), one worker."""

    def __init__(self, endpoints, *flags, ready=True, exe=SLUICED):
        self.port, self.admin = free_port(), free_port()
        argv = [exe, "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}",
                "--workers", "1", "--no-pin-workers", "--no-bpf",
                *(["--drain-timeout", "100ms"] if SANITIZED else [])]
        for e in endpoints:
            argv += ["--endpoint", getattr(e, "address", e)]
        super().__init__(argv + list(flags))
        self.base = f"http://127.0.0.1:{self.port}"
        if ready:
            try:
                self.wait_ready()
            except AssertionError:
                print(self.output(), file=sys.stderr)
                self.stop()
                raise

    def wait_ready(self):
        def ready():
            if not self.alive():
                raise AssertionError(f"sluiced ended with {self.popen.returncode}")
            try:
                return get(self.admin, "/readyz").status == 200
            except OSError:
                return False
        eventually("the gateway is ready", ready)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print("---- the gateway said:\n" + self.output()[-3000:], file=sys.stderr)
        crashed = not self.alive()
        if SANITIZED and not crashed:  # an orderly end looks for leaks as well
            self.stop(signal.SIGTERM)
            assert self.popen.returncode == 0, self.output()[-6000:]
        self.stop()
        said = COMPLAINT.search(self.output())
        assert not said, self.output()[said.start():said.start() + 6000]
        if crashed and not kind and self.popen.returncode != 0:
            raise AssertionError(f"sluiced ended by itself with {self.popen.returncode}")

    def grew_kb(self, before):
        """Memory that was not there before; a sanitizer's own is not the gateway's."""
        return 0 if SANITIZED else self.rss_kb() - before

    def metrics(self):
        return get(self.admin, "/metrics").body.decode()

    def metric(self, name, **labels):
        """The sum of the series of that name which carry the labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            m = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", line)
            if m and m[1] == name and all(f'{k}="{v}"' in (m[2] or "")
                                          for k, v in labels.items()):
                total += float(m[3])
        return total


class Sim(Process):
    """sluice-sim: `instances` engines on consecutive ports."""

    def __init__(self, *flags, instances=1, model="tiny"):
        exe = os.path.join(BIN, "sluice-sim")
        if not os.path.exists(exe):
            raise Skip("sluice-sim is not built")
        self.ports = self._block(instances)
        super().__init__([exe, "--port", str(self.ports[0]), "--instances", str(instances),
                          "--model", model, "--max-model-len", "131072", *flags])
        self.endpoints = [f"127.0.0.1:{p}" for p in self.ports]
        for port in self.ports:
            eventually("the simulated engine answers", lambda p=port: self._up(p))

    @staticmethod
    def _block(count):
        while True:  # below the ports that outgoing connections take
            first = random.randrange(12000, 32000 - count)
            try:
                for port in range(first, first + count):
                    socket.create_server(("127.0.0.1", port)).close()
                return list(range(first, first + count))
            except OSError:
                continue

    def _up(self, port):
        if not self.alive():
            raise AssertionError(f"sluice-sim ended: {self.output()[-500:]}")
        try:
            return get(port, "/health").status == 200
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.complete = True
        try:
            self.body = response.read()
        except http.client.IncompleteRead as err:
            self.body, self.complete = err.partial, False
        except (OSError, ValueError):  # reset, or framing that says nothing
            self.body, self.complete = b"", False

    def json(self):
        return json.loads(self.body)


def call(port, method, path, body=None, headers=None, timeout=DEADLINE_S):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        head = {"Content-Type": "application/json"} if body is not None else {}
        conn.request(method, path, body, {**head, **(headers or {})})
        return Answer(conn.getresponse())
    finally:
        conn.close()


def get(port, path, **kw):
    return call(port, "GET", path, **kw)


def post(port, path, body, **kw):
    return call(port, "POST", path, body, **kw)


def chat(text="hello", **more):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 8,
            **more}


def raw(port, data, half_close=False, timeout=DEADLINE_S):
    """Sends bytes, returns everything until the peer closes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        out = b""
        while True:
            try:
                got = s.recv(65536)
            except ConnectionResetError:
                return out
            if not got:
                return out
            out += got


def main(names):
    tests = [(n, f) for n, f in names.items() if n.startswith("test_") and callable(f)]
    if len(sys.argv) > 1:
        tests = [(n, f) for n, f in tests if any(a in n for a in sys.argv[1:])]
    bad = 0
    print(f"1..{len(tests)}", flush=True)
    for number, (name, test) in enumerate(tests, 1):
        title = name[5:].replace("_", " ")
        try:
            test()
            print(f"ok {number} - {title}", flush=True)
        except Skip as why:
            print(f"ok {number} - {title} # SKIP {why}", flush=True)
        except Exception:
            bad += 1
            print(f"not ok {number} - {title}", flush=True)
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
    sys.stdout.flush()
    os._exit(1 if bad else 0)
