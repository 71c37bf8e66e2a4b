# SPDX-License-Identifier: Apache-2.0
"""The guard on a real interface: who gets through, who does not, and what outlives the agent."""
import json
import os
import signal
import socket
import struct
import subprocess

from harness import BIN, Process, Skip, chat, eventually, main
from netns import Netns, veth
from replay import Replay

GATEWAY, PORT = "10.77.0.1", 8080
FRIEND, FOE = "10.77.0.2", "10.77.0.3"
BPFFS = f"/sys/fs/bpf/sluice-guard-{os.getpid()}"


def ctl(*args, check=True):
    r = subprocess.run([os.path.join(BIN, "sluicectl"), "--bpffs-dir", BPFFS, *args],
                       capture_output=True, text=True)
    if check:
        assert r.returncode == 0, r.stderr
    return r


def packets(verdict, field="packets"):
    return json.loads(ctl("--json", "guard", "list").stdout)["verdicts"][verdict][field]


class Field:
    """client namespace with two addresses -- veth -- gateway namespace with sluiced in it."""

    def __init__(self, *flags):
        self.flags = flags
        self.gw, self.client = Netns("gw"), Netns("cl")
        veth(self.gw, self.client, "gw0", "cl0", f"{GATEWAY}/24", f"{FRIEND}/24")
        self.client.ip("address", "add", f"{FOE}/24", "dev", "cl0")
        self.engine = self.gw.call(Replay)
        self.start()

    def start(self):
        self.agent = Process(self.gw.enter + [
            os.path.join(BIN, "sluiced"), "--listen", f"0.0.0.0:{PORT}", "--admin", "",
            "--workers", "1", "--no-pin-workers", "--bpffs-dir", BPFFS, "--guard", "auto",
            "--guard-interface", "gw0", "--affinity-bytes-max", "1MB",
            "--endpoint", self.engine.address, *self.flags])
        eventually("the gateway serves", lambda: self.ask(FRIEND) == 200 or self.failed())

    def failed(self):
        if not self.agent.alive():
            raise AssertionError(self.agent.output())
        if "takes no program" in self.agent.output() or "cannot start" in self.agent.output():
            raise Skip("no BPF here: " + self.agent.output()[-200:])
        return False

    def connect(self, source, seconds):
        s = self.client.socket()
        s.settimeout(seconds)
        s.bind((source, 0))
        try:
            s.connect((GATEWAY, PORT))
            return s
        except OSError:
            s.close()
            return None

    def ask(self, source, seconds=1.0):
        s = self.connect(source, seconds)
        if not s:
            return None
        body = json.dumps(chat()).encode()
        with s:
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                      b"content-length: %d\r\n\r\n" % len(body) + body)
            return int(s.makefile("rb").readline().split()[1])

    def xdp(self):
        out = subprocess.run(["ip", "-n", self.gw.name, "-j", "link", "show", "gw0"],
                             capture_output=True, text=True, check=True).stdout
        return "xdp" in json.loads(out)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.agent.stop()
        self.engine.stop()
        subprocess.run([os.path.join(BIN, "sluiced"), "--bpffs-dir", BPFFS, "--uninstall"],
                       check=True)
        self.gw.remove()
        self.client.remove()
        assert not os.path.exists(BPFFS), "pins are left"


def test_a_denied_source_is_dropped_and_others_are_not():
    with Field() as f:
        assert f.ask(FOE) == 200
        ctl("guard", "deny", FOE)
        assert f.ask(FOE, seconds=0.3) is None
        assert f.ask(FRIEND) == 200
        assert packets("denied") > 0
        ctl("guard", "remove", FOE)
        assert f.ask(FOE) == 200


def test_an_exception_within_a_denied_prefix_passes():
    with Field("--guard-deny", "10.77.0.3/32") as f:
        assert f.ask(FOE, seconds=0.3) is None
        ctl("guard", "remove", "10.77.0.3/32")
        ctl("guard", "deny", "10.77.0.2/31")
        ctl("guard", "allow", FOE)
        assert f.ask(FOE) == 200
        assert f.ask(FRIEND, seconds=0.3) is None
        rows = json.loads(ctl("--json", "guard", "list").stdout)["prefixes"]
        assert {(r["prefix"], r["action"]) for r in rows} == {
            ("10.77.0.2/31", "deny"), ("10.77.0.3/32", "allow")}


def test_the_guard_outlives_the_agent_and_the_next_one_takes_it_over():
    with Field() as f:
        ctl("guard", "deny", FOE)
        f.agent.stop(signal.SIGKILL)
        before = packets("denied")
        assert f.ask(FOE, seconds=0.3) is None
        assert f.xdp() and packets("denied") > before
        f.start()
        assert f.ask(FOE, seconds=0.3) is None
        assert packets("denied") > before
        f.agent.stop(signal.SIGTERM)
        subprocess.run([os.path.join(BIN, "sluiced"), "--bpffs-dir", BPFFS, "--uninstall"],
                       check=True)
        assert not f.xdp()


def test_connections_past_the_budget_are_dropped_and_counted():
    with Field("--guard-syns", "1", "--guard-syn-burst", "3") as f:
        opened = [f.connect(FOE, 0.2) for _ in range(8)]
        assert opened[0] and opened[1] and not all(opened)
        assert packets("syn-budget") > 0
        ctl("guard", "budget", "0", "0")
        assert f.ask(FOE) == 200
        for s in opened:
            if s:
                s.close()


def test_a_dry_run_drops_nothing():
    with Field("--guard-dry-run") as f:
        ctl("guard", "deny", FOE)
        assert f.ask(FOE) == 200
        assert packets("denied", "dry_run") > 0


def test_malformed_segments_end_before_tcp():
    with Field() as f:
        def flags(number):
            return struct.pack("!HHIIBBHHH", 4000, PORT, 1, 0, 5 << 4, number, 0, 0, 0)
        raw = f.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        raw.bind((FOE, 0))
        for number in (0, 0x03, 0x3f, 0x01):
            raw.sendto(flags(number), (GATEWAY, 0))
        raw.close()
        eventually("they are counted", lambda: packets("malformed") == 4)
        assert f.ask(FOE) == 200


def test_usage_errors_are_told():
    for words in (("deny", "10.0.0.1/8"), ("deny",), ("budget", "x", "1"), ("dry-run", "maybe"),
                  ("dance",), ()):
        r = ctl("guard", *words, check=False)
        assert r.returncode == 2 and r.stderr, words
    r = ctl("guard", "list", check=False)
    assert r.returncode == 1 and "sluiced --guard" in r.stderr


main(globals())
