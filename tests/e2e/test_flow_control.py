# SPDX-License-Identifier: Apache-2.0
"""Flow control before one simulated engine that takes one request at a time."""
import json
import os
import signal
import socket
import tempfile
import threading

from harness import Gateway, Sim, call, chat, eventually, free_port, main, post

PATH = "/v1/chat/completions"
REASON = "x-llm-d-request-dropped-reason"
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
OBJECTIVES = ("objectives: [{name: urgent, priority: 10}, {name: usual}, "
              "{name: batch, priority: -1}, {name: scrap, priority: -5}]\n")
ONE = """featureGates: [flowControl]
plugins:
- {type: active-request-scorer}
- {type: round-robin-fairness-policy}
- {type: program-aware-fairness}
- {type: edf-ordering-policy}
- {type: slo-deadline-ordering-policy}
- {type: concurrency-detector, parameters: {maxConcurrency: 1}}
schedulingProfiles:
- {name: all, plugins: [{pluginRef: active-request-scorer}]}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
"""


class Held:
    """A streamed request that runs until it is released, by leaving."""

    def __init__(self, gw, **headers):
        body = json.dumps(chat("hold", stream=True, max_tokens=100000)).encode()
        self.sock = socket.create_connection(("127.0.0.1", gw.port), 30)
        fields = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        self.sock.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: h\r\n" + fields.encode() +
                          b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                          + body)
        self.got = self.sock.recv(65536)

    def rest(self):
        """Everything that came, until the gateway closed."""
        try:
            while more := self.sock.recv(65536):
                self.got += more
        except ConnectionResetError:
            pass
        return self.got

    def release(self):
        self.sock.close()


class Line:
    """Requests that wait, and the order in which they were served."""

    def __init__(self, gw):
        self.gw, self.order, self.answers, self.threads = gw, [], {}, []

    def queued(self):
        return self.gw.metric("sluice_flow_control_queue_size")

    def add(self, name, waits=True, **headers):
        def run():
            got = post(self.gw.port, PATH, chat(name, max_tokens=3),
                       headers={k.replace("_", "-"): v for k, v in headers.items()})
            self.answers[name] = got
            self.order.append(name)

        before = self.queued()
        t = threading.Thread(target=run, daemon=True)
        t.start()
        self.threads.append(t)
        if waits:
            eventually(f"{name} waits", lambda: self.queued() == before + 1)
        return t

    def served(self):
        for t in self.threads:
            t.join(30)
            assert not t.is_alive(), "a request was never answered"
        return self.order


def gateway(sim, config, *flags, **kw):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as f:
        f.write(HEAD + config)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as g:
        g.write(OBJECTIVES)
    gw = Gateway(sim if isinstance(sim, list) else sim.endpoints, "--scheduler-config", f.name,
                 "--objectives", g.name, "--allow-experimental-plugins", *flags, **kw)
    os.unlink(f.name)
    os.unlink(g.name)
    return gw


def engine():
    return Sim("--inter-token-latency", "20ms", "--time-to-first-token", "5ms")


def test_higher_priority_goes_first_and_equals_in_their_order():
    with engine() as sim, gateway(sim, ONE) as gw:
        held, line = Held(gw), Line(gw)
        line.add("batch", x_llm_d_inference_objective="batch")
        line.add("usual-1")
        line.add("usual-2", x_llm_d_inference_objective="usual")
        line.add("urgent", x_gateway_inference_objective="urgent")
        held.release()
        assert line.served() == ["urgent", "usual-1", "usual-2", "batch"], line.order
        assert all(a.status == 200 for a in line.answers.values())
        assert line.queued() == 0
        assert gw.metric("sluice_flow_control_requests_total", outcome="dispatched") == 5


def test_tenants_take_turns():
    config = ONE + "  defaultPriorityBand: {fairnessPolicyRef: round-robin-fairness-policy}\n"
    with engine() as sim, gateway(sim, config) as gw:
        held, line = Held(gw), Line(gw)
        for i in range(3):
            line.add(f"greedy-{i}", x_llm_d_inference_fairness_id="greedy")
        line.add("modest-0", x_llm_d_inference_fairness_id="modest")
        held.release()
        order = line.served()
        assert order.index("modest-0") <= 1, order
        assert [n for n in order if n[0] == "g"] == ["greedy-0", "greedy-1", "greedy-2"], order


def test_the_least_served_program_goes_first():
    config = ONE + "  defaultPriorityBand: {fairnessPolicyRef: program-aware-fairness}\n"
    with engine() as sim, gateway(sim, config) as gw:
        for i in range(3):  # the greedy one has had much already
            post(gw.port, PATH, chat("x " * 400, max_tokens=3),
                 headers={"x-llm-d-inference-fairness-id": "greedy"})
        held, line = Held(gw), Line(gw)
        line.add("greedy", x_llm_d_inference_fairness_id="greedy")
        line.add("modest", x_llm_d_inference_fairness_id="modest")
        held.release()
        assert line.served() == ["modest", "greedy"], line.order


def test_the_nearest_deadline_goes_first():
    config = ONE + "  defaultPriorityBand: {orderingPolicyRef: slo-deadline-ordering-policy}\n"
    with engine() as sim, gateway(sim, config) as gw:
        held, line = Held(gw), Line(gw)
        line.add("none")
        line.add("bad", x_llm_d_slo_ttft_ms="soon")
        line.add("late", x_llm_d_slo_ttft_ms="600000")
        line.add("soon", x_slo_ttft_ms="60000")
        held.release()
        assert line.served() == ["soon", "late", "none", "bad"], line.order


def test_who_waits_too_long_is_told_so():
    with engine() as sim, gateway(sim, ONE + "  defaultRequestTTL: 300ms\n") as gw:
        held = Held(gw)
        got = post(gw.port, PATH, chat())
        assert got.status == 429 and got.headers[REASON] == "rejected-ttl-expired", got.body
        assert got.json()["error"]["code"] == 429 and got.headers["retry-after"]
        assert gw.metric("sluice_flow_control_requests_total", outcome="rejected-ttl-expired") == 1
        held.release()
        eventually("the next one is served", lambda: post(gw.port, PATH, chat()).status == 200)


def test_without_an_engine_it_is_503_after_its_own_time():
    config = ONE + "  noEndpointRequestTTL: 200ms\n"
    with gateway([f"127.0.0.1:{free_port()}"], config, "--probe-interval", "50ms") as gw:
        eventually("the engine is known to be gone",
                   lambda: gw.metric("llm_d_epp_ready_endpoints") == 0)
        got = post(gw.port, PATH, chat())
        assert got.status == 503 and got.headers[REASON] == "rejected-ttl-expired", got.body


def test_a_full_queue_refuses():
    for limit in ("maxRequests: 1", "priorityBands: [{priority: 0, maxRequests: 1}]",
                  "maxBytes: 300", "defaultPriorityBand: {maxBytes: 300}"):
        with engine() as sim, gateway(sim, ONE + f"  {limit}\n") as gw:
            held, line = Held(gw), Line(gw)
            line.add("first")
            got = post(gw.port, PATH, chat("x" * 400))
            assert got.status == 429 and got.headers[REASON] == "rejected-saturated", limit
            held.release()
            assert line.served() == ["first"] and line.answers["first"].status == 200


def test_a_client_that_leaves_is_out_of_the_queue_at_once():
    with engine() as sim, gateway(sim, ONE) as gw:
        held, line = Held(gw), Line(gw)
        body = json.dumps(chat()).encode()
        socks = []
        for i in range(20):
            s = socket.create_connection(("127.0.0.1", gw.port))
            s.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n"
                      % len(body) + body)
            socks.append(s)
        eventually("all wait", lambda: line.queued() == 20)
        line.add("stays")
        for s in socks:
            s.close()
        eventually("they are out", lambda: line.queued() == 1)
        assert gw.metric("sluice_flow_control_queue_bytes") < 2 * len(body)
        assert gw.metric("sluice_flow_control_requests_total",
                         outcome="rejected-context-cancelled") == 20
        held.release()
        assert line.served() == ["stays"]


def test_without_the_gate_only_sheddable_requests_are_shed():
    config = ONE.replace("featureGates: [flowControl]\n", "")
    with engine() as sim, gateway(sim, config) as gw:
        batch = {"x-llm-d-inference-objective": "batch"}
        assert post(gw.port, PATH, chat(max_tokens=1), headers=batch).status == 200
        held = Held(gw)
        got = post(gw.port, PATH, chat(max_tokens=1), headers=batch)
        assert got.status == 429 and got.headers[REASON] == "rejected-saturated", got.body
        assert post(gw.port, PATH, chat(max_tokens=1)).status == 200
        held.release()


def test_a_running_sheddable_request_makes_room():
    with engine() as sim, gateway(sim, ONE + "  enableEviction: true\n") as gw:
        held = Held(gw, x_llm_d_inference_objective="batch")
        assert b" 200 " in held.got
        got = post(gw.port, PATH, chat(max_tokens=1))
        assert got.status == 200, got.body
        assert b"[DONE]" not in held.rest()
        assert gw.metric("sluice_flow_control_requests_total", outcome="evicted") == 1


def test_a_higher_priority_takes_the_last_place_in_the_queue():
    config = ONE + "  enableEviction: true\n  maxRequests: 2\n"
    with engine() as sim, gateway(sim, config) as gw:
        held, line = Held(gw), Line(gw)
        line.add("usual")
        line.add("scrap", x_llm_d_inference_objective="scrap")
        line.add("urgent", waits=False, x_llm_d_inference_objective="urgent")
        eventually("one was displaced", lambda: "scrap" in line.answers)
        assert line.answers["scrap"].status == 429
        assert line.answers["scrap"].headers[REASON] == "evicted-queue-pressure"
        held.release()
        assert line.served()[1:] == ["urgent", "usual"], line.order


def test_at_the_end_those_who_wait_are_told():
    with engine() as sim, gateway(sim, ONE, "--drain-timeout", "5s") as gw:
        held, line = Held(gw), Line(gw)
        line.add("waiting")
        os.kill(gw.pid, signal.SIGTERM)
        line.served()
        got = line.answers["waiting"]
        assert got.status == 503 and got.headers[REASON] == "rejected-shutting-down", got.body
        held.release()
        gw.popen.wait(20)


def test_figures_that_are_old_never_halt_dispatch():
    config = "featureGates: [flowControl]\nplugins:\n- {type: active-request-scorer}\n"
    flags = ("--scrape-interval", "1h", "--load-stale", "10ms")
    with Sim("--time-to-first-token", "5ms", "--fake-metrics",
             '{"waiting-requests": 500, "running-requests": 9, "kv-cache-usage": 0.99}') as sim:
        with gateway(sim, config, *flags) as gw:
            for _ in range(20):
                assert post(gw.port, PATH, chat(max_tokens=1)).status == 200
        with gateway(sim, config + "flowControl: {defaultRequestTTL: 300ms}\n") as gw:
            got = post(gw.port, PATH, chat(max_tokens=1))  # fresh, and full: it waits in vain
            assert got.status == 429 and got.headers[REASON] == "rejected-ttl-expired", got.body


def test_the_ceiling_falls_with_the_priority():
    config = ONE.replace("maxConcurrency: 1", "maxConcurrency: 4") + \
        "  usageLimitPolicyPluginRef: hold\n"
    config = config.replace("plugins:\n", "plugins:\n- {name: hold, type: priority-holdback-policy, "
                            "parameters: {minCeiling: 0.5}}\n")
    with engine() as sim, gateway(sim, config) as gw:
        assert post(gw.port, PATH, chat(max_tokens=1),
                    headers={"x-llm-d-inference-objective": "batch"}).status == 200
        held, line = [Held(gw) for _ in range(2)], Line(gw)  # half full
        line.add("batch", x_llm_d_inference_objective="batch")
        assert post(gw.port, PATH, chat(max_tokens=1)).status == 200  # the highest: up to 1
        assert line.queued() == 1
        for h in held:
            h.release()
        line.served()


def test_two_workers_count_together_and_serve_all():
    config = ONE + "  maxRequests: 30\n"
    with engine() as sim, gateway(sim, config, "--workers", "2") as gw:
        held, line = Held(gw), Line(gw)
        for i in range(30):
            line.add(f"r{i}", waits=False, x_llm_d_inference_fairness_id=f"t{i % 3}")
        eventually("all wait", lambda: line.queued() == 30)
        got = post(gw.port, PATH, chat())
        assert got.status == 429 and got.headers[REASON] == "rejected-saturated", got.body
        held.release()
        line.served()
        assert {a.status for a in line.answers.values()} == {200}
        assert line.queued() == 0
        assert gw.metric("sluice_flow_control_requests_total", outcome="dispatched") == 31


def test_if_available_wants_a_cached_prefix():
    config = "plugins:\n- {type: prefix-cache-scorer}\n"
    with engine() as sim, gateway(sim, config) as gw:
        prefer = {"prefer": "if-available"}
        body = chat("a long common beginning " * 40, max_tokens=1)
        got = post(gw.port, PATH, body, headers=prefer)
        assert got.status == 412, got.body
        assert post(gw.port, PATH, body).status == 200
        eventually("it is cached", lambda: post(gw.port, PATH, body, headers=prefer).status == 200)


def test_only_a_profile_that_is_there_can_be_named():
    config = ("plugins:\n- {type: header-profile-handler}\n- {type: random-picker}\n"
              "schedulingProfiles: [{name: decode}, {name: quick}]\n")
    with engine() as sim, gateway(sim, config) as gw:
        for name, status in (("quick", 200), ("decode", 200), ("slow", 429)):
            got = post(gw.port, PATH, chat(max_tokens=1), headers={"EPP-Profile": name})
            assert got.status == status, (name, got.body)
        assert call(gw.port, "POST", PATH, chat(max_tokens=1)).status == 200


main(globals())
