# SPDX-License-Identifier: Apache-2.0
"""Splice in three namespaces: client -- gateway -- endpoint, each cable a veth.

Every byte of every answer is compared at the client; what arrives at the engine is counted there.
The short forms run here; SLUICE_SOAK=1 runs the long ones.
"""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys

from harness import BIN, ROOT, SOAK, Process, Skip, chat, eventually, main
from lossy import Lossy
from netns import Netns, veth

GATEWAY, ENGINE = "10.98.1.1", "10.98.2.2"
PORT, ADMIN, ENGINE_PORT = 21080, 21090, 21000
BPFFS = f"/sys/fs/bpf/sluice-kernel-{os.getpid()}"
HERE = os.path.join(ROOT, "tests", "e2e")
MANY = 20 if SOAK else 1


class Field:
    def __init__(self, *flags, mtu=(1500, 1500), one_cable=False):
        self.flags = flags
        self.one_cable = one_cable
        self.client, self.gw, self.back = Netns("kernel-c"), Netns("kernel-g"), Netns("kernel-b")
        if one_cable:
            self.bridge_all()
        else:
            self.cables(mtu)
        self.engine = Process(self.back.enter + [
            sys.executable, os.path.join(HERE, "splice_engine.py"), ENGINE, str(ENGINE_PORT)])
        eventually("the engine answers", lambda: self.seen() is not None)
        self.agents = []
        self.agent = self.start()

    def bridge_all(self):
        """A switch in a namespace of its own; the gateway has one interface."""
        self.switch = Netns("kernel-s")
        self.switch.ip("link", "add", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        for i, (ns, name, address) in enumerate(((self.gw, "gw0", GATEWAY),
                                                 (self.client, "cl0", "10.98.1.2"),
                                                 (self.back, "en0", ENGINE))):
            veth(ns, self.switch, name, f"sw{i}", f"{address}/16", None)
            self.switch.ip("link", "set", f"sw{i}", "master", "br0")

    def cables(self, mtu):
        veth(self.gw, self.client, "gw0", "cl0", f"{GATEWAY}/24", "10.98.1.2/24")
        veth(self.gw, self.back, "gw1", "en0", "10.98.2.1/24", f"{ENGINE}/24")
        for ns, name, size in ((self.gw, "gw0", mtu[0]), (self.client, "cl0", mtu[0]),
                               (self.gw, "gw1", mtu[1]), (self.back, "en0", mtu[1])):
            ns.ip("link", "set", name, "mtu", size)

    def start(self, admin=ADMIN):
        agent = Process(self.gw.enter + [
            os.path.join(BIN, "sluiced"), "--listen", f"{GATEWAY}:{PORT}", "--admin",
            f"127.0.0.1:{admin}", "--workers", "2", "--no-pin-workers", "--bpffs-dir", BPFFS,
            "--affinity-bytes-max", "1MB", "--access-log", "-", "--path", "splice",
            "--interface", "gw0", *([] if self.one_cable else ["--interface", "gw1"]), "--connect-timeout", "20s",
            "--endpoint", f"{ENGINE}:{ENGINE_PORT}", *self.flags])
        self.agents.append(agent)

        def ready():
            assert agent.alive(), agent.output()
            if "no splice" in agent.output():
                raise Skip("no splice here: " + agent.output()[-300:])
            return self.get(self.gw, "127.0.0.1", admin, "/readyz") is not None
        eventually("the gateway is ready", ready)
        return agent

    @staticmethod
    def get(ns, host, port, path):
        r = subprocess.run(ns.enter + ["curl", "-sf", "-m", "5", f"http://{host}:{port}{path}"],
                           capture_output=True, text=True)
        return r.stdout if r.returncode == 0 else None

    def seen(self):
        text = self.get(self.back, ENGINE, ENGINE_PORT, "/posts")
        return json.loads(text) if text else None

    def metric(self, name, *labels, admin=ADMIN):
        total = 0
        for line in (self.get(self.gw, "127.0.0.1", admin, "/metrics") or "").splitlines():
            if line.split("{")[0].split(" ")[0] == name and all(x in line for x in labels):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def spliced(self, **kw):
        return self.metric("sluice_path_total", 'path="splice"', **kw)

    def begin(self, **job):
        return Process(self.client.enter + [
            sys.executable, os.path.join(HERE, "splice_client.py"), GATEWAY, str(PORT),
            json.dumps(job)])

    def finish(self, process, seconds=150):
        process.popen.wait(seconds)
        return json.loads(process.output().strip().splitlines()[-1])

    def run(self, **job):
        return self.finish(self.begin(**job), job.get("timeout", 120) + 30)

    def quiet(self):
        """No flow in the map: every end was heard, every grace time is over."""
        eventually("all flows are gone", lambda: self.metric("sluice_flows_spliced") == 0, 60)

    @staticmethod
    def sysctl(ns, name, value):
        subprocess.run(ns.enter + ["sysctl", "-qw", f"net.ipv4.{name}={value}"], check=True)

    def metrics(self, part, admin=ADMIN):
        return [x for x in (self.get(self.gw, "127.0.0.1", admin, "/metrics") or "").splitlines()
                if part in x and not x.startswith("#") and not x.endswith(" 0")]

    def lossy(self, **rates):
        """Both cables of the gateway are bad, in both directions."""
        both = contextlib.ExitStack()
        both.enter_context(Lossy(self.client, "cl0", **rates))
        both.enter_context(Lossy(self.back, "en0", **rates))
        return both

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            print("---- the agent said:\n" + self.agent.output()[-2000:], file=sys.stderr)
        for p in (*self.agents, self.engine):
            p.stop()
        for ns in (self.client, self.gw, self.back, *([self.switch] if self.one_cable else [])):
            ns.remove()
        subprocess.run([os.path.join(BIN, "sluiced"), "--bpffs-dir", BPFFS, "--uninstall"],
                       check=True)


def all_whole(got, count):
    assert got["whole"] == count, got
    assert got["wrong"] == got["cut"] == got["refused"] == got["hung"] == 0, got


def test_every_byte_arrives_whatever_the_sizes():
    specs = ({"size": [1, 20, 300, 3000], "piece": [1, 7, 100, 5000], "gap": 0.0005, "head": 0.01},
             {"size": [20000, 100000], "piece": [1400, 9000], "gap": 0.001},
             {"size": [400000, 2000000], "event": 9000})
    with Field() as f:
        n = 0
        for seed, spec in enumerate(specs):
            count = (300, 300, 60)[seed] * MANY
            got = f.run(count=count, concurrency=100, spec=spec, seed=seed, spread=0.05)
            all_whole(got, count)
            n += count
        seen = f.seen()
        assert seen["late_bytes"] == 0 and seen["posts"] == n, seen
        assert f.spliced() > n / 2, f.metric("sluice_path_refused_total")
        f.quiet()


def test_loss_reordering_and_duplication_cost_no_byte():
    spec = {"size": [300, 5000, 30000], "piece": [50, 600, 3000], "gap": 0.002}
    with Field() as f:
        for seed, rates in enumerate(({"loss": 0.01}, {"loss": 0.05}, {"reorder": 0.3},
                                      {"double": 0.1}, {"loss": 0.02, "double": 0.05,
                                                        "reorder": 0.1})):
            with f.lossy(**rates):
                got = f.run(count=120 * MANY, concurrency=60, spec=spec, seed=seed, spread=0.05)
                all_whole(got, 120 * MANY)
        assert f.spliced() > 200 * MANY
        f.quiet()


def test_mtus_of_both_sides_may_differ():
    for mtu in ((1400, 9000), (9000, 1400), (1500, 1400)):
        with Field(mtu=mtu) as f:
            got = f.run(count=40 * MANY, concurrency=20, seed=1,
                        spec={"size": [5000, 400000], "piece": [1000, 60000], "gap": 0.001})
            all_whole(got, 40 * MANY)
            assert f.spliced() > 0


def test_a_second_request_of_a_spliced_client_reaches_nobody():
    count = 10000 if SOAK else 500
    with Field() as f:
        got = f.run(count=count, concurrency=100, speak=1.0,
                    spec={"size": [1500, 4000], "piece": 200, "gap": 0.002}, timeout=400)
        assert got["wrong"] == 0 and got["hung"] == 0, got
        assert got["spoke"] > count * 0.9, got
        seen = f.seen()
        assert seen["posts"] == count and seen["late_bytes"] == 0, (seen, got)
        assert f.metric("sluice_splice_packets_total", 'kind="client-payload-dropped"') > 0
        assert f.spliced() > count / 2


def test_a_spliced_client_is_told_to_close():
    with Field() as f:
        got = f.run(count=20, concurrency=10, spec={"size": 800, "piece": 100, "gap": 0.001})
        all_whole(got, 20)
        assert got["close_told"] == 20, got


def test_clients_that_leave_end_their_answer_at_the_engine():
    with Field() as f:
        got = f.run(count=200 * MANY, concurrency=50, abort=1.0,
                    spec={"size": 20000, "piece": 200, "gap": 0.002})
        assert got["aborted"] == 200 * MANY, got
        eventually("the engine noticed", lambda: f.seen()["aborted"] >= 190 * MANY)
        f.quiet()
        eventually("no request is left",
                   lambda: f.metric("sluice_requests_running") == 0)


def test_an_engine_that_dies_cuts_the_answer_and_never_bends_it():
    with Field() as f:
        got = f.run(count=200 * MANY, concurrency=50,
                    spec={"size": 5000, "piece": 200, "gap": 0.001, "cut": [0.3, 0.6, 0.99]})
        assert got["whole"] == 0 and got["wrong"] == 0 and got["hung"] == 0, got
        assert got["cut"] == 200 * MANY, got
        f.quiet()


def test_slow_clients_get_every_byte():
    with Field() as f:
        got = f.run(count=10 * MANY, concurrency=10, slow=400000, rcvbuf=8192,
                    spec={"size": 300000, "piece": 30000, "event": 4000})
        all_whole(got, 10 * MANY)


def test_streams_live_on_when_the_agent_is_killed_and_a_new_one_closes_their_account():
    streams = 1000 if SOAK else 150
    for _ in range(20 if SOAK else 1):
        with Field() as f:
            job = f.begin(count=streams, concurrency=streams, spread=0.5, timeout=90,
                          spec={"size": 6000, "piece": 300, "gap": 0.1})
            eventually("all are spliced",
                       lambda: f.metric("sluice_flows_spliced") >= streams, 60)
            f.agent.stop(signal.SIGKILL)
            f.agent = f.start()
            got = f.finish(job)
            all_whole(got, streams)
            eventually("the new agent adopted them all",
                       lambda: f.metric("sluice_flows_adopted_total") == streams, 60)
            eventually("their lines are in the log", lambda: sum(
                '"way":"splice"' in line for line in f.agent.output().splitlines()) == streams)
            lines = [json.loads(x) for x in f.agent.output().splitlines()
                     if '"way":"splice"' in x]
            assert len({x["request_id"] for x in lines}) == streams
            assert all(x["bytes_out"] > 12000 for x in lines), lines[0]
            f.quiet()
            all_whole(f.run(count=20, concurrency=5, spec={"size": 500, "piece": 50}), 20)


def test_an_agent_killed_in_the_middle_of_handovers_bends_no_answer():
    """Whole or cut: a stream that was not handed over yet ends, none ever says something else."""
    whole = cut = 0
    with Field() as f:
        for seed in range(40 if SOAK else 4):
            job = f.begin(count=200, concurrency=200, seed=seed, spread=0.6, timeout=60,
                          spec={"size": [2000, 40000], "piece": [37, 900], "gap": 0.002})
            target = random.Random(seed).randrange(20, 150)
            before = f.spliced()
            eventually("handovers are under way", lambda: f.spliced() - before >= target
                       or f.metric("sluice_flows_spliced") >= target)
            f.agent.stop(signal.SIGKILL)
            f.agent = f.start()
            got = f.finish(job)
            assert got["wrong"] == 0 and got["hung"] == 0, got
            whole, cut = whole + got["whole"], cut + got["cut"] + got["refused"]
        assert whole and cut, (whole, cut)
        f.quiet()


def test_one_interface_may_serve_both_sides():
    with Field(one_cable=True) as f:
        all_whole(f.run(count=100 * MANY, concurrency=50,
                        spec={"size": [300, 20000], "piece": [50, 3000], "gap": 0.001}),
                  100 * MANY)
        assert f.spliced() > 50 * MANY, f.metrics("path_refused")
        f.quiet()


def test_clients_without_timestamps_sack_or_window_scale_are_served():
    with Field() as f:
        for seed, off in enumerate((["tcp_timestamps"], ["tcp_sack"], ["tcp_window_scaling"],
                                    ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"])):
            for name in ("tcp_timestamps", "tcp_sack", "tcp_window_scaling"):
                f.sysctl(f.client, name, 0 if name in off else 1)
            with f.lossy(loss=0.01):
                all_whole(f.run(count=60 * MANY, concurrency=60, seed=seed,
                                spec={"size": [300, 20000], "piece": [50, 3000], "gap": 0.001}),
                          60 * MANY)
        assert f.spliced() > 120 * MANY, f.metrics("path_refused")


def test_an_engine_without_timestamps_is_relayed_by_name():
    with Field() as f:
        f.sysctl(f.back, "tcp_timestamps", 0)
        all_whole(f.run(count=20, concurrency=10, spec={"size": 3000, "piece": 100,
                                                        "gap": 0.001}), 20)
        assert f.metric("sluice_path_refused_total", 'reason="timestamps"') == 20
        assert f.spliced() == 0


def test_a_connection_with_ecn_is_relayed_by_name():
    with Field() as f:
        for ns in (f.client, f.gw):
            f.sysctl(ns, "tcp_ecn", 1)
        all_whole(f.run(count=20, concurrency=10, spec={"size": 3000, "piece": 100,
                                                        "gap": 0.001}), 20)
        assert f.metric("sluice_path_refused_total", 'reason="ecn"') == 20
        assert f.spliced() == 0


def test_a_full_table_relays():
    with Field("--flows-max", "16") as f:
        all_whole(f.run(count=100, concurrency=100,
                        spec={"size": 3000, "piece": 100, "gap": 0.02}), 100)
        assert f.metric("sluice_path_refused_total", 'reason="full"') >= 60
        assert f.spliced() >= 16


def test_a_silent_flow_is_given_up_after_the_idle_time():
    with Field("--flow-idle-timeout", "1s") as f:
        got = f.run(count=10, concurrency=10, timeout=30,
                    spec={"size": 40, "piece": 150, "gap": 1000})
        assert got["whole"] == 0 and got["hung"] == 10, got
        assert f.metric("sluice_flows_idle_total") == 10
        f.quiet()
        eventually("their requests are closed", lambda: f.metric("sluice_requests_running") == 0)


def test_the_account_counts_what_the_client_got():
    with Field() as f:
        all_whole(f.run(count=30, concurrency=10,
                        spec={"size": 3000, "piece": 200, "gap": 0.002}), 30)
        eventually("all lines are there", lambda: f.agent.output().count('"way":"splice"') == 30)
        from splice_engine import wire
        lines = [json.loads(x) for x in f.agent.output().splitlines() if '"way":"splice"' in x]
        for line in lines:
            index = int(line["request_id"].split("-")[1])
            draw = random.Random(index)
            spec = {"size": 3000, "piece": 200, "gap": 0.002, "seed": draw.randrange(1 << 30)}
            assert line["bytes_out"] == len(wire(spec)), (line, len(wire(spec)))
            assert line["ttft_us"] and line["total_us"] >= line["ttft_us"]


def test_running_flows_are_shown_with_and_without_an_agent():
    with Field() as f:
        job = f.begin(count=5, concurrency=5, timeout=60,
                      spec={"size": 3000, "piece": 200, "gap": 0.05})
        eventually("all are spliced", lambda: f.metric("sluice_flows_spliced") == 5)

        def flows():
            r = subprocess.run([os.path.join(BIN, "sluicectl"), "--bpffs-dir", BPFFS, "--json",
                                "flows"], capture_output=True, text=True)
            assert r.returncode == 0, r.stderr
            return json.loads(r.stdout)
        eventually("bytes pass", lambda: all(x["acked_bytes"] > 400 for x in flows()))
        assert {x["request_id"] for x in flows()} == {f"r0-{i}" for i in range(5)}
        assert all(x["endpoint"] == f"{ENGINE}:{ENGINE_PORT}" and x["state"] == "spliced"
                   for x in flows())
        f.agent.stop(signal.SIGKILL)
        before = sum(x["packets"] for x in flows())
        eventually("they go on", lambda: sum(x["packets"] for x in flows()) > before)
        with open(f"{BPFFS}/show/flows") as view:
            rows = view.read().splitlines()
        assert len(rows) == 6 and all("spliced" in x and ENGINE in x for x in rows[1:]), rows
        f.agent = f.start()
        all_whole(f.finish(job), 5)


def test_the_kernels_figures_of_an_endpoint_agree_with_the_relays():
    """The head comes at once and is no TTFT; the packet after it is, and the relay saw it too."""
    with Field() as f:
        all_whole(f.run(count=40, concurrency=8, seed=3, spec={
            "size": 1500, "piece": 200, "gap": 0.01, "head": 0.15}), 40)
        f.quiet()
        lines = [json.loads(x) for x in f.agent.output().splitlines() if '"way":"splice"' in x]
        relay = sum(x["engine_ttft_us"] for x in lines) / len(lines) / 1e6
        name = "sluice_kernel_ttft_seconds"
        assert f.metric(f"{name}_count", 'packet="body"') == 40
        kernel = f.metric(f"{name}_sum", 'packet="body"') / 40
        later = f.metric(f"{name}_sum", 'packet="next"') / f.metric(f"{name}_count",
                                                                     'packet="next"')
        assert 0.14 < kernel < relay + 0.02, (kernel, relay)
        assert relay < kernel * 1.3 and kernel < later, (kernel, later, relay)
        gaps = f.metric("sluice_kernel_gap_seconds_count")
        assert gaps > 100 and f.metric("sluice_kernel_gap_seconds_sum") / gaps > 0.002


def test_what_does_not_qualify_is_relayed_and_says_why():
    with Field() as f:
        r = subprocess.run(f.client.enter + [
            "curl", "-s", f"http://{GATEWAY}:{PORT}/v1/chat/completions", "-H",
            "x-request-id: short", "-d", json.dumps(chat('{"size":5,"seed":1}', stream=False))],
            capture_output=True, text=True)
        assert r.returncode == 0
        why = json.loads(f.get(f.gw, "127.0.0.1", ADMIN, "/state/decisions/short"))
        assert why["path"] == "relay" and why["path_refused"] == {"splice": "short-answer"}, why
        assert "no splice: the answer is short" in why["why"], why
        assert f.metric("sluice_path_refused_total", 'reason="short-answer"') == 1
        assert f.spliced() == 0


main(globals()) if __name__ == "__main__" else None
