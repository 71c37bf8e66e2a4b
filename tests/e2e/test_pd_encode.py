# SPDX-License-Identifier: Apache-2.0
"""The encode stage: media parts go to encode pods, their words into the next leg."""
import json

from harness import Gateway, Sim, eventually, get, main, post
from pd_tools import Tap

IMAGE = '{ "type": "image_url", "image_url": {"url": "data:image/png;base64,' + "iVBOR" * 9000 + '"} }'
AUDIO = '{"input_audio":{"data":"UklGR\\u00e9\\"}","format":"wav"},"type":"input_audio"}'
VIDEO = '{"type":"video_url","video_url":{"url":"http://v/\\\\"}}'
TEXT = '{"type":"text","text":"look { at \\"type\\": \\"image_url\\" }"}'


def body(*parts, stream="false"):
    return ('{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":[' +
            ",".join(parts) + ']}],"model":"tiny","max_tokens":4,"stream":' + stream + "}")


class Pods:
    def __init__(self, roles, *flags):
        self.roles = roles
        self.sim = Sim("--kv-connector", "nixlv2", "--time-scale", "50", "--kv-cache-size",
                       "1000000", instances=len(roles))
        self.taps = [Tap(p) for p in self.sim.ports]
        self.gateway = Gateway([f"{t.address},role={r}" for t, r in zip(self.taps, roles)],
                               "--pd-decider", "always", "--probe-interval", "60s",
                               "--connect-timeout", "20s", *flags)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.gateway.__exit__(*exc)
        if exc[0]:
            print("---- the engines said:\n" + self.sim.output()[-2000:])
        self.sim.stop()
        for t in self.taps:
            t.stop()

    def of(self, role):
        """Bodies that the pods of a role were sent."""
        return [b.decode() for t, r in zip(self.taps, self.roles) if r == role
                for _, b in t.exchanges()]

    def books(self, key):
        total = 0
        for port in self.sim.ports:
            try:
                total += get(port, "/sim/kv").json()[key]
            except OSError:  # it was told to refuse
                pass
        return total

    def fail(self, what, count=1, leg="encode"):
        for port, role in zip(self.sim.ports, self.roles):
            if role == leg:
                post(port, "/sim/fail", {"leg": leg, "what": what, "count": count})


def ask(pods, text, stream="false"):
    answer = post(pods.gateway.port, "/v1/chat/completions", text.encode())
    assert answer.status == 200 and b'"error"' not in answer.body, answer.body[:300]
    return answer


def envelope(part):
    return ('{"model":"tiny","messages":[{"role":"user","content":[' + part +
            ']}],"max_tokens":1,"stream":false}')


def merged(pods, sent):
    """What the encode pods answered, in the order of the parts, as one object."""
    answers = {}
    for tap, role in zip(pods.taps, pods.roles):
        if role != "encode":
            continue
        for flow in tap.flows:
            text = bytes(flow[1]).decode()
            at = 0
            while (at := text.find('"ec_transfer_params":{', at)) >= 0:
                at += len('"ec_transfer_params":')
                value, end = json.JSONDecoder().raw_decode(text, at)
                answers[list(value)[0]] = text[at + 1:end - 1]
                at = end
    names = [n for n in answers if n in sent]
    return "{" + ",".join(sorted((answers[n] for n in names), key=sent.index)) + "}"


def test_each_part_goes_to_an_encode_pod_and_its_words_to_the_prefill():
    with Pods(("encode", "encode", "prefill", "decode")) as pods:
        for stream in ("false", "true"):
            for tap in pods.taps:
                tap.clear()
            text = body(TEXT, IMAGE, AUDIO, TEXT, VIDEO, stream=stream)
            ask(pods, text)
            assert sorted(pods.of("encode")) == sorted(map(envelope, (IMAGE, AUDIO, VIDEO)))
            (prefill,), (decode,) = pods.of("prefill"), pods.of("decode")
            assert prefill.endswith(',"ec_transfer_params":' + merged(pods, prefill) + "}"), \
                prefill[-900:]
            assert len(json.loads(prefill)["ec_transfer_params"]) == 3
            assert decode.startswith(text[:-1] + ',"kv_transfer_params":'), decode[-900:]
            assert "ec_transfer_params" not in decode
        assert pods.books("encodes") == 6 and pods.books("ec_used") == 6
        assert pods.gateway.metric("sluice_pd_encode_seconds_count") == 6


def test_without_prefill_pods_the_decode_pod_gets_the_words():
    with Pods(("encode", "prefill-decode")) as pods:
        text = body(IMAGE, TEXT)
        ask(pods, text)
        (decode,) = pods.of("prefill-decode")
        assert decode == text[:-1] + ',"ec_transfer_params":' + merged(pods, decode) + "}"
        assert pods.books("ec_used") == 1
        ask(pods, body(TEXT))  # no media: no stage
        assert pods.books("encodes") == 1


def test_anthropic_and_responses_parts_keep_their_api():
    with Pods(("encode", "prefill", "decode")) as pods:
        part = '{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aGk="}}'
        text = '{"model":"tiny","max_tokens":4,"messages":[{"role":"user","content":[' + part + "]}]}"
        assert post(pods.gateway.port, "/v1/messages", text.encode()).status == 200
        part = '{"type":"input_image","image_url":"data:image/png;base64,aGk="}'
        text = '{"model":"tiny","input":[{"role":"user","content":[' + part + ',{"type":"input_text","text":"x"}]}]}'
        assert post(pods.gateway.port, "/v1/responses", text.encode()).status == 200
        heads = [h.split(" ")[1] for h, _ in pods.taps[0].exchanges()]
        assert heads == ["/v1/messages", "/v1/responses"], heads
        assert pods.of("encode")[1] == ('{"model":"tiny","input":[{"role":"user","content":[' + part +
                                        ']}],"max_output_tokens":1,"stream":false}')
        assert pods.books("ec_used") == 2


def test_a_part_that_no_pod_encodes_is_left_to_the_next_leg():
    for what in ("reset", "hang", "status-500", "status-503", "status-400", "no-params", "refused"):
        with Pods(("encode", "encode", "prefill", "decode"), "--pd-prefill-timeout",
                  "700ms" if what == "hang" else "20s") as pods:
            pods.fail(what, count=100)
            ask(pods, body(IMAGE, AUDIO))
            assert pods.books("ec_used") == 0, what
            assert pods.books("encoded_here") >= 2, what
            assert pods.gateway.metric("sluice_pd_leg_failures_total", leg="encode") >= 2, what
            (decode,) = pods.of("decode")
            assert "kv_transfer_params" in decode
        with Pods(("encode", "prefill", "decode"), "--pd-prefill-timeout",
                  "1500ms" if what == "hang" else "20s") as pods:
            if what == "refused":
                continue
            pods.fail(what, count=1)
            ask(pods, body(IMAGE, AUDIO))  # one of both parts is still encoded
            assert pods.books("ec_used") == 1, what


def test_more_parts_than_the_limit_are_served():
    with Pods(("encode", "prefill", "decode")) as pods:
        ask(pods, body(*(AUDIO.replace("wav", f"wav{i}") for i in range(20))))
        assert pods.books("encodes") == 16 and pods.books("ec_used") == 16
        assert pods.gateway.metric("sluice_pd_encode_left_total") == 4


def test_a_client_that_leaves_ends_the_encode_legs():
    with Pods(("encode", "prefill", "decode")) as pods:
        pods.fail("hang", count=2)
        try:
            post(pods.gateway.port, "/v1/chat/completions", body(IMAGE, AUDIO).encode(), timeout=0.3)
            raise AssertionError("nobody should have answered")
        except TimeoutError:
            pass
        eventually("all bytes are given back",
                   lambda: pods.gateway.metric("sluice_buffered_bytes") == 0)
        assert pods.gateway.metric("sluice_client_left_total") == 1
        ask(pods, body(IMAGE, AUDIO))


if __name__ == "__main__":
    main(globals())
