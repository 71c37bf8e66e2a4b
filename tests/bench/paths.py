#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The kernel paths beside each other: client -- gateway -- engine, three namespaces joined by veth.

Streams of 200-byte events, paced. CPU is what threads ran (schedstat): of the gateway's process, and
of all three parties, because packets that the kernel forwards are paid by whoever sent them.
Latency is an event's way from the engine to the client. Forwarding (the gateway only routes IP) is
the floor. The order of the ways changes with the round; medians of ROUNDS.
"""
import json, os, pathlib, shutil, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from compare import cpu_s  # noqa: E402
from netns import Netns, veth  # noqa: E402

BIN, ROUNDS = ROOT / "build/bin", int(os.environ.get("ROUNDS", 5))
BPFFS = f"/sys/fs/bpf/sluice-kernel-{os.getpid()}"
GATEWAY, ENGINE, PORT = "10.97.1.1", "10.97.2.2", 21100
SHAPES = [tuple(map(int, x.split("x"))) for x in
          os.environ.get("SHAPES", "1000x20,4000x10").split(",")]


class Parties:
    def __init__(self):
        self.client, self.gw, self.back = Netns("kernel-bc"), Netns("kernel-bg"), Netns("kernel-bb")
        veth(self.gw, self.client, "gw0", "cl0", f"{GATEWAY}/24", "10.97.1.2/24")
        veth(self.gw, self.back, "gw1", "en0", "10.97.2.1/24", f"{ENGINE}/24")
        self.client.ip("route", "add", "default", "via", GATEWAY)
        self.back.ip("route", "add", "default", "via", "10.97.2.1")
        subprocess.run(["sysctl", "-qw", "net.ipv4.tcp_allowed_congestion_control=reno cubic bbr"],
                       capture_output=True)
        for ns in (self.client, self.gw, self.back):
            for setting in ("tcp_congestion_control=cubic", "ip_forward=1", "tcp_max_syn_backlog=8192"):
                subprocess.run(ns.enter + ["sysctl", "-qw", "net.ipv4." + setting],
                               capture_output=True)
            subprocess.run(ns.enter + ["sysctl", "-qw", "net.core.somaxconn=8192"],
                           capture_output=True)
        self.children = []

    def start(self, ns, cpu, *args, **kw):
        p = subprocess.Popen([*ns.enter, "taskset", "-c", str(cpu), *map(str, args)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)
        self.children.append(p)
        return p

    def end(self, p):
        p.terminate()
        p.wait()
        self.children.remove(p)

    def close(self):
        for p in list(self.children):
            p.kill()
            p.wait()
        subprocess.run([BIN / "sluiced", "--bpffs-dir", BPFFS, "--uninstall"], capture_output=True)
        for ns in (self.client, self.gw, self.back):
            ns.remove()


def sluiced(path):
    return [BIN / "sluiced", "--listen", f"{GATEWAY}:{PORT}", "--admin", f"127.0.0.1:{PORT + 1}",
            "--workers", 1, "--no-pin-workers", "--bpffs-dir", BPFFS, "--path", path,
            "--interface", "gw0", "--interface", "gw1", "--affinity-bytes-max", "1MB",
            "--connect-timeout", "10s", "--endpoint", f"{ENGINE}:{PORT}"]


def gateways(tmp):
    ways = {"forwarding": None, "splice": sluiced("splice"), "steer": sluiced("steer"),
            "relay": sluiced("relay")}
    if shutil.which("haproxy"):
        ha = tmp / "haproxy.cfg"
        ha.write_text("global\n nbthread 1\n maxconn 9000\ndefaults\n mode http\n timeout client 100s\n"
                      " timeout server 100s\n timeout connect 5s\n http-reuse always\n"
                      f" option http-no-delay\nfrontend f\n bind {GATEWAY}:{PORT}\n default_backend b\n"
                      f"backend b\n server s {ENGINE}:{PORT} pool-max-conn 4096\n")
        ways["haproxy"] = ["haproxy", "-db", "-f", ha]
    if shutil.which("nginx"):
        ng = tmp / "nginx.conf"
        ng.write_text(f"worker_processes 1;\npid {tmp}/nginx.pid;\nerror_log /dev/null;\n"
                      "worker_rlimit_nofile 20000;\nevents {\n worker_connections 16000;\n}\nhttp {\n"
                      f" access_log off;\n client_body_temp_path {tmp}/b;\n proxy_temp_path {tmp}/p;\n"
                      f" fastcgi_temp_path {tmp}/f;\n uwsgi_temp_path {tmp}/u;\n scgi_temp_path {tmp}/s;\n"
                      f" upstream e {{ server {ENGINE}:{PORT}; keepalive 256; }}\n server {{\n"
                      f"  listen {GATEWAY}:{PORT} backlog=8192;\n  location / {{ proxy_pass http://e;"
                      " proxy_http_version 1.1; proxy_set_header Connection \"\";"
                      " proxy_buffering off; }\n }\n}\n")
        ways["nginx"] = ["nginx", "-c", ng, "-p", tmp, "-g", "daemon off;"]
    return ways


def answers(parties, target):
    return subprocess.run([*parties.client.enter, "curl", "-sf", "-m", "2", "-o", "/dev/null",
                           f"http://{target}/v1/models"]).returncode == 0


def path_count(parties, name):
    text = subprocess.run([*parties.gw.enter, "curl", "-s", f"127.0.0.1:{PORT + 1}/metrics"],
                          capture_output=True, text=True).stdout
    return sum(float(x.rsplit(" ", 1)[1]) for x in text.splitlines()
               if x.startswith(f'sluice_path_total{{path="{name}"}}'))


def load(parties, target, *args):
    """Its figures, with its own CPU: rusage of the child would hide what softirqs it ran."""
    p = subprocess.Popen([*parties.client.enter, "taskset", "-c", "1", BIN / "sluice-load",
                          "--target", target, "--json", "--quiet", *map(str, args)],
                         stdout=subprocess.PIPE, text=True)
    spent = 0.0
    while p.poll() is None:
        try:
            spent = max(spent, cpu_s(p.pid))
        except (OSError, IndexError):
            pass
        time.sleep(0.02)
    r = json.loads(p.stdout.read())
    r["cpu_s"] = spent
    return r


def one(parties, engine, name, argv, streams, rate):
    target = f"{ENGINE}:{PORT}" if argv is None else f"{GATEWAY}:{PORT}"
    gw = parties.start(parties.gw, 0, *argv) if argv else None
    for _ in range(200):
        if answers(parties, target):
            break
        time.sleep(0.05)
    else:
        sys.exit(f"{name} does not answer")
    time.sleep(1)
    tokens = rate * 5
    before = cpu_s(gw.pid) if gw else 0, cpu_s(engine.pid)
    r = load(parties, target, "--concurrency", streams, "--requests", streams, "--max-tokens", tokens,
             "--prompt-tokens", 64)
    after = cpu_s(gw.pid) if gw else 0, cpu_s(engine.pid)
    million = max(r["completion_tokens"], 1) / 1e6 if name == "relay" else \
        max(r["ok"], 1) * tokens / 1e6
    if name in ("splice", "steer"):
        for _ in range(100):  # the accounts are closed behind the answers
            taken = path_count(parties, name)
            if taken >= streams:
                break
            time.sleep(0.05)
        if taken < 0.9 * streams:
            print(f"  ! {name}: only {taken:.0f} of {streams} took the path")
    if gw:
        parties.end(gw)
    if r["ok"] < streams:
        print(f"  ! {name}: {streams - r['ok']} of {streams} failed")
    own = after[0] - before[0]
    return (own / million, (own + after[1] - before[1] + r["cpu_s"]) / million,
            r["delivery_ms"]["p50"] * 1e3, r["delivery_ms"]["p99"] * 1e3)


def shape(parties, ways, streams, rate):
    engine = parties.start(parties.back, 1, BIN / "sluice-sim", "--host", ENGINE, "--port", PORT,
                           "--max-num-seqs", 8192, "--max-waiting-queue-length", 8192,
                           "--time-to-first-token", "200ms", "--inter-token-latency",
                           f"{1000 // rate}ms", "--latency-calculator", "constant", "--stamp-events")
    got = {n: [] for n in ways}
    for turn in range(ROUNDS):
        names = list(ways)
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            got[name].append(one(parties, engine, name, ways[name], streams, rate))
    parties.end(engine)
    heads = ("gateway CPU s/M", "all CPU s/M", "p50 us", "p99 us")
    print(f"\n{streams} streams x {rate}/s x 200 bytes, medians of {ROUNDS} (min..max)")
    print(f"{'':12}" + "".join(f"{h:>26}" for h in heads))
    rows = {}
    for name, v in got.items():
        rows[name] = [statistics.median(x) for x in zip(*v)]
        print(f"{name:12}" + "".join(
            f"{statistics.median(x):>10.2f} ({min(x):.2f}..{max(x):.2f})".rjust(26)
            for x in zip(*v)))
    return rows


def goal(text, value, limit):
    print(f"  {'met   ' if value <= limit else 'MISSED'} {text}: {value:.2f} (goal <= {limit})")


def goals(rows):
    floor = rows["forwarding"]
    goal("splice, all CPU against forwarding's", rows["splice"][1] / floor[1], 1.2)
    goal("splice, p50 against forwarding's", rows["splice"][2] / floor[2], 1.1)
    goal("steer, gateway CPU against relay's", rows["steer"][0] / rows["relay"][0], 0.3)


def main():
    print(f"load of the machine before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        tmp.chmod(0o755)
        parties = Parties()
        try:
            ways = gateways(tmp)
            only = os.environ.get("WAYS")
            if only:
                ways = {n: w for n, w in ways.items() if n in only.split(",")}
            for streams, rate in SHAPES:
                rows = shape(parties, ways, streams, rate)
                if all(n in rows for n in ("forwarding", "splice", "steer", "relay")):
                    goals(rows)
        finally:
            parties.close()
    print(f"load of the machine after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
