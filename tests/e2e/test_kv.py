# SPDX-License-Identifier: Apache-2.0
"""The gateway follows the engines' own KV events: what it expects is what they report."""
import json
import os
import random
import signal
import socket
import subprocess
import time

from harness import BIN, Gateway, ROOT, Sim, chat, eventually, free_port, get, main, post

TOKENIZER = os.path.join(ROOT, "tests", "data", "tokenizer", "tiny4000.json")
PATH = "/v1/chat/completions"
WORDS = ("the river runs over stones and under bridges naïve café über straße 日本語 東京 Привет 🦀 "
         "a careful plan keeps its promises").split()


def port_block(count):
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            continue


class Engines(Sim):
    def __init__(self, *flags, instances=2, replay=True, **kw):
        self.events = port_block(instances)
        more = ["--tokenizer", TOKENIZER, "--block-size", "16", "--time-scale", "20",
                "--zmq-endpoint", f"tcp://127.0.0.1:{self.events}"]
        if replay:
            more += ["--kv-events-replay-endpoint", f"tcp://127.0.0.1:{port_block(instances)}"]
        super().__init__(*more, *flags, instances=instances, **kw)

    def blocks(self):
        return [get(p, "/sim/events").json()["blocks"] for p in self.ports]


def gateway(sims, *flags, tokenizer=TOKENIZER):
    gw = Gateway(sims.endpoints, "--tokenizer", f"tiny={tokenizer}", *flags)
    eventually("the template is learned",
               lambda: gw.metric("sluice_kv_model_precise", model="tiny") == 1)
    eventually("all engines are heard", lambda: gw.metric("sluice_kv_trusted") == len(sims.ports))
    return gw


def held(gw, sims):
    return [int(gw.metric("sluice_kv_endpoint_blocks", endpoint=e)) for e in sims.endpoints]


def caught_up(gw, sims):
    """Every message has been applied, and what is held is what there is."""
    eventually("each message is applied", lambda: all(
        gw.metric("sluice_kv_event_next", endpoint=e) == get(p, "/sim/events").json()["messages"]
        for e, p in zip(sims.endpoints, sims.ports)))
    assert held(gw, sims) == sims.blocks()


def text(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def conversations(rng, count):
    """Requests that share system prompts and grow turn by turn."""
    systems = [text(rng, 60) for _ in range(3)]
    for n in range(count):
        messages = [{"role": "system", "content": rng.choice(systems)}] if n % 4 else []
        for _ in range(rng.randrange(1, 4)):
            messages.append({"role": "user", "content": text(rng, rng.randrange(1, 50))})
            yield {"model": "tiny", "max_tokens": 2, "messages": list(messages)}
            messages.append({"role": "assistant", "content": text(rng, rng.randrange(1, 40))})


def told(gw, answer, number):
    """The decision's own account of that request."""
    return get(gw.admin, f"/state/decisions/{number}").json()


def send(gw, body, number, path=PATH):
    answer = post(gw.port, path, body, headers={"x-request-id": f"kv-{number}"})
    assert answer.status == 200, answer.body
    return eventually("the decision is closed",
                      lambda: (d := told(gw, answer, f"kv-{number}")).get("done") and d)


def test_what_is_expected_is_what_engines_report():
    rng, hits = random.Random(5), 0
    with Engines("--use-vllm-map-event-format", instances=3) as sims, gateway(sims) as gw:
        for number, body in enumerate(conversations(rng, 25)):
            if number % 5 == 4:  # text in parts, and escapes
                body["messages"][-1]["content"] = [{"type": "text", "text": text(rng, 9)},
                                                   {"type": "text", "text": 'a "b"\n\t\\ c'}]
            caught_up(gw, sims)
            d = send(gw, body, number)
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"], d
            hits += d["cached_tokens_reported"] > 0
        assert hits > 20, hits
        assert gw.metric("sluice_kv_prompts_total", match="approximate") == 0
        assert gw.metric("sluice_kv_expected_tokens_total") == \
            gw.metric("sluice_kv_reported_tokens_total") > 0


def test_every_api_is_followed():
    rng = random.Random(6)
    long = text(rng, 80)
    bodies = (("/v1/completions", {"model": "tiny", "prompt": long, "max_tokens": 1}),
              ("/v1/messages", {"model": "tiny", "max_tokens": 1, "system": long,
                                "messages": [{"role": "user", "content": "x"}]}),
              ("/v1/responses", {"model": "tiny", "input": long, "max_output_tokens": 1}),
              ("/v1/chat/completions", {"model": "tiny", "cache_salt": "s1", "max_tokens": 1,
                                        "messages": [{"role": "user", "content": long}]}),
              ("/v1/completions", {"model": "tiny-lora", "prompt": long, "max_tokens": 1}))
    with Engines("--lora-modules", "tiny-lora", instances=1) as sims, gateway(sims) as gw:
        for number, (path, body) in enumerate(bodies):
            first = send(gw, body, f"{number}-1", path)
            assert first["cached_tokens_expected"] == first["cached_tokens_reported"] == 0, first
            caught_up(gw, sims)
            again = send(gw, body, f"{number}-2", path)
            assert again["cached_tokens_expected"] == again["cached_tokens_reported"] > 64, again
        assert gw.metric("sluice_kv_prompts_total", match="approximate") == 0


def test_a_request_with_new_tools_is_precise_the_second_time():
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 300}}]
    with Engines(instances=1) as sims, gateway(sims) as gw:
        body = {**chat("hello " * 40), "tools": tools}
        send(gw, body, "a")
        eventually("the tools' glue is learned",
                   lambda: gw.metric("sluice_kv_glues_learned_total") == 2)
        caught_up(gw, sims)
        d = send(gw, body, "b")
        assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 100, d
        assert gw.metric("sluice_kv_prompts_total", match="precise") == 1


def test_tool_calls_and_their_results_are_pieces_asked_for_once():
    rng = random.Random(21)
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 100}}]
    messages = [{"role": "system", "content": text(rng, 60)},
                {"role": "user", "content": text(rng, 40)}]
    with Engines(instances=2) as sims, gateway(sims) as gw:
        def count(match):
            return gw.metric("sluice_kv_prompts_total", match=match)

        def turn(number):
            caught_up(gw, sims)
            return send(gw, {"model": "tiny", "max_tokens": 2, "tools": tools,
                             "messages": messages}, number)
        turn("first")  # the tools themselves are asked for
        eventually("the tools' glue is learned",
                   lambda: gw.metric("sluice_kv_glues_learned_total") == 2)
        for step in range(4):
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": f"call-{step}", "type": "function",
                     "function": {"name": "f", "arguments": json.dumps({"q": text(rng, 9)})}}]},
                {"role": "tool", "tool_call_id": f"call-{step}", "content": text(rng, 30)}]
            learned = gw.metric("sluice_kv_pieces_learned_total")
            d = turn(f"new-{step}")  # known up to the new call: so much at least is expected
            assert 100 < d["cached_tokens_expected"] <= d["cached_tokens_reported"], d
            eventually("both messages are asked for", lambda: gw.metric(
                "sluice_kv_pieces_learned_total") == learned + 2)
            d = turn(f"again-{step}")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 150, d
        assert count("partial") == 4 and count("precise") == 4, (count("partial"),
                                                                 count("precise"))
        messages += [{"role": "assistant", "content": "It is " + text(rng, 9)},
                     {"role": "user", "content": text(rng, 30)}]
        turn("lead")  # what stands before an answer behind a result: asked for once
        eventually("it is known", lambda: gw.metric("sluice_kv_pieces_learned_total") == 9)
        d = turn("end")
        assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 300, d
        assert count("precise") == 5
        assert gw.metric("sluice_kv_expected_tokens_total") == \
            gw.metric("sluice_kv_reported_tokens_total") > 0


def test_lost_doubled_and_overtaken_messages_are_replayed():
    rng = random.Random(7)
    with Engines("--event-loss", "15", "--event-duplicate", "15", "--event-reorder", "15",
                 "--event-batch-size", "1") as sims, gateway(sims) as gw:
        for number, body in enumerate(conversations(rng, 30)):
            send(gw, body, number)

        def whole():  # a lost last message is only noticed with the next
            send(gw, chat(text(rng, 40)), rng.random())
            for _ in range(20):  # what was not lost arrives soon
                if held(gw, sims) == sims.blocks():
                    return True
                time.sleep(0.01)
            return False
        eventually("all that was lost is replayed", whole)
        assert gw.metric("sluice_kv_event_replays_total") > 2
        assert gw.metric("sluice_kv_event_gaps_total") > 0
        assert gw.metric("sluice_kv_event_late_total") > 0


def test_a_gateway_too_slow_to_listen_makes_up_for_it():
    rng = random.Random(16)
    with Engines("--event-hwm", "4", "--event-batch-size", "1", "--kv-cache-size", "100000",
                 instances=1) as sims, gateway(sims) as gw:
        send(gw, chat(text(rng, 60)), "a")
        caught_up(gw, sims)
        os.kill(gw.pid, signal.SIGSTOP)  # the engine's socket drops what it cannot send
        try:
            for _ in range(150):
                body = {"model": "tiny", "max_tokens": 1, "prompt": text(rng, 3000)}
                assert post(sims.ports[0], "/v1/completions", body).status == 200
        finally:
            os.kill(gw.pid, signal.SIGCONT)

        def whole():
            post(sims.ports[0], PATH, chat(text(rng, 60)))
            for _ in range(20):
                if held(gw, sims) == sims.blocks():
                    return True
                time.sleep(0.01)
            return False
        eventually("what was dropped is replayed", whole)
        assert gw.metric("sluice_kv_event_gaps_total") > 0


def test_without_replay_a_gap_forgets_the_endpoint():
    rng = random.Random(8)
    with Engines("--event-loss", "30", "--event-batch-size", "1", instances=1,
                 replay=False) as sims, gateway(sims) as gw:
        for number, body in enumerate(conversations(rng, 20)):
            d = send(gw, body, number)
            assert d["cached_tokens_expected"] <= d["cached_tokens_reported"], d
        assert gw.metric("sluice_kv_event_forgotten_total") > 0


def test_an_engine_that_starts_anew_is_forgotten():
    rng = random.Random(9)
    body = chat(text(rng, 100))
    with Engines(instances=1) as sims, gateway(sims) as gw:
        send(gw, body, "a")
        caught_up(gw, sims)
        assert post(sims.ports[0], "/sim/kv_restart", {}).status == 200
        send(gw, chat("another prompt, long enough to be stored " * 4), "b")
        eventually("it is forgotten", lambda: gw.metric("sluice_kv_event_forgotten_total") == 1)
        caught_up(gw, sims)
        assert gw.metric("sluice_kv_event_forgotten_total") == 1
        d = send(gw, body, "c")
        assert d["cached_tokens_expected"] == d["cached_tokens_reported"], d


def test_numbers_may_begin_anywhere_and_go_on_after_a_restart():
    """As TensorRT-LLM numbers its messages: from the clock, the first one clears."""
    for replay in (True, False):
        rng = random.Random(21)
        body = chat(text(rng, 100))
        with Engines("--clock-sequence", "--use-vllm-map-event-format", instances=1,
                     replay=replay) as sims, gateway(sims) as gw:
            def same():
                send(gw, chat(text(rng, 40)), f"w{rng.random()}")
                return held(gw, sims) == sims.blocks()
            eventually("the engine is heard", same)
            send(gw, body, "a")
            eventually("its blocks are known", lambda: held(gw, sims) == sims.blocks())
            d = send(gw, body, "b")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64, d
            assert post(sims.ports[0], "/sim/kv_restart", {}).status == 200
            eventually("nothing of before is left", same)
            d = send(gw, body, "c")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] < 64, d


def test_blocks_of_one_token_are_followed():
    """As SGLang has them unless --page-size says otherwise; it also pushes its load there."""
    rng = random.Random(22)
    body = chat(text(rng, 60))
    with Engines("--block-size", "1", "--hide-event-sources", "--load-stat", instances=1,
                 replay=False) as sims, gateway(sims, "--kv-events", str(sims.events)) as gw:
        def heard():
            send(gw, chat(text(rng, 9)), f"w{rng.random()}")
            return held(gw, sims)[0]
        eventually("the engine is heard", heard)
        send(gw, body, "a")

        def known():  # the account of one more is exact: all of it is there
            d = send(gw, body, f"b{rng.random()}")
            return d["cached_tokens_expected"] == d["cached_tokens_reported"] > 100
        eventually("the prompt's blocks are known", known)
        assert gw.metric("sluice_kv_prompts_total", match="approximate") == 0


def test_completions_are_precise_where_chats_are_not_rendered():
    """A model without template, or an engine whose /tokenize takes prompts only."""
    for tokenizer in (TOKENIZER, "learn"):
        body = {"model": "tiny", "max_tokens": 1, "prompt": "the river runs over stones " * 20}
        with Engines("--tokenize-prompts-only", instances=2) as sims, Gateway(
                sims.endpoints, "--tokenizer", f"tiny={tokenizer}") as gw:
            eventually("the prompt's ends are learned",
                       lambda: "completions" in ctl(gw, "affinity"))
            eventually("all engines are heard", lambda: gw.metric("sluice_kv_trusted") == 2)

            def precise():  # a learned vocabulary knows the words after they came by once
                d = send(gw, body, f"p{rng.random()}", "/v1/completions")
                return d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64 and \
                    gw.metric("sluice_kv_prompts_total", match="precise") > 1
            rng = random.Random(23)
            eventually("what is expected is what is reported", precise)
            before = gw.metric("sluice_kv_prompts_total", match="precise")
            send(gw, chat("hello " * 40), "c")
            send(gw, {**chat("hello " * 40), "tools": [{"type": "function", "function":
                 {"name": "f", "parameters": {}}}]}, "d")
            assert gw.metric("sluice_kv_prompts_total", match="precise") == before
            assert gw.metric("sluice_kv_model_precise") == 0


def test_a_gateway_that_comes_later_learns_what_is_there():
    rng = random.Random(10)
    body = chat(text(rng, 100))
    with Engines(instances=1) as sims:
        assert post(sims.ports[0], PATH, body).status == 200
        with gateway(sims) as gw:
            caught_up(gw, sims)
            d = send(gw, body, "a")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64, d


def test_older_engines_are_heard_by_port_convention():
    rng = random.Random(11)
    body = chat(text(rng, 100))
    with Engines("--hide-event-sources", instances=1, replay=False) as sims:
        with gateway(sims, "--kv-events", str(sims.events)) as gw:
            def heard():  # the subscription itself takes a moment
                send(gw, chat(text(rng, 40)), f"w{rng.random()}")
                return held(gw, sims)[0]
            eventually("the engine is heard", heard)
            send(gw, body, "a")
            eventually("each message is applied", lambda: gw.metric("sluice_kv_event_next") ==
                       get(sims.ports[0], "/sim/events").json()["messages"])
            d = send(gw, body, "b")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64, d


def test_engines_may_connect_to_the_gateway_instead():
    rng = random.Random(14)
    body = chat(text(rng, 100))
    bind = f"tcp://127.0.0.1:{free_port()}"
    with Engines("--hide-event-sources", "--zmq-endpoint", bind, "--zmq-connect", instances=2,
                 replay=False) as sims:
        with gateway(sims, "--kv-events-bind", bind) as gw:
            def heard():  # until the engines' sockets have found ours
                send(gw, chat(text(rng, 40)), f"w{rng.random()}")
                return all(held(gw, sims))
            eventually("both engines are heard", heard)
            send(gw, body, "a")
            eventually("each message is applied", lambda: gw.metric("sluice_kv_event_next") ==
                       sum(get(p, "/sim/events").json()["messages"] for p in sims.ports))
            d = send(gw, body, "b")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64, d


def test_a_vocabulary_may_be_learned_from_the_engine():
    body = chat("the river runs over stones and under bridges, a careful plan keeps its promises " * 6)
    with Engines(instances=1) as sims, gateway(sims, tokenizer="learn") as gw:
        send(gw, body, "a")
        eventually("the blocks are told again, in words that are known by now",
                   lambda: held(gw, sims) == sims.blocks())
        d = send(gw, body, "b")
        assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64, d


def test_evictions_are_followed():
    rng = random.Random(12)
    with Engines("--kv-cache-size", "60", instances=1) as sims, gateway(sims) as gw:
        for number, body in enumerate(conversations(rng, 30)):
            caught_up(gw, sims)
            d = send(gw, body, number)
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"], d
        assert gw.metric("sluice_kv_events_blocks_total", event="removed") > 50


def ctl(gw, *words):
    done = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", f"127.0.0.1:{gw.admin}",
                           *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def distrusted(*flags):
    """An engine that does not tell its evictions: what its events say is not what it has."""
    rng = random.Random(17)
    bodies = [{**chat(text(rng, 60)), "max_tokens": 1} for _ in range(16)]
    with Engines("--event-hide-evictions", "--kv-cache-size", "40", *flags,
                 instances=1) as sims, gateway(sims, "--scrape-interval", "50ms") as gw:
        for number in range(110):
            assert gw.metric("sluice_kv_trusted") == 1 or number > 99
            send(gw, bodies[number % 16], number)
        eventually("it is found out", lambda: post(gw.port, PATH, bodies[0]).status == 200 and
                   gw.metric("sluice_kv_trusted") == 0)
        assert "matched approximately" in ctl(gw, "affinity", "--prompt", json.dumps(bodies[0]))
        assert gw.metric("sluice_kv_expected_tokens_total") > 0
        return [gw.metric(f"sluice_kv_{name}_tokens_total") for name in
                ("expected", "reported", "page_hit", "page_query")]


def test_an_engine_whose_index_lies_is_matched_by_memory():
    expected, reported, hits, queries = distrusted()
    assert reported < expected * .7, (expected, reported)
    assert hits < queries * .7, (hits, queries)


def test_a_lie_shows_on_the_metrics_page_of_an_engine_that_reports_nothing():
    expected, reported, hits, _ = distrusted("--no-enable-prompt-tokens-details")
    assert reported == 0 and hits < expected * .7, (expected, reported, hits)


def test_engines_with_unlike_templates_are_matched_approximately():
    with Engines(instances=1) as one, Engines("--template-extra", "!", instances=1) as other:
        with Gateway(one.endpoints + other.endpoints, "--tokenizer", f"tiny={TOKENIZER}") as gw:
            eventually("the contradiction is found",
                       lambda: "approximate" in ctl(gw, "affinity"))
            assert gw.metric("sluice_kv_model_precise", model="tiny") == 0
            assert gw.metric("sluice_kv_templates_contradicted_total") == 1
            assert "tiny: approximate" in ctl(gw, "affinity", "--prompt", "hello")
            assert post(gw.port, PATH, chat("hello")).status == 200
            assert gw.metric("sluice_kv_prompts_total", match="precise") == 0


def test_ranks_are_heard_by_port_convention_and_label():
    rng = random.Random(18)
    body = chat(text(rng, 100))
    with Engines("--instances", "1", "--data-parallel-size", "2", "--hide-event-sources",
                 instances=2, replay=False) as sims:
        names = [f"{e},label.data-parallel-rank={n}" for n, e in enumerate(sims.endpoints)]
        sims.endpoints, plain = names, sims.endpoints
        with gateway(sims, "--kv-events", str(sims.events)) as gw:
            sims.endpoints = plain

            def heard():  # the subscriptions themselves take a moment
                send(gw, chat(text(rng, 40)), f"w{rng.random()}")
                return all(held(gw, sims))
            eventually("both ranks are heard", heard)
            send(gw, body, "a")
            eventually("each message is applied", lambda: all(
                gw.metric("sluice_kv_event_next", endpoint=e) ==
                get(p, "/sim/events").json()["messages"]
                for e, p in zip(sims.endpoints, sims.ports)))
            d = send(gw, body, "b")
            assert d["cached_tokens_expected"] == d["cached_tokens_reported"] > 64, d


def test_an_endpoint_may_have_several_ranks():
    rng = random.Random(19)
    with Engines("--instances", "1", "--data-parallel-size", "2", "--data-parallel-sources",
                 "--event-loss", "10", "--event-batch-size", "1", instances=2) as sims:
        sims.endpoints = sims.endpoints[:1]
        with Gateway(sims.endpoints, "--tokenizer", f"tiny={TOKENIZER}") as gw:
            eventually("the engine is heard", lambda: gw.metric("sluice_kv_trusted") == 1)
            for n in range(30):  # a load balancer of the engine's own shares them out
                assert post(sims.ports[n % 2], PATH, chat(text(rng, 60))).status == 200

            def whole():  # all blocks of both ranks, though a gap of one forgets both
                for port in sims.ports:
                    assert post(port, PATH, chat(text(rng, 40))).status == 200
                for _ in range(20):
                    if held(gw, sims) == [sum(sims.blocks())]:
                        return True
                    time.sleep(0.01)
                return False
            eventually("both ranks' blocks are known", whole)


def test_load_that_an_engine_pushes_is_used():
    rng = random.Random(20)
    body = chat(text(rng, 100))
    with Engines("--load-stat", "--event-duplicate", "20", instances=1) as sims:
        with gateway(sims, "--scrape-interval", "60s") as gw:  # pages would come too late
            for number in range(6):
                send(gw, {**body, "max_tokens": 30}, number)

            def load(figure):
                return get(gw.admin, "/state/endpoints").json()["endpoints"][0][figure]
            eventually("the cache's use was told", lambda: load("kv_used") > 0)
            assert gw.metric("sluice_kv_event_loads_total") > 1
            assert gw.metric("sluice_kv_event_forgotten_total") == 0
            caught_up(gw, sims)


def test_sluicectl_tells_who_holds_how_much_of_a_prompt():
    rng = random.Random(13)
    body = chat(text(rng, 120))

    def ctl(gw, prompt, *more):
        done = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", f"127.0.0.1:{gw.admin}",
                               "affinity", "--prompt", "-", *more], input=json.dumps(prompt),
                              capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout
    with Engines(instances=2) as sims, gateway(sims) as gw:
        assert "it holds nothing that we know of" in ctl(gw, body)
        d = send(gw, body, "a")
        caught_up(gw, sims)
        holder = d["endpoint"]
        other = next(e for e in sims.endpoints if e != holder)
        rows = {e["address"]: e for e in json.loads(ctl(gw, body, "--json"))["endpoints"]}
        assert rows[holder]["tokens"] >= d["prompt_tokens_reported"] - 17, rows
        assert rows[other]["tokens"] == 0, rows
        longer = {**body, "messages": body["messages"] + [
            {"role": "assistant", "content": "x"}, {"role": "user", "content": "y " * 200}]}
        assert "nothing that goes on from here was ever seen" in \
            ctl(gw, longer, "--endpoint", holder)
        words = body["messages"][0]["content"]
        changed = chat(words[:300] + "AN ODD CHANGE HERE" + words[320:])
        told = ctl(gw, changed, "--endpoint", holder)
        assert "what follows differs" in told and "at byte" in told, told
        assert other not in told
        assert "approximately" in ctl(gw, {**chat(), "tools": [{"x": "y" * 20}]})


def test_a_prompt_may_be_asked_about_as_text():
    words = "a careful plan keeps its promises " * 12
    with Engines(instances=1) as sims, gateway(sims) as gw:
        def ctl(*more, fails=False):
            done = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin",
                                   f"127.0.0.1:{gw.admin}", "affinity", *more],
                                  capture_output=True, text=True, timeout=20)
            assert (done.returncode != 0) == fails, done
            return done.stderr if fails else done.stdout
        assert "never seen" in ctl("--prompt", words) or "holds nothing" in ctl("--prompt", words)
        send(gw, {**chat(words), "max_tokens": 1}, "a")
        caught_up(gw, sims)
        said = json.loads(ctl("--prompt", words, "--json"))
        assert said["model"] == "tiny" and said["precise"], said
        assert said["endpoints"][0]["blocks"] == sims.blocks()[0], said
        assert said["endpoints"][0]["bytes"] > len(words) * .9, said
        assert "unknown model" in ctl("--prompt", words, "--model", "other")
        assert "not set" not in ctl("--prompt", json.dumps(chat(words)))


def test_the_lost_share_is_told_by_cause():
    rng = random.Random(15)
    shared = text(rng, 60)
    with Engines(instances=1) as sims, gateway(sims) as gw:
        def lost(share):
            return gw.metric("sluice_kv_prompt_bytes_total", model="tiny", share=share)
        send(gw, chat(shared + " one and what follows it " * 8), "a")
        assert lost("cold") > 300 and lost("hit") == 0
        caught_up(gw, sims)
        send(gw, chat(shared + " two and what follows it " * 8), "b")
        assert lost("hit") > 200 and lost("differs") > 100
        caught_up(gw, sims)
        told = subprocess.run([os.path.join(BIN, "sluicectl"), "--admin", f"127.0.0.1:{gw.admin}",
                               "affinity"], capture_output=True, text=True, timeout=20).stdout
        assert "1 prompts part from what is known at byte" in told, told
        for tenant, count in (("team-a", 2), ("team-b", 1)):
            for n in range(count):
                body = chat(f"{shared} {tenant} {n} goes on differently " * 8)
                assert post(gw.port, PATH, body, headers={
                    "x-llm-d-inference-fairness-id": tenant}).status == 200
        model = get(gw.admin, "/state/affinity").json()["models"][0]
        tenants = {t["name"]: t for t in model["tenants"]}
        assert tenants["team-a"]["prompts"] == 2 and tenants["team-b"]["prompts"] == 1, model
        assert tenants["default-flow"]["prompts"] == 2, model
        assert sum(t["hit"] for t in tenants.values()) == model["hit"] > 0, model
        assert model["differs_mostly_at"] >= len(shared), model


main(globals())
