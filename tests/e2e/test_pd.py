# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode apart: connector by API by streamed, each leg's bytes, each failure."""
import itertools
import json
import random
import re
import socket
import struct
import threading

from harness import SOAK, Gateway, Sim, chat, eventually, get, main, post
from pd_tools import Pair, cases

LONG = "the quick brown fox jumps over the lazy dog " * 30


BODIES = {
    "/v1/chat/completions": chat(LONG),
    "/v1/completions": {"model": "tiny", "prompt": LONG, "max_tokens": 8},
    "/v1/responses": {"model": "tiny", "input": LONG, "max_output_tokens": 8},
    "/v1/messages": {"model": "tiny", "max_tokens": 8,
                     "messages": [{"role": "user", "content": LONG}]},
    "/inference/v1/generate": {"model": "tiny", "token_ids": list(range(400)),
                               "sampling_params": {"max_tokens": 8}},
}
ENDS = {"/v1/messages": b'data: {"type":"message_stop"}\n\n'}
turn = itertools.count()


def ask(pair, stream=False, path="/v1/chat/completions"):
    return post(pair.port, path, {**BODIES[path], "stream": stream})


def ask_any(pair, stream):
    """Each API in turn: over the matrix of failures each meets each."""
    path = list(BODIES)[next(turn) % len(BODIES)]
    answer = ask(pair, stream, path)
    assert answer.status == 200 and answer.complete, (path, answer.status, answer.body[:300])
    assert b'"error"' not in answer.body or b'"error":null' in answer.body, (path, answer.body)
    if stream:
        assert answer.body.endswith(ENDS.get(path, b"\n\n")), (path, answer.body[-100:])
    else:
        assert answer.json(), path


def good(answer, stream):
    assert answer.status == 200 and answer.complete, (answer.status, answer.body[:300])
    if stream:
        assert answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-100:]
        assert b'"error"' not in answer.body, answer.body[:300]
    else:
        assert answer.json()["choices"][0]["finish_reason"], answer.body


def both_legs_are_as_the_contract_says(connector, **more):
    with Pair(connector, prefill=1, decode=1, taps=True, **more) as pair:
        for case in cases(connector):
            for tap in pair.taps:
                tap.clear()
            answer = post(pair.port, case["path"], case["client"].encode(),
                          headers={"x-request-id": "same-on-both"})
            assert answer.status == 200 and b'"error"' not in answer.body, \
                (case["name"], answer.status, answer.body[:400])
            legs = [t.exchanges() for t in pair.taps]
            names = [["prefill"], ["probe", "decode"] if "probe" in case else ["decode"]]
            assert [len(x) for x in legs] == [len(x) for x in names], (case["name"], legs)
            for (head, body), leg in zip(legs[0] + legs[1], names[0] + names[1]):
                assert "x-request-id: same-on-both" in head, head
                want = filled(case[leg], legs[0][0][1].decode(), pair)
                assert body.decode() == want, \
                    f"{case['name']}, {leg} leg\n got {body.decode()}\nwant {want}"
        pair.nothing_held()
        assert pair.books()["refused"] == 0 and pair.books()["failed"] == 0, pair.books()


def filled(want, prefill, pair):
    """The case with what only this request knows: of both legs, numbers are the prefill's."""
    if "@PARAMS@" in want or "@REST@" in want:
        params = pair.taps[0].params()[0]
        want = want.replace("@PARAMS@", params).replace("@REST@", params[1:])
    if "@ID@" in want:
        (made,) = set(re.findall(r'(?:xfer-|kv-|tx)([0-9a-f]{32})"', prefill))
        want = want.replace("@ID@", made)
    if "@ROOM@" in want:
        room = re.search(r'"bootstrap_room":(\d+)', prefill)[1]
        assert int(room) < 1 << 63
        want = want.replace("@ROOM@", room)
    return want.replace("@PORT@", str(pair.sim.ports[0]))


def test_nixl_legs_have_the_contracts_bytes():
    both_legs_are_as_the_contract_says("nixlv2")


def test_sglang_legs_have_the_contracts_bytes():
    both_legs_are_as_the_contract_says("sglang")


def test_mooncake_legs_have_the_contracts_bytes():
    both_legs_are_as_the_contract_says("mooncake")


def test_offloading_legs_have_the_contracts_bytes():
    both_legs_are_as_the_contract_says("offloading")


def test_moriio_legs_have_the_contracts_bytes():
    both_legs_are_as_the_contract_says("moriio")


def test_shared_storage_legs_have_the_contracts_bytes():
    both_legs_are_as_the_contract_says("shared-storage")


def test_shared_storage_asks_the_decode_pod_first():
    with Pair("shared-storage", prefill=1, decode=1) as pair:
        for stream in (False, True, False, True):
            good(ask(pair, stream), stream)
        books = pair.books("prefill"), pair.books("decode")
        assert books[0]["prefills"] == 1, books  # the first one stored it for all
        assert books[1]["transfers"] == 4, books


def test_parameters_of_a_megabyte_travel_whole():
    with Pair("nixlv2", prefill=1, decode=1, taps=True, sim=("--block-size", "1")) as pair:
        answer = post(pair.port, "/v1/completions",
                      {"model": "tiny", "prompt": "x" * 400000, "max_tokens": 2})
        assert answer.status == 200, answer.body
        params = pair.taps[0].params()[0]
        assert 500000 < len(params) < 1 << 20, len(params)
        body = pair.taps[1].exchanges()[0][1].decode()
        assert body.endswith(',"kv_transfer_params":' + params + "}")


FAILURES = {  # what the prefill engine does: the counter's cause
    "refused": "refused", "reset": "reset", "hang": "timeout", "status-500": "status",
    "status-503": "status", "status-429": "status", "no-params": "no-params",
    "too-large": "too-large", "malformed": "malformed", "garbage": "malformed",
    "late-reset": "reset",
}


def patience(what):
    """Short only where somebody hangs: a busy machine is late, too."""
    return "700ms" if what == "hang" else "20s"


def prefill_failures(connector, failures, engines, **more):
    for what, cause in failures.items():
        for stream in (False, True):
            with Pair(connector, "--pd-prefill-timeout", patience(what), **more) as pair:
                pair.fail("prefill", what, engines=engines)
                ask_any(pair, stream)
                yield pair, what, cause, stream
                eventually("the decode legs are over", lambda: pair.books()["running"] == 0)


AT_ONCE = {k: v for k, v in FAILURES.items()
           if k in ("refused", "reset", "hang", "status-500", "status-503", "status-429",
                    "late-reset", "garbage")}
NO_PARAMS = {k: v for k, v in FAILURES.items() if k != "no-params"}
STORED = {k: v for k, v in NO_PARAMS.items() if k not in ("too-large", "malformed")}
MEET = ("sglang", "mooncake")
CONNECTORS = {"nixlv2": FAILURES, "sglang": AT_ONCE, "mooncake": AT_ONCE,
              "offloading": NO_PARAMS, "shared-storage": STORED, "moriio": FAILURES}


def test_a_failed_prefill_goes_to_another_pod():
    for connector, failures in CONNECTORS.items():
        for pair, what, cause, stream in prefill_failures(connector, failures, 1):
            metric = pair.gateway.metric
            if metric("sluice_pd_leg_failures_total"):
                assert metric("sluice_pd_fallbacks_total", to="another-prefill") == 1
            for _ in range(3):  # one of them meets it, wherever the scheduler began
                ask_any(pair, stream)
            assert metric("sluice_pd_fallbacks_total", to="decode-only") == 0, (connector, what)
            pair.nothing_held()


def test_two_failed_prefills_leave_it_to_the_decode_pod():
    for connector, failures in CONNECTORS.items():
        for pair, what, cause, stream in prefill_failures(connector, failures, 2):
            metric = pair.gateway.metric
            if connector in MEET:  # the decode leg may be the first to know
                assert metric("sluice_pd_leg_failures_total") == 2, (connector, what)
                assert metric("sluice_pd_fallbacks_total", to="decode-only") == 1, what
            else:
                assert metric("sluice_pd_leg_failures_total", leg="prefill", cause=cause) == 2, \
                    (connector, what)
                assert metric("sluice_pd_fallbacks_total", to="decode-only", cause=cause) == 1, \
                    (connector, what)
            pair.nothing_held()


def test_without_fallback_a_failed_prefill_is_the_clients_error():
    for what, status in (("status-500", 502), ("hang", 504), ("no-params", 502)):
        with Pair("nixlv2", "--no-pd-fallback", "--pd-prefill-timeout", patience(what)) as pair:
            pair.fail("prefill", what)
            answer = ask(pair)
            assert answer.status == status and "prefill" in answer.json()["error"]["message"], \
                (what, answer.status, answer.body)


def test_a_4xx_of_the_prefill_is_the_answer_and_counts_against_nobody():
    for connector in CONNECTORS:
        with Pair(connector) as pair:
            for stream in (False, True):
                pair.fail("prefill", "status-400")
                answer = ask(pair, stream)
                assert answer.status == 400, (connector, answer.status, answer.body)
                assert answer.json()["error"]["message"] == "On order.", answer.body
            pair.fail("prefill", "", 0)
            good(ask(pair), False)
            pair.nothing_held()
    with Pair("nixlv2") as pair:
        for stream in (False, True):
            pair.fail("prefill", "status-400")
            answer = ask(pair, stream)
            assert answer.status == 400 and answer.json()["error"]["message"] == "On order."
            assert answer.json()["error"]["param"] == "messages"
            pair.fail("prefill", "", 0)
        for _ in range(8):
            pair.fail("prefill", "status-400")
            assert ask(pair).status == 400
        pair.fail("prefill", "", 0)
        assert pair.gateway.metric("sluice_breaker_opened_total") == 0
        assert pair.gateway.metric("sluice_pd_leg_failures_total") == 0
        good(ask(pair), False)


def decode_fails(connector, what, stream, engines):
    pair = Pair(connector, "--pd-decode-head-timeout", patience(what))
    with pair:
        pair.fail("decode", what, engines=engines)
        ask_any(pair, stream)
        yield pair
        pair.gateway.metrics()


def test_a_decode_pod_that_is_not_reached_hands_over_to_another():
    for connector in CONNECTORS:
        for what in ("refused", "reset"):
            for stream in (False, True):
                for pair in decode_fails(connector, what, stream, 1):
                    metric = pair.gateway.metric
                    if metric("sluice_pd_leg_failures_total", leg="decode"):
                        assert metric("sluice_pd_fallbacks_total", to="another-decode") == 1
                        prefills = pair.books("prefill")["prefills"]
                        same = connector in ("nixlv2", "offloading")
                        assert prefills == 1 or not same, (connector, what, prefills)
                        if connector == "moriio":  # it was told of one decode pod only
                            assert metric("sluice_pd_stranded_total") == 1
                            continue
                    pair.nothing_held()


def test_a_transfer_that_fails_is_prefilled_again_then_decoded_alone():
    for connector in CONNECTORS:
        for what in ("status-500",) + ("transfer",) * (connector != "shared-storage"):
            for stream in (False, True):
                for pair in decode_fails(connector, what, stream, 2):
                    books = pair.books("prefill")
                    assert books["prefills"] == 2, (connector, what, books)
                again = connector in ("nixlv2", "offloading", "shared-storage")
                if again:  # another decode pod first, with the same parameters
                    for pair in decode_fails(connector, what, stream, 1):
                        books = pair.books("prefill")
                        assert books["prefills"] == 1, (connector, what, books)
                        assert pair.gateway.metric("sluice_breaker_opened_total") == 0
                        pair.nothing_held()
                if connector == "shared-storage":  # its pods fail without a leg too
                    continue
                with Pair(connector) as pair:
                    pair.fail("decode", what, count=100)
                    good(ask(pair, stream), stream)
                    metric = pair.gateway.metric
                    assert metric("sluice_pd_leg_failures_total", leg="decode",
                                  cause="transfer") == (3 if again else 2), (connector, what)
                with Pair(connector, decode=1) as pair:  # nobody else is there
                    pair.fail("decode", what, count=1)
                    good(ask(pair, stream), stream)
                    assert pair.books("prefill")["prefills"] == 2, (connector, what)
                with Pair(connector, decode=1) as pair:
                    pair.fail("decode", what, count=100)
                    good(ask(pair, stream), stream)
                    metric = pair.gateway.metric
                    assert metric("sluice_pd_fallbacks_total", to="decode-only",
                                  cause="transfer") == 1


def test_a_decode_that_hangs_is_left_for_another():
    for connector in CONNECTORS:
        for stream in (False, True):
            for pair in decode_fails(connector, "hang", stream, 1):
                assert pair.gateway.metric("sluice_pd_leg_failures_total", leg="decode") in (0, 1)


def test_a_prompt_of_sixty_megabytes_is_held_once():
    size = 60 << 20
    body = b'{"model":"tiny","max_tokens":2,"prompt":"' + b"word " * (size // 5) + b'"}'
    for connector in ("nixlv2", "sglang"):
        with Pair(connector, "--probe-interval", "60s", prefill=1, decode=1,  # busy engines
                  sim=("--max-model-len", "100000000", "--kv-cache-size", "100000000",
                       "--block-size", "4096", "--time-to-first-token", "20ms",
                       "--inter-token-latency", "1ms")) as pair:
            most, done = [0], threading.Event()

            def watch():
                while not done.is_set():
                    most[0] = max(most[0], pair.gateway.metric("sluice_buffered_bytes"))
            threads = [threading.Thread(target=watch)]
            threads[0].start()
            answer = post(pair.port, "/v1/completions", body, timeout=60)
            done.set()
            threads[0].join()
            assert answer.status == 200, answer.body[:300]
            assert pair.books("prefill")["transfers"] == 1, (
                connector, pair.books(), [x for x in pair.gateway.metrics().splitlines()
                                          if x.startswith("sluice_pd_") and "} 1" in x])
            assert size <= most[0] < size * 1.15, most[0] / size
            eventually("all of it is given back",
                       lambda: pair.gateway.metric("sluice_buffered_bytes") < 1 << 20)


def test_behind_a_sidecar_the_decode_pod_is_told_where_to_prefill():
    with Pair("nixlv2", "--pd", "sidecar", taps=True) as pair:
        answer = post(pair.port, "/v1/chat/completions", chat(LONG),
                      headers={"x-prefiller-host-port": "6.6.6.6:6"})
        assert answer.status == 200, answer.body
        assert [t.exchanges() for t in pair.taps[:2]] == [[], []], "one leg only"
        ((head, body),) = [x for t in pair.taps[2:] for x in t.exchanges()]
        told = re.findall(r"x-prefiller-host-port: (\S+)", head)
        assert len(told) == 1 and told[0] in [t.address for t in pair.taps[:2]], head
        assert b"kv_transfer_params" not in body


def test_an_outer_gateways_choice_is_heeded_where_allowed():
    def prefilled(pair, address):
        for tap in pair.taps:
            tap.clear()
        answer = post(pair.port, "/v1/chat/completions", chat(LONG + address),
                      headers={"x-prefiller-host-port": address})
        assert answer.status == 200, answer.body
        heads = [h for t in pair.taps for h, _ in t.exchanges()]
        assert not any("x-prefiller-host-port" in h for h in heads), heads
        return [len(t.exchanges()) for t in pair.taps[:2]]

    with Pair("nixlv2", "--pd-decider", "never", "--pd-header-allow", "any", taps=True) as pair:
        assert prefilled(pair, pair.taps[0].address) == [1, 0]
        assert prefilled(pair, pair.taps[1].address) == [0, 1]
        assert prefilled(pair, "10.1.2.3:80") == [0, 0], "no endpoint of ours"
        assert pair.gateway.metric("sluice_pd_header_ignored_total") == 1
    with Pair("nixlv2", "--pd-decider", "never", taps=True) as pair:
        assert prefilled(pair, pair.taps[0].address) == [0, 0], "off by default"
    with Pair("nixlv2", "--pd-decider", "never", "--pd-header-allow", "127.0.0.1:1",
              taps=True) as pair:
        assert prefilled(pair, pair.taps[0].address) == [0, 0], "not on the list"


def test_both_legs_name_their_data_parallel_rank():
    with Pair("nixlv2", taps=True, prefill=1, decode=1,
              labels=lambda i: f"label.data-parallel-rank={3 + i}") as pair:
        good(ask(pair), False)
        for i, tap in enumerate(pair.taps):
            ((head, _),) = tap.exchanges()
            assert f"x-data-parallel-rank: {3 + i}" in head, head


def test_a_full_prefill_pool_is_shed_beyond_its_share():
    with Pair("nixlv2", "--pd-alone-percent", "0",
              sim=("--inter-token-latency", "100ms", "--time-to-first-token", "1s")) as pair:
        pair.fail("prefill", "status-503", count=1000)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(pair).status))
                   for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        shed = pair.gateway.metric("sluice_pd_alone_shed_total")
        assert answers.count(503) == shed and answers.count(200) == 12 - shed, answers
        assert shed >= 4, answers  # PD_ALONE_MIN may go alone at a time
        good(ask(pair), False)


def test_both_choices_and_both_pools_are_shown():
    with Pair("nixlv2") as pair:
        post(pair.port, "/v1/chat/completions", chat(LONG), headers={"x-request-id": "both"})
        said = get(pair.gateway.admin, "/state/decisions/both").json()
        ends = pair.sim.endpoints
        assert said["endpoint"] in ends[2:] and said["prefill"]["endpoint"] in ends[:2], said
        metric = pair.gateway.metric
        assert metric("sluice_pool_ready", role="prefill") == 2
        assert metric("sluice_pool_ready", role="decode") == 2
        assert "sluice_pool_saturation{role=\"prefill\"}" in pair.gateway.metrics()
        assert metric("llm_d_epp_disagg_decision_total", decision_type="prefill-decode") == 1
        for name in ("prefill", "decode", "transfer", "hop"):
            assert metric(f"sluice_pd_{name}_seconds_count") == 1, name


def test_it_is_on_by_itself_with_pods_of_both_roles_only():
    with Sim("--kv-connector", "nixlv2", "--time-scale", "50", instances=2) as sim:
        for roles, legs in ((("prefill", "decode"), 1), (("both", "both"), 0),
                            (("decode", "decode"), 0)):
            with Gateway([f"{a},role={r}" for a, r in zip(sim.endpoints, roles)],
                         "--pd-decider", "always") as gw:
                assert post(gw.port, "/v1/chat/completions", chat(LONG)).status == 200
                assert gw.metric("sluice_pd_requests_total") == legs, roles


def test_a_decider_sends_short_and_cached_prompts_straight_to_decode():
    with Pair("nixlv2", "--pd-decider", "prefix", "--pd-uncached-min", "100") as pair:
        metric = pair.gateway.metric
        good(post(pair.port, "/v1/chat/completions", chat("short")), False)
        assert metric("sluice_disagg_decision_total", reason="cached") == 1
        good(ask(pair), False)
        assert metric("sluice_disagg_decision_total", reason="uncached") == 1
        eventually("its blocks are known", lambda: metric("sluice_affinity_pairs") > 0)
        for _ in range(2):  # one of both decode pods has it now
            good(ask(pair), False)
        assert metric("sluice_disagg_decision_total", reason="cached") == 3
        assert metric("sluice_pd_requests_total") == 1


def leave_at_random(port, body, seconds):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json"
                  b"\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        s.settimeout(seconds)
        try:
            s.recv(1)
        except (TimeoutError, OSError):
            pass
        if random.random() < 0.5:  # RST instead of FIN
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def aborts(connector, count, **more):
    random.seed(4)
    with Pair(connector, sim=("--kv-cache-transfer-latency", "100ms"), **more) as pair:
        def worker(n):
            for i in range(n):
                body = json.dumps(chat(LONG + str(random.random()), stream=i % 2 == 0,
                                       max_tokens=20)).encode()
                leave_at_random(pair.port, body, random.random() ** 2 * 0.03 + 0.0001)
        threads = [threading.Thread(target=worker, args=(count // 8,)) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        pair.nothing_held(*(1,) * SOAK)  # within a second, where nothing else runs
        books = pair.books()
        assert pair.gateway.metric("sluice_client_left_total") > count * 0.6, books
        assert books["refused"] == 0, books
        for stream in (False, True):
            good(ask(pair, stream), stream)
        return books


def test_usage_tells_what_the_prefill_found_cached():
    with Pair("nixlv2", prefill=1) as pair:
        cached = [ask(pair).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
                  for _ in range(3)]
        assert cached[0] == 0 and cached[1] == cached[2] > 300, cached


def test_clients_that_leave_at_any_moment_strand_no_block():
    for connector in CONNECTORS:
        books = aborts(connector, (10000 if connector == "nixlv2" else 2000) if SOAK else 400)
        assert books["released"] + books["transfers"] > 0, (connector, books)


if __name__ == "__main__":
    main(globals())
