# SPDX-License-Identifier: Apache-2.0
"""What the gateway knows of its endpoints: where from, how fresh, how well, and what it does then."""
import concurrent.futures
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import replay
from harness import BIN, SLUICED, Gateway, Skip, call, chat, eventually, free_port, get, main, post
from replay import Replay, fixture, hang, payload, relength

PATH = "/v1/chat/completions"
WANT = payload(fixture("chat"))[0]
SERVED = "x-gateway-destination-endpoint-served"


def endpoints(gw):
    return {e["name"]: e for e in get(gw.admin, "/state/endpoints").json()["endpoints"]}


def state(gw, name):
    return endpoints(gw).get(name, {}).get("state")


_numbers = itertools.count()


def served_by(gw, count=12):
    """Who serves `count` requests of different prompts; each must be served."""
    seen = set()
    for _ in range(count):
        got = post(gw.port, PATH, chat(f"{next(_numbers)} is a prompt of its own " * 30))
        assert got.status == 200, (got.status, got.body)
        seen.add(got.headers[SERVED])
    return seen


def yaml_of(engines):
    rows = "".join(f"- name: {name}\n  address: 127.0.0.1\n  port: \"{e.port}\"\n"
                   for name, e in engines.items())
    return "endpoints:\n" + rows if rows else "endpoints: []\n"


def put(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def sluicectl(gw, *args):
    done = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", f"127.0.0.1:{gw.admin}",
                           *args], capture_output=True, timeout=20)
    assert done.returncode == 0, (args, done)
    return done.stdout.decode()


def test_a_flag_says_name_role_and_labels():
    engine = Replay()
    with Gateway([f"{engine.address},name=one,role=decode,label.zone=a,label.rack=7"]) as gw:
        one = endpoints(gw)["one"]
        assert one["address"] == engine.address and one["role"] == ["decode"], one
        assert one["labels"]["zone"] == "a" and one["labels"]["rack"] == "7", one
        assert post(gw.port, PATH, chat()).status == 200
    engine.stop()


def test_an_endpoint_of_the_prefill_role_gets_no_decode_requests():
    decode, prefill = Replay(), Replay()
    with Gateway([f"{decode.address},role=decode", f"{prefill.address},role=prefill"]) as gw:
        assert served_by(gw) == {decode.address}
    decode.stop(), prefill.stop()


def test_the_endpoint_file_is_watched_and_who_leaves_finishes_its_requests():
    go = threading.Event()

    def slow(conn, _):
        go.wait(20)
        conn.sendall(fixture("chat"))
        return "close"
    one, two = Replay(otherwise=slow), Replay()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "endpoints.yaml")
        put(path, yaml_of({"one": one}))
        with Gateway([], "--endpoints", path) as gw, concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(post, gw.port, PATH, chat())
            eventually("it runs on one", lambda: one.inference())
            put(path, yaml_of({"two": two}))
            eventually("two is known", lambda: state(gw, "two") == "ready" and endpoints(
                gw)["two"]["models"])
            assert state(gw, "one") in (None, "draining"), endpoints(gw)
            assert served_by(gw) == {two.address}
            go.set()
            got = running.result(20)
            assert got.status == 200 and got.body == WANT and got.headers[SERVED] == one.address
            eventually("one is gone", lambda: state(gw, "one") is None)
            assert len(one.inference()) == 1
    one.stop(), two.stop()


def test_a_broken_file_is_refused_loudly_and_sighup_reads_a_good_one():
    one, two = Replay(), Replay()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "endpoints.yaml")
        put(path, yaml_of({"one": one}))
        with Gateway([], "--endpoints", path) as gw:
            for i, broken in enumerate((yaml_of({"two": two}).replace("port:", "prot:"),
                                        "endpoints: [oh: no\n", "", "\0\1\2",
                                        yaml_of({"two": two}).replace(str(two.port), "99999"))):
                put(path, broken)
                eventually(f"refusal {i} is counted", lambda n=i: gw.metric(
                    "sluice_endpoints_file_refused_total") >= n + 1)
                assert list(endpoints(gw)) == ["one"], (broken, endpoints(gw))
            assert path in gw.output() and "error" in gw.output(), gw.output()
            assert served_by(gw, 4) == {one.address}
            put(path, yaml_of({"one": one, "two": two}))
            gw.popen.send_signal(signal.SIGHUP)
            eventually("two is there", lambda: "two" in endpoints(gw))
    one.stop(), two.stop()


def test_a_name_is_resolved_again_when_its_address_changes():
    if os.geteuid() != 0 or not shutil.which("unshare"):
        raise Skip("a private /etc/hosts needs root and unshare")
    one = Replay()
    try:
        two = Replay.__new__(Replay)
        two.__init__(port=0)
        two.server.close()
        two.server = socket.create_server(("127.0.0.2", one.port), backlog=64)
    except OSError as err:
        raise Skip(f"no second address with that port: {err}") from None
    two.address = f"127.0.0.2:{one.port}"
    threading.Thread(target=two._accept, daemon=True).start()
    with tempfile.TemporaryDirectory() as d:
        hosts = os.path.join(d, "hosts")
        with open(hosts, "w") as f:
            f.write("127.0.0.1 localhost\n127.0.0.1 pods.sluice.test\n")
        if subprocess.run(["unshare", "-m", "mount", "--bind", hosts, "/etc/hosts"],
                          capture_output=True).returncode:
            raise Skip("no mount namespaces here")
        wrapper = os.path.join(d, "sluiced")
        with open(wrapper, "w") as f:
            f.write(f"#!/bin/sh\nexec unshare -m sh -c 'mount --bind {hosts} /etc/hosts && "
                    f"exec \"$0\" \"$@\"' {SLUICED} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        with Gateway([f"pods.sluice.test:{one.port}"], "--resolve-interval", "100ms",
                     exe=wrapper) as gw:
            assert served_by(gw, 4) == {one.address}
            with open(hosts, "w") as f:  # in place: the mount holds the file
                f.write("127.0.0.1 localhost\n127.0.0.2 pods.sluice.test\n")
            eventually("the new address serves", lambda: post(
                gw.port, PATH, chat()).headers.get(SERVED) == two.address)
            assert served_by(gw, 4) == {two.address}
    one.stop(), two.stop()


def test_stale_load_is_unknown_and_never_idle():
    first = threading.Event()

    def page_then_silence(conn, req):
        if first.is_set():
            return hang(conn, req)
        first.set()
        conn.sendall(fixture("metrics_idle"))
        return None
    silent, busy, idle = Replay(), Replay(), Replay()
    silent.answers[("GET", "/metrics")] = page_then_silence
    page = payload(fixture("metrics_idle"))[0].decode()
    lines = [line.rsplit(" ", 1)[0] + " 3.0" if line.startswith("vllm:num_requests_waiting{")
             else line for line in page.splitlines()]
    busy.answers[("GET", "/metrics")] = relength(
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" + "\n".join(lines).encode() + b"\n")
    with Gateway([f"{silent.address},name=silent", f"{busy.address},name=busy",
                  f"{idle.address},name=idle"],
                 "--scheduler-profile", "queue-scorer=1") as gw:  # stale after 2 s
        eventually("the silent one is stale", lambda: endpoints(gw)["silent"]["load_age_ms"] and
                   endpoints(gw)["silent"].get("waiting") is None)
        eventually("the busy one is known", lambda: endpoints(gw)["busy"].get("waiting") == 3)
        assert served_by(gw) == {idle.address}, "unknown was taken for idle"
        assert state(gw, "silent") == "ready", "a stalled page is no sign of ill health"
    silent.stop(), busy.stop(), idle.stop()


def test_a_burst_spreads_before_any_engine_has_said_a_word():
    go = threading.Event()

    def slow(conn, _):
        go.wait(20)
        conn.sendall(fixture("chat"))
        return "close"
    engines = [Replay(otherwise=slow) for _ in range(4)]
    with Gateway(engines, "--scheduler-profile", "active-request-scorer=1") as gw:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(post, gw.port, PATH, chat(f"{i} " * 50)) for i in range(16)]
            eventually("all are at the engines",
                       lambda: sum(len(e.inference()) for e in engines) == 16)
            spread = [len(e.inference()) for e in engines]
            inflight = [e["inflight_requests"] for e in endpoints(gw).values()]
            tokens = [e["inflight_tokens"] for e in endpoints(gw).values()]
            go.set()
            assert all(a.result(20).status == 200 for a in asked)
        assert spread == [4] * 4 and inflight == [4] * 4 and all(tokens), (spread, inflight)
        eventually("all is given back", lambda: all(
            e["inflight_requests"] == e["inflight_tokens"] == 0 for e in endpoints(gw).values()))
    [e.stop() for e in engines]


def test_new_models_and_adapters_are_found():
    engine = Replay()
    with Gateway([engine], "--models-interval", "100ms") as gw:
        assert post(gw.port, PATH, {**chat(), "model": "my-lora"}).status == 404
        body = json.dumps({"object": "list", "data": [
            {"id": "tiny", "object": "model", "root": "/models/tiny", "parent": None},
            {"id": "my-lora", "object": "model", "root": "x", "parent": "tiny"}]}).encode()
        engine.answers[("GET", "/v1/models")] = relength(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
            + body)
        eventually("the adapter is served",
                   lambda: post(gw.port, PATH, {**chat(), "model": "my-lora"}).status == 200)
        listed = {m["id"]: m for m in get(gw.port, "/v1/models").json()["data"]}
        assert listed["my-lora"]["parent"] == "tiny" and set(listed) == {"tiny", "my-lora"}
        assert get(gw.port, "/v1/models/my-lora").json()["id"] == "my-lora"
    engine.stop()


def test_the_circuit_opens_tries_one_request_and_closes():
    sick, well = Replay(), Replay()
    trials = threading.Semaphore(0)
    with Gateway([f"{sick.address},name=sick", f"{well.address},name=well"],
                 "--scheduler-profile", "random-picker") as gw:
        sick.otherwise = replay.reset
        eventually("the circuit is open", lambda: (served_by(gw, 4), state(gw, "sick"))[1] == "open")
        assert gw.metric("sluice_breaker_opened_total") == 1
        go = threading.Event()

        def trial(conn, _):
            trials.release()
            go.wait(20)
            conn.sendall(fixture("chat"))
            return "close"
        sick.otherwise = trial
        sick.clear()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            asked, until = [], 400
            while not trials.acquire(timeout=0.05):  # the backoff is a second at first
                asked += [pool.submit(post, gw.port, PATH, chat(f"{len(asked)}")) for _ in range(8)]
                until -= 1
                assert until, "no trial was made"
            asked += [pool.submit(post, gw.port, PATH, chat(f"x{i}")) for i in range(64)]
            eventually("the others are served elsewhere",
                       lambda: sum(a.done() for a in asked) >= len(asked) - 1)
            assert len(sick.inference()) == 1, "more than one trial at a time"
            go.set()
            assert all(a.result(20).status == 200 for a in asked)
        eventually("the circuit is closed", lambda: state(gw, "sick") == "ready")
        sick.otherwise = None
        eventually("it serves again", lambda: sick.address in served_by(gw))
    sick.stop(), well.stop()


def test_client_errors_never_open_a_circuit():
    engine = Replay(otherwise=replay.status(422, "Unprocessable"))
    with Gateway([f"{engine.address},name=one"]) as gw:
        for i in range(30):
            assert post(gw.port, PATH, chat(f"{i}")).status == 422
        assert state(gw, "one") == "ready" and gw.metric("sluice_breaker_opened_total") == 0
    engine.stop()


def test_a_failing_probe_takes_an_endpoint_out_and_a_good_one_brings_it_back():
    one, two = Replay(), Replay()
    with Gateway([f"{one.address},name=one", f"{two.address},name=two"],
                 "--probe-interval", "50ms") as gw:
        one.answers[("GET", "/health")] = replay.status(503, "ServiceUnavailable")
        eventually("it is out", lambda: state(gw, "one") == "open")
        assert served_by(gw) == {two.address}
        assert gw.metric("sluice_probes_failed_total") >= 1
        del one.answers[("GET", "/health")]
        eventually("it is in again", lambda: one.address in served_by(gw))
    one.stop(), two.stop()


def test_sluicectl_drains_and_brings_back():
    one, two = Replay(), Replay()
    with Gateway([f"{one.address},name=one", f"{two.address},name=two"]) as gw:
        sluicectl(gw, "drain", "one")
        assert state(gw, "one") == "draining"
        assert served_by(gw) == {two.address}
        assert "draining" in sluicectl(gw, "endpoints")
        assert json.loads(sluicectl(gw, "endpoints", "--json"))["endpoints"]
        sluicectl(gw, "undrain", "one")
        eventually("it serves again", lambda: one.address in served_by(gw))
        bad = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin",
                              f"127.0.0.1:{gw.admin}", "drain", "nobody"], capture_output=True)
        assert bad.returncode != 0, bad
    one.stop(), two.stop()


def test_a_page_without_end_is_given_up_and_the_endpoint_still_serves():
    def endless(conn, _):
        conn.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        line = b"vllm:some_series{a=\"b\"} 1\n" * 2000
        while True:
            conn.sendall(b"%x\r\n%s\r\n" % (len(line), line))
    engine = Replay()
    engine.answers[("GET", "/metrics")] = endless
    with Gateway([f"{engine.address},name=one"]) as gw:
        eventually("it is given up", lambda: gw.metric(
            "sluice_scrape_failed_total", reason="too-large") >= 1)
        rss = gw.rss_kb()
        assert served_by(gw, 4) == {engine.address}
        eventually("again and again", lambda: gw.metric(
            "sluice_scrape_failed_total", reason="too-large") >= 3)
        assert gw.grew_kb(rss) < 8 * 1024, (rss, gw.rss_kb())
    engine.stop()


def test_nobody_there_is_503_at_once_and_says_so():
    with Gateway([f"127.0.0.1:{free_port()}"], ready=False) as gw:
        def refused():
            try:
                got = post(gw.port, PATH, chat())
            except OSError:
                return None
            return got if got.status == 503 else None
        got = eventually("503", refused)
        assert "ready" in got.json()["error"]["message"] and got.headers["retry-after"], got.body
        assert call(gw.port, "GET", "/health").status in (200, 503)


main(globals()) if __name__ == "__main__" else None
