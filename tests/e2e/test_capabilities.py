# SPDX-License-Identifier: Apache-2.0
"""The rights that deploy/capabilities.md names are enough, each is needed, and all say the same."""
import json
import os
import re
import shutil
import signal
import subprocess

from harness import BIN, ROOT, SLUICED, Process, Skip, chat, eventually, main
from netns import Netns, veth
from replay import Replay

NEEDED = ("bpf", "net_admin", "perfmon")
ALL = (*NEEDED, "net_bind_service")
USER = 65534
GATEWAY, CLIENT = "10.81.0.1", "10.81.0.2"


def with_caps(caps, uid=USER):
    if not shutil.which("setpriv"):
        raise Skip("no setpriv")
    if os.geteuid() != 0:
        raise Skip("only root can give capabilities")
    names = ",".join("+" + c for c in caps)
    bounding = f"--bounding-set=-all,{names}" if caps else "--bounding-set=-all"
    ambient = [f"--inh-caps={names}", f"--ambient-caps={names}"] if caps and uid else []
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs",
            *ambient, bounding]


class Confined:
    """A gateway of another user in a namespace with one cable, its pin directory its own."""

    def __init__(self, caps, uid=USER, port=8080):
        self.argv = with_caps(caps, uid)
        if not os.path.ismount("/sys/fs/bpf"):
            raise Skip("bpffs is not mounted")
        if os.stat("/sys/fs/bpf").st_mode & 0o001 == 0 and uid:
            raise Skip("/sys/fs/bpf is for root alone here")
        self.pins = f"/sys/fs/bpf/sluice-caps-{os.getpid()}"
        self.admin = f"/tmp/sluice-caps-{os.getpid()}"
        self.port, self.uid = port, uid

    def __enter__(self):
        self.gw, self.client = Netns("caps-gw"), Netns("caps-cl")
        veth(self.gw, self.client, "gw0", "cl0", f"{GATEWAY}/24", f"{CLIENT}/24")
        self.engine = self.gw.call(Replay)
        os.makedirs(self.pins)
        os.makedirs(self.admin)
        for d in (self.pins, self.admin):
            os.chown(d, self.uid, self.uid)
        self.agent = Process(self.gw.enter + self.argv + [
            SLUICED, "--listen", f"{GATEWAY}:{self.port}", "--admin", f"unix:{self.admin}/s",
            "--workers", "1", "--no-pin-workers", "--bpffs-dir", self.pins, "--guard", "auto",
            "--guard-interface", "gw0", "--affinity-bytes-max", "1MB",
            "--endpoint", self.engine.address])
        try:
            eventually("it serves", lambda: self.ask() or not self.agent.alive())
            assert self.agent.alive(), self.agent.output()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        status = self.agent.stop(signal.SIGTERM)
        self.engine.stop()
        subprocess.run([SLUICED, "--uninstall", "--bpffs-dir", self.pins], check=True)
        shutil.rmtree(self.admin)
        self.gw.remove()
        self.client.remove()
        assert status == 0, self.agent.output()

    def ask(self):
        body = json.dumps(chat()).encode()
        s = self.client.socket()
        s.settimeout(5)
        try:
            s.connect((GATEWAY, self.port))
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                      b"content-length: %d\r\n\r\n" % len(body) + body)
            return s.makefile("rb").readline().split()[1:2] == [b"200"]
        except OSError:
            return False
        finally:
            s.close()

    def path(self):
        out = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", f"unix:{self.admin}/s",
                              "--json", "path"], capture_output=True, text=True, check=True)
        return json.loads(out.stdout)

    def features(self):
        known = eventually("the self-tests have ended",
                           lambda: self.path()["known"] and self.path())
        return {f["name"]: f["state"] for f in known["features"]}

    def held(self):
        with open(f"/proc/{self.agent.pid}/status") as f:
            return int(re.search(r"CapEff:\s+(\w+)", f.read())[1], 16)

    def has_maps(self):
        return "plain memory" not in self.agent.output()

    def lacks_paths(self):
        """Those of the kernel paths that it could not start."""
        return re.findall(r"path: no (\w+):", self.agent.output())

    def has_guard(self):
        return "gw0 is guarded" in self.agent.output()


def supported():
    """What root has here; what even root lacks cannot be asked of another user."""
    out = subprocess.run([SLUICED, "--probe-machine"], capture_output=True, text=True, check=True)
    states = dict(line.split("\t")[:2] for line in out.stdout.splitlines())
    if states["load"] != "yes":
        raise Skip("no BPF here, not even for root: " + out.stdout.replace("\n", "; "))
    return states


def test_exactly_these_are_enough_for_another_user():
    root = supported()
    with Confined(NEEDED) as c:
        assert bin(c.held()).count("1") == len(NEEDED), hex(c.held())
        assert c.has_maps() and c.has_guard(), c.agent.output()
        assert not c.lacks_paths(), c.agent.output()
        found = c.features()
        for name in ("capabilities", "load", "ring-buffer"):
            assert found[name] == "yes", found
        if found["namespaces"] == "yes":
            for name in ("tcx", "clsact", "tc-redirect", "sk-msg"):
                assert found[name] == root[name], (name, found)


def test_streams_are_spliced_with_no_more_than_these():
    from test_splice import BPFFS, Field, all_whole
    supported()

    class Confined3(Field):
        def start(self, **kw):
            os.makedirs(BPFFS)
            os.chown(BPFFS, USER, USER)
            self.gw.enter = self.gw.enter + with_caps(NEEDED)
            return super().start(**kw)
    with Confined3() as f:
        all_whole(f.run(count=30, concurrency=10,
                        spec={"size": 5000, "piece": 200, "gap": 0.01}), 30)
        eventually("all are accounted", lambda: f.spliced() == 30)
        f.quiet()  # and what their ends leave behind can be deleted


def test_root_with_no_more_than_these_is_as_good():
    supported()  # as the systemd unit and the DaemonSet run it
    with Confined(ALL, uid=0, port=80) as c:
        assert bin(c.held()).count("1") == len(ALL), hex(c.held())
        assert c.has_maps() and c.has_guard(), c.agent.output()
        assert not c.lacks_paths(), c.agent.output()
        assert c.features()["capabilities"] == "yes"


def test_each_of_them_is_needed_and_without_it_answers_are_still_relayed():
    supported()
    for missing, maps in (("bpf", False), ("net_admin", True), ("perfmon", False)):
        with Confined([c for c in NEEDED if c != missing]) as c:
            assert c.has_maps() == maps, (missing, c.agent.output())
            assert not c.has_guard(), (missing, c.agent.output())
            assert c.lacks_paths(), (missing, c.agent.output())
            assert c.features()["capabilities"] == "no", missing
            assert c.ask()


def test_a_missing_right_does_not_cost_the_deny_list():
    supported()
    with Confined(NEEDED) as c:
        subprocess.run([os.path.join(BIN, "sluicectl"), "--bpffs-dir", c.pins, "guard", "deny",
                        "192.0.2.0/24"], check=True)
        c.agent.stop(signal.SIGTERM)
        again = Process(c.gw.enter + with_caps(("bpf", "net_admin")) + [
            arg for arg in c.agent.argv if arg not in c.gw.enter][len(c.argv):])
        eventually("it serves", c.ask)
        assert again.stop(signal.SIGTERM) == 0
        rows = json.loads(subprocess.run(
            [os.path.join(BIN, "sluicectl"), "--bpffs-dir", c.pins, "--json", "guard", "list"],
            capture_output=True, text=True, check=True).stdout)["prefixes"]
        assert [r["prefix"] for r in rows] == ["192.0.2.0/24"], again.output()


def test_everything_that_gives_capabilities_gives_these():
    unit = open(os.path.join(ROOT, "deploy/sluiced.service")).read()
    pod = open(os.path.join(ROOT, "deploy/kustomize/base/daemonset.yaml")).read()
    page = open(os.path.join(ROOT, "deploy/capabilities.md")).read()
    want = {c.upper() for c in ALL}
    given = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)[1].split()
    assert {c.removeprefix("CAP_") for c in given} == want
    added = re.search(r'add: \[(.*)\]', pod)[1]
    assert set(re.findall(r'"(\w+)"', added)) == want
    assert set(re.findall(r"^\| CAP_(\w+) \|", page, re.M)) == want


main(globals())
