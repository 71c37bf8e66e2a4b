#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A SYN flood from one source beside the requests of another: what the guard saves.

Gateway, engine and the honest client share CPU 0, the flood has CPU 1. Requests/s of the honest
client undisturbed, flooded without the guard and flooded with it; medians of ROUNDS."""
import json
import os
import pathlib
import socket
import statistics
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from harness import Process, Skip, eventually  # noqa: E402
from netns import Netns, veth  # noqa: E402

BIN, ROUNDS = ROOT / "build/bin", int(os.environ.get("ROUNDS", 5))
SECONDS = float(os.environ.get("GUARD_SECONDS", 3))
BPFFS = f"/sys/fs/bpf/sluice-guard-bench-{os.getpid()}"
GATEWAY, FRIEND, FOE, PORT, GOAL = "10.78.0.1", "10.78.0.2", "10.78.0.3", 8080, 0.95


def frame(n):
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, n & 0xffff, 0, 64, 6, 0,
                     socket.inet_aton(FOE), socket.inet_aton(GATEWAY))
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xffff) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~((total & 0xffff) + (total >> 16)) & 0xffff) + ip[12:]
    tcp = struct.pack("!HHIIBBHHH", 1024 + n % 60000, PORT, n, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = socket.inet_aton(FOE) + socket.inet_aton(GATEWAY) + struct.pack("!HH", 6, 20)
    total = sum(struct.unpack("!16H", pseudo + tcp))
    total = (total & 0xffff) + (total >> 16)
    return ip + tcp[:16] + struct.pack("!H", ~((total & 0xffff) + (total >> 16)) & 0xffff) + tcp[18:]


def flood():
    """Runs in a child within the client's namespace until it is killed: raw SYNs, as fast as it goes."""
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    frames = [frame(n) for n in range(4096)]
    to = (GATEWAY, 0)
    while True:
        for f in frames:
            s.sendto(f, to)


class Field:
    def __init__(self):
        self.gw, self.client = Netns("guardgw"), Netns("guardcl")
        veth(self.gw, self.client, "gw0", "cl0", f"{GATEWAY}/24", f"{FRIEND}/24")
        self.client.ip("address", "add", f"{FOE}/24", "dev", "cl0")
        self.sim = self.spawn(0, self.gw, BIN / "sluice-sim", "--port", "9100", "--model", "m",
                              "--latency-calculator", "constant", "--time-to-first-token", "0",
                              "--inter-token-latency", "0")
        self.agent = None

    @staticmethod
    def spawn(cpu, ns, *args):
        return Process(["taskset", "-c", str(cpu), *ns.enter, *map(str, args)])

    def start(self, *flags):
        if self.agent:
            self.agent.stop(15)
        subprocess.run([BIN / "sluiced", "--bpffs-dir", BPFFS, "--uninstall"], check=True)
        self.agent = self.spawn(0, self.gw, BIN / "sluiced", "--listen", f"0.0.0.0:{PORT}",
                                "--admin", "", "--workers", 1, "--no-pin-workers",
                                "--bpffs-dir", BPFFS, "--affinity-bytes-max", "1MB",
                                "--endpoint", "127.0.0.1:9100", *flags)

        def up():
            s = self.client.socket()
            s.settimeout(0.2)
            with s:
                return s.connect_ex((GATEWAY, PORT)) == 0
        eventually("the gateway listens", up)

    def rate(self, flooded):
        child = None
        if flooded:
            child = self.spawn(1, self.client, sys.executable, __file__, "flood")
            time.sleep(0.5)
        run = subprocess.run(
            ["taskset", "-c", "0", *self.client.enter, BIN / "sluice-load", "--target",
             f"{GATEWAY}:{PORT}", "--model", "m", "--concurrency", "8", "--prompt-tokens", "256",
             "--max-tokens", "1", "--no-stream", "--duration",
             str(SECONDS), "--json"], capture_output=True, text=True)
        if child:
            child.stop()
        return json.loads(run.stdout)

    def close(self):
        if self.agent:
            self.agent.stop()
        self.sim.stop()
        subprocess.run([BIN / "sluiced", "--bpffs-dir", BPFFS, "--uninstall"])
        self.gw.remove()
        self.client.remove()


def rate_of(report):
    return report["rps"]


def measure():
    field, rows = Field(), {"undisturbed": [], "flood, no guard": [], "flood, guard": []}
    try:
        for _ in range(ROUNDS):
            field.start("--guard", "off")
            rows["undisturbed"].append(rate_of(field.rate(False)))
            rows["flood, no guard"].append(rate_of(field.rate(True)))
            field.start("--guard", "auto", "--guard-interface", "gw0", "--guard-syns", "100")
            rows["flood, guard"].append(rate_of(field.rate(True)))
        seen = json.loads(subprocess.run(
            [BIN / "sluicectl", "--bpffs-dir", BPFFS, "--json", "guard", "list"],
            capture_output=True, text=True, check=True).stdout)["verdicts"]["syn-budget"]
    finally:
        field.close()
    base = statistics.median(rows["undisturbed"])
    print(f"{'SYN flood from one source':28} {'requests/s':>10} {'spread':>17} {'ratio':>6}")
    for name, values in rows.items():
        mid = statistics.median(values)
        print(f"{name:28} {mid:10.0f} {min(values):8.0f}-{max(values):8.0f} {mid / base:6.2f}")
    ratio = statistics.median(rows["flood, guard"]) / base
    print(f"goal: at least {GOAL} of the undisturbed rate: {'met' if ratio >= GOAL else 'MISSED'}"
          f"; {seen['packets'] / SECONDS:,.0f} SYNs/s dropped in the last round")


if __name__ == "__main__":
    if sys.argv[1:] == ["flood"]:
        flood()
    try:
        measure()
    except Skip as why:
        print(f"guard bench skipped: {why}")
