# SPDX-License-Identifier: Apache-2.0
"""A real NIXL prefill and decode pair, replayed: vLLM 0.32's own bytes on both legs."""
import json
import re

from harness import SOAK, Gateway, Skip, main, post
from pd_tools import Pair
from replay import Replay, fixture, payload, split_head

try:
    import openai
except ImportError:
    openai = None

NAMES = {"/v1/chat/completions": "chat", "/v1/completions": "completions",
         "/v1/responses": "responses", "/v1/messages": "messages"}
OURS = (',"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,'
        '"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}}')


class Engines:
    """One of each role, before them a gateway."""

    def __init__(self, split, *flags):
        self.prefill, self.decode = Replay(split), Replay(split)
        self.gw = Gateway([f"{self.prefill.address},role=prefill",
                           f"{self.decode.address},role=decode"], "--pd-decider", "always", *flags)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.gw.__exit__(*exc)
        self.prefill.stop()
        self.decode.stop()


def client_body(name):
    """What a client had sent: the captured decode leg without its parameters."""
    body = split_head(fixture(f"pd/{name}.decode", "request"))[1].decode()
    return re.sub(r', "kv_transfer_params": \{.*\}\}$', "}", body)


def exchange(e, path, name):
    prefilled, decoded = fixture(f"pd/{name}.prefill"), fixture(f"pd/{name}.decode")
    e.prefill.answers[("POST", path)] = prefilled
    e.decode.answers[("POST", path)] = decoded
    e.prefill.clear()
    e.decode.clear()
    body = client_body(name)
    assert "kv_transfer_params" not in body
    got = post(e.gw.port, path, body.encode(), headers={"x-request-id": "pd-" + name})
    assert got.status == 200 and got.complete, (name, got.status, got.body)
    assert got.body == payload(decoded)[0], (name, got.body)
    (first,), (second,) = e.prefill.inference(), e.decode.inference()
    assert first.field("x-request-id") == second.field("x-request-id") == "pd-" + name
    answer = payload(prefilled)[0].decode()
    at = answer.index('"kv_transfer_params":{') + len('"kv_transfer_params":')
    params = answer[at:json.JSONDecoder().raw_decode(answer, at)[1]]
    assert "remote_prefill_cached_tokens" in params, "the capture holds what no document names"
    assert second.body.decode() == body[:-1] + ',"kv_transfer_params":' + params + "}", name
    sent, captured = json.loads(first.body), json.loads(
        split_head(fixture(f"pd/{name}.prefill", "request"))[1])
    assert sent == captured, (name, sent, captured)
    assert first.body.decode().endswith(OURS)


def at_split(split):
    with Engines(split) as e:
        for path, name in NAMES.items():
            exchange(e, path, name)
            exchange(e, path, name + "_stream")


def test_a_real_pairs_bytes_in_one_piece():
    at_split("whole")


def test_a_real_pairs_bytes_one_at_a_time():
    at_split("byte")


def test_a_real_pairs_bytes_cut_between_cr_and_lf():
    at_split("crlf")


def test_a_real_transfer_failure_is_served_by_the_decode_pod():
    for name, failure in (("chat", "decode_unreachable"), ("chat", "decode_unknown_engine"),
                          ("chat_stream", "decode_stream_unreachable")):
        path = "/v1/chat/completions"
        with Engines("whole") as e:
            plain = fixture("chat_stream" if "stream" in name else "chat")
            e.prefill.answers[("POST", path)] = fixture(f"pd/{name}.prefill")
            e.decode.answers[("POST", path)] = lambda conn, request: e.decode.send(
                conn, fixture(f"pd/{failure}") if b"kv_transfer_params" in request.body else plain)
            got = post(e.gw.port, path, client_body(name).encode())
            assert got.status == 200 and got.body == payload(plain)[0], (failure, got.body)
            assert len(e.decode.inference()) == 2
            assert e.decode.inference()[1].body.decode() == client_body(name)
            assert e.gw.metric("sluice_pd_fallbacks_total", to="decode-only",
                               cause="transfer") == 1
            assert e.gw.metric("sluice_breaker_opened_total") == 0


def test_generate_goes_over_both_legs():
    path = "/inference/v1/generate"
    with Engines("whole") as e:
        answer = fixture("pd/generate")
        params = b'{"do_remote_prefill":true,"remote_block_ids":[[1]]}'
        head, body = split_head(answer)
        body = body.replace(b'"kv_transfer_params":null', b'"kv_transfer_params":' + params)
        head = re.sub(rb"(?i)content-length: \d+", b"content-length: %d" % len(body), head)
        e.prefill.answers[("POST", path)] = head + b"\r\n\r\n" + body
        e.decode.answers[("POST", path)] = answer
        sent = split_head(fixture("pd/generate", "request"))[1]
        got = post(e.gw.port, path, sent)
        assert got.body == payload(answer)[0]
        assert e.decode.inference()[0].body == sent[:-1] + b',"kv_transfer_params":' + params + b"}"
        assert json.loads(e.prefill.inference()[0].body)["sampling_params"] == {"max_tokens": 1}


def test_the_openai_sdk_sees_nothing_of_two_prefill_and_two_decode_engines():
    if openai is None:
        raise Skip("the OpenAI SDK is not installed (tools/setup.sh)")
    with Pair("nixlv2") as pair:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{pair.port}/v1", api_key="x",
                               max_retries=0, timeout=20)
        count = 200 if SOAK else 20
        for i in range(count):
            messages = [{"role": "user", "content": f"{i} " + "tell me of rivers " * 60}]
            whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
            parts = list(client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=6, stream=True,
                stream_options={"include_usage": True}))
            text = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
            assert text == whole.choices[0].message.content and text
            assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 6
            done = client.completions.create(model="tiny", prompt=messages[0]["content"],
                                             max_tokens=3)
            assert done.choices[0].finish_reason == "length"
            answer = client.responses.create(model="tiny", input=messages[0]["content"],
                                             max_output_tokens=4)
            assert answer.output_text
        client.close()
        books = pair.books()
        assert books["prefills"] == books["decodes"] == books["transfers"] == 4 * count, books
        assert all(pair.books(side)[k] for side, k in (("prefill", "prefills"),
                                                       ("decode", "decodes")))
        pair.nothing_held()


if __name__ == "__main__":
    main(globals())
