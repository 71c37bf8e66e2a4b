#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make bench: sluiced (one worker) beside HAProxy and nginx, in one run on one machine.

Gateway alone on CPU 0, load and engines on CPU 1. CPU time of a gateway is what its threads ran,
from /proc/PID/task/*/schedstat. Medians of ROUNDS rounds, the gateways in turn within each."""
import glob, json, os, pathlib, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BPFFS = f"/sys/fs/bpf/sluice-bench-{os.getpid()}"
BIN, PORT, ROUNDS, ENGINES = ROOT / "build/bin", 23100, int(os.environ.get("ROUNDS", 5)), 8
children = []


def start(cpu, *args, **kw):
    p = subprocess.Popen(["taskset", "-c", str(cpu), *map(str, args)],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)
    children.append(p)
    return p


def wait_port(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def family(pid):
    """A process and its children: nginx's master has a worker."""
    pids = [pid]
    for t in glob.glob(f"/proc/{pid}/task/*/children"):
        pids += [int(c) for c in open(t).read().split()]
    return pids


def cpu_s(pid):
    total = 0
    for p in family(pid):
        for f in glob.glob(f"/proc/{p}/task/*/schedstat"):
            total += int(open(f).read().split()[0])
    return total / 1e9


def rss_mb(pid):
    return sum(int(line.split()[1]) for p in family(pid) for line in open(f"/proc/{p}/status")
               if line.startswith("RssAnon")) / 1024


def sluiced(port, path, pins, flags):
    return start(0, BIN / "sluiced", "--listen", f"127.0.0.1:{port}", "--admin",
                 f"127.0.0.1:{port + 9}", "--workers", 1, "--no-pin-workers", "--bpffs-dir", pins,
                 "--path", path, *flags)


def gateways(tmp, engine_port, engines=ENGINES, steer=False):
    servers = [f"127.0.0.1:{engine_port + i}" for i in range(engines)]
    ha = tmp / "haproxy.cfg"
    ha.write_text("global\n nbthread 1\n maxconn 9000\n tune.bufsize 32768\ndefaults\n mode http\n"
                  " timeout client 100s\n timeout server 100s\n timeout connect 1s\n"
                  f" http-reuse always\n option http-no-delay\nfrontend f\n bind 127.0.0.1:{PORT + 1}\n default_backend b\n"
                  "backend b\n balance leastconn\n"
                  + "".join(f" server s{i} {s} pool-max-conn 256\n" for i, s in enumerate(servers)))
    ng = tmp / "nginx.conf"
    ng.write_text(f"worker_processes 1;\npid {tmp}/nginx.pid;\nerror_log /dev/null;\n"
                  "events {\n worker_connections 20000;\n}\nhttp {\n access_log off;\n"
                  f" client_max_body_size 64m;\n client_body_temp_path {tmp}/body;\n"
                  f" proxy_temp_path {tmp}/proxy;\n fastcgi_temp_path {tmp}/f;\n"
                  f" uwsgi_temp_path {tmp}/u;\n scgi_temp_path {tmp}/s;\n"
                  " client_body_buffer_size 1m;\n keepalive_requests 1000000;\n"
                  " upstream e {\n  least_conn;\n  keepalive 256;\n  keepalive_requests 1000000;\n"
                  + "".join(f"  server {s};\n" for s in servers)
                  + f" }}\n server {{\n  listen 127.0.0.1:{PORT + 2};\n  location / {{\n"
                  "   proxy_pass http://e;\n   proxy_http_version 1.1;\n"
                  "   proxy_set_header Connection \"\";\n   proxy_buffering off;\n  }\n }\n}\n")
    out = {}
    flags = sum((["--endpoint", s] for s in servers), [])
    out["sluice"] = (PORT, sluiced(PORT, "relay", BPFFS, flags))
    if steer:  # the same over the kernel: engines on this machine send to the client's socket
        out["steer"] = (PORT + 3, sluiced(PORT + 3, "steer", BPFFS + "-steer", flags))
    if shutil.which("haproxy"):
        out["haproxy"] = (PORT + 1, start(0, "haproxy", "-db", "-f", ha))
    nginx = shutil.which("nginx") or (os.path.exists("/usr/sbin/nginx") and "/usr/sbin/nginx")
    if nginx:
        out["nginx"] = (PORT + 2, start(0, nginx, "-c", ng, "-p", tmp, "-g", "daemon off;"))
    for port, _ in out.values():
        wait_port(port)
    time.sleep(1.5)
    return out


def load(port, *args):
    text = subprocess.run(["taskset", "-c", "1", BIN / "sluice-load", "--target",
                           f"127.0.0.1:{port}", "--json", *map(str, args)],
                          capture_output=True, text=True).stdout
    return json.loads(text)


def measure(port, process, *args):
    before = cpu_s(process.pid)
    r = load(port, *args)
    r["cpu_s"] = cpu_s(process.pid) - before
    r["bad"] = r["sent"] - r["ok"]
    return r


def rounds(gws, figure, *args):
    got = {n: [] for n in gws}
    bad = 0
    for _ in range(ROUNDS):
        for name, (port, process) in gws.items():
            r = measure(port, process, *args)
            bad += r["bad"]
            got[name].append(figure(r))
    if bad:
        print(f"  ! {bad} requests failed")
    return {n: [statistics.median(x) for x in zip(*v)] + [min(x[0] for x in v), max(x[0] for x in v)]
            for n, v in got.items()}


def table(title, heads, rows, fmt):
    print(f"\n{title}")
    print("{:10}".format("") + "".join(f"{h:>22}" for h in heads) + f"{'min..max of first':>24}")
    for n, v in rows.items():
        print(f"{n:10}" + "".join(f"{fmt.format(x):>22}" for x in v[:len(heads)])
              + f"{fmt.format(v[-2]) + '..' + fmt.format(v[-1]):>24}")


def goal(text, value, limit, at_most=True):
    ok = value <= limit if at_most else value >= limit
    print(f"  {'met   ' if ok else 'MISSED'} {text}: {value:.2f} (goal {'<=' if at_most else '>='} {limit})")


def small(gws):
    rows = rounds(gws, lambda r: (r["cpu_s"] / max(r["ok"], 1) * 1e6, r["rps"], r["e2e_ms"]["p50"]),
                  "--no-stream", "--concurrency", 32, "--requests", 20000, "--prompt-tokens", 450)
    table("2 KB prompts, 1 KB answers, c = 32", ["CPU us a request", "requests/s", "p50 ms"], rows,
          "{:.2f}")
    if "haproxy" in rows:
        goal("requests/s against HAProxy", rows["sluice"][1] / rows["haproxy"][1], 1.0, False)
        goal("CPU a request against HAProxy", rows["sluice"][0] / rows["haproxy"][0], 1.0)


def large(gws, kb):
    rows = rounds(gws, lambda r: (r["cpu_s"] / r["elapsed_s"], r["e2e_ms"]["p50"], r["e2e_ms"]["p99"]),
                  "--no-stream", "--rate", 100, "--requests", 400, "--prompt-tokens", kb * 250,
                  "--arrival", "constant")
    table(f"{kb} KB prompts at 100 a second", ["cores", "p50 ms", "p99 ms"], rows, "{:.3f}")
    goal("cores", rows["sluice"][0], 0.15)
    if "haproxy" in rows:
        goal("CPU against HAProxy", rows["sluice"][0] / rows["haproxy"][0], 2.0)
        goal("p50 above HAProxy's, ms", rows["sluice"][1] - rows["haproxy"][1], 0.5)


def streams(gws):
    """Added latency is that of an event from the engine to the client, less without a gateway."""
    n, tokens = int(os.environ.get("STREAMS", 1000)), 100
    args = ("--concurrency", n, "--requests", n, "--max-tokens", tokens, "--prompt-tokens", 64)
    straight = [load(PORT + 20, *args)["delivery_ms"] for _ in range(ROUNDS)]
    floor50, floor99 = (statistics.median(d[p] for d in straight) for p in ("p50", "p99"))
    rows = rounds(gws, lambda r: (r["cpu_s"] / max(r["completion_tokens"], 1) * 1e6,
                                  (r["delivery_ms"]["p50"] - floor50) * 1e3,
                                  (r["delivery_ms"]["p99"] - floor99) * 1e3, r["itl_ms"]["p99"]), *args)
    table(f"{n} streams x 20/s x 200 bytes", ["CPU s per million", "added p50 us", "added p99 us",
                                              "gap p99 ms"], rows, "{:.2f}")
    if "haproxy" in rows:
        goal("CPU per message against HAProxy", rows["sluice"][0] / rows["haproxy"][0], 0.8)
        goal("added p50, us, against HAProxy's", rows["sluice"][1], round(rows["haproxy"][1], 2))
    goal("steered, gateway CPU per message against relayed",
         rows["steer"][0] / rows["sluice"][0], 0.3)


def idle(gws):
    """Nothing to do, but 100 endpoints to know of."""
    time.sleep(1)
    print("\nidle, endpoints scraped all the time")
    for name, (_, process) in gws.items():
        before = cpu_s(process.pid)
        time.sleep(5)
        print(f"{name:10} {(cpu_s(process.pid) - before) / 5 * 100:8.2f} % of a core, "
              f"RssAnon {rss_mb(process.pid):.1f} MB")


def anon_kb(pid):
    return rss_mb(pid) * 1024


def idle_connections(port, count):
    """Connections that had one answer each and are kept."""
    body = b'{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":1}'
    request = (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json"
               b"\r\ncontent-length: %d\r\n\r\n" % len(body)) + body
    held = []
    while len(held) < count:
        some = [socket.create_connection(("127.0.0.1", port)) for _ in range(min(200, count))]
        for s in some:
            s.sendall(request)
        for s in some:
            assert s.recv(65536).startswith(b"HTTP/1.1 200"), "not served"
        held += some
    return held


def memory(gws):
    """User memory (RssAnon) a kept connection, and a stream of 20 events a second."""
    idle, running = int(os.environ.get("IDLE", 8000)), int(os.environ.get("RUNNING", 2000))
    print(f"\nuser memory, KB each: {idle} kept idle connections, then {running} streams")
    for name, (port, process) in gws.items():
        for s in idle_connections(port, 200):  # what is touched once and for all
            s.close()
        before = anon_kb(process.pid)
        held = idle_connections(port, idle)
        each = (anon_kb(process.pid) - before) / idle
        for s in held:
            s.close()
        time.sleep(1)
        before = anon_kb(process.pid)
        load_args = ["taskset", "-c", "1", BIN / "sluice-load", "--target", f"127.0.0.1:{port}",
                     "--json", "--concurrency", running, "--requests", running, "--max-tokens", 200,
                     "--prompt-tokens", 64]
        run = subprocess.Popen(list(map(str, load_args)), stdout=subprocess.DEVNULL)
        time.sleep(5)
        stream = (anon_kb(process.pid) - before) / running
        run.wait(120)
        print(f"{name:10} {each:8.2f} {stream:8.2f}    RssAnon after all of it "
              f"{rss_mb(process.pid):.1f} MB")
        if name == "sluice":
            goal("KB a kept idle connection", each, 2.0)
            goal("KB a relayed stream", stream, 16.0)


def native():
    for b in sorted((ROOT / "build/release/bench").glob("bench_*")):
        if os.access(b, os.X_OK) and b.suffix == "":
            print(f"\n== {b.name}", flush=True)
            subprocess.run(["taskset", "-c", "0", b], timeout=300)


def main():
    tmp = pathlib.Path(tempfile.mkdtemp())
    try:
        if not os.environ.get("NO_NATIVE"):
            native()
        start(1, ROOT / "build/release/bench/fixed_engine", PORT + 20, ENGINES)
        wait_port(PORT + 20 + ENGINES - 1)
        gws = gateways(tmp, PORT + 20)
        print(f"\n== gateways, medians of {ROUNDS}: {', '.join(gws)}")
        small(gws)
        large(gws, 220)
        large(gws, 450)
        stop()
        start(1, BIN / "sluice-sim", "--port", PORT + 20, "--instances", ENGINES,
              "--time-to-first-token", "50ms", "--inter-token-latency", "50ms",
              "--stamp-events")
        wait_port(PORT + 20 + ENGINES - 1)
        gws = gateways(tmp, PORT + 20, steer=True)
        streams(gws)
        del gws["steer"]
        memory(gws)
        stop()
        start(1, ROOT / "build/release/bench/fixed_engine", PORT + 20, 100)
        wait_port(PORT + 20 + 99)
        idle(gateways(tmp, PORT + 20, 100))
    finally:
        stop()
        shutil.rmtree(tmp, ignore_errors=True)


def stop():
    for p in children:
        p.send_signal(signal.SIGTERM)
    for p in children:
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            p.kill()
    children.clear()
    for pins in glob.glob(BPFFS + "*"):
        subprocess.run([BIN / "sluiced", "--bpffs-dir", pins, "--uninstall"], check=False)


if __name__ == "__main__":
    main()
