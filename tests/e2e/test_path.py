# SPDX-License-Identifier: Apache-2.0
"""What the machine can do: found out beside the start, shown, and nothing of it left behind."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess

from harness import (BIN, SLUICED, Gateway, Process, Sim, Skip, chat, eventually, free_port, get,
                     main, post)
from netns import Netns, veth

PINS = f"/sys/fs/bpf/sluice-path-{os.getpid()}"
FLAGS = ("--bpf", "--bpffs-dir", PINS, "--affinity-bytes-max", "1MB")


def state(gw):
    return json.loads(get(gw.admin, "/state/path").body)


def known(gw):
    return eventually("the self-tests have ended", lambda: state(gw)["known"] and state(gw))


def ctl(admin, *words):
    return subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", admin, *words],
                          capture_output=True, text=True, check=True).stdout


def features(of):
    return {f["name"]: f["state"] for f in of["features"]}


def left_behind(pid):
    """Children of that process, and cgroups that a test made."""
    return [d for d in glob.glob("/sys/fs/cgroup/**/sluice-probe-*", recursive=True)] + [
        p for p in glob.glob("/proc/[0-9]*/status")
        if f"PPid:\t{pid}\n" in (read(p) or "")]


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def uninstall():
    subprocess.run([SLUICED, "--uninstall", "--bpffs-dir", PINS], check=True)


def as_user(*caps):
    """Not root, with exactly these capabilities."""
    if not shutil.which("setpriv"):
        raise Skip("no setpriv")
    names = ",".join("+" + c for c in caps)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *(
        [f"--inh-caps={names}", f"--ambient-caps={names}",
         f"--bounding-set=-all,{names}"] if caps else ["--bounding-set=-all"])]


def probe(*prefix):
    out = subprocess.run([*prefix, SLUICED, "--probe-machine"], capture_output=True, text=True,
                         check=True, timeout=60)
    rows = [line.split("\t") for line in out.stdout.splitlines()]
    assert all(len(r) == 3 for r in rows), out.stdout
    return {r[0]: r[1] for r in rows}, out.stdout


def test_the_table_says_which_paths_the_machine_has_and_why_not_the_others():
    try:
        with Sim() as sim, Gateway(sim.endpoints, *FLAGS) as gw:
            of = known(gw)
            found, paths = features(of), {p["name"]: p for p in of["paths"]}
            assert paths["relay"]["available"] == "yes"
            assert found["kernel"] == "yes" and set(found.values()) <= {"yes", "no", "unknown"}
            for p in paths.values():  # whatever is not there has a reason
                assert (p["available"] == "yes") == (p["why"] == ""), p
                assert not p["why"] or p["why"].split(":")[0] in found, p
            table = ctl(f"127.0.0.1:{gw.admin}", "path")
            for name, is_ in found.items():
                assert re.search(rf"^{name} +{is_} ", table, re.M), table
            for name, p in paths.items():
                assert re.search(rf"^{name} +{p['available']}", table, re.M), table
            number = {"yes": 1, "no": 0, "unknown": -1}
            for name, is_ in found.items():
                assert gw.metric("sluice_machine_feature", feature=name) == number[is_]
            for name, p in paths.items():
                assert gw.metric("sluice_path_available", path=name) == number[p["available"]]
            assert post(gw.port, "/v1/chat/completions", chat()).status == 200
            eventually("nothing is left", lambda: not left_behind(gw.pid))
    finally:
        uninstall()


def test_what_root_can_do_on_a_new_kernel_is_found():
    """The machine of the tests has all of it; elsewhere this says what is missing."""
    if os.geteuid() != 0:
        raise Skip("not root")
    major, minor = map(int, os.uname().release.split(".")[:2])
    if (major, minor) < (6, 6):
        raise Skip(f"Linux {major}.{minor} is older than 6.6")
    found, text = probe()
    if found["load"] != "yes" or found["namespaces"] != "yes":
        raise Skip("no BPF or no namespaces for root here: " + text.replace("\n", "; "))
    for name in ("clsact", "tcx", "tc-redirect", "ring-buffer", "sk-msg"):
        assert found[name] == "yes", text


def test_without_privileges_all_is_relayed_and_nothing_fails():
    with Sim() as sim:
        argv = as_user() + ["/bin/sh", "-c", 'exec "$0" "$@"', SLUICED]
        if subprocess.run([*as_user(), "/bin/true"]).returncode:
            raise Skip("setpriv cannot drop privileges here")
        found, _ = probe(*as_user())
        assert found["capabilities"] == "no" and found["load"] == "no", found
        assert found["tc-redirect"] == "unknown" and found["sk-msg"] == "unknown", found
        ports = Gateway.__new__(Gateway)  # only its manners: the process is another user's
        ports.port, ports.admin = free_port(), free_port()
        agent = Process([*argv, "--listen", f"127.0.0.1:{ports.port}", "--admin",
                         f"127.0.0.1:{ports.admin}", "--workers", "1", "--no-pin-workers",
                         "--bpffs-dir", PINS, "--endpoint", sim.endpoints[0]])
        try:
            eventually("it is ready", lambda: agent.alive() and ready(ports.admin))
            of = known(ports)
            assert {p["name"]: p["available"] for p in of["paths"]} == {
                "relay": "yes", "steer": "no", "splice": "no"}, of["paths"]
            assert post(ports.port, "/v1/chat/completions", chat()).status == 200
        finally:
            assert agent.stop(signal.SIGTERM) == 0, agent.output()


def ready(admin):
    try:
        return get(admin, "/readyz").status == 200
    except OSError:
        return False


def test_three_capabilities_are_enough_for_every_test_but_the_cgroup():
    if os.geteuid() != 0:
        raise Skip("not root")
    caps = ("bpf", "net_admin", "perfmon")
    everything, _ = probe()
    found, text = probe(*as_user(*caps))
    assert found["capabilities"] == "yes", text
    assert found["load"] == everything["load"], text
    if found["namespaces"] != "yes":
        raise Skip("no user namespaces here: " + text.replace("\n", "; "))
    for name in ("clsact", "tcx", "tc-redirect", "xdp-generic", "sk-msg"):
        assert found[name] == everything[name], text


def test_without_bpf_nothing_is_tried():
    with Sim() as sim, Gateway(sim.endpoints) as gw:
        of = known(gw)
        assert set(features(of).values()) == {"unknown"}
        assert not left_behind(gw.pid)


def test_an_end_in_the_middle_of_the_tests_leaves_nothing():
    try:
        with Sim() as sim:
            for _ in range(3):
                with Gateway(sim.endpoints, *FLAGS) as gw:
                    gw.popen.send_signal(signal.SIGTERM)
                    assert gw.popen.wait(20) == 0, gw.output()
                    eventually("nothing is left", lambda p=gw.pid: not left_behind(p))
    finally:
        uninstall()


def interfaces(gw_ns, admin):
    out = gw_ns.call(lambda: json.loads(ctl(admin, "--json", "path")))
    return {i["name"] for i in out["interfaces"] if i["attached"]}


def test_interfaces_that_come_and_go_are_followed():
    with Netns("if-gw") as gw, Netns("if-cl") as client:
        veth(gw, client, "gw0", "cl0", "10.78.0.1/24", "10.78.0.2/24")
        admin = f"unix:/tmp/sluice-path-{os.getpid()}"
        agent = Process(gw.enter + [
            SLUICED, "--listen", "10.78.0.1:8080", "--admin", admin, "--workers", "1",
            "--no-pin-workers", "--no-bpf", "--endpoint", "10.79.0.2:8000"])
        try:
            eventually("it serves", lambda: os.path.exists(admin[5:]) or not agent.alive())
            eventually("the listen address", lambda: interfaces(gw, admin) == {"gw0"})
            veth(gw, client, "gw1", "cl1", "10.79.0.1/24", "10.79.0.2/24")
            eventually("the engine's way", lambda: interfaces(gw, admin) == {"gw0", "gw1"})
            gw.ip("link", "del", "gw1")
            eventually("it is gone", lambda: interfaces(gw, admin) == {"gw0"})
            veth(gw, client, "gw1", "cl1", "10.79.0.1/24", "10.79.0.2/24")
            eventually("and here again", lambda: interfaces(gw, admin) == {"gw0", "gw1"})
            assert "takes no program" not in agent.output()
        finally:
            assert agent.stop(signal.SIGTERM) == 0, agent.output()


main(globals())
