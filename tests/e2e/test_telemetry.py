# SPDX-License-Identifier: Apache-2.0
"""What the kernel measures of an endpoint, compared with what the relay measures of the same."""
import json
import os
import subprocess
import tempfile
import threading

from harness import (BIN, SLUICED, Gateway, Process, Sim, Skip, chat, eventually, get, main,
                     post)
from test_splice import ADMIN, ENGINE, GATEWAY, PORT, Field

PACED_PORT = 23100
TTFT_S, ITL_S, TOKENS = 0.3, 0.05, 40


class Paced(Field):
    """An engine beside the other one, whose pace is known: head at once, tokens by the clock."""

    def __init__(self, *flags):
        super().__init__("--endpoint", f"{ENGINE}:{PACED_PORT},name=paced", *flags)

    def start(self, admin=ADMIN):
        self.paced = Process(self.back.enter + [
            os.path.join(BIN, "sluice-sim"), "--host", ENGINE, "--port", str(PACED_PORT), "--model",
            "paced", "--time-to-first-token", f"{int(TTFT_S * 1000)}ms", "--inter-token-latency",
            f"{int(ITL_S * 1000)}ms"])
        eventually("the paced engine answers", lambda: self.get(self.back, ENGINE, PACED_PORT,
                                                                "/health") is not None)
        agent = super().start(admin)
        self.agents.append(self.paced)

        def listed():
            text = self.get(self.gw, "127.0.0.1", admin, "/state/endpoints") or '{"endpoints":[]}'
            return any("paced" in e["models"] for e in json.loads(text)["endpoints"])
        eventually("its model is known", listed)
        return agent

    def ask(self, count):
        body = json.dumps({**chat("pace"), "model": "paced", "stream": True, "ignore_eos": True,
                           "max_tokens": TOKENS})
        url = f"http://{GATEWAY}:{PORT}/v1/chat/completions"
        asked = [subprocess.Popen(self.client.enter + ["curl", "-sN", "-m", "60", url, "-d", body],
                                  stdout=subprocess.PIPE, text=True) for _ in range(count)]
        for a in asked:
            assert "[DONE]" in a.communicate()[0]
        self.quiet()

    def series(self, name, *labels):
        return self.metric(name, 'endpoint="paced"', *labels)

    def load(self):
        text = self.get(self.gw, "127.0.0.1", ADMIN, "/state/endpoints")
        return next(e for e in json.loads(text)["endpoints"] if e["name"] == "paced")

    def logged(self):
        lines = [json.loads(x) for x in self.agent.output().splitlines() if x.startswith('{"time')]
        return [x for x in lines if x.get("model") == "paced"]


def test_the_kernels_first_packets_and_gaps_agree_with_the_relays_and_the_engines_pace():
    with Paced() as f:
        f.ask(12)
        lines = eventually("all are accounted", lambda: (
            len(f.logged()) == 12 and f.logged()))
        assert all(x["way"] == "splice" for x in lines), lines[0]
        relay = sum(x["engine_ttft_us"] for x in lines) / len(lines) / 1e6
        means = {}
        for packet in ("body", "next"):
            label = f'packet="{packet}"'
            assert f.series("sluice_kernel_ttft_seconds_count", label) == 12, packet
            means[packet] = f.series("sluice_kernel_ttft_seconds_sum", label) / 12
        # The head comes at once and is not told; one of the next two packets has the first content.
        assert TTFT_S * 0.9 <= relay, relay
        near = min(means.values(), key=lambda m: abs(m - relay))
        assert abs(near - relay) < 0.1 * TTFT_S, (means, relay)
        assert means["body"] <= means["next"], means
        gaps = f.series("sluice_kernel_gap_seconds_count")
        mean = f.series("sluice_kernel_gap_seconds_sum") / gaps
        assert 0.6 * 12 * TOKENS < gaps <= 1.2 * 12 * TOKENS, gaps
        assert ITL_S * 0.8 <= mean <= ITL_S * 1.5, mean
        under = f.series("sluice_kernel_gap_seconds_bucket", 'le="0.016777216"')
        assert under < gaps * 0.2, (under, gaps)
        print(f"# kernel {means}, relay {relay:.4f}; gaps {mean:.4f} s")


def test_steered_sends_are_measured_the_same_way():
    pins = f"/sys/fs/bpf/sluice-telemetry-{os.getpid()}"
    if not os.path.ismount("/sys/fs/bpf"):
        raise Skip("bpffs is not mounted")
    try:
        with Sim("--time-to-first-token", f"{int(TTFT_S * 1000)}ms", "--inter-token-latency",
                 f"{int(ITL_S * 1000)}ms") as sim, tempfile.NamedTemporaryFile() as log, Gateway(
                     sim.endpoints, "--bpf", "--bpffs-dir", pins, "--path", "steer",
                     "--affinity-bytes-max", "1MB", "--access-log", log.name) as gw:
            if "no steer" in gw.output():
                raise Skip("no steer here: " + gw.output()[-300:])
            asked = [threading.Thread(target=post, args=(gw.port, "/v1/chat/completions", {
                **chat("pace"), "stream": True, "ignore_eos": True, "max_tokens": TOKENS}))
                for _ in range(8)]
            for t in asked:
                t.start()
            for t in asked:
                t.join()
            lines = eventually("all are accounted", lambda: (
                lambda x: len(x) == 8 and x)(open(log.name).read().splitlines()))
            lines = [json.loads(x) for x in lines]
            assert all(x["way"] == "steer" for x in lines), lines[0]
            relay = sum(x["engine_ttft_us"] for x in lines) / 8e6
            means = [gw.metric("sluice_kernel_ttft_seconds_sum", packet=p) / 8
                     for p in ("body", "next")]
            for p in ("body", "next"):
                assert gw.metric("sluice_kernel_ttft_seconds_count", packet=p) == 8, p
            assert min(abs(m - relay) for m in means) < 0.1 * TTFT_S, (means, relay)
            gaps = gw.metric("sluice_kernel_gap_seconds_count")
            mean = gw.metric("sluice_kernel_gap_seconds_sum") / gaps
            assert 0.6 * 8 * TOKENS < gaps <= 2.2 * 8 * TOKENS, gaps
            total = gw.metric("sluice_kernel_gap_seconds_sum") / 8
            assert 0.8 * ITL_S * (TOKENS - 2) < total < 1.5 * ITL_S * TOKENS, total
            itl = get(gw.admin, "/state/endpoints").json()["endpoints"][0]["itl_us"] / 1e6
            print(f"# steer: kernel {means}, relay {relay:.4f}; gaps {mean:.4f} s, itl {itl:.4f}")
    finally:
        subprocess.run([SLUICED, "--uninstall", "--bpffs-dir", pins], check=True)


def test_what_the_kernel_saw_feeds_the_endpoints_load():
    with Paced() as f:
        f.ask(8)
        load = eventually("the load is measured", lambda: f.load()["itl_us"] and f.load())
        assert 0.8 * ITL_S <= load["itl_us"] / 1e6 <= 1.5 * ITL_S, load
        assert 0.8 * TTFT_S <= load["ttft_us"] / 1e6 <= 1.5 * TTFT_S, load


def test_the_histograms_outlive_the_agent():
    with Paced() as f:
        f.ask(4)
        before = f.series("sluice_kernel_gap_seconds_count")
        assert before > 0
        f.agent.stop()
        f.paced.stop()
        f.agent = f.start()
        assert f.series("sluice_kernel_gap_seconds_count") == before
        f.ask(4)
        assert f.series("sluice_kernel_gap_seconds_count") > before


main(globals())
