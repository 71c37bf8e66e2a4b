# SPDX-License-Identifier: Apache-2.0
"""The official OpenAI SDK through the gateway, before an engine that speaks real vLLM bytes."""
import json

from harness import Gateway, Skip, eventually, main
from replay import Replay, fixture, hang, payload, relength, status

try:
    import openai
except ImportError:
    openai = None

MESSAGES = [{"role": "user", "content": "Say something about rivers."}]


class Pair:
    """An engine, a gateway before it and an SDK client."""

    def __init__(self, *flags, **client):
        if openai is None:
            raise Skip("the OpenAI SDK is not installed (tools/setup.sh)")
        self.engine = Replay()
        self.gw = Gateway([self.engine], *flags)
        self.client = openai.OpenAI(base_url=self.gw.base + "/v1", api_key="sk-test",
                                    max_retries=0, **{"timeout": 20, **client})

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.client.close()
        self.gw.__exit__(*exc)
        self.engine.stop()


def truth(name):
    return json.loads(payload(fixture(name))[0])


def events(name):
    lines = payload(fixture(name))[0].split(b"\n")
    return [json.loads(x[6:]) for x in lines if x.startswith(b"data: {")]


def test_chat():
    with Pair() as p:
        got = p.client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8)
        want = truth("chat")
        assert got.choices[0].message.content == want["choices"][0]["message"]["content"]
        assert got.usage.total_tokens == want["usage"]["total_tokens"]
        sent = p.engine.inference()[0]
        assert sent.field("authorization") == "Bearer sk-test"
        assert sent.json()["messages"] == MESSAGES


def test_chat_streamed_with_usage():
    with Pair() as p:
        stream = p.client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True,
                                                  stream_options={"include_usage": True})
        got = list(stream)
        want = events("chat_stream_usage")
        assert len(got) == len(want)
        text = "".join(c.choices[0].delta.content or "" for c in got if c.choices)
        assert text == "".join(e["choices"][0]["delta"].get("content") or ""
                               for e in want if e["choices"])
        assert got[-1].usage.completion_tokens == want[-1]["usage"]["completion_tokens"]


def test_tools_reach_the_engine_and_their_calls_come_back():
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}}}}]
    answer = truth("chat")
    answer["choices"][0]["finish_reason"] = "tool_calls"
    answer["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function",
         "function": {"name": "weather", "arguments": "{\"city\": \"K\\u00f6ln\"}"}}]}
    body = json.dumps(answer).encode()
    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = relength(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
            + body)
        got = p.client.chat.completions.create(model="tiny", messages=MESSAGES, tools=tools)
        call = got.choices[0].message.tool_calls[0]
        assert json.loads(call.function.arguments) == {"city": "Köln"}
        assert p.engine.inference()[0].json()["tools"] == tools


def test_completions():
    with Pair() as p:
        got = p.client.completions.create(model="tiny", prompt="Once", max_tokens=8)
        assert got.choices[0].text == truth("completions")["choices"][0]["text"]


def test_completions_streamed():
    with Pair() as p:
        got = list(p.client.completions.create(model="tiny", prompt="Once", stream=True))
        want = events("completions_stream")
        assert [c.choices[0].text for c in got if c.choices] == [
            e["choices"][0]["text"] for e in want if e["choices"]]


def test_responses():
    with Pair() as p:
        got = p.client.responses.create(model="tiny", input="Say something.")
        assert got.id == truth("responses")["id"]


def test_responses_streamed():
    with Pair() as p:
        got = list(p.client.responses.create(model="tiny", input="Say something.", stream=True))
        assert [e.type for e in got] == [e["type"] for e in events("responses_stream")]


def test_embeddings():
    body = json.dumps({"object": "list", "model": "tiny", "data": [
        {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()
    with Pair() as p:
        p.engine.answers[("POST", "/v1/embeddings")] = relength(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
            + body)
        got = p.client.embeddings.create(model="tiny", input="abc", encoding_format="float")
        assert got.data[0].embedding == [0.5, -0.25]


def test_embeddings_that_the_engine_does_not_offer():
    with Pair() as p:
        try:
            p.client.embeddings.create(model="tiny", input="abc", encoding_format="float")
        except openai.APIStatusError as err:
            assert err.status_code == int(fixture("embeddings_unsupported").split(b" ", 2)[1])
        else:
            raise AssertionError("no error")


def test_models():
    with Pair() as p:
        eventually("the model is listed",
                   lambda: [m.id for m in p.client.models.list()] == ["tiny"])


def test_an_unknown_model_is_refused_in_the_words_of_vllm():
    with Pair() as p:
        eventually("the models are known", lambda: list(p.client.models.list()))
        p.engine.clear()
        try:
            p.client.chat.completions.create(model="nope", messages=MESSAGES)
        except openai.NotFoundError as err:
            assert "The model `nope` does not exist" in err.message, err.message
            assert err.body["type"] == "NotFoundError", err.body
        else:
            raise AssertionError("no error")
        assert not p.engine.inference()


def test_a_client_error_of_the_engine_is_passed_on():
    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = fixture("error_context_length")
        try:
            p.client.chat.completions.create(model="tiny", messages=MESSAGES)
        except openai.BadRequestError as err:
            assert err.body["message"] == truth("error_context_length")["error"]["message"]
        else:
            raise AssertionError("no error")


def test_a_server_error_of_the_engine_is_passed_on():
    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = status(500, "InternalServerError")
        try:
            p.client.chat.completions.create(model="tiny", messages=MESSAGES)
        except openai.InternalServerError as err:
            assert err.status_code == 500
        else:
            raise AssertionError("no error")
        assert len(p.engine.inference()) == 1


def test_a_client_that_times_out_ends_the_request_at_the_engine():
    with Pair(timeout=0.5) as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = hang
        try:
            p.client.chat.completions.create(model="tiny", messages=MESSAGES)
        except openai.APITimeoutError:
            pass
        else:
            raise AssertionError("no timeout")
        assert p.engine.gone.wait(10), "the engine's connection stayed open"


def test_a_client_that_leaves_a_stream_ends_it_at_the_engine():
    def endless(conn, _):
        raw = fixture("chat_stream")
        conn.sendall(raw[:raw.index(b"data:", 900) - 5])
        hang(conn, None)

    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = endless
        stream = p.client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        next(iter(stream))
        stream.close()
        assert p.engine.gone.wait(10), "the engine's connection stayed open"


main(globals()) if __name__ == "__main__" else None
