# SPDX-License-Identifier: Apache-2.0
"""What may pass and what may not, and what an operator sees."""
import json
import os
import signal
import tempfile
import threading

from harness import (SLUICED, Gateway, Process, Skip, call, chat, eventually, free_port, get, main,
                     post)
from replay import DATA, Replay, fixture, hang, payload

PATH = "/v1/chat/completions"
ADMINISTRATIVE = (
    "POST /abort_requests", "POST /collective_rpc", "POST /inference/v1/abort_requests",
    "POST /init_weight_transfer_engine", "POST /invocations", "GET /is_paused", "GET /is_sleeping",
    "GET /kv_event_sources", "GET /load", "GET /metrics", "POST /pause", "GET /ping",
    "POST /release_kv_cache_memory", "POST /reset_encoder_cache", "POST /reset_mm_cache",
    "POST /reset_prefix_cache", "POST /resume", "POST /scale_elastic_ep", "GET /server_info",
    "POST /sleep", "POST /start_weight_update", "POST /update_weights", "POST /wake_up",
    "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter",
    "POST //v1/chat/completions", "POST /v1/../sleep", "POST /v1/%2e%2e/sleep", "GET /docs",
    "GET /openapi.json", "POST /v1/chat/completions/../../sleep", "DELETE /v1/models",
)


def test_administrative_paths_never_reach_an_engine():
    engine = Replay()
    with Gateway([engine]) as gw:
        before = {r.target for r in engine.requests}
        for line in ADMINISTRATIVE:
            method, path = line.split(" ")
            got = call(gw.port, method, path, b"{}" if method == "POST" else None)
            assert got.status in (404, 405), (line, got.status)
        seen = {f"{r.method} {r.target}" for r in engine.requests
                if r.path not in ("/health", "/metrics", "/v1/models")
                and r.field("user-agent") != "sluice"}
        unexpected = {s for s in seen if s in ADMINISTRATIVE and s.split(" ")[1] not in before}
        assert not engine.inference() and not unexpected, (seen, unexpected)
    engine.stop()


def test_the_version_is_the_gateways_own():
    engine = Replay()
    with Gateway([engine]) as gw:
        assert call(gw.port, "GET", "/version").json() == {"version": "sluice"}
        assert not [r for r in engine.requests if r.path == "/version" and r.field("user-agent") != "sluice"]
    engine.stop()


def test_a_bad_body_is_refused_by_field_or_by_byte():
    engine = Replay()
    rows = (
        (b'{"model":"tiny","mod\\u0065l":"tiny","messages":[]}', "model", "twice"),
        (b'{"model":"tiny","messages":[],"stream":"yes"}', "stream", "type"),
        (b'{"model":"tiny","messages":[],"max_tokens":1.5}', "max_tokens", "type"),
        (b'{"model":"tiny","messages":[],"stream_options":{"include_usage":3}}',
         "stream_options", "type"),
        (b'{"model":"tiny","messages":[{"role":"user","content":"\xc3("}]}', None, "byte 55."),
        (b'{"model":"tiny","messages":[{"role":"user","content":"x"},]}', None, "byte 58."),
        (b'{"model":"tiny","messages":[', None, "byte 28."),
    )
    with Gateway([engine]) as gw:
        for body, field, word in rows:
            got = call(gw.port, "POST", PATH, body)
            error = got.json()["error"]
            assert got.status == 400 and error["param"] == field, (body, got.status, error)
            assert word in error["message"] and (field or "byte") in error["message"], error
            got = call(gw.port, "POST", "/v1/messages", body)
            assert got.status == 400 and got.json()["type"] == "error", got.body
        assert not engine.inference()
        good = b'{"model":"t\\u0069ny","messages":[{"role":"user","content":"\\ud83d"}]}'
        assert call(gw.port, "POST", PATH, good).status == 200
        assert engine.inference()[0].body == good
    engine.stop()


def test_a_model_is_rewritten_in_place_and_by_weight():
    engine = Replay()
    with Gateway([engine], "--model-rewrite", "alias=tiny", "--model-rewrite",
                 "some=tiny:3,nobody-has-it:1") as gw:
        for body in (b'{ "messages" : [{"role":"user","content":"\\u00e9 \\" x"}] , "model" : '
                     b'"al\\u0069as" ,"max_tokens":8 , "seed" : 1.50}',
                     b'{"model":"alias","messages":[{"role":"user","content":"x"}]}'):
            engine.clear()
            got = call(gw.port, "POST", PATH, body)
            assert got.status == 200, got.body
            want = body.replace(b'"al\\u0069as"', b'"tiny"').replace(b'"alias"', b'"tiny"')
            assert engine.inference()[0].body == want, engine.inference()[0].body
        statuses = [post(gw.port, PATH, {**chat(f"{i}"), "model": "some"}).status
                    for i in range(120)]
        assert set(statuses) == {200, 404}, statuses
        assert 60 < statuses.count(200) < 115, statuses.count(200)
        assert gw.metric("sluice_model_rewritten_total") == 122
    for rule in ("alias", "=x", "a=", "a=b:", "a=b:0", 'a=b"c', "a=b,"):
        bad = Process([SLUICED, "--endpoint", "127.0.0.1:9", "--model-rewrite", rule,
                       "--check-config"])
        assert bad.popen.wait(10) == 2 and "model-rewrite" in bad.output(), (rule, bad.output())
    engine.stop()


def test_a_client_cannot_hand_kv_transfer_params_to_an_engine():
    engine = Replay()
    with Gateway([engine]) as gw:
        for extra in ({"kv_transfer_params": {"do_remote_prefill": True}},
                      {"ec_transfer_params": {"a": [1, {"b": 2}]}},
                      {"bootstrap_host": "h", "bootstrap_port": 1, "bootstrap_room": 7}):
            for body in ({**chat(), **extra}, {**extra, **chat()}):
                engine.clear()
                got = post(gw.port, PATH, body)
                assert got.status == 200, got.body
                assert engine.inference()[0].json() == chat(), engine.inference()[0].body
        engine.clear()
        raw = b'{"kv_transfer_p\\u0061rams": {"do_remote_prefill": true}, ' + json.dumps(
            chat()).encode()[1:]
        post(gw.port, PATH, raw)
        assert all(r.json() == chat() for r in engine.inference()), engine.inference()[0].body
    engine.stop()


def test_a_switch_lets_kv_transfer_params_through():
    engine = Replay()
    body = {**chat(), "kv_transfer_params": {"do_remote_prefill": False}}
    with Gateway([engine], "--allow-gateway-fields") as gw:
        post(gw.port, PATH, body)
        assert engine.inference()[0].json() == body
    engine.stop()


def test_a_clients_choice_of_endpoint_is_never_obeyed():
    engine, other = Replay(), Replay()
    with Gateway([engine]) as gw:
        got = post(gw.port, PATH, chat(), headers={
            "x-gateway-destination-endpoint": other.address,
            "x-gateway-destination-endpoint-served": other.address})
        assert got.headers.get_all("x-gateway-destination-endpoint-served") == [engine.address]
        assert not other.requests
    engine.stop(), other.stop()


def test_the_forwarded_head_is_ours():
    engine = Replay()
    with Gateway([engine]) as gw:
        post(gw.port, PATH, chat(), headers={
            "Connection": "keep-alive, X-Secret", "X-Secret": "1", "TE": "trailers",
            "Proxy-Authorization": "x", "Keep-Alive": "5", "Upgrade": "h2c",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "Authorization": "Bearer k", "x-request-id": "my-id-1",
            "X-Forwarded-For": "192.0.2.7"})
        sent = engine.inference()[0]
        for gone in ("x-secret", "te", "proxy-authorization", "keep-alive", "upgrade"):
            assert sent.field(gone) is None, (gone, sent.head)
        assert sent.field("traceparent").startswith("00-0af7"), sent.head
        assert sent.field("authorization") == "Bearer k"
        assert sent.field("x-request-id") == "my-id-1"
        assert sent.field("x-forwarded-for") == "192.0.2.7, 127.0.0.1", sent.head
    engine.stop()


def test_the_request_id_is_kept_or_made():
    engine = Replay()
    with Gateway([engine]) as gw:
        got = post(gw.port, PATH, chat(), headers={"x-request-id": "abc-1"})
        assert got.headers["x-request-id"] == "abc-1"
        a, b = (post(gw.port, PATH, chat()).headers["x-request-id"] for _ in range(2))
        assert a and b and a != b
    engine.stop()


def test_models_are_the_union_over_endpoints():
    one, two = Replay(), Replay()
    body = json.dumps({"object": "list", "data": [{"id": "other", "object": "model"}]}).encode()
    two.answers[("GET", "/v1/models")] = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                                          b"content-length: %d\r\n\r\n%s" % (len(body), body))
    with Gateway([one, two]) as gw:
        def listed():
            return sorted(m["id"] for m in get(gw.port, "/v1/models").json()["data"])
        eventually("both models are listed", lambda: listed() == ["other", "tiny"])
        for i in range(6):
            got = post(gw.port, PATH, {**chat(f"{i}"), "model": "other"})
            assert got.headers["x-gateway-destination-endpoint-served"] == two.address
    one.stop(), two.stop()


def test_metrics_pass_the_parser_of_prometheus():
    try:
        from prometheus_client.parser import text_string_to_metric_families as parse
    except ImportError:
        raise Skip("prometheus_client is not installed (tools/setup.sh)") from None
    engine = Replay()
    with Gateway([engine]) as gw:
        for stream in (False, True):
            post(gw.port, PATH, chat(stream=stream))
        families = {f.name: f for f in parse(gw.metrics())}
        ours = [n for n in families if n.startswith("sluice_")]
        assert len(ours) > 20, ours
        assert gw.metric("sluice_requests_total") >= 2
        assert len(families) == len(set(families))
        assert any(n.startswith("llm_d_epp_") for n in families), sorted(families)
    engine.stop()


def test_metrics_are_not_on_the_clients_port():
    engine = Replay()
    with Gateway([engine]) as gw:
        assert get(gw.port, "/metrics").status == 404
        assert get(gw.admin, "/healthz").status == 200
    engine.stop()


def test_state_and_the_decision_of_a_request_are_shown():
    engine = Replay()
    with Gateway([engine]) as gw:
        post(gw.port, PATH, chat("x" * 2000), headers={"x-request-id": "why-me"})
        got = get(gw.admin, "/state/endpoints").json()
        assert engine.address in json.dumps(got), got
        got = eventually("the decision", lambda: [
            a for a in [get(gw.admin, "/state/decisions/why-me")] if a.status == 200])[0].json()
        assert engine.address in json.dumps(got) and "score" in json.dumps(got), got
        assert get(gw.admin, "/state/decisions/never-was").status == 404
        assert get(gw.admin, "/state/requests").status == 200
    engine.stop()


def test_the_access_log_has_one_json_line_per_request():
    engine = Replay()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "access.log")
        with Gateway([engine], "--access-log", path) as gw:
            for i in range(5):
                post(gw.port, PATH, chat(stream=i % 2 == 1), headers={"x-request-id": f"r{i}"})

            def lines():
                with open(path, encoding="utf-8") as f:
                    rows = [x for x in f.read().splitlines() if PATH in x]
                return rows if len(rows) >= 5 else None
            rows = [json.loads(x) for x in eventually("five lines", lines)]
            assert len(rows) == 5
            text = json.dumps(rows)
            assert engine.address in text and "r3" in text, rows[0]
    engine.stop()


def test_sigterm_lets_running_requests_finish():
    go = threading.Event()

    def slow(conn, _):
        go.wait(20)
        conn.sendall(fixture("chat"))
        return "close"
    engine = Replay(otherwise=slow)
    with Gateway([engine]) as gw:
        got = []
        t = threading.Thread(target=lambda: got.append(post(gw.port, PATH, chat())))
        t.start()
        eventually("the request is running", lambda: engine.inference())
        gw.popen.send_signal(signal.SIGTERM)

        def refused():
            try:
                return get(gw.admin, "/readyz").status == 503
            except OSError:
                return not gw.alive()
        eventually("readiness goes off", refused)
        assert gw.alive(), "it did not wait for the request"
        go.set()
        t.join(20)
        assert got and got[0].status == 200 and got[0].body == payload(fixture("chat"))[0]
        assert gw.popen.wait(20) == 0
    engine.stop()


def test_sigterm_cuts_what_outlives_the_drain_timeout():
    engine = Replay(otherwise=hang)
    with Gateway([engine], "--drain-timeout", "200ms") as gw:
        def one():
            try:
                post(gw.port, PATH, chat())
            except OSError:
                pass
        t = threading.Thread(target=one)
        t.start()
        eventually("the request is running", lambda: engine.inference())
        gw.popen.send_signal(signal.SIGTERM)
        assert gw.popen.wait(20) == 0
        t.join(20)
    engine.stop()


def test_a_broken_endpoint_file_is_refused_and_the_old_one_stays():
    engine = Replay()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "endpoints.yaml")
        host, port = engine.address.split(":")
        with open(path, "w") as f:
            f.write(f"endpoints:\n- name: one\n  address: {host}\n  port: \"{port}\"\n")
        with Gateway([], "--endpoints", path) as gw:
            assert post(gw.port, PATH, chat()).status == 200
            with open(path + ".new", "w") as f:
                f.write("endpoints: [oh: no\n")
            os.rename(path + ".new", path)
            eventually("the refusal is counted",
                       lambda: gw.metric("sluice_endpoints_file_refused_total") >= 1)
            assert post(gw.port, PATH, chat()).status == 200
    engine.stop()


def test_a_drained_endpoint_gets_no_new_requests():
    one, two = Replay(), Replay()
    with Gateway([f"{one.address},name=one", f"{two.address},name=two"]) as gw:
        got = call(gw.admin, "POST", "/endpoints/one/drain", b"")
        assert got.status in (200, 204), (got.status, got.body)
        eventually("the drain shows", lambda: "drain" in get(
            gw.admin, "/state/endpoints").body.decode().lower())
        for i in range(10):
            assert post(gw.port, PATH, chat(f"{i}")).status == 200
        assert not one.inference() and len(two.inference()) == 10
        call(gw.admin, "POST", "/endpoints/one/undrain", b"")
        call(gw.admin, "POST", "/endpoints/two/drain", b"")
        eventually("the other one serves", lambda: post(gw.port, PATH, chat()).headers[
            "x-gateway-destination-endpoint-served"] == one.address)
    one.stop(), two.stop()


def test_a_prompt_goes_where_its_prefix_went():
    engines = [Replay() for _ in range(4)]
    with Gateway(engines) as gw:
        for k in range(8):
            first = post(gw.port, PATH, chat(f"{k} " * 1500)).headers[
                "x-gateway-destination-endpoint-served"]
            for turn in range(3):
                got = post(gw.port, PATH, chat(f"{k} " * 1500 + f"turn {turn}"))
                assert got.headers["x-gateway-destination-endpoint-served"] == first, (k, turn)
    [e.stop() for e in engines]


def test_the_configuration_file_says_what_the_flags_say():
    engine = Replay()
    exe = Gateway.__init__.__globals__["BIN"] + "/sluiced"
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "c.yaml")
        with open(path, "w") as f:
            f.write(f"endpoint:\n- {engine.address}\nretries-max: 1\n")
        with Gateway([], "--config", path) as gw:
            assert post(gw.port, PATH, chat()).status == 200
        good = Process([exe, "--check-config", "--config", path])
        assert good.popen.wait(20) == 0, good.output()
        with open(path, "a") as f:
            f.write("no-such-key: 1\n")
        bad = Process([exe, "--check-config", "--config", path])
        assert bad.popen.wait(20) != 0
        assert ":4:" in bad.output() or "line 4" in bad.output(), bad.output()
    engine.stop()


main(globals()) if __name__ == "__main__" else None
