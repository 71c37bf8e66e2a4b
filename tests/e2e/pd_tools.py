# SPDX-License-Identifier: Apache-2.0
"""What the tests of disaggregated requests share: a tap between gateway and engine, the cases of
tests/data/pd, engines of both roles."""
import json
import os
import re
import socket
import threading

from harness import ROOT, Gateway, Sim, eventually, free_port, get, post

LEGS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
        "/inference/v1/generate")


class Tap:
    """A TCP proxy before one engine that keeps what passes, both ways, by connection."""

    def __init__(self, port):
        self.to = port
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.flows = []  # [bytes to the engine, bytes from it]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            flow = [bytearray(), bytearray()]
            self.flows.append(flow)
            for a, b, kept in ((near, far, flow[0]), (far, near, flow[1])):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(a, b, kept), daemon=True).start()

    @staticmethod
    def _pump(a, b, kept):
        try:
            while True:
                data = a.recv(65536)
                if not data:
                    b.shutdown(socket.SHUT_WR)
                    return
                kept += data
                b.sendall(data)
        except OSError:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def exchanges(self):
        """[(head, body)] of the generation requests that went to the engine, in order."""
        out = []
        for flow in list(self.flows):
            data = bytes(flow[0])
            while b"\r\n\r\n" in data:
                head, rest = data.split(b"\r\n\r\n", 1)
                m = re.search(rb"content-length: (\d+)", head, re.I)
                n = int(m[1]) if m else 0
                if head.split(b" ")[1].decode() in LEGS:
                    out.append((head.decode("latin-1"), rest[:n]))
                data = rest[n:]
        return out

    def params(self):
        """kv_transfer_params of the answers that came from the engine: their text."""
        out = []
        for flow in list(self.flows):
            data = bytes(flow[1]).decode()
            for m in re.finditer(r'"kv_transfer_params":(?=\{)', data):
                _, end = json.JSONDecoder().raw_decode(data, m.end())
                out.append(data[m.end():end])
        return out

    def clear(self):
        for flow in self.flows:  # their connections may be kept
            flow[0].clear()
            flow[1].clear()

    def stop(self):
        self.server.close()


def cases(connector, fill="the quick brown fox " * 40):
    found, case = [], None
    with open(os.path.join(ROOT, "tests", "data", "pd", connector + ".txt")) as f:
        for line in f:
            word, _, rest = line.rstrip("\n").partition(" ")
            rest = rest.strip(" ") if word == "case" else rest.lstrip(" ")
            if word == "case":
                name, path = rest.split(" ")
                case = {"name": name, "path": path}
                found.append(case)
            elif word in ("client", "prefill", "probe", "decode"):
                case[word] = rest.replace("@FILL@", f"{case['name']} {fill}")
    return found


class Pair:
    """Engines of both roles and a gateway before them. books(): the sum of the engines' accounts."""

    def __init__(self, connector, *flags, prefill=2, decode=2, sim=(), taps=False, labels=None):
        self.n = prefill
        self.sim = Sim("--kv-connector", connector, "--time-scale", "50", *sim,
                       instances=prefill + decode)
        ports = self.sim.ports
        self.taps = [Tap(p) for p in ports] if taps else []
        ends = [t.address for t in self.taps] or self.sim.endpoints
        specs = [f"{a},role={'prefill' if i < prefill else 'decode'}" +
                 f",label.bootstrap-port={ports[i]}" +
                 (f",{labels(i)}" if labels else "") for i, a in enumerate(ends)]
        try:
            self.gateway = Gateway(specs, "--pd", connector, "--pd-decider", "always",
                                   "--probe-interval", "60s",
                                   "--connect-timeout", "20s", *flags)
        except BaseException:
            self.sim.stop()
            raise
        self.port = self.gateway.port

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.gateway.__exit__(*exc)
        if exc[0]:
            print("---- the engines said:\n" + self.sim.output()[-2000:])
        self.sim.stop()
        for t in self.taps:
            t.stop()

    def books(self, which=None):
        total = {}
        for port in self.sim.ports if which is None else self.side(which):
            try:
                one = get(port, "/sim/kv").json()
            except OSError:
                continue
            for k, v in one.items():
                if isinstance(v, (int, float)):
                    total[k] = total.get(k, 0) + v
        return total

    def side(self, which):
        return self.sim.ports[:self.n] if which == "prefill" else self.sim.ports[self.n:]

    def fail(self, leg, what, count=1, engines=None):
        """The next `count` legs of that kind meet it, on each of the first `engines` engines."""
        for port in self.side(leg)[:engines]:
            post(port, "/sim/fail", {"leg": leg, "what": what, "count": count})

    def nothing_held(self, seconds=20):
        try:
            eventually("no engine holds blocks or runs anything",
                       lambda: (b := self.books())["held_blocks"] == 0 and b["running"] == 0,
                       seconds)
        except AssertionError:
            raise AssertionError(f"held or running: {self.books()}") from None
