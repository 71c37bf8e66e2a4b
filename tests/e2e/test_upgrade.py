# SPDX-License-Identifier: Apache-2.0
"""Upgrades that nobody notices: sockets and kept connections move to the next process."""
import ctypes
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

from harness import (BIN, DEADLINE_S, ROOT, SLUICED, SOAK, Gateway, Process, Sim, Skip, chat,
                     eventually, free_port, get, main, post)

PATH = "/v1/chat/completions"
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: successors end as our children


def children():
    """Gateways that are ours, also those whose parent has ended."""
    found = []
    for task in os.listdir("/proc/self/task"):
        for pid in open(f"/proc/self/task/{task}/children").read().split():
            with open(f"/proc/{pid}/comm") as f, open(f"/proc/{pid}/stat") as stat:
                if f.read().strip() == "sluiced" and ") Z " not in stat.read():
                    found.append(int(pid))
    return found


def exit_status(pid, seconds=DEADLINE_S):
    status = []

    def ended():
        try:
            got, how = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # its own parent, the predecessor, still runs
            return False
        if got:
            status.append(os.waitstatus_to_exitcode(how))
        return got
    eventually(f"process {pid} ends", ended, seconds)
    return status[0]


class Line:
    """A gateway and its successors: whoever serves has the pid self.pid."""

    def __init__(self, endpoints, *flags, **kw):
        self.gw = Gateway(endpoints, "--workers", "2", *flags, **kw)
        self.port, self.admin, self.pid = self.gw.port, self.gw.admin, self.gw.pid
        self.gone = []

    def ctl(self, *words):
        return subprocess.run([os.path.join(BIN, "sluicectl"), "--admin",
                               f"127.0.0.1:{self.admin}", "--json", *words],
                              capture_output=True, text=True, timeout=120)

    def upgrade(self):
        """The predecessor's pid; it may still end what it runs."""
        old, done = self.pid, self.ctl("upgrade")
        assert done.returncode == 0, done.stderr + self.gw.output()[-3000:]
        said = json.loads(done.stdout)
        assert said["predecessor"] == old and said["pid"] != old
        self.pid = said["pid"]
        return old

    def ended(self, pid):
        """Its exit status."""
        self.gone.append(pid)
        return self.gw.popen.wait(DEADLINE_S) if pid == self.gw.pid else exit_status(pid)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            print("---- the gateways said:\n" + self.gw.output()[-6000:])
        if self.pid not in self.gone:
            os.kill(self.pid, signal.SIGTERM)
            assert self.ended(self.pid) == 0 or kind, self.gw.output()[-3000:]
        if self.gw.alive():
            self.gw.stop()
        left = children()
        for p in left:
            os.kill(p, signal.SIGKILL)
            os.waitpid(p, 0)
        assert kind or not left, f"still there: {left}\n" + self.gw.output()[-3000:]


# ---- under load ---------------------------------------------------------------------------------

TOKENS = 40


def content(port, text, stream, conn=None):
    """What was answered, whole; raises if it was not."""
    conn = conn or http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    body = json.dumps({**chat(text), "max_tokens": TOKENS, "ignore_eos": True, "stream": stream})
    conn.request("POST", PATH, body, {"Content-Type": "application/json"})
    r = conn.getresponse()
    got = r.read()
    assert r.status == 200, (r.status, got[:200])
    if not stream:
        return json.loads(got)["choices"][0]["message"]["content"]
    events = [e[6:] for e in got.decode().split("\n\n") if e.startswith("data: ")]
    assert events and events[-1] == "[DONE]", f"cut after {len(events)} events"
    deltas = [json.loads(e)["choices"] for e in events[:-1]]
    return "".join(c[0]["delta"].get("content") or "" for c in deltas if c)


class Load:
    """Clients of all manners; each answer is compared with the engine's own."""

    def __init__(self, port, engine_port, clients):
        self.port, self.stopping, self.errors, self.counts = port, False, [], {}
        self.lock = threading.Lock()
        self.texts = [f"prompt {i}" for i in range(8)]
        self.want = {t: content(engine_port, t, False) for t in self.texts}
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(clients)]
        for t in self.threads:
            t.start()

    def client(self, number):
        stream, kept, pause = number % 2 == 0, number % 4 < 2, number % 3 == 0
        conn = None
        while not self.stopping:
            text = random.choice(self.texts)
            try:
                if not kept or not conn:
                    conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                got = content(self.port, text, stream, conn)
                assert got == self.want[text], f"another answer: {got!r}"
                with self.lock:
                    key = ("stream" if stream else "whole", "kept" if kept else "new")
                    self.counts[key] = self.counts.get(key, 0) + 1
            except Exception as e:
                self.errors.append(f"client {number} stream={stream} kept={kept}: {e!r}")
                conn = None
            if not kept:
                conn.close() if conn else None
            if pause:
                time.sleep(random.random() * 0.3)

    def total(self):
        with self.lock:
            return sum(self.counts.values())

    def stop(self):
        self.stopping = True
        for t in self.threads:
            t.join()


def test_no_request_fails_and_no_stream_breaks_while_the_gateway_is_exchanged_under_load():
    exchange_under_load("--path", "relay")


def test_nor_while_the_engines_sends_are_steered():
    if not os.path.ismount("/sys/fs/bpf"):
        raise Skip("bpffs is not mounted")
    pins = f"/sys/fs/bpf/sluice-upgrade-{os.getpid()}"
    try:
        exchange_under_load("--bpf", "--bpffs-dir", pins, "--affinity-bytes-max", "1MB",
                            "--path", "steer", steered=True)
    finally:
        subprocess.run([SLUICED, "--uninstall", "--bpffs-dir", pins], check=True)


def exchange_under_load(*flags, steered=False):
    rounds, clients = (10, 48) if SOAK else (2, 24)
    with Sim("--time-to-first-token", "30ms", "--inter-token-latency", "15ms") as sim:
        with Line(sim.endpoints, *flags) as line:
            if "no steer" in line.gw.output():
                raise Skip("no steer here: " + line.gw.output()[-300:])
            load = Load(line.port, sim.ports[0], clients)
            try:
                moved = 0
                for _ in range(rounds):
                    before = load.total()
                    eventually("requests run", lambda b=before: load.total() >= b + clients)
                    old = line.upgrade()
                    assert line.ended(old) == 0
                    moved += line_metric(line, "sluice_client_connections_moved_total",
                                         'to="us"')
                    after = load.total()
                    eventually("they still do", lambda a=after: load.total() >= a + clients)
            finally:
                load.stop()
            assert not load.errors, load.errors[:5]
            assert moved > 0, "no kept connection moved"
            if steered:
                assert line_metric(line, "sluice_path_total", 'path="steer"') > 0
            assert len(load.counts) == 4, load.counts
            print(f"# {rounds} upgrades, {load.total()} answers {load.counts}, 0 failed, "
                  f"{moved:.0f} kept connections moved")


def line_metric(line, name, label=""):
    total = 0.0
    for row in get(line.admin, "/metrics").body.decode().splitlines():
        if row.startswith(name) and label in row:
            total += float(row.rsplit(" ", 1)[1])
    return total


def test_spliced_streams_live_on_and_the_successor_closes_their_account():
    from test_splice import ADMIN, Field, all_whole
    streams, rounds = (400, 10) if SOAK else (60, 2)
    with Field() as f:
        pid = f.agent.pid

        def successor():
            out = subprocess.run(f.gw.enter + [os.path.join(BIN, "sluicectl"), "--admin",
                                               f"127.0.0.1:{ADMIN}", "--json", "upgrade"],
                                 capture_output=True, text=True)
            assert out.returncode == 0, out.stderr + f.agent.output()[-3000:]
            return json.loads(out.stdout)["pid"]
        try:
            job = f.begin(count=streams * rounds * 2, concurrency=streams, spread=2, timeout=120,
                          spec={"size": [1000, 6000], "piece": 300, "gap": 0.1})
            for _ in range(rounds):
                eventually("streams are spliced",
                           lambda: f.metric("sluice_flows_spliced") >= streams / 3, 60)
                old, pid = pid, successor()
                assert (f.agent.popen.wait(60) if old == f.agent.pid
                        else exit_status(old, 60)) == 0, f.agent.output()[-3000:]
            all_whole(f.finish(job, 300), streams * rounds * 2)
            f.quiet()
            lines = f.agent.output().count('"way":"splice"')
            assert lines > 0 and '"status":502' not in f.agent.output()
            ids = re.findall(r'"request_id":"(\S+?)"', f.agent.output())
            assert len(ids) == len(set(ids)) == streams * rounds * 2, (len(ids), len(set(ids)))
        finally:
            if pid != f.agent.pid:
                os.kill(pid, signal.SIGTERM)
                assert exit_status(pid) == 0


# ---- one thing at a time ------------------------------------------------------------------------

def request_bytes(text="hello", **more):
    body = json.dumps(chat(text, **more)).encode()
    return (b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (
        PATH.encode(), len(body)) + body)


def read_answer(s):
    r = http.client.HTTPResponse(s)
    r.begin()
    r.read()
    return r.status


def connect(port):
    return socket.create_connection(("127.0.0.1", port), DEADLINE_S)


def test_a_kept_connection_is_served_by_the_successor():
    with Sim() as sim, Line(sim.endpoints) as line:
        with connect(line.port) as used, connect(line.port) as silent:
            used.sendall(request_bytes())
            assert read_answer(used) == 200
            assert line.ended(line.upgrade()) == 0
            for s in (used, silent):
                s.sendall(request_bytes())
                assert read_answer(s) == 200
            assert line_metric(line, "sluice_client_connections_moved_total", 'to="us"') >= 2


def test_connections_waiting_in_the_queue_are_not_lost():
    with Sim() as sim, Line(sim.endpoints, "--connections-max", "1") as line:
        holders = [connect(line.port) for _ in range(8)]  # both workers are full with these
        eventually("accepting pauses", lambda: line_metric(line, "sluice_accept_paused_total") >= 2)
        waiting = [connect(line.port) for _ in range(20)]
        for s in waiting:
            s.sendall(request_bytes())
        old = line.upgrade()
        answered = 0
        for s in holders:  # who holds a place leaves it to those who wait
            s.close()
        for s in waiting:
            answered += read_answer(s) == 200
            s.close()
        assert answered == len(waiting), answered
        assert line.ended(old) == 0


def test_a_long_stream_ends_in_the_old_process():
    with Sim("--inter-token-latency", "30ms") as sim, Line(sim.endpoints) as line:
        with connect(line.port) as s:
            s.sendall(request_bytes(max_tokens=100, ignore_eos=True, stream=True))
            head = s.recv(65536)
            assert b"200 OK" in head
            old = line.upgrade()
            got = head
            while not got.endswith(b"0\r\n\r\n"):
                more = s.recv(65536)
                assert more, got[-200:]
                got += more
            assert b"[DONE]" in got
            s.sendall(request_bytes())  # and goes on in the new one
            assert read_answer(s) == 200
            assert line.ended(old) == 0


def test_half_a_request_is_served_where_it_began():
    with Sim() as sim, Line(sim.endpoints) as line:
        data = request_bytes()
        with connect(line.port) as s:
            s.sendall(data[:40])
            eventually("it is read", lambda: line_metric(line, "sluice_client_connections_total"))
            old = line.upgrade()
            s.sendall(data[40:])
            assert read_answer(s) == 200
            assert line.ended(old) == 0


def test_a_successor_that_cannot_start_changes_nothing():
    with Sim() as sim, tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("cors: false\n")
        f.flush()
        with Line(sim.endpoints, "--config", f.name) as line:
            f.write("no-such-key: 1\n")
            f.flush()
            done = line.ctl("upgrade")
            assert done.returncode == 1 and "goes on" in done.stderr, done
            assert post(line.port, PATH, chat()).status == 200
            f.truncate(0)
            line.upgrade()
            assert post(line.port, PATH, chat()).status == 200


def test_a_drained_endpoint_stays_drained():
    with Sim(instances=2) as sim, Line(sim.endpoints) as line:
        line.ctl("drain", sim.endpoints[0])
        line.upgrade()
        states = {e["address"]: e["state"] for e in json.loads(
            get(line.admin, "/state/endpoints").body)["endpoints"]}
        assert states == dict(zip(sim.endpoints, ("draining", "ready"))), states


def test_engines_that_publish_their_kv_events_to_us_find_the_successor():
    tokenizer = os.path.join(ROOT, "tests", "data", "tokenizer", "tiny4000.json")
    bind, number = f"tcp://127.0.0.1:{free_port()}", iter(range(10 ** 6))
    with Sim("--tokenizer", tokenizer, "--block-size", "16", "--hide-event-sources",
             "--zmq-endpoint", bind, "--zmq-connect") as sim:
        with Line(sim.endpoints, "--tokenizer", f"tiny={tokenizer}",
                  "--kv-events-bind", bind) as line:
            def heard():
                post(line.port, PATH, chat(f"words of request {next(number)} " * 20))
                return line_metric(line, "sluice_kv_endpoint_blocks") > 0
            eventually("events arrive", heard)
            assert line.ended(line.upgrade()) == 0
            eventually("and again, at the successor", heard)


def test_sigusr2_does_the_same():
    with Sim() as sim, Line(sim.endpoints) as line:
        old = line.pid
        os.kill(old, signal.SIGUSR2)

        def successor():  # while both listen, either may answer
            pid = json.loads(get(line.admin, "/state/upgrade").body)["pid"]
            return pid != old and pid
        line.pid = eventually("another process answers", successor)
        assert line.ended(old) == 0
        assert post(line.port, PATH, chat()).status == 200


def test_a_process_started_by_hand_takes_over_through_the_unix_socket():
    with Sim() as sim, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "handover")
        with Line(sim.endpoints, "--handover", path) as line:
            assert os.stat(path).st_mode & 0o777 == 0o600
            with connect(line.port) as s:
                s.sendall(request_bytes())
                assert read_answer(s) == 200
                second = Process(line.gw.argv)
                assert line.ended(line.pid) == 0
                line.pid = second.pid
                s.sendall(request_bytes())
                assert read_answer(s) == 200
            third = Process(second.argv)
            assert second.popen.wait(DEADLINE_S) == 0, second.output()
            assert post(line.port, PATH, chat()).status == 200
            assert third.stop(signal.SIGTERM) == 0
            line.gone.append(line.pid)
            assert not os.path.exists(path), "its name is left"


def test_the_maps_go_to_the_successor():
    if not os.path.ismount("/sys/fs/bpf"):
        raise Skip("bpffs is not mounted")
    pins = f"/sys/fs/bpf/sluice-upgrade-{os.getpid()}"
    try:
        with Sim() as sim, Line(sim.endpoints, "--bpf", "--bpffs-dir", pins,
                                "--affinity-bytes-max", "1MB") as line:
            if "plain memory" in line.gw.output():
                raise Skip("no BPF here: " + line.gw.output()[-200:])
            assert post(line.port, PATH, chat("x" * 2000)).status == 200
            assert line.ended(line.upgrade()) == 0
            assert "plain memory" not in line.gw.output(), line.gw.output()
            assert post(line.port, PATH, chat("x" * 2000)).status == 200
            with open(os.path.join(pins, "show/endpoints")) as f:
                assert str(sim.ports[0]) in f.read()
            done = subprocess.run([SLUICED, "--listen", f"127.0.0.1:{free_port()}", "--admin", "",
                                   "--endpoint", sim.endpoints[0], "--bpffs-dir", pins,
                                   "--check-config"], capture_output=True)
            assert done.returncode == 0
    finally:
        subprocess.run([SLUICED, "--uninstall", "--bpffs-dir", pins], check=True)


def test_the_service_manager_is_told_and_its_sockets_are_used():
    port, admin = free_port(), free_port()
    with Sim() as sim, tempfile.TemporaryDirectory() as d:
        said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        said.bind(os.path.join(d, "notify"))
        said.settimeout(DEADLINE_S)
        listening = socket.create_server(("127.0.0.1", port))
        listening.listen(64)
        env = {**os.environ, "NOTIFY_SOCKET": os.path.join(d, "notify"), "LISTEN_FDS": "1"}
        script = (f"exec 3<&{listening.fileno()} {listening.fileno()}<&-; LISTEN_PID=$$ exec {SLUICED} "
                  f"--listen 127.0.0.1:{port} --admin 127.0.0.1:{admin} --workers 2 "
                  f"--no-pin-workers --no-bpf --endpoint {sim.endpoints[0]}")
        log = tempfile.TemporaryFile()
        manager = subprocess.Popen(["bash", "-c", script], env=env, stdout=log, stderr=log,
                                   pass_fds=[listening.fileno()])
        try:
            assert said.recv(256) == b"READY=1"
            for _ in range(4):
                assert post(port, PATH, chat()).status == 200
            # A restart: what comes meanwhile waits in the manager's socket.
            manager.send_signal(signal.SIGTERM)
            assert manager.wait(DEADLINE_S) == 0
            with connect(port) as s:
                s.sendall(request_bytes())
                manager = subprocess.Popen(["bash", "-c", script], env=env, stdout=log, stderr=log,
                                           pass_fds=[listening.fileno()])
                assert said.recv(256) == b"READY=1"
                assert read_answer(s) == 200
            done = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", f"127.0.0.1:{admin}",
                                   "--json", "upgrade"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            pid = json.loads(done.stdout)["pid"]
            told = sorted([said.recv(256), said.recv(256)])
            assert told == [b"MAINPID=%d" % pid, b"READY=1"], told
            assert manager.wait(DEADLINE_S) == 0
            assert post(port, PATH, chat()).status == 200
            os.kill(pid, signal.SIGTERM)
            assert exit_status(pid) == 0
        finally:
            if manager.poll() is None:
                manager.kill()
            log.seek(0)
            text = log.read().decode()
            if re.search("error|cannot", text):
                print(text[-2000:])
            said.close()
            listening.close()


main(globals())
