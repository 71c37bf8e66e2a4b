# SPDX-License-Identifier: Apache-2.0
"""sluice-sim beside a real vLLM: the same requests, answers of the same shape; and every flag."""
import concurrent.futures
import json
import os
import re
import socket
import subprocess
import time

from harness import BIN, ROOT, Gateway, Sim, call, chat, eventually, get, main, post

DATA = os.path.join(ROOT, "tests/data/vllm")
CHAT = "/v1/chat/completions"
LONG = "The quick brown fox jumps over the lazy dog and then it rests. "


def read(name):
    with open(os.path.join(DATA, name), "rb") as f:
        return f.read()


def split(answer):
    """(status line, header names in order, header dict, payload pieces) of one raw answer."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    names = [f.split(":")[0] for f in fields]
    values = {f.split(":")[0]: f.split(": ", 1)[1] for f in fields}
    if "transfer-encoding" not in values:
        return first, names, values, [rest]
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        n = int(size, 16)
        assert rest[n:n + 2] == b"\r\n", "a chunk without its end"
        if n:
            chunks.append(rest[:n])
        rest = rest[n + 2:]
    return first, names, values, chunks


def shape(value):
    """Keys in order and types, without the values."""
    if isinstance(value, dict):  # created_cache_tokens is null where nothing was created
        return {k: k if k == "created_cache_tokens" else shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value[:1]]
    return type(value).__name__ if value is not None else "null"


def ordered(value):
    return json.dumps(value)


def events(chunks):
    """Each chunk's event: its name and the shape of its data."""
    out = []
    for c in chunks:
        text = c.decode()
        assert text.endswith("\n\n") and text.count("\n\n") == 1, f"a chunk is not an event: {text!r}"
        name = re.search(r"^event: (.*)$", text, re.M)
        data = re.search(r"^data: (.*)$", text, re.M)[1]
        kind = shape(json.loads(data)) if data != "[DONE]" else data
        out.append((name[1] if name else None, ordered(kind)))
    return out


def distinct(items):
    seen = []
    for i in items:
        if i not in seen:
            seen.append(i)
    return seen


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port), 20) as s:
        s.sendall(request)
        got = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                return got
            got += piece


class Real(Sim):
    """With the flags of the captured server."""

    def __init__(self):
        super().__init__("--max-model-len", "8192", "--enable-request-id-headers",
                         "--time-scale", "100")


def compare(names):
    with Real() as sim:
        for name in names:
            want, got = (split(a) for a in (read(f"{name}.response"),
                                            ask(sim.ports[0], read(f"{name}.request"))))
            assert got[0] == want[0], (name, got[0], want[0])
            ours = [n for n in got[1] if not n.startswith("x-inference-")]
            assert ours == want[1], (name, ours, want[1])
            for field in ("server", "content-type", "vary", "connection"):
                assert got[2].get(field) == want[2].get(field), (name, field)
            yield name, got, want


def test_whole_answers_have_the_heads_and_members_of_a_real_engine():
    for name, got, want in compare(("chat", "completions", "messages", "responses", "models",
                                    "version", "tokenize_chat")):
        a, b = (ordered(shape(json.loads(x[3][0]))) for x in (got, want))
        assert a == b, f"{name}:\n{a}\n{b}"
        assert int(got[2]["content-length"]) == len(got[3][0]), name


def test_streams_have_the_events_of_a_real_engine_each_in_a_chunk_of_its_own():
    for name, got, want in compare(("chat_stream", "chat_stream_usage", "completions_stream",
                                    "messages_stream", "responses_stream")):
        a, b = (distinct(events(x[3])) for x in (got, want))
        assert [n for n, _ in a] == [n for n, _ in b], (name, [n for n, _ in a], [n for n, _ in b])
        for (n, ours), (_, theirs) in zip(a, b):
            assert ours == theirs, f"{name} {n}:\n{ours}\n{theirs}"


def test_errors_have_the_words_of_a_real_engine():
    for name, got, want in compare(("error_unknown_model", "error_context_length")):
        a, b = (re.sub(rb"\d+", b"N", x[3][0]) for x in (got, want))
        assert a == b, (name, a, b)


def test_health_has_an_empty_body():
    for _, got, want in compare(("health",)):
        assert got[3] == want[3] == [b""]


def test_metrics_have_the_series_a_gateway_reads():
    page = read("metrics_idle.txt").decode()
    with Sim() as sim:
        ours = get(sim.ports[0], "/metrics").body.decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", ours, re.M):
        assert types.get(name) == kind, (name, kind, types.get(name))
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "vllm:prefix_cache_queries_total", "vllm:cache_config_info"):
        assert re.search(rf"^{name}{{.*}} \S+$", ours, re.M), name


def test_a_kept_connection_is_closed_when_the_client_asks_for_it_and_kept_otherwise():
    with Sim() as sim:
        out = ask(sim.ports[0], b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n" * 2 +
                  b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert out.count(b"HTTP/1.1 200 OK") == 3 and out.count(b"connection: close") == 1, out


def metric(port, name):
    page = get(port, "/metrics").body.decode()
    return sum(float(v) for v in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", page, re.M))


def cached(answer):
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_repeated_prompt_is_cached_in_whole_blocks_and_salt_keeps_it_apart():
    with Sim("--block-size", "32") as sim:
        port = sim.ports[0]
        assert cached(post(port, CHAT, chat(LONG * 20))) == 0
        again = cached(post(port, CHAT, chat(LONG * 20)))
        assert again > 0 and again % 32 == 0, again
        assert cached(post(port, CHAT, chat(LONG * 20, cache_salt="other"))) == 0
        with Sim("--no-enable-kvcache") as bare:
            post(bare.ports[0], CHAT, chat(LONG * 20))
            assert cached(post(bare.ports[0], CHAT, chat(LONG * 20))) == 0


def test_a_full_cache_forgets_the_oldest_prompt():
    with Sim("--kv-cache-size", "64", "--block-size", "16", "--time-scale", "100") as sim:
        port = sim.ports[0]
        for letter in "abc":  # 40 blocks each
            assert cached(post(port, CHAT, chat(letter * 2560))) == 0
        assert cached(post(port, CHAT, chat("c" * 2560))) > 0
        assert cached(post(port, CHAT, chat("a" * 2560))) == 0


def test_blocks_that_run_out_preempt_the_youngest_and_every_answer_is_whole():
    with Sim("--kv-cache-size", "40", "--block-size", "16", "--time-scale", "50") as sim:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda i: post(sim.ports[0], CHAT, chat(f"{i} " * 100,
                                                                       max_tokens=150)), range(8)))
        assert [a.status for a in got] == [200] * 8
        assert {a.json()["usage"]["completion_tokens"] for a in got} == {150}
        assert metric(sim.ports[0], "vllm:num_preemptions_total") > 0


def test_the_queue_is_bounded():
    with Sim("--max-num-seqs", "1", "--max-waiting-queue-length", "2") as sim:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda i: post(sim.ports[0], CHAT, chat(max_tokens=30)).status,
                                range(8)))
        assert set(got) == {200, 503} and got.count(200) >= 3, got


def test_constant_latencies_are_kept():
    with Sim("--time-to-first-token", "200ms", "--inter-token-latency", "20ms") as sim:
        began = time.monotonic()
        post(sim.ports[0], CHAT, chat(max_tokens=11))
        assert time.monotonic() - began >= 0.2 + 10 * 0.02


def test_failures_are_injected_by_kind():
    for kind, status in (("rate_limit", 429), ("invalid_api_key", 401), ("context_length", 400),
                         ("server_error", 500), ("invalid_request", 400),
                         ("model_not_found", 404)):
        with Sim("--failure-injection-rate", "100", "--failure-types", kind) as sim:
            got = post(sim.ports[0], CHAT, chat())
            assert got.status == status and got.json()["error"]["code"] == status, (kind, got.body)


def test_adapters_are_models_and_their_load_is_told():
    with Sim("--lora-modules", "ada,bob", "--max-loras", "2") as sim:
        names = [m["id"] for m in get(sim.ports[0], "/v1/models").json()["data"]]
        assert names == ["tiny", "ada", "bob"]
        assert post(sim.ports[0], CHAT, chat(model="ada")).json()["model"] == "ada"
        assert post(sim.ports[0], CHAT, chat(model="ad")).status == 404
        body = json.dumps(chat(model="bob", max_tokens=3000, stream=True)).encode()
        with socket.create_connection(("127.0.0.1", sim.ports[0]), 20) as s:
            s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                      % (CHAT.encode(), len(body)) + body)
            eventually("the adapter runs", lambda: re.search(
                r'vllm:lora_requests_info{max_lora="2",running_lora_adapters="bob",'
                r'waiting_lora_adapters=""} \d', get(sim.ports[0], "/metrics").body.decode()))


def test_lora_modules_are_understood_as_llm_d_gives_them():
    with Sim("--lora-modules", '{"name":"ada","path":"/x"} {"name":"bob","path":"/y"}') as sim:
        names = [m["id"] for m in get(sim.ports[0], "/v1/models").json()["data"]]
        assert names == ["tiny", "ada", "bob"], names


def test_echo_answers_with_the_prompt():
    with Sim("--mode", "echo") as sim:
        text = 'say "this" back\nplease'
        got = post(sim.ports[0], CHAT, chat(text, max_tokens=100)).json()
        assert got["choices"][0]["message"]["content"] == text, got
        assert got["choices"][0]["finish_reason"] == "stop", got
        cut = post(sim.ports[0], CHAT, chat(text, max_tokens=2)).json()
        assert cut["choices"][0]["message"]["content"] == text[:8]
        assert cut["choices"][0]["finish_reason"] == "length"


def test_fake_metrics_are_shown_as_given():
    with Sim("--fake-metrics", '{"running-requests":3,"waiting-requests":4,"kv-cache-usage":0.5}') as s:
        assert metric(s.ports[0], "vllm:num_requests_running") == 3
        assert metric(s.ports[0], "vllm:num_requests_waiting") == 4
        assert metric(s.ports[0], "vllm:kv_cache_usage_perc") == 0.5


def test_instances_and_ranks_are_engines_on_consecutive_ports():
    # The last --instances counts: 4 engines of 2 ranks on the 8 ports that were found.
    with Sim("--instances", "4", "--data-parallel-size", "2", instances=8) as sim:
        first = sim.ports[0]
        for port in range(first, first + 8):
            got = eventually("it answers", lambda p=port: get(p, "/health").status == 200 and
                             call(p, "GET", "/version"))
            assert got.headers["x-inference-port"] == str(port)
            assert got.headers["x-inference-pod"] == f"sim-{port}"


def test_every_flag_of_llm_d_inference_sim_that_we_promise_is_there():
    names = """port model served-model-name lora-modules max-loras max-num-seqs max-model-len
        max-waiting-queue-length mode seed latency-calculator time-to-first-token
        time-to-first-token-std-dev inter-token-latency inter-token-latency-std-dev prefill-overhead
        prefill-time-per-token prefill-time-per-token-std-dev kv-cache-transfer-latency
        kv-cache-transfer-latency-std-dev kv-cache-transfer-time-per-token time-factor-under-load
        enable-kvcache kv-cache-size block-size zmq-endpoint event-batch-size
        use-vllm-map-event-format kv-events-replay-endpoint failure-injection-rate failure-types
        data-parallel-size fake-metrics""".split()
    out = subprocess.run([os.path.join(BIN, "sluice-sim"), "--help"], capture_output=True,
                         text=True).stdout
    missing = [n for n in names if not re.search(rf"^  --(\[no-\])?{n} ", out, re.M)]
    assert not missing, missing
    # As llm-d's scheduler benchmark calls it.
    with Sim("--max-num-seqs", "256", "--max-waiting-queue-length", "2048",
             "--inter-token-latency", "1ms", "--prefill-time-per-token", "4us",
             "--prefill-overhead", "5ms", "--enable-kvcache", "--kv-cache-size", "10000000",
             "--block-size", "16", instances=2) as sim:
        assert post(sim.ports[0], CHAT, chat()).status == 200


def test_thousands_of_streams_run_in_one_process():
    body = json.dumps(chat(max_tokens=40, stream=True)).encode()
    request = b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (
        CHAT.encode(), len(body)) + body
    with Sim("--max-num-seqs", "4000", "--max-waiting-queue-length", "4000", "--time-scale", "20") as sim:
        socks = []
        for _ in range(2000):
            s = socket.create_connection(("127.0.0.1", sim.ports[0]), 20)
            s.sendall(request)
            socks.append(s)
        for s in socks:
            got = b""
            while piece := s.recv(65536):
                got += piece
            assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), got[-60:]
            s.close()


def test_the_gateway_before_it_passes_its_bytes_on():
    with Sim() as sim, Gateway(sim.endpoints) as gw:
        direct, through = (post(p, CHAT, chat("same")).json() for p in (sim.ports[0], gw.port))
        for answer in (direct, through):
            for key in ("id", "created"):
                answer.pop(key)
            answer["usage"].pop("prompt_tokens_details")
        assert direct == through


main(globals())
