# SPDX-License-Identifier: Apache-2.0
"""sluicectl before a real gateway and simulated engines: every command, its table and its JSON."""
import json
import os
import subprocess
import tempfile

from harness import BIN, Gateway, Sim, call, chat, eventually, main, post

LONG = "Once upon a midnight dreary, while I pondered, weak and weary. " * 40


class World:
    def __enter__(self):
        self.sim = Sim(instances=2)
        self.gw = Gateway([f"{e},name=engine-{i}" for i, e in enumerate(self.sim.endpoints)])
        return self

    def __exit__(self, *exc):
        self.gw.__exit__(*exc)
        self.sim.stop()

    def ctl(self, *args, admin=None, status=0):
        done = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin",
                               admin or f"127.0.0.1:{self.gw.admin}", *args],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == status, (args, done)
        return done.stdout if status == 0 else done.stderr

    def json(self, *args):
        return json.loads(self.ctl("--json", *args))

    def ask(self, **more):
        answer = post(self.gw.port, "/v1/chat/completions", chat(LONG, **more))
        assert answer.status == 200, answer.body
        return answer.headers["x-request-id"]


def test_endpoints_are_listed_as_a_table_and_as_json():
    with World() as w:
        w.ask()
        table = w.ctl("endpoints")
        assert "engine-0" in table and "engine-1" in table and "ready" in table, table
        rows = w.json("endpoints")["endpoints"]
        assert sorted(r["name"] for r in rows) == ["engine-0", "engine-1"]
        assert sum(r["requests_total"] for r in rows) == 1, rows


def test_why_tells_the_pod_the_expectation_and_what_the_engine_reported():
    with World() as w:
        w.ask()
        eventually("the prompt's blocks are learned", lambda: w.json("affinity")["pairs"] >= 5)
        eventually("no engine says that it is busy", lambda: all(
            e.get("running") == 0 for e in w.json("endpoints")["endpoints"]))
        request_id = w.ask()
        said = w.json("why", request_id)
        assert said["request_id"] == request_id and len(said["candidates"]) == 2, said
        chosen = [c for c in said["candidates"] if c["chosen"]]
        assert len(chosen) == 1 and set(chosen[0]["scores"]) == set(said["weights"]), said
        assert said["cached_tokens_expected"] > 0, "the second prompt was expected to be cached"
        assert said["cached_tokens_reported"] > 0, said
        text = w.ctl("why", request_id)
        assert chosen[0]["name"] in text and "sluice-scorer" in text, text
        first = text.splitlines()[0]
        for part in (chosen[0]["endpoint"], "expected in its cache", "the engine then reported"):
            assert part in first, (part, first)


def test_why_of_an_unknown_request_fails_in_plain_words():
    with World() as w:
        assert "nobody-asked is not known" in w.ctl("why", "nobody-asked", status=1)
        assert "needs an argument" in w.ctl("why", status=2)


def test_affinity_counts_the_blocks_of_each_endpoint():
    with World() as w:
        w.ask()
        eventually("the prompt's blocks are learned", lambda: w.json("affinity")["pairs"] >= 5)
        said = w.json("affinity")
        by_name = {e["name"]: e for e in said["endpoints"]}
        assert sum(e["blocks"] for e in by_name.values()) == said["pairs"], said
        full = max(by_name.values(), key=lambda e: e["blocks"])
        assert full["blocks"] <= full["blocks_max"] and said["pairs_max"] > 0, said
        table = w.ctl("affinity")
        assert f"{full['blocks']:.0f}" in table and "FILL%" in table, table


def test_drain_takes_an_endpoint_out_and_undrain_in_again():
    with World() as w:
        assert w.json("drain", "engine-0") == {"endpoint": "engine-0", "draining": True}
        eventually("it drains", lambda: {r["name"]: r["state"] for r in
                                         w.json("endpoints")["endpoints"]}["engine-0"] == "draining")
        for _ in range(4):
            w.ask(cache_salt="x")
        rows = {r["name"]: r for r in w.json("endpoints")["endpoints"]}
        assert rows["engine-0"]["requests_total"] == 0, rows
        assert "takes requests again" in w.ctl("undrain", "engine-0")
        eventually("it is back", lambda: {r["name"]: r["state"] for r in
                                          w.json("endpoints")["endpoints"]}["engine-0"] == "ready")
        assert "nothing is not known" in w.ctl("drain", "nothing", status=1)


def test_running_requests_are_listed():
    with World() as w:
        body = json.dumps(chat("slow", max_tokens=3000, stream=True)).encode()
        import socket
        with socket.create_connection(("127.0.0.1", w.gw.port), 20) as s:
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nx-request-id: slow-1\r\n"
                      b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                      + body)
            rows = eventually("the request is listed", lambda: w.json("requests")["requests"])
            assert rows[0]["request_id"] == "slow-1" and rows[0]["model"] == "tiny", rows
            assert "slow-1" in w.ctl("requests")
        eventually("it is gone with its client", lambda: not w.json("requests")["requests"])


def test_top_goes_on_for_the_asked_rounds():
    with World() as w:
        out = w.ctl("--rounds", "2", "--interval", "10ms", "top")
        assert out.count("in flight") == 2 and "picks/s" in out, out


def test_version_is_the_running_gateways():
    with World() as w:
        assert w.json("version")["version"] in w.ctl("version")


def test_a_unix_admin_socket_serves_the_same():
    with World() as w, tempfile.TemporaryDirectory() as top:
        sock = f"unix:{top}/admin.sock"
        gw = Gateway(w.sim.endpoints, "--admin", sock, ready=False)
        with gw:
            eventually("it listens", lambda: os.path.exists(sock[5:]))
            eventually("it serves", lambda: call(gw.port, "GET", "/v1/models").status == 200)
            assert w.sim.endpoints[0] in w.ctl("endpoints", admin=sock)


def test_no_gateway_is_said_so():
    with World() as w:
        assert "cannot reach" in w.ctl("endpoints", admin="127.0.0.1:1", status=1)


main(globals())
