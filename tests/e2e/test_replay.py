# SPDX-License-Identifier: Apache-2.0
"""Real vLLM bytes, cut at awkward places, reach the client unaltered inside our own framing."""
import sys

import replay
from harness import Gateway, main, post, raw
from replay import Replay, fixture, fixture_request_body, payload

EXCHANGES = (
    ("/v1/chat/completions", "chat"),
    ("/v1/chat/completions", "chat_stream"),
    ("/v1/chat/completions", "chat_stream_usage"),
    ("/v1/completions", "completions"),
    ("/v1/completions", "completions_stream"),
    ("/v1/responses", "responses"),
    ("/v1/responses", "responses_stream"),
    ("/v1/messages", "messages"),
    ("/v1/messages", "messages_stream"),
    ("/tokenize", "tokenize_chat"),
    ("/v1/chat/completions", "error_context_length"),
    ("/v1/embeddings", "embeddings_unsupported"),
    ("/v1/chat/completions", "chat_n2_logprobs"),
    ("/v1/completions", "completions_ids"),
    ("/v1/completions", "completions_two_prompts"),
    ("/detokenize", "detokenize"),
    ("/v1/messages/count_tokens", "messages_count_tokens"),
    ("/v1/chat/completions", "error_missing_messages"),
    ("/v1/completions", "error_negative"),
    ("/v1/completions", "error_max_tokens"),
)


def check_exchange(gw, engine, path, name):
    answer = fixture(name)
    engine.clear()
    engine.answers[("POST", path)] = answer
    body = fixture_request_body(name)
    got = post(gw.port, path, body)
    want, _ = payload(answer)
    status = int(answer.split(b" ", 2)[1])
    assert got.status == status, (name, got.status, status, got.body[:300])
    assert got.complete, name
    assert got.body == want, (name, got.body, want)
    assert got.headers["x-gateway-destination-endpoint-served"] == engine.address, got.headers
    assert got.headers["x-request-id"], got.headers
    reached = engine.inference()
    assert len(reached) == 1, [r.target for r in reached]
    assert reached[0].body == body, (name, reached[0].body, body)


def at_split(split):
    engine = Replay(split)
    with Gateway([engine]) as gw:
        for path, name in EXCHANGES:
            check_exchange(gw, engine, path, name)
    engine.stop()


def test_answers_in_one_piece_arrive_unaltered():
    at_split("whole")


def test_answers_one_byte_at_a_time_arrive_unaltered():
    at_split("byte")


def test_answers_cut_between_cr_and_lf_arrive_unaltered():
    at_split("crlf")


def test_heads_that_come_before_bodies_arrive_unaltered():
    at_split("head")


def test_answers_cut_inside_events_arrive_unaltered():
    at_split("events")


def test_answers_in_sevens_arrive_unaltered():
    at_split("seven")


def test_requests_one_byte_at_a_time_reach_the_engine_unaltered():
    import socket
    engine = Replay()
    with Gateway([engine]) as gw:
        request = fixture("chat", "request")
        with socket.create_connection(("127.0.0.1", gw.port)) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(len(request)):
                s.sendall(request[i:i + 1])
            out = b""
            while got := s.recv(65536):
                out += got
        assert payload(out)[0] == payload(fixture("chat"))[0], out[:300]
        assert engine.inference()[0].body == fixture_request_body("chat")
    engine.stop()


main(globals()) if __name__ == "__main__" else None
