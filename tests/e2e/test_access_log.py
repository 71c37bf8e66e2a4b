# SPDX-License-Identifier: Apache-2.0
"""The access log of a real gateway: one JSON line a request, rotated at SIGHUP."""
import json
import os
import signal
import socket
import tempfile

from harness import Gateway, Process, Sim, chat, eventually, free_port, get, main, post

PATH = "/v1/chat/completions"


def lines(path):
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return [json.loads(line) for line in f]


class World:
    def __init__(self, *flags):
        self.top = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.top.name, "access.log")
        self.sim = Sim()
        self.gw = Gateway(self.sim.endpoints, "--access-log", self.path, *flags)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.gw.__exit__(*exc)
        self.sim.stop()
        self.top.cleanup()

    def wait(self, count):
        return eventually(f"{count} lines", lambda: (got := lines(self.path)) and
                          len(got) >= count and got)


def test_a_line_tells_gateway_time_apart_from_engine_time():
    with World() as w:
        got = post(w.gw.port, PATH, chat("hello " * 500, stream=True,
                                         stream_options={"include_usage": True}))
        assert got.status == 200
        line, = w.wait(1)
        assert line["request_id"] == got.headers["x-request-id"]
        assert (line["method"], line["path"], line["status"]) == ("POST", PATH, 200), line
        assert line["endpoint"] == w.sim.endpoints[0] and line["attempts"] == 1, line
        assert line["model"] == "tiny" and line["stream"] is True, line
        assert line["completion_tokens"] == 8 and line["prompt_tokens"] > 500, line
        assert line["total_blocks"] > 0 and line["hit_blocks"] == 0, line
        assert 0 < line["engine_ttft_us"] <= line["engine_us"], line
        assert line["gateway_us"] + line["engine_us"] <= line["total_us"], line
        assert line["engine_ttft_us"] <= line["ttft_us"] <= line["total_us"], line
        assert line["bytes_in"] > 3000 and line["bytes_out"] > 500, line
        assert "error" not in line, line


def test_the_cause_of_an_error_is_in_the_line():
    with World() as w:
        assert post(w.gw.port, PATH, chat(model="nope")).status == 404
        assert post(w.gw.port, PATH, b"{").status == 400
        assert get(w.gw.port, "/metrics").status == 404
        got = {line["path"] + str(line["status"]): line for line in w.wait(3)}
        assert set(got) == {PATH + "404", PATH + "400", "/metrics404"}, got
        for line in got.values():
            assert "endpoint" not in line or not line["endpoint"], line


def test_a_dead_engine_is_named_as_the_cause():
    with World("--retries-max", "0") as w:
        os.kill(w.sim.pid, signal.SIGSTOP)
        os.kill(w.sim.pid, signal.SIGKILL)
        w.sim.popen.wait()
        assert post(w.gw.port, PATH, chat()).status >= 500
        line = w.wait(1)[-1]
        assert line["error"], line


def test_a_client_that_leaves_is_told_so():
    with World() as w:
        body = json.dumps(chat(max_tokens=5000, stream=True)).encode()
        with socket.create_connection(("127.0.0.1", w.gw.port), 20) as s:
            s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                      % (PATH.encode(), len(body)) + body)
            assert s.recv(100)
        line, = w.wait(1)
        assert line["error"] == "client left", line


def test_sighup_begins_a_new_file_and_loses_nothing():
    with World() as w:
        old = w.path + ".1"
        for _ in range(3):
            post(w.gw.port, PATH, chat())
        w.wait(3)
        os.rename(w.path, old)
        w.gw.popen.send_signal(signal.SIGHUP)

        def moved():
            post(w.gw.port, PATH, chat())
            return lines(w.path)
        eventually("lines come into the new file", moved)
        sent = w.gw.metric("sluice_responses_total", **{"class": "2xx"})
        eventually("every line is in one of the files",
                   lambda: len(lines(w.path)) + len(lines(old)) == sent)
        assert w.gw.metric("sluice_access_log_dropped_total") == 0


def test_stderr_takes_the_log_too():
    with Sim() as sim, Gateway(sim.endpoints, "--access-log", "-") as gw:
        post(gw.port, PATH, chat())
        eventually("a line on stderr", lambda: '"request_id":' in gw.output())


def test_a_full_disk_is_counted_and_stops_nobody():
    with Sim() as sim, Gateway(sim.endpoints, "--access-log", "/dev/full") as gw:
        for _ in range(5):
            assert post(gw.port, PATH, chat()).status == 200
        eventually("drops are counted",
                   lambda: gw.metric("sluice_access_log_dropped_total") >= 5)


def test_a_log_that_cannot_be_opened_is_a_failed_start():
    argv = [os.path.join(os.path.dirname(__file__), "../../build/bin/sluiced"), "--no-bpf",
            "--listen", f"127.0.0.1:{free_port()}", "--admin", "", "--endpoint", "127.0.0.1:1",
            "--access-log", "/nowhere/access.log"]
    p = Process([os.path.abspath(argv[0]), *argv[1:]])
    eventually("it ends", lambda: not p.alive())
    assert p.popen.returncode == 1 and "access log" in p.output(), p.output()


main(globals())
