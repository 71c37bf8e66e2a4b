# SPDX-License-Identifier: Apache-2.0
"""Engines that are dead, hung or lying: no request fails that another engine could serve."""
import concurrent.futures
import json
import re
import signal
import socket
import threading

import replay
from harness import Gateway, Sim, chat, eventually, free_port, get, main, post, raw
from replay import Replay, fixture, payload, split_head

PATH = "/v1/chat/completions"
WANT = payload(fixture("chat"))[0]
WANT_STREAM = payload(fixture("chat_stream_usage"))[0]


def hang_whole(conn, request):
    """Takes the request and says nothing; the test's end frees it."""
    try:
        return replay.hang(conn, request)
    except OSError:
        return "close"


def alone(act, *flags, body=None):
    """The answer when the only engine misbehaves."""
    engine = Replay(otherwise=act)
    with Gateway([engine], *flags) as gw:
        got = post(gw.port, PATH, body or chat())
        reached = len(engine.inference())
    engine.stop()
    return got, reached, None


def is_an_error(got):
    assert 500 <= got.status <= 504, (got.status, got.body[:200])
    assert got.json()["error"]["message"], got.body


def among_eight(act, requests=64, flags=()):
    """One engine misbehaves, seven do not: every request is answered whole."""
    bad = Replay(otherwise=act) if callable(act) or isinstance(act, bytes) else None
    good = [Replay() for _ in range(7)]
    address = bad.address if bad else f"127.0.0.1:{free_port()}"
    with Gateway([*good[:3], address, *good[3:]], *flags) as gw:
        def one(i):
            stream = i % 2 == 1
            got = post(gw.port, PATH, chat(f"question {i} " * 20, stream=stream))
            want = WANT_STREAM if stream else WANT
            return (got.status == 200 and got.complete and got.body == want,
                    got.status, got.body[:200])
        if bad:  # an engine of unknown load is picked last
            eventually("its load is known", lambda: all(
                e["load_age_ms"] is not None
                for e in get(gw.admin, "/state/endpoints").json()["endpoints"]))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            failed = [r for r in pool.map(one, range(requests)) if not r[0]]
        assert not failed, (len(failed), failed[:3])
    for e in good:
        e.stop()
    if bad:
        seen = len(bad.inference())
        bad.stop()
        return seen
    return 0


def test_a_dead_endpoint_among_eight_fails_no_request():
    among_eight(None)


def test_a_resetting_endpoint_among_eight_fails_no_request():
    assert among_eight(replay.reset) > 0, "it was never tried"


def test_an_endpoint_that_closes_among_eight_fails_no_request():
    assert among_eight(replay.close_silently) > 0


def test_a_half_closing_endpoint_among_eight_fails_no_request():
    assert among_eight(replay.half_close) > 0


def test_an_endpoint_of_garbage_among_eight_fails_no_request():
    assert among_eight(replay.garbage) > 0


def test_an_endpoint_with_two_lengths_among_eight_fails_no_request():
    assert among_eight(replay.lying_twice) > 0


def test_an_endpoint_with_length_and_chunks_among_eight_fails_no_request():
    assert among_eight(replay.lying_both) > 0


def test_an_endpoint_of_503_among_eight_fails_no_request():
    assert among_eight(replay.status(503, "ServiceUnavailable")) > 0


def test_an_endpoint_with_a_hundred_megabyte_head_among_eight_fails_no_request():
    assert among_eight(replay.huge_head, requests=32) > 0


def test_a_hung_endpoint_among_eight_fails_no_request():
    assert among_eight(replay.hang, flags=("--response-timeout", "2s")) > 0


def test_a_dead_a_hung_and_a_lying_endpoint_among_eight_fail_no_request():
    kinds = (replay.garbage, replay.lying_both, replay.reset, replay.half_close,
             replay.says(replay.status(503, "No")), replay.lying_twice)

    def lies(conn, request):
        return kinds[len(engines["lying"].inference()) % len(kinds)](conn, request)
    engines = {"hung": Replay(otherwise=hang_whole), "lying": Replay(otherwise=lies)}
    good = [Replay() for _ in range(5)]
    dead = f"127.0.0.1:{free_port()}"
    everyone = [good[0], dead, good[1], engines["hung"], good[2], engines["lying"], *good[3:]]
    with Gateway(everyone, "--response-timeout", "2s", "--scheduler-profile",
                 "random-picker") as gw:
        def one(i):
            stream = i % 2 == 1
            got = post(gw.port, PATH, chat(f"question {i} " * 20, stream=stream))
            return (got.status == 200 and got.complete and
                    got.body == (WANT_STREAM if stream else WANT), got.status, got.body[:200])
        engines["hung"].answers[("GET", "/health")] = hang_whole
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            failed = [r for r in pool.map(one, range(200)) if not r[0]]
        assert not failed, (len(failed), failed[:3])
        assert engines["hung"].inference() and engines["lying"].inference()
    for e in (*good, *engines.values()):
        e.stop()


def test_engines_killed_under_load_cost_only_what_had_begun():
    """Real processes, killed with SIGKILL and started again: streams that had begun are told."""
    sims = [Sim("--max-num-seqs", "64") for _ in range(3)]
    with Gateway([s.endpoints[0] for s in sims], "--probe-interval", "50ms") as gw:
        outcomes, over = [], threading.Event()

        def ask(k):
            n = 0
            while not over.is_set():
                n += 1
                body = json.dumps(chat(f"{k} {n} " * 20, stream=True, max_tokens=64)).encode()
                out = raw(gw.port, b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                          b"Content-Length: %d\r\n\r\n" % (PATH.encode(), len(body)) + body)
                got, complete = payload(out)
                status = int(out.split(b" ")[1])
                whole = complete and got.endswith(b"data: [DONE]\n\n")
                told = not complete and b'data: {"error":' in got
                outcomes.append((status, whole, told, got[-200:]))
        threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
        [t.start() for t in threads]
        eventually("requests run", lambda: len(outcomes) > 20)
        sims[0].stop()
        eventually("they go on", lambda: len(outcomes) > 60)
        sims[1].popen.send_signal(signal.SIGSTOP)  # hangs: accepts, but says nothing
        eventually("its probe fails", lambda: gw.metric("sluice_probes_failed_total") > 3)
        sims[1].stop()
        before = len(outcomes)
        eventually("they go on still", lambda: len(outcomes) > before + 40)
        over.set()
        [t.join(60) for t in threads]
        bad = [o for o in outcomes if not (o[0] == 200 and (o[1] or o[2]))]
        assert not bad, (len(bad), len(outcomes), bad[:3])
    for s in sims:
        s.stop()


def test_an_endpoint_that_does_not_accept_is_left_after_the_connect_timeout():
    # A listener with a full backlog: the SYN is never answered.
    server = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = "127.0.0.1:%d" % server.getsockname()[1]
    fillers = []
    for _ in range(8):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(server.getsockname())
        fillers.append(s)
    good = Replay()
    with Gateway([address, good], "--connect-timeout", "200ms") as gw:
        for i in range(12):
            got = post(gw.port, PATH, chat(f"n {i}"))
            assert got.status == 200 and got.body == WANT, (i, got.status, got.body[:200])
    for s in fillers:
        s.close()
    server.close()
    good.stop()


def test_refused_alone_is_an_error_with_a_cause():
    with Gateway([f"127.0.0.1:{free_port()}"], ready=False) as gw:
        def answered():
            try:
                return post(gw.port, PATH, chat())
            except OSError:
                return None
        is_an_error(eventually("an answer", answered))


def test_a_reset_alone_is_an_error_with_a_cause():
    is_an_error(alone(replay.reset)[0])


def test_garbage_alone_is_an_error_with_a_cause():
    is_an_error(alone(replay.garbage)[0])


def test_a_huge_head_alone_is_an_error_with_a_cause():
    is_an_error(alone(replay.huge_head)[0])


def test_a_truncated_answer_never_looks_complete():
    got, _, _ = alone(replay.truncated)
    assert not (got.status == 200 and got.complete), got.body[:100]


def test_bytes_after_the_answer_never_reach_another_client():
    engine = Replay(otherwise=replay.over_long)
    with Gateway([engine]) as gw:
        for _ in range(20):
            got = post(gw.port, PATH, chat())
            assert got.status == 200 and got.body == b"{}", (got.status, got.body)
    engine.stop()


def test_a_bad_chunk_never_looks_complete():
    got, _, _ = alone(replay.bad_chunk)
    assert not (got.status == 200 and got.complete), (got.status, got.body)


def test_interim_answers_are_dropped():
    got, _, _ = alone(replay.interim)
    assert got.status == 200 and got.body == WANT, (got.status, got.body[:200])


def test_204_is_passed_on_and_the_connection_is_kept():
    got, _, _ = alone(replay.no_content)
    assert got.status == 204 and got.body == b"", (got.status, got.body)


def test_a_client_error_is_never_retried():
    engines = [Replay(otherwise=replay.status(422, "Unprocessable")) for _ in range(3)]
    with Gateway(engines) as gw:
        assert post(gw.port, PATH, chat()).status == 422
        assert sum(len(e.inference()) for e in engines) == 1
    [e.stop() for e in engines]


def test_500_is_never_retried_unless_asked_for():
    for flags, want in (((), 1), (("--retry-500",), 3)):
        engines = [Replay(otherwise=replay.status(500, "Oops")) for _ in range(3)]
        with Gateway(engines, *flags) as gw:
            assert post(gw.port, PATH, chat()).status == 500
            tries = sum(len(e.inference()) for e in engines)
            assert tries == want, (flags, tries)
        [e.stop() for e in engines]


def test_a_stream_whose_first_event_is_an_error_goes_elsewhere():
    assert among_eight(fixture("decode_stream_unreachable")) > 0


def test_a_first_event_error_alone_is_a_failed_head():
    got, _, _ = alone(fixture("decode_stream_unreachable"), body=chat(stream=True))
    assert got.status >= 500, (got.status, got.body)
    assert b"error" in got.body


def test_an_endpoint_that_dies_in_mid_stream_is_told_to_the_client():
    for act in (replay.dies_in_stream, replay.resets_in_stream):
        got, _, _ = alone(act, body=chat(stream=True))
        assert got.status == 200
        assert not got.complete, "the cut stream looks complete"
        events = [e for e in got.body.split(b"\n\n") if e.strip()]
        last = events[-1].strip()
        assert last.startswith(b"data: {"), last
        assert json.loads(last[6:])["error"]["message"], last
        assert b"[DONE]" not in got.body


def cut_stream(gw, at):
    """A stream whose engine dies after `at` bytes of its answer: (status, payload, complete)."""
    body = json.dumps(chat(f"cut {at}", stream=True)).encode()
    out = raw(gw.port, b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
              b"Content-Length: %d\r\n\r\n" % (PATH.encode(), len(body)) + body)
    return (int(out.split(b" ")[1]), *payload(out))


def dies_after(answer):
    def act(conn, request):
        m = re.search(rb"cut (\d+)", request.body)
        conn.sendall(answer[:int(m[1])] if m else fixture("chat"))
        return "close"
    return act


def check_cut(gw, answer, at, first_event):
    status, got, complete = cut_stream(gw, at)
    if at < first_event:  # nothing was passed on: an error of its own, whole
        assert status == 502 and complete and json.loads(got)["error"], (at, status, got)
        return
    sent = replay.dechunk(split_head(answer[:at])[1])[0]
    sent = sent[:sent.rindex(b"\n\n") + 2]  # whole events only: half of one is no JSON
    assert status == 200 and got.startswith(sent), (at, got[-300:])
    assert not complete, (at, "the cut stream looks complete")
    if answer[:at].endswith((b"\r\n0\r", b"\r\n0\r\n", b"\r\n0\r\n\r")):  # only trailers could follow
        assert got == sent, (at, got[-300:])
        return
    added = got[len(sent):].strip(b"\n")
    assert added.startswith(b"data: {") and added.count(b"data: ") == 1, (at, added)
    assert json.loads(added[6:])["error"]["message"], (at, added)


def test_wherever_an_engine_dies_the_client_is_told():
    answer = fixture("chat_stream_usage")
    head = answer.index(b"\r\n\r\n") + 4
    first = answer.index(b"\n\n", head) + 2
    third = [m.start() for m in re.finditer(b"data: ", answer)][3]
    cuts = [*range(0, head, 37), *range(head, third),
            *range(third, len(answer) - 500, 97), *range(len(answer) - 500, len(answer))]
    engine = Replay(otherwise=dies_after(answer))
    with Gateway([engine]) as gw:
        for at in cuts:
            check_cut(gw, answer, at, first)
            assert post(gw.port, PATH, chat()).status == 200  # so that its circuit stays closed
    engine.stop()


def test_an_anthropic_stream_that_breaks_ends_with_an_event_of_its_shape():
    answer = fixture("messages_stream")
    cut = answer.index(b"data: ", len(answer) // 2) + 9

    def dies(conn, _):
        conn.sendall(answer[:cut])
        return "close"
    engine = Replay(otherwise=dies)
    with Gateway([engine]) as gw:
        body = replay.fixture_request_body("messages_stream")
        out = raw(gw.port, b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                  % len(body) + body)
        got, complete = payload(out)
        assert not complete
        name, data = got.rstrip(b"\n").split(b"\n\n")[-1].strip().split(b"\n")
        assert got[:len(got) - len(name) - len(data)].count(b"event: ") >= 2, got
        assert name == b"event: error", got[-300:]
        said = json.loads(data[6:])
        assert said["type"] == "error" and said["error"]["type"] == "api_error", said
    engine.stop()


def test_events_cut_across_reads_and_chunks_pass_whole_and_in_order():
    event = [b'data: {"choices":[{"delta":{"content":"%d%s"}}]}\n\n' % (i, b"e" * (i * 911 % 30000))
             for i in range(60)]
    body = b"".join(event) + b"data: [DONE]\n\n"
    chunks, at, size = b"", 0, 1
    while at < len(body):  # chunks of all sizes, whose edges are no event's
        part = body[at:at + size]
        chunks += b"%x\r\n%s\r\n" % (len(part), part)
        at, size = at + size, size * 7 % 20011
    raw_answer = split_head(fixture("chat_stream"))[0] + b"\r\n\r\n" + chunks + b"0\r\n\r\n"
    for split in ("whole", "seven"):
        def act(conn, request):
            step = 7001 if split == "whole" else 701
            for i in range(0, len(raw_answer), step):
                conn.sendall(raw_answer[i:i + step])
            return None
        for version in (b"1.1", b"1.0"):
            engine = Replay(otherwise=act)
            with Gateway([engine]) as gw:
                said = json.dumps(chat(stream=True)).encode()
                out = raw(gw.port, b"POST %s HTTP/%s\r\nHost: a\r\nConnection: close\r\n"
                          b"Content-Length: %d\r\n\r\n" % (PATH.encode(), version, len(said))
                          + said)
                got, complete = payload(out)
                assert complete and got == body, (split, version, len(got), len(body))
            engine.stop()


def test_a_huge_chunk_and_a_malformed_one_are_told_of_too():
    head = split_head(fixture("chat_stream"))[0] + b"\r\n\r\n"
    event = b'data: {"choices":[]}\n\n'
    chunk = b"%x\r\n%s\r\n" % (len(event), event)
    for rest in (b"100000\r\n" + event + b"data: {", b"100000", b"-5\r\n", b"zz", b"5\r\ndata: x"):
        answer = head + chunk + rest
        engine = Replay(otherwise=dies_after(answer))
        with Gateway([engine]) as gw:
            status, got, complete = cut_stream(gw, len(answer))
            assert status == 200 and not complete, (rest, status, got)
            assert got.startswith(event) and got.endswith(b"}}\n\n"), (rest, got)
            assert b'\n\ndata: {"error":{' in got, (rest, got)
        engine.stop()


def test_a_killed_worker_process_ends_its_stream_in_its_own_words():
    answer = fixture("stream_chat_engine_killed")
    got, _, _ = alone(answer, body=chat(stream=True))
    assert got.status == 200 and got.body == payload(answer)[0], got.body[-300:]


def test_a_stale_kept_connection_costs_the_client_nothing():
    def close_after(conn, _):
        conn.sendall(replay.relength(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                                     b"content-length: 0\r\n\r\n" + WANT))
        return "close"  # as engines do after their idle time: without a word
    engine = Replay(otherwise=close_after)
    with Gateway([engine]) as gw:
        for i in range(50):
            got = post(gw.port, PATH, chat())
            assert got.status == 200 and got.body == WANT, (i, got.status, got.body[:200])
    engine.stop()


def test_an_engine_that_comes_back_is_used_again():
    engine = Replay()
    port = engine.port
    with Gateway([engine], "--probe-interval", "50ms") as gw:
        assert post(gw.port, PATH, chat()).status == 200
        engine.stop()
        engine = None
        eventually("the engine is missed", lambda: post(gw.port, PATH, chat()).status >= 500)
        engine = Replay(port=port)
        eventually("the engine serves again", lambda: post(gw.port, PATH, chat()).status == 200)
    engine.stop()


main(globals()) if __name__ == "__main__" else None
