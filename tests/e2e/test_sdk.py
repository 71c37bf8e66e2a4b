# SPDX-License-Identifier: Apache-2.0
"""The official OpenAI SDK through the gateway, before an engine that speaks real vLLM bytes."""
import asyncio
import json

from harness import Gateway, Skip, eventually, free_port, main
from replay import SPLITS, Replay, dies_in_stream, fixture, hang, payload, relength, status

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
                                    **{"timeout": 20, "max_retries": 0, **client})

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


# ---- more of the API ----------------------------------------------------------------------------

OK_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"


def sse(*said, end=b"data: [DONE]\n\n"):
    """A stream in vLLM's framing: one chunk an event."""
    rows = [b"data: " + json.dumps(e).encode() + b"\n\n" for e in said] + [end]
    return (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n" +
            b"".join(b"%x\r\n%s\r\n" % (len(r), r) for r in rows) + b"0\r\n\r\n")


def raises(kind, act):
    try:
        act()
    except kind as err:
        return err
    raise AssertionError(f"no {kind.__name__}")


def test_every_api_survives_every_split():
    for split in SPLITS:
        with Pair() as p:
            p.engine.split = split
            c = p.client
            assert c.chat.completions.create(
                model="tiny", messages=MESSAGES).id == truth("chat")["id"], split
            got = list(c.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))
            assert [g.id for g in got] == [e["id"] for e in events("chat_stream_usage")], split
            assert c.completions.create(
                model="tiny", prompt="a").id == truth("completions")["id"], split
            got = list(c.completions.create(model="tiny", prompt="a", stream=True))
            assert len(got) == len(events("completions_stream")), split
            assert c.responses.create(model="tiny", input="a").id == truth("responses")["id"]
            got = list(c.responses.create(model="tiny", input="a", stream=True))
            assert [e.type for e in got] == [e["type"] for e in events("responses_stream")], split


def test_tool_calls_in_a_stream_come_piece_by_piece():
    def delta(**what):
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
                "model": "tiny", "choices": [{"index": 0, "delta": what, "logprobs": None,
                                              "finish_reason": what.pop("finish", None)}]}
    pieces = ["{\"ci", "ty\": \"K", "\u00f6ln \U0001f300\"", "}"]
    answer = sse(delta(role="assistant", content=""), *[
        delta(tool_calls=[{"index": 0, "function": {"arguments": x}, **(
            {"id": "call_1", "type": "function"} if not i else {})}])
        for i, x in enumerate(pieces)], delta(finish="tool_calls"))
    with Pair() as p:
        for split in SPLITS:
            p.engine.split = split
            p.engine.answers[("POST", "/v1/chat/completions")] = answer
            got = p.client.chat.completions.create(
                model="tiny", messages=MESSAGES, stream=True, tool_choice="auto",
                tools=[{"type": "function", "function": {"name": "weather", "parameters": {}}}])
            said, ends = "", []
            for chunk in got:
                for call in chunk.choices[0].delta.tool_calls or []:
                    said += call.function.arguments
                ends.append(chunk.choices[0].finish_reason)
            assert json.loads(said) == {"city": "K\u00f6ln \U0001f300"}, (split, said)
            assert ends[-1] == "tool_calls"


def test_a_conversation_with_tools_images_and_parts_reaches_the_engine_as_it_is():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "What is this? \u00e9\U0001f600 \"\\ \n"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "[1, 2]"}]
    more = {"temperature": 0.5, "stop": ["a", "b"], "logit_bias": {"5": -100}, "seed": 7,
            "response_format": {"type": "json_object"}, "user": "someone"}
    with Pair() as p:
        p.client.chat.completions.create(model="tiny", messages=messages, **more,
                                         extra_body={"top_k": 5, "chat_template_kwargs": {"a": 1}})
        sent = p.engine.inference()[0].json()
        assert sent["messages"] == messages
        assert {k: sent[k] for k in more} == more
        assert sent["top_k"] == 5 and sent["chat_template_kwargs"] == {"a": 1}


def test_gateway_members_in_extra_body_are_cut():
    with Pair() as p:
        p.client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={
            "kv_transfer_params": {"do_remote_prefill": True}, "top_k": 1})
        sent = p.engine.inference()[0].json()
        assert "kv_transfer_params" not in sent and sent["top_k"] == 1


def test_several_choices_with_logprobs():
    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = fixture("chat_n2_logprobs")
        got = p.client.chat.completions.create(model="tiny", messages=MESSAGES, n=2, logprobs=True)
        want = truth("chat_n2_logprobs")
        assert [c.message.content for c in got.choices] == [
            c["message"]["content"] for c in want["choices"]]
        assert got.choices[1].logprobs.content[0].logprob == want["choices"][1]["logprobs"][
            "content"][0]["logprob"]


def test_completions_of_token_ids_and_of_two_prompts():
    for name, prompt in (("completions_ids", [1, 2, 3]), ("completions_two_prompts", ["a", "b"])):
        with Pair() as p:
            p.engine.answers[("POST", "/v1/completions")] = fixture(name)
            got = p.client.completions.create(model="tiny", prompt=prompt)
            assert [c.text for c in got.choices] == [c["text"] for c in truth(name)["choices"]]
            assert p.engine.inference()[0].json()["prompt"] == prompt


def test_a_model_can_be_retrieved_by_name():
    with Pair() as p:
        eventually("it is known", lambda: [m.id for m in p.client.models.list()])
        assert p.client.models.retrieve("tiny").id == "tiny"
        raises(openai.NotFoundError, lambda: p.client.models.retrieve("nope"))


def test_the_request_id_is_what_the_sdk_shows():
    with Pair() as p:
        got = p.client.chat.completions.create(model="tiny", messages=MESSAGES)
        assert got._request_id == p.engine.inference()[0].field("x-request-id")
        got = p.client.chat.completions.create(model="tiny", messages=MESSAGES,
                                               extra_headers={"x-request-id": "mine"})
        assert got._request_id == "mine"


def test_a_stream_that_breaks_is_an_error_and_never_an_end():
    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = dies_in_stream
        stream = p.client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        seen = []
        err = raises(openai.APIError, lambda: seen.extend(iter_into(stream, seen)))
        assert seen and "failed in the middle" in err.message, (seen, err)


def iter_into(stream, seen):
    for chunk in stream:
        seen.append(chunk)
    return []


def test_a_responses_stream_that_breaks_is_an_error():
    answer = fixture("responses_stream")

    def dies(conn, _):
        conn.sendall(answer[:len(answer) // 2])
        return "close"
    with Pair() as p:
        p.engine.answers[("POST", "/v1/responses")] = dies
        stream = p.client.responses.create(model="tiny", input="a", stream=True)
        seen = []
        err = raises(openai.APIError, lambda: seen.extend(iter_into(stream, seen)))
        assert seen and "failed in the middle" in err.message, (seen, err)


def test_errors_have_the_class_that_the_sdk_gives_them():
    with Pair("--response-timeout", "200ms", "--body-bytes-max", "100000") as p:
        eventually("the models are known", lambda: list(p.client.models.list()))
        chat = p.client.chat.completions.create
        path = ("POST", "/v1/chat/completions")
        for answer, kind in ((status(401, "Unauthorized"), openai.AuthenticationError),
                             (status(403, "Forbidden"), openai.PermissionDeniedError),
                             (status(409, "Conflict"), openai.ConflictError),
                             (status(422, "Unprocessable"), openai.UnprocessableEntityError),
                             (status(429, "TooMany", "slow down"), openai.RateLimitError),
                             (fixture("error_missing_messages"), openai.BadRequestError),
                             (hang, openai.InternalServerError)):
            p.engine.answers[path] = answer
            err = raises(kind, lambda: chat(model="tiny", messages=MESSAGES))
            assert err.body["message"], err
        del p.engine.answers[path]
        big = [{"role": "user", "content": "x" * 200000}]
        err = raises(openai.APIStatusError, lambda: chat(model="tiny", messages=big))
        assert err.status_code == 413, err
        err = raises(openai.BadRequestError, lambda: chat(model=7, messages=MESSAGES))
        assert "model" in err.message
        err = raises(openai.NotFoundError,
                     lambda: p.client.responses.create(model="nope", input="a"))
        assert "nope" in err.message
        err = raises(openai.NotFoundError, lambda: p.client.audio.speech.create(
            model="tiny", voice="alloy", input="a"))


def test_the_sdk_retries_what_the_gateway_calls_busy():
    with Pair(max_retries=4) as p:
        path = ("POST", "/v1/chat/completions")

        def well_again(conn, request):
            del p.engine.answers[path]
            conn.sendall(fixture("rejected"))
        p.engine.answers[path] = well_again
        got = p.client.chat.completions.create(model="tiny", messages=MESSAGES)
        assert got.id == truth("chat")["id"]
        assert len(p.engine.inference()) == 2


def test_nobody_listening_is_a_connection_error():
    if openai is None:
        raise Skip("the OpenAI SDK is not installed (tools/setup.sh)")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{free_port()}/v1", api_key="k",
                           max_retries=0)
    raises(openai.APIConnectionError,
           lambda: client.chat.completions.create(model="tiny", messages=MESSAGES))


def test_many_at_once_get_each_its_own_answer():
    def own(conn, request):
        said = request.json()["messages"][0]["content"]
        event = {"id": said, "object": "chat.completion.chunk", "created": 1, "model": "tiny",
                 "choices": [{"index": 0, "delta": {"content": said}, "finish_reason": None}]}
        if request.json().get("stream"):
            conn.sendall(sse(*[event] * 20))
            return None
        whole = {**truth("chat"), "id": said}
        conn.sendall(relength(OK_JSON + json.dumps(whole).encode()))
        return None

    async def crowd(p):
        client = openai.AsyncOpenAI(base_url=p.gw.base + "/v1", api_key="k", max_retries=0,
                                    timeout=60)

        async def one(i):
            said = [{"role": "user", "content": f"number {i} " + "z" * (i * 37 % 5000)}]
            if i % 2:
                got = await client.chat.completions.create(model="tiny", messages=said)
                return got.id == said[0]["content"]
            stream = await client.chat.completions.create(model="tiny", messages=said, stream=True)
            got = [c async for c in stream]
            return len(got) == 20 and all(c.id == said[0]["content"] for c in got)
        good = await asyncio.gather(*[one(i) for i in range(200)])
        await client.close()
        return good

    with Pair("--workers", "2") as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = own
        assert all(asyncio.run(crowd(p)))


def test_a_cancelled_task_ends_its_request_at_the_engine():
    async def cancel(p):
        client = openai.AsyncOpenAI(base_url=p.gw.base + "/v1", api_key="k", max_retries=0)
        task = asyncio.create_task(client.chat.completions.create(model="tiny", messages=MESSAGES))
        while not p.engine.inference():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()

    with Pair() as p:
        p.engine.answers[("POST", "/v1/chat/completions")] = hang
        asyncio.run(cancel(p))
        assert p.engine.gone.wait(10), "the engine's connection stayed open"


main(globals()) if __name__ == "__main__" else None
