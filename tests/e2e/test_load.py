# SPDX-License-Identifier: Apache-2.0
"""sluice-load: what it counts is what happened."""
import json
import os
import pty
import subprocess
import tempfile
import time

import replay
from harness import BIN, ROOT, Gateway, Sim, free_port, main
from replay import Replay, fixture


class Engine(Replay):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


FAST = ("--time-scale", "50")


def load(target, *flags, status=0):
    done = subprocess.run([os.path.join(BIN, "sluice-load"), "--target", target, "--json", *flags],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_closed_loop_sends_so_many_and_checks_every_byte():
    for stream in ("--stream", "--no-stream"):
        for path in ("/v1/chat/completions", "/v1/completions"):
            with Sim(*FAST) as sim:
                got = load(sim.endpoints[0], "--requests", "50", "--concurrency", "5", "--verify",
                           "--path", path, stream)
            assert got["ok"] == got["sent"] == 50 and got["statuses"] == {"200": 50}, got
            assert got["completion_tokens"] == 50 * 16, got


def test_verify_finds_an_answer_that_is_another():
    with Engine() as engine:  # a real engine's words are not those of a simulated one
        got = load(engine.address, "--requests", "3", "--verify", "--no-stream", status=1)
    assert got["errors"]["wrong"] == 3 and got["ok"] == 0, got


def test_concurrency_is_never_exceeded():
    with Sim("--max-num-seqs", "3", "--max-waiting-queue-length", "0", "--inter-token-latency",
             "1ms") as sim:
        got = load(sim.endpoints[0], "--requests", "60", "--concurrency", "3")
    assert got["ok"] == 60, got  # a fourth at a time would have met a full engine


def test_open_loop_latency_counts_from_the_planned_time():
    # One at a time and 50 ms each: at 100 a second the queue grows, and so must the latency.
    with Sim("--max-num-seqs", "1", "--time-to-first-token", "50ms", "--max-tokens-default",
             "1") as sim:
        got = load(sim.endpoints[0], "--requests", "20", "--rate", "100", "--arrival", "constant",
                   "--max-tokens", "1")
    assert got["ok"] == 20, got
    assert got["e2e_ms"]["max"] >= 20 * 50 - 20 * 10, got  # the last waited for all before it


def test_arrivals_are_spread_by_the_seed_or_even():
    with Sim(*FAST) as sim:
        began = time.monotonic()
        load(sim.endpoints[0], "--requests", "11", "--rate", "20", "--arrival", "constant")
        assert time.monotonic() - began >= 0.5  # ten gaps of 50 ms
        a, b = (load(sim.endpoints[0], "--requests", "30", "--rate", "200", "--seed", s)["elapsed_s"]
                for s in ("1", "2"))
        assert a != b


def test_a_duration_ends_it():
    with Sim(*FAST) as sim:
        got = load(sim.endpoints[0], "--duration", "0.5", "--concurrency", "2")
    assert got["elapsed_s"] >= 0.5 and got["ok"] == got["sent"] > 2, got


def test_groups_share_a_prefix():
    with Sim(*FAST) as sim:
        flags = ("--requests", "20", "--prompt-tokens", "1100")
        apart = load(sim.endpoints[0], *flags)["hit_share"]
        shared = load(sim.endpoints[0], *flags, "--prefix-groups", "2", "--prefix-tokens", "1024")
    assert apart < 0.05 and shared["hit_share"] > 0.7, (apart, shared["hit_share"])


def test_prompt_lengths_are_spread():
    with Sim(*FAST) as sim:
        got = load(sim.endpoints[0], "--requests", "50", "--prompt-tokens", "100",
                   "--prompt-tokens-max", "300")
    assert 50 * 120 < got["prompt_tokens"] < 50 * 280, got


def test_a_conversation_carries_what_was_said():
    with Sim(*FAST) as sim:
        got = load(sim.endpoints[0], "--requests", "6", "--turns", "4", "--concurrency", "2",
                   "--prompt-tokens", "200", "--verify")
    assert got["ok"] == got["sent"] == 24, got
    # Turn n has n questions of 200 tokens and n - 1 answers: 6 * (1 + 2 + 3 + 4) * 200 and more.
    assert got["prompt_tokens"] > 6 * 10 * 200, got
    assert 0.5 < got["hit_share"] < 0.75, got


def test_a_conversation_through_the_gateway_stays_where_its_cache_is():
    with Sim(*FAST, instances=4) as sim, Gateway(sim.endpoints) as gw:
        got = load(f"127.0.0.1:{gw.port}", "--requests", "8", "--turns", "4", "--concurrency", "4",
                   "--prompt-tokens", "400", "--verify")
    assert got["ok"] == 32 and got["hit_share"] > 0.5, got
    assert set(got["endpoints"]) <= set(sim.endpoints) and len(got["endpoints"]) > 1, got
    assert got["slowest_request_id"], got


def test_mooncake_rows_are_replayed():
    trace = os.path.join(ROOT, "tests/data/mooncake_conversation_800.jsonl")
    with open(trace) as f:
        rows = [json.loads(next(f)) for _ in range(20)]
    with Sim("--max-model-len", "200000", "--time-scale", "1000") as sim:
        got = load(sim.endpoints[0], "--trace", trace, "--limit", "20", "--speed", "1000")
    assert got["ok"] == 20, got
    want = sum(r["input_length"] for r in rows)
    assert want <= got["prompt_tokens"] <= want + 20 * 3, (got["prompt_tokens"], want)
    assert got["completion_tokens"] == sum(r["output_length"] for r in rows)


def test_azure_rows_are_replayed():
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as f:
        f.write("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                "2023-11-16 18:17:03.9799600,374,44\n2023-11-16 18:17:04.0319600,396,109\n"
                "2023-11-16 18:17:04.1000000,100,5\n")
        f.flush()
        with Sim(*FAST) as sim:
            got = load(sim.endpoints[0], "--trace", f.name)
    assert got["ok"] == 3 and got["completion_tokens"] == 44 + 109 + 5, got
    assert got["elapsed_s"] >= 0.12, got


def test_errors_are_told_apart():
    got = load(f"127.0.0.1:{free_port()}", "--requests", "3", status=1)
    assert got["errors"]["refused"] == 3, got
    for act, kind in ((replay.status(503, "Busy"), "status"), (replay.dies_in_stream, "cut"),
                      (fixture("decode_stream_unreachable"), "wrong")):
        with Engine(otherwise=act) as engine:
            got = load(engine.address, "--requests", "2", status=1)
        assert got["errors"][kind] == 2 and got["ok"] == 0, (kind, got)
    with Sim("--time-to-first-token", "30s") as sim:
        got = load(sim.endpoints[0], "--requests", "2", "--timeout", "0.3", "--concurrency", "2",
                   status=1)
    assert got["errors"]["timeout"] == 2, got
    with Sim("--failure-injection-rate", "100", "--failure-types", "rate_limit") as sim:
        got = load(sim.endpoints[0], "--requests", "2", status=1)
    assert got["statuses"] == {"429": 2}, got


def test_ttft_is_the_first_content_not_the_head():
    with Sim("--time-to-first-token", "200ms", "--inter-token-latency", "10ms") as sim:
        got = load(sim.endpoints[0], "--requests", "3", "--max-tokens", "5")
    assert got["ttft_ms"]["p50"] >= 195 and got["e2e_ms"]["p50"] >= 235, got
    assert got["itl_ms"]["p50"] >= 8, got


def test_targets_are_used_in_turn_and_by_name():
    with Sim(*FAST, instances=2) as sim:
        got = load(f"localhost:{sim.ports[0]},127.0.0.1:{sim.ports[1]}", "--requests", "10")
    assert list(got["endpoints"].values()) == [5, 5] and got["spread_cv"] == 0, got


def test_the_key_and_the_wishes_are_sent():
    with Engine() as engine:
        load(engine.address, "--requests", "1", "--no-stream", "--api-key", "sk-1", "--ignore-eos")
        sent = engine.inference()[0]
    assert sent.field("authorization") == "Bearer sk-1", sent.head
    assert json.loads(sent.body)["ignore_eos"] is True


def test_progress_is_shown_on_a_terminal_only():
    with Sim("--time-to-first-token", "700ms") as sim:
        argv = [os.path.join(BIN, "sluice-load"), "--target", sim.endpoints[0], "--requests", "2"]
        ours, theirs = pty.openpty()
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60)
        assert "running" in os.read(ours, 65536).decode() and "TTFT" in done.stdout
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert not done.stderr, done.stderr


main(globals())
