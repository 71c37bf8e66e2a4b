# SPDX-License-Identifier: Apache-2.0
"""make demo, on a few rows: it shows what it promises and leaves nothing behind, however it ends."""
import glob
import json
import os
import re
import signal
import socket
import subprocess

from harness import ROOT, Sim, call, chat, eventually, main

SPAN = 80  # ports that a demo uses, from PORT on


def ports():
    return str(Sim._block(SPAN)[0])


def demo(port, **env):
    return subprocess.Popen(["bash", "tests/demo/demo.sh"], cwd=ROOT, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True,
                            env={**os.environ, "PORT": port, "ROWS": "40", "SPEED": "60", **env})


def assert_nothing_is_left(port, pid):
    for p in range(int(port), int(port) + SPAN):
        with socket.socket() as s:
            assert s.connect_ex(("127.0.0.1", p)) != 0, f"something listens on {p}"
    assert not glob.glob(f"/sys/fs/bpf/sluice-demo-{pid}"), "pins are left"


def test_the_demo_shows_both_ways_the_maps_and_a_why():
    port = ports()
    p = demo(port)
    out, _ = p.communicate(timeout=180)
    assert p.returncode == 0, out
    assert re.search(r"answered +40/40 +40/40", out), out
    for line in ("TTFT p50", "TTFT p90", "prompt tokens found cached", "had the best score",
                 "The index holds"):
        assert line in out, (line, out)
    if os.getuid() == 0 and os.path.isdir("/sys/fs/bpf") and "plain memory" not in out:
        assert "engine-8" in out and '"requests_total"' in out and "bucket" in out, out
    assert_nothing_is_left(port, p.pid)


def test_keep_leaves_it_running_and_ctrl_c_ends_it():
    port = ports()
    p = demo(port, KEEP="1")
    seen = []
    for line in p.stdout:
        seen.append(line)
        if "curl http" in line:
            break
    assert seen and "curl http" in seen[-1], "".join(seen)
    assert f"127.0.0.1:{port}/v1/chat/completions" in seen[-1]
    body = json.loads(re.search(r"-d '(.*)'", seen[-1])[1])
    assert call(int(port), "POST", "/v1/chat/completions", body).status == 200
    assert call(int(port), "POST", "/v1/chat/completions", chat()).status == 200
    os.killpg(p.pid, signal.SIGINT)  # as a terminal does
    p.stdout.read()
    assert p.wait(60) == 130
    assert_nothing_is_left(port, p.pid)


def test_a_taken_port_is_said_and_nothing_is_left():
    port = ports()
    with socket.create_server(("127.0.0.1", int(port) + 4)) as taken:
        p = demo(port)
        out, _ = p.communicate(timeout=60)
        assert p.returncode == 1 and "did not start" in out, out
        taken.close()
    assert_nothing_is_left(port, p.pid)


def test_a_gateway_that_cannot_start_is_said_and_nothing_is_left():
    port = ports()
    p = demo(port, PROFILE="no-such-plugin")
    out, _ = p.communicate(timeout=120)
    assert p.returncode == 1 and "no-such-plugin" in out, out
    eventually("it is all gone", lambda: True)
    assert_nothing_is_left(port, p.pid)


main(globals())
